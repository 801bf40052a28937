"""How far a run can be scaled: conditions, a prediction, rules."""

from keras_svag.scaling.bounds import (
    equilibrium_balance,
    max_batch_multiplier,
    min_closeness,
    min_noise_to_signal,
)
from keras_svag.scaling.closeness import (
    Closeness,
    EquilibriumStatistics,
    c_closeness,
)
from keras_svag.scaling.prediction import ClosenessPrediction, predict_closeness
from keras_svag.scaling.rules import (
    linear_scaling_rule,
    square_root_scaling_rule,
)
from keras_svag.scaling.scaled_optimizer import scale_optimizer
from keras_svag.scaling.verdict import (
    ScaledRun,
    ScalingVerdict,
    scaling_verdict,
)

__all__ = [
    "Closeness",
    "ClosenessPrediction",
    "EquilibriumStatistics",
    "ScaledRun",
    "ScalingVerdict",
    "c_closeness",
    "equilibrium_balance",
    "linear_scaling_rule",
    "max_batch_multiplier",
    "min_closeness",
    "min_noise_to_signal",
    "predict_closeness",
    "scale_optimizer",
    "scaling_verdict",
    "square_root_scaling_rule",
]
