"""The layers from which the networks of this package are made."""

import zlib
from numbers import Integral, Real

import keras
import numpy as np
import tensorflow as tf

NORMALIZATIONS = ("batch", "group", "none")

# As near 0 as every kernel and precision allows: small against any variance
# that occurs, yet four normalizations of an all-zero batch, one behind the
# other, still have a finite float32 gradient (1e15 ** 2 < 3e38).
BATCH_EPSILON = 1e-15

# With a scale and an offset a whole layer of ReLUs can die, and a channel
# have zero variance, so the ordinary networks take an ordinary epsilon.
AFFINE_EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="keras_svag")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalization, by TensorFlow's fused kernel in training.

    Same arguments, outputs, gradients and moving statistics as
    `keras.layers.BatchNormalization`, to float tolerance. The fused kernel is
    used in training mode for inputs of shape `(batch, height, width,
    channels)` in float16, bfloat16 or float32, without a mask, `renorm` or
    `synchronized`; everything else is left to the base class. The kernel
    keeps its statistics in float32.
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable and self._is_fusable(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)

        x = tf.cast(inputs, "float32")
        channels = x.shape[-1]
        gamma = tf.cast(self.gamma, x.dtype) if self.scale else None
        beta = tf.cast(self.beta, x.dtype) if self.center else None
        outputs, mean, unbiased_variance = tf.compat.v1.nn.fused_batch_norm(
            x,
            scale=tf.ones(channels) if gamma is None else gamma,
            offset=tf.zeros(channels) if beta is None else beta,
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel divides by count - 1 (Bessel's correction); Keras's
        # moving variance is the mean of squares.
        count = tf.cast(tf.size(x, tf.int64) // channels, x.dtype)
        variance = unbiased_variance * (tf.maximum(count - 1, 1) / count)
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, variance)
        return tf.cast(outputs, self.compute_dtype)

    def _is_fusable(self, inputs, mask):
        return (
            mask is None
            and not self.renorm
            and not self.synchronized
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(inputs.dtype)
            in ("float16", "bfloat16", "float32")
        )

    def _move(self, moving, value):
        moving.assign(
            tf.cast(moving, value.dtype) * self.momentum
            + value * (1.0 - self.momentum)
        )


@keras.saving.register_keras_serializable(package="keras_svag")
class GroupNormalization(keras.layers.GroupNormalization):
    """Keras's group normalization from per-channel moments.

    Same arguments, outputs and gradients as
    `keras.layers.GroupNormalization`, to float tolerance. The moments of each
    channel are taken first, over the contiguous layout of the input, and then
    combined in groups: a group's variance is the mean of its channels'
    variances plus the variance of its channels' means. One multiply-add per
    element remains. Other axes than the last are left to the base class.

    `epsilon=0` is allowed with the last axis: where a group has zero
    variance, its output and its gradient are 0 instead of NaN.
    """

    def call(self, inputs):
        if self.axis not in (-1, len(inputs.shape) - 1):
            return super().call(inputs)
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        multiplier, offset = self._affine_map(x)
        return tf.cast(x * multiplier + offset, self.compute_dtype)

    def _affine_map(self, x):
        """The map's factors, of shape (batch, 1, ..., 1, channels)."""
        channels = x.shape[-1]
        spatial_axes = list(range(1, len(x.shape) - 1))
        in_groups = (-1, self.groups, channels // self.groups)
        if spatial_axes:
            mean, variance = tf.nn.moments(x, spatial_axes)
            variance_within = tf.reduce_mean(
                tf.reshape(variance, in_groups), -1, keepdims=True
            )
        else:
            mean, variance_within = x, 0.0
        mean, variance_between = tf.nn.moments(
            tf.reshape(mean, in_groups), [-1], keepdims=True
        )
        variance = variance_within + variance_between + self.epsilon
        # rsqrt(inf) is 0 with gradient 0: this is what epsilon=0 needs.
        infinity = tf.constant(np.inf, x.dtype)
        inverse = tf.math.rsqrt(tf.where(variance > 0, variance, infinity))
        per_channel = tf.ones((1, 1, in_groups[-1]), x.dtype)
        shape = (-1, *[1] * len(spatial_axes), channels)
        multiplier = tf.reshape(inverse * per_channel, shape)
        offset = tf.reshape(-mean * inverse * per_channel, shape)
        if self.scale:
            gamma = tf.cast(self.gamma, x.dtype)
            multiplier, offset = multiplier * gamma, offset * gamma
        if self.center:
            offset += tf.cast(self.beta, x.dtype)
        return multiplier, offset


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
