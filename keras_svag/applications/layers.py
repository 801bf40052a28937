"""The layers from which the networks of this package are made."""

import dataclasses
import zlib
from typing import Literal, TypeAlias

import keras
import numpy as np

from keras_svag import arguments
from keras_svag.backend import BatchNormalization, GroupNormalization

NORMALIZATIONS = ("batch", "group", "none")

Normalization: TypeAlias = Literal["batch", "group", "none"]
Sizes: TypeAlias = tuple[int, ...] | list[int]

# As near 0 as every kernel and precision allows: small against any variance
# that occurs, yet four normalizations of an all-zero batch, one behind the
# other, still have a finite float32 gradient (1e15 ** 2 < 3e38).
BATCH_EPSILON = 1e-15

# With a scale and an offset a whole layer of ReLUs can die, and a channel
# have zero variance, so the ordinary networks take an ordinary epsilon.
AFFINE_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkLayers:
    """Makes the layers of one network, each with a seed of its own.

    Args:
        num_classes, normalization, groups, momentum: see
            `keras_svag.applications`.
        seed: likewise. A layer's own seed is derived from it and from the
            layer's name.
        affine: whether normalizations have a trainable scale and offset.
        bias: whether convolutions have a bias.

    Raises:
        TypeError, ValueError: see `keras_svag.applications`.
    """

    num_classes: int
    normalization: str
    groups: int
    momentum: float
    seed: int | None
    affine: bool = False
    bias: bool = False

    def __post_init__(self):
        arguments.integer("num_classes", self.num_classes, least=2)
        arguments.choice("normalization", self.normalization, NORMALIZATIONS)
        arguments.integer("groups", self.groups)
        arguments.number("momentum", self.momentum, least=0, below=1)
        arguments.integer("seed", self.seed, least=0, optional=True)

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

    def pooled_head(self, x, trainable):
        """The head over the mean of each channel of an image."""
        x = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", name="pool"
        )(x)
        return self.head(x, trainable)

    def head(self, x, trainable):
        """Logits: weights from N(0, 2 / fan_in) and a bias of zero."""
        arguments.boolean("trainable_head", trainable)
        stddev = (2.0 / x.shape[-1]) ** 0.5
        return keras.layers.Dense(
            self.num_classes,
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=stddev, seed=self.seed_of("head")
            ),
            trainable=trainable,
            # Logits in half precision would round the loss.
            dtype=keras.config.dtype_policy().variable_dtype,
            name="head",
        )(x)


def image_network(
    input_shape,
    halvings,
    normalization,
    widen_factor,
    base_width,
    groups,
    **own,
):
    """What a convolutional network is made of, its arguments checked.

    Args:
        input_shape: (height, width, channels).
        halvings: how often the network halves its images.
        normalization, widen_factor, base_width, groups: see
            `keras_svag.applications`.
        **own: the other arguments of `NetworkLayers`.

    Returns:
        `(layers, width)`: its `NetworkLayers`, and the channels of its first
        stage.

    Raises:
        TypeError, ValueError: see `keras_svag.applications`.
    """
    check_sizes("input_shape", input_shape, "(height, width, channels)", 3)
    least = 2**halvings
    if min(input_shape[:2]) < least:
        raise ValueError(
            f"`input_shape` must be at least {least} x {least}, to be halved "
            f"{halvings} times, got {input_shape!r}; enlarge the images."
        )
    arguments.integer("base_width", base_width)
    arguments.integer("widen_factor", widen_factor)
    layers = NetworkLayers(normalization=normalization, groups=groups, **own)
    width = base_width * widen_factor
    if normalization == "group" and width % groups:
        raise ValueError(
            f"`base_width` times widen_factor = {widen_factor} must be "
            f"divisible by groups = {groups}, got {base_width}."
        )
    return layers, width


def residual_blocks(depth):
    """Blocks of each of the three stages of a ResNet: n of 6n + 2."""
    arguments.integer("depth", depth, least=8)
    if depth % 6 != 2:
        raise ValueError(
            arguments.refusal("depth", "6n + 2, as 8, 14, 20, 26, 32", depth)
        )
    return (depth - 2) // 6


def check_sizes(name, sizes, wanted, count=None):
    """Refuses what is no tuple of positive integers, `count` of them."""
    if not isinstance(sizes, (tuple, list)):
        raise TypeError(arguments.refusal(name, wanted, sizes))
    if not sizes or count not in (None, len(sizes)):
        raise ValueError(arguments.refusal(name, wanted, sizes))
    for index, size in enumerate(sizes):
        arguments.integer(f"{name}[{index}]", size)
