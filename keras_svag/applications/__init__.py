"""Networks of the experiments with SVAG, scale-invariant and ordinary.

Each is a function that builds a `keras.Model` from inputs of shape
`(batch, *input_shape)` to logits of shape `(batch, num_classes)`.

Args:
    depth: number of layers, as it is counted in the network's name.
    input_shape: shape of one example.
    num_classes: number of logits.
    normalization: `"batch"`, `"group"` or `"none"`.
    widen_factor: multiplies every width.
    base_width: channels of the first stage, and of a stem before it.
    groups: number of groups with `"group"`.
    momentum: of the moving statistics with `"batch"`.
    seed: a non-negative integer for weights that are always the same, or None
        for random ones.
    trainable_head: whether the linear layer that gives the logits is trained.
    name: name of the model.

Raises:
    TypeError: if something else than a number is given for one.
    ValueError: if an argument is out of its range.
"""

from keras_svag.applications.mlp import ScaleInvariantMLP
from keras_svag.applications.preresnet import PreResNet
from keras_svag.applications.resnet import ResNet
from keras_svag.applications.vgg import VGG

__all__ = [
    "PreResNet",
    "ResNet",
    "ScaleInvariantMLP",
    "VGG",
]
