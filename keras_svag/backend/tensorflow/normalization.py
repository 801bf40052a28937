"""Batch and group normalization that equal Keras's and are faster."""

import functools
import math
from typing import Any

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

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> Any:
        if not (training and self.trainable and self._is_fusable(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)

        x = tf.convert_to_tensor(inputs)
        channels = x.shape[-1]
        gamma = tf.cast(self.gamma, "float32") if self.scale else None
        beta = tf.cast(self.beta, "float32") if self.center else None
        outputs, mean, unbiased_variance = tf.compat.v1.nn.fused_batch_norm(
            x,
            scale=tf.ones(channels) if gamma is None else gamma,
            offset=tf.zeros(channels) if beta is None else beta,
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel divides by count - 1 (Bessel's correction); Keras's
        # moving variance is the mean of squares.
        count = tf.cast(tf.size(x, tf.int64) // channels, mean.dtype)
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
    """Keras's group normalization in as few passes over the data as it takes.

    Same arguments, outputs and gradients as
    `keras.layers.GroupNormalization`, to float tolerance. TensorFlow has no
    kernel for it: where there are only CPUs, whose networks Keras does not
    compile, XLA compiles one for inputs with spatial axes of known size, one
    for each of their shapes. Other axes than the last are left to the base
    class.

    `epsilon=0` is allowed with the last axis: where a group has zero
    variance, its output and its gradient are 0 instead of NaN.
    """

    def call(self, inputs: Any) -> Any:
        if self.axis not in (-1, len(inputs.shape) - 1):
            return super().call(inputs)
        inputs = tf.convert_to_tensor(inputs)
        normalize, gradients = _group_kernels(
            self.groups,
            self.epsilon,
            self.scale,
            self.center,
            compiled=_is_compilable(inputs),
            signature=(inputs.dtype, *inputs.shape),
        )

        @tf.custom_gradient
        def normalized(x, gamma, beta):
            y, mean, inverse = normalize(x, gamma, beta)
            return y, lambda dy: gradients(x, mean, inverse, gamma, dy)

        # Without a scale or an offset a constant, whose gradient is dropped.
        gamma = _at_least_float32(self.gamma) if self.scale else 1.0
        beta = _at_least_float32(self.beta) if self.center else 0.0
        return normalized(inputs, gamma, beta)


@functools.cache
def _group_kernels(groups, epsilon, scale, center, compiled, signature):
    """`(normalize, gradients)`, compiled apart for each `signature`."""

    def normalize(x, gamma, beta):
        """The output, and mean and 1 / deviation that broadcast against it."""
        inputs, x = x, _flattened(x)
        mean = _mean_of_groups(_mean_of_channels(x), groups)
        centered = x - mean
        variance = epsilon + _mean_of_groups(
            _mean_of_channels(tf.square(centered)), groups
        )
        # rsqrt(inf) is 0 with gradient 0: this is what epsilon=0 needs.
        infinity = tf.constant(np.inf, x.dtype)
        inverse = tf.math.rsqrt(tf.where(variance > 0, variance, infinity))
        y = centered * inverse
        if scale:
            y *= gamma
        if center:
            y += beta
        return _in_the_form_of(inputs, y), mean, inverse

    def gradients(x, mean, inverse, gamma, dy):
        """Gradients to `x`, `gamma` and `beta`."""
        inputs, x, dy = x, _flattened(x), _flattened(dy)
        normalized = (x - mean) * inverse
        slope = _mean_of_channels(dy * normalized)
        level = _mean_of_channels(dy)
        to_gamma = _sum_but_channels(slope, x) if scale else None
        to_beta = _sum_but_channels(level, x) if center else None
        if scale:
            dy, slope, level = dy * gamma, slope * gamma, level * gamma
        level = _mean_of_groups(level, groups)
        slope = _mean_of_groups(slope, groups)
        to_x = (dy - level - normalized * slope) * inverse
        return _in_the_form_of(inputs, to_x), to_gamma, to_beta

    if compiled:
        return tuple(
            tf.function(kernel, jit_compile=True, autograph=False)
            for kernel in (normalize, gradients)
        )
    return normalize, gradients


def _is_compilable(x):
    return (
        len(x.shape) > 2
        and None not in x.shape[1:]
        and all(d.device_type == "CPU" for d in tf.config.get_visible_devices())
    )


def _at_least_float32(x):
    x = tf.convert_to_tensor(x)
    return tf.cast(x, keras.backend.result_type(x.dtype, "float32"))


def _flattened(x):
    """`x` in at least float32, its spatial axes as one, which is faster."""
    x = _at_least_float32(x)
    if len(x.shape) > 3:
        batch, *spatial, channels = keras.ops.shape(x)
        x = tf.reshape(x, (batch, math.prod(spatial), channels))
    return x


def _in_the_form_of(inputs, x):
    return tf.cast(tf.reshape(x, tf.shape(inputs)), inputs.dtype)


def _mean_of_channels(x):
    """Mean over the positions, an axis of size 1 in the result."""
    return tf.reduce_mean(x, 1, keepdims=True) if len(x.shape) == 3 else x


def _mean_of_groups(x, groups):
    """Mean over the channels of each group, in the place of every channel."""
    if groups == 1:
        return tf.reduce_mean(x, -1, keepdims=True)
    in_groups = tf.reshape(x, (-1, groups, x.shape[-1] // groups))
    mean = tf.reduce_mean(in_groups, -1, keepdims=True)
    return tf.reshape(tf.broadcast_to(mean, tf.shape(in_groups)), tf.shape(x))


def _sum_but_channels(means, x):
    """Sum of all of `x` but its channels, from its `_mean_of_channels`."""
    positions = math.prod(keras.ops.shape(x)[1:-1])
    total = tf.reduce_sum(means, list(range(len(x.shape) - 1)))
    return total * tf.cast(positions, x.dtype)
