"""SVAG and gradient noise for Keras: the SDE of SGD, simulated and measured."""

from keras_svag import applications, scaling
from keras_svag.branching.branches import branch_test
from keras_svag.branching.result import BranchTest
from keras_svag.callbacks.check import ScalingRuleCheck
from keras_svag.callbacks.growing import fit_growing
from keras_svag.callbacks.monitor import GradientNoiseMonitor
from keras_svag.models.svag_model import SVAGModel
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.moments import pair_moments
from keras_svag.noise.series import NoiseSeries
from keras_svag.optimizers.adaptive import SVAGAdam, SVAGRMSprop
from keras_svag.optimizers.svag import SVAG, svag_weights
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import measure_gradient_noise
from keras_svag.reporting.report import ScalingReport
from keras_svag.version import __version__

__all__ = [
    "SVAG",
    "BranchTest",
    "GradientNoiseMonitor",
    "NoiseEstimate",
    "NoiseSeries",
    "SVAGAdam",
    "SVAGModel",
    "SVAGRMSprop",
    "ScalingReport",
    "ScalingRuleCheck",
    "__version__",
    "applications",
    "branch_test",
    "fit_growing",
    "is_scale_invariant",
    "measure_gradient_noise",
    "pair_moments",
    "scaling",
    "svag_weights",
]
