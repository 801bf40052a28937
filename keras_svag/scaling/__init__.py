"""How far a run can be scaled: conditions, a prediction, rules."""

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
from keras_svag.scaling.prediction import (
    ClosenessPrediction,
    predict_closeness,
)
from keras_svag.scaling.rules import (
    linear_scaling_rule,
    square_root_scaling_rule,
)

__all__ = [
    "Closeness",
    "ClosenessPrediction",
    "EquilibriumStatistics",
    "balance",
    "c_closeness",
    "linear_scaling_rule",
    "max_batch_multiplier",
    "min_closeness",
    "min_noise_to_signal",
    "predict_closeness",
    "square_root_scaling_rule",
]
