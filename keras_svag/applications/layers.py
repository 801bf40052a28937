"""The layers from which the networks of this package are made."""

import zlib
from numbers import Integral, Real

import keras
import numpy as np

from keras_svag.applications.normalization import (
    BatchNormalization,
    GroupNormalization,
)

NORMALIZATIONS = ("batch", "group", "none")

# As near 0 as every kernel and precision allows: small against any variance
# that occurs, yet four normalizations of an all-zero batch, one behind the
# other, still have a finite float32 gradient (1e15 ** 2 < 3e38).
BATCH_EPSILON = 1e-15

# With a scale and an offset a whole layer of ReLUs can die, and a channel
# have zero variance, so the ordinary networks take an ordinary epsilon.
AFFINE_EPSILON = 1e-5


class NetworkLayers:
    """Makes the layers of one network, each with a seed of its own.

    Args:
        normalization: `"batch"`, `"group"` or `"none"`.
        groups: groups of a group normalization.
        momentum: of the moving statistics of a batch normalization.
        seed: a non-negative integer, or None for random weights. A layer's
            own seed is derived from it and from the layer's name.
        affine: whether normalizations have a trainable scale and offset.
        bias: whether convolutions have a bias.
    """

    def __init__(
        self,
        normalization,
        groups,
        momentum,
        seed,
        affine=False,
        bias=False,
    ):
        self.normalization = normalization
        self.groups = groups
        self.momentum = momentum
        self.seed = seed
        self.affine = affine
        self.bias = bias

    def seed_of(self, name):
        if self.seed is None:
            return None
        entropy = [self.seed, zlib.crc32(name.encode())]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def he_normal(self, name, gain=1.0):
        return keras.initializers.VarianceScaling(
            2.0 * gain, "fan_in", "truncated_normal", seed=self.seed_of(name)
        )

    def convolution(self, x, filters, size, name, strides=1, gain=1.0):
        """A convolution of `size` x `size`; `gain` multiplies He's variance."""
        return keras.layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding="same",
            data_format="channels_last",
            use_bias=self.bias,
            kernel_initializer=self.he_normal(name, gain),
            name=name,
        )(x)

    def norm(self, x, name):
        affine = {"center": self.affine, "scale": self.affine, "name": name}
        if self.normalization == "batch":
            epsilon = AFFINE_EPSILON if self.affine else BATCH_EPSILON
            layer = BatchNormalization(
                momentum=self.momentum, epsilon=epsilon, **affine
            )
        elif self.normalization == "group":
            epsilon = AFFINE_EPSILON if self.affine else 0.0
            layer = GroupNormalization(self.groups, epsilon=epsilon, **affine)
        else:
            return x
        return layer(x)

    def relu(self, x, name):
        return keras.layers.ReLU(name=name)(x)

    def head(self, x, num_classes, trainable):
        """Logits: weights from N(0, 2 / fan_in) and a bias of zero."""
        stddev = (2.0 / x.shape[-1]) ** 0.5
        return keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=stddev, seed=self.seed_of("head")
            ),
            trainable=trainable,
            # Logits in half precision would round the loss.
            dtype=keras.config.dtype_policy().variable_dtype,
            name="head",
        )(x)


def check_integer(name, value, minimum):
    """Refuses what is no integer, or is below `minimum`."""
    if not isinstance(value, Real):
        raise TypeError(
            f"{name} must be an integer of at least {minimum}, but "
            f"{value!r} was given."
        )
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or value < minimum
    ):
        raise ValueError(
            f"{name} must be an integer of at least {minimum}, but "
            f"{value!r} was given."
        )


def check_normalization(normalization, known=NORMALIZATIONS):
    if normalization not in known:
        raise ValueError(
            f"normalization must be one of {', '.join(known)}, but "
            f"{normalization!r} was given."
        )


def check_common(num_classes, momentum, seed):
    check_integer("num_classes", num_classes, 2)
    if not isinstance(momentum, Real) or not 0 <= momentum < 1:
        raise ValueError(
            "momentum, of the moving statistics of batch normalization, must "
            f"be at least 0 and below 1, but {momentum!r} was given."
        )
    if seed is not None:
        check_integer("seed", seed, 0)


def check_image_shape(input_shape, num_halvings):
    """Refuses all but (height, width, channels), large enough to halve."""
    if not isinstance(input_shape, (tuple, list)) or len(input_shape) != 3:
        raise ValueError(
            "input_shape must be (height, width, channels), but "
            f"{input_shape!r} was given."
        )
    for size in input_shape:
        check_integer("every entry of input_shape", size, 1)
    least = 2**num_halvings
    if min(input_shape[:2]) < least:
        raise ValueError(
            f"input_shape must be at least {least} x {least}, since the "
            f"network halves its images {num_halvings} times, but "
            f"{tuple(input_shape)} was given; enlarge the images."
        )


def check_depth(depth):
    """Refuses a depth that is not 6n + 2."""
    check_integer("depth", depth, 8)
    if depth % 6 != 2:
        raise ValueError(
            "depth must be 6n + 2 (8, 14, 20, 26, 32, ...), but "
            f"{depth} was given."
        )


def check_width(normalization, base_width, widen_factor, groups):
    """Refuses widths that are not positive integers, or do not group."""
    check_integer("base_width", base_width, 1)
    check_integer("widen_factor", widen_factor, 1)
    check_integer("groups", groups, 1)
    width = base_width * widen_factor
    if normalization == "group" and width % groups:
        raise ValueError(
            "base_width * widen_factor must be divisible by groups, but "
            f"{base_width} * {widen_factor} = {width} channels and {groups} "
            "groups were given; change one of them."
        )
