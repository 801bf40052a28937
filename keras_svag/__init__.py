"""SVAG and gradient noise for Keras: the SDE of SGD, simulated and measured."""

from keras_svag.metrics import GradientNoise
from keras_svag.svag import SVAG
from keras_svag.training import SVAGModel
from keras_svag.version import __version__
from keras_svag.weights import svag_weights

__all__ = [
    "SVAG",
    "GradientNoise",
    "SVAGModel",
    "__version__",
    "svag_weights",
]
