import math

import keras
import numpy as np
import tensorflow as tf

from keras_svag.models.state import replicas
from keras_svag.probe_moments import sequential_moments


class SequentialGradients:
    """Gradients of one mini-batch after another, kept as two running sums.

    Args:
        model: a built `keras.Model`.
        loss: replaces the compiled loss, as in `keras.Model.compile`; `None`:
            the compiled one.

    Attributes:
        count: number of finite gradients so far.
    """

    def __init__(self, model, loss):
        self._model = model
        self._objective = model
        self._optimizer = model.optimizer if model.compiled else None
        if loss is not None:
            self._objective = _GivenLoss(model)
            # Of the optimizer only the loss scale of mixed precision is used.
            self._objective.compile(optimizer="sgd", loss=loss)
        if self._optimizer is None:
            self._optimizer = self._objective.optimizer
        # The replica that a strategy reads where no replica is running.
        self._weights = [replicas(v.value)[0] for v in model.trainable_weights]
        self._mean_sum = [tf.zeros(v.shape) for v in self._weights]
        self._alternating_sum = list(self._mean_sum)
        self._moments = []
        self.count = 0
        self._step = tf.autograph.experimental.do_not_convert(self._compare)
        if not self._objective.run_eagerly:
            self._step = tf.function(self._step)

    def add(self, batch):
        """Compares one more gradient with those before it."""
        moments, finite, *sums = self._step(
            batch,
            self._mean_sum,
            self._alternating_sum,
            tf.constant(self.count, tf.float32),
        )
        if not finite:
            return
        self._mean_sum, self._alternating_sum = sums
        if self.count:
            self._moments.append(moments.numpy().astype(np.float64))
        self.count += 1

    def moments(self, variable=None):
        """The arguments of `sequential_moments`, of all or of one variable."""
        moments = np.reshape(self._moments, (-1, 3, len(self._weights)))
        if variable is not None:
            return moments[:, :, variable].T
        return moments.sum(-1).T

    def summary(self):
        """What the progress bar shows."""
        if not self._moments:
            return []
        (g, n), _ = sequential_moments(*self.moments())
        return [("noise_to_signal", n / g if g else math.nan)]

    def _compare(self, batch, mean_sum, alternating_sum, count):
        gradients = self._gradients(batch)
        finite = tf.math.is_finite(
            tf.add_n([tf.reduce_sum(g * g) for g in gradients])
        )
        past = tf.maximum(count, 1.0)
        sign = 1.0 - 2.0 * tf.math.floormod(count, 2.0)
        moments, sums, alternating_sums = [], [], []
        for g, s, a in zip(gradients, mean_sum, alternating_sum, strict=True):
            mean = s / past
            deviation = tf.reduce_sum(tf.square(g - mean)) * past / (past + 1)
            moments.append(
                [tf.reduce_sum(g * mean), deviation, tf.reduce_sum(g * a)]
            )
            sums.append(s + g)
            alternating_sums.append(a + sign * g)
        return tf.transpose(moments), finite, sums, alternating_sums

    def _gradients(self, batch):
        model, objective = self._model, self._objective
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            if model._call_has_training_arg:
                y_pred = model(x, training=True)
            else:
                y_pred = model(x)
            _check_has_loss(objective)
            loss = objective._compute_loss(
                x, y, y_pred, sample_weight, training=True
            )
            scaled_loss = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self._weights)
        # In a strategy's scope Keras divides losses by the replicas, although
        # one of them computes the whole batch here.
        scale = tf.cast(self._optimizer.scale_loss(1.0), tf.float32)
        scale /= tf.distribute.get_strategy().num_replicas_in_sync
        return [
            tf.zeros(v.shape)
            if g is None
            else tf.cast(tf.convert_to_tensor(g), tf.float32) / scale
            for g, v in zip(gradients, self._weights, strict=True)
        ]


class _GivenLoss(keras.Model):
    """Computes the given loss, plus the losses that the model adds."""

    def __init__(self, model):
        super().__init__(dtype=model.dtype_policy)
        self.model = model


def _check_has_loss(objective):
    own = type(objective).compute_loss is not keras.Model.compute_loss
    if objective._compile_loss is None and not own and not objective.losses:
        raise ValueError(
            "`model` has no loss: it was compiled without one and its layers "
            "add none; give `loss`."
        )
