"""Networks of the experiments with SVAG, scale-invariant and ordinary."""

from keras_svag.applications.layers import (
    BatchNormalization,
    GroupNormalization,
)
from keras_svag.applications.mlp import ScaleInvariantMLP
from keras_svag.applications.preresnet import PreResNet
from keras_svag.applications.resnet import ResNet
from keras_svag.applications.vgg import VGG

__all__ = [
    "BatchNormalization",
    "GroupNormalization",
    "PreResNet",
    "ResNet",
    "ScaleInvariantMLP",
    "VGG",
]
