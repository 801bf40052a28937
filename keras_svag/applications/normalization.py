"""Batch and group normalization that equal Keras's and are faster."""

import math

import keras
import numpy as np
import tensorflow as tf


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
            mean, variance = _moments(x, spatial_axes)
            variance_within = tf.reduce_mean(
                tf.reshape(variance, in_groups), -1, keepdims=True
            )
        else:
            mean, variance_within = x, 0.0
        mean, variance_between = _moments(tf.reshape(mean, in_groups), [-1])
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


def _moments(x, axes):
    """Mean and variance over `axes`, which are kept with size 1.

    Those of `tf.nn.moments`, whose gradient fills several tensors of the size
    of `x`; the gradient here is one multiply-add per element.
    """
    shape = keras.ops.shape(x)
    count = tf.cast(math.prod(shape[axis] for axis in axes), x.dtype)

    @tf.custom_gradient
    def moments(x):
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(
            tf.math.squared_difference(x, mean), axes, keepdims=True
        )

        def gradient(mean_gradient, variance_gradient):
            slope = 2 * variance_gradient / count
            return x * slope + (mean_gradient / count - mean * slope)

        return (mean, variance), gradient

    return moments(x)
