"""How far a run can be scaled: necessary conditions, rules, equilibrium."""

from keras_svag.scaling.bounds import (
    balance,
    max_batch_multiplier,
    min_closeness,
    min_noise_to_signal,
)
from keras_svag.scaling.closeness import (
    Closeness,
    EquilibriumStatistics,
    c_closeness,
)
from keras_svag.scaling.rules import (
    linear_scaling_rule,
    square_root_scaling_rule,
)

__all__ = [
    "Closeness",
    "EquilibriumStatistics",
    "balance",
    "c_closeness",
    "linear_scaling_rule",
    "max_batch_multiplier",
    "min_closeness",
    "min_noise_to_signal",
    "square_root_scaling_rule",
]
