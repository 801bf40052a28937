"""Batch and group normalization by Keras's own operations."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_svag")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalization; on TensorFlow by its fused kernel."""


@keras.saving.register_keras_serializable(package="keras_svag")
class GroupNormalization(keras.layers.GroupNormalization):
    """Keras's group normalization, which allows `epsilon=0` too.

    Where a group has zero variance, its output and its gradient are then 0
    instead of NaN. Other axes than the last are left to the base class.
    """

    def call(self, inputs: Any) -> Any:
        if self.axis not in (-1, len(inputs.shape) - 1):
            return super().call(inputs)
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        shape = ops.shape(inputs)
        groups = self.groups if self.groups != -1 else shape[-1]
        x = ops.cast(inputs, dtype)
        x = ops.reshape(x, (shape[0], -1, groups, shape[-1] // groups))
        centered = x - ops.mean(x, axis=(1, 3), keepdims=True)
        variance = self.epsilon + ops.mean(
            ops.square(centered), axis=(1, 3), keepdims=True
        )
        known = variance > 0
        # Chosen twice: a branch that is not taken has a gradient too.
        inverse = ops.where(
            known, ops.rsqrt(ops.where(known, variance, 1.0)), 0.0
        )
        y = ops.reshape(centered * inverse, shape)
        if self.scale:
            y *= ops.cast(self.gamma, dtype)
        if self.center:
            y += ops.cast(self.beta, dtype)
        return ops.cast(y, self.compute_dtype)
