"""SVAG and gradient noise for Keras: the SDE of SGD, simulated and measured."""

from keras_svag import applications, scaling
from keras_svag.callbacks.check import LinearScalingRuleCheck, ScalingRuleCheck
from keras_svag.models.ngd_model import NGDModel
from keras_svag.models.svag_model import SVAGModel
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.pairs import GradientNoise
from keras_svag.optimizers import schedules
from keras_svag.optimizers.adaptive import SVAGAdam, SVAGRMSprop
from keras_svag.optimizers.svag import SVAG, svag_weights
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import measure_gradient_noise
from keras_svag.version import __version__

__all__ = [
    "SVAG",
    "GradientNoise",
    "LinearScalingRuleCheck",
    "NGDModel",
    "NoiseEstimate",
    "SVAGAdam",
    "SVAGModel",
    "SVAGRMSprop",
    "ScalingRuleCheck",
    "__version__",
    "applications",
    "is_scale_invariant",
    "measure_gradient_noise",
    "scaling",
    "schedules",
    "svag_weights",
]
