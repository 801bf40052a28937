"""Noisy gradient descent: the model that trains by it, and its noise."""

import dataclasses
import math

import keras
import tensorflow as tf

from keras_svag import backend
from keras_svag.noise.moments import squared_norm
from keras_svag.noise.series import NoiseSeries
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import measure_gradient_noise
from keras_svag.reporting.report import scaling_report
from keras_svag.scaling.conditions import conditions_of


class NGDModel(backend.MultiWorkerModel):
    """Trains a model by noisy gradient descent with SGD's noise covariance.

    One step takes the whole training set as its batch and moves along the
    full gradient plus Gaussian noise that has the covariance of a mini-batch
    gradient at `batch_size`, drawn with replacement:

    ```python
    z = normal(n)
    delta = 1 + sqrt(n / batch_size) * (z - mean(z))
    gradient = ∇ mean(delta * losses)     # = ∇L + Σ^(1/2) noise
    ```

    where `losses` are those of the n examples. `z`, a function of `seed` and
    the step, is drawn for all micro-batches (and replicas) of the pass at once:
    centring it within each would take away the noise between them.

    The pass runs in micro-batches of `micro_batch_size` examples, over all
    replicas, inside the graph, so that memory grows with the data alone.
    BatchNormalization, whose gradients do not split into the examples', and
    random augmentation have no place in it.

    References:
        Gaussian noise with SGD's covariance from one weight per example:
        derived, from E (z - mean(z))(z - mean(z))ᵀ = I - 11ᵀ/n. The comparison
        of SGD with it: [Li, Malladi, Arora, 2021](
        https://arxiv.org/abs/2102.12470).
    """

    def __init__(self, model, batch_size, micro_batch_size, seed):
        super().__init__()
        if backend.has_batch_normalization(model):
            raise ValueError(
                "`model` must have no BatchNormalization under NGDModel: the "
                "gradient of an example would depend on the others; use group "
                "normalization."
            )
        self.model = model
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.seed = seed

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        replicas = self.distribute_strategy.num_replicas_in_sync
        rows = x.shape[0]
        size = min(rows, max(1, self.micro_batch_size // replicas))
        delta = self._example_weights(rows, replicas)

        def gradients_of(start, length):
            piece = (_rows(part, start, length) for part in (x, y, delta))
            return [g * (length / rows) for g in self._gradients(*piece)]

        def add_piece(index, total):
            piece = gradients_of(index * size, size)
            return index + 1, _sums(total, piece)

        # The first piece builds what is not built, which no loop can.
        total = gradients_of(0, size)
        pieces, rest = divmod(rows, size)
        _, total = tf.while_loop(
            lambda index, total: index < pieces,
            add_piece,
            (tf.constant(1), total),
            parallel_iterations=1,
        )
        if rest:
            total = _sums(total, gradients_of(pieces * size, rest))
        self.optimizer.apply_gradients(
            zip(total, self.trainable_weights, strict=True)
        )
        return self.get_metrics_result()

    def _example_weights(self, rows, replicas):
        """This replica's part of delta, drawn alike on every replica."""
        # A function of the step, a run that is resumed draws what it would
        # have drawn.
        step = tf.cast(self.optimizer.iterations, tf.int64)
        examples = rows * replicas
        z = tf.random.stateless_normal([examples], [self.seed, step])
        delta = 1 + math.sqrt(examples / self.batch_size) * (
            z - tf.reduce_mean(z)
        )
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return _rows(delta, replica * rows, rows)

    def _gradients(self, x, y, delta):
        """Gradients of a piece's noisy loss; counts the loss without noise."""
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            noisy_loss = backend.training_loss(self, x, y, y_pred, delta)
            noisy_loss = self.optimizer.scale_loss(noisy_loss)
        gradients = tape.gradient(noisy_loss, self.trainable_weights)
        loss = backend.training_loss(self, x, y, y_pred, None)
        backend.count_loss(self, loss, x.shape[0])
        self.compute_metrics(x, y, y_pred)
        return gradients


def _rows(tensor, start, length):
    rows = tensor[start : start + length]
    rows.set_shape([length, *tensor.shape[1:]])
    return rows


def _sums(total, gradients):
    return [t + g for t, g in zip(total, gradients, strict=True)]


_NUM_BATCHES = 32
_LOGGED = "grad_sq_norm", "noise_trace", "noise_to_signal", "noise_scale"
# Enough to normalize a batch by its own statistics.
_ROWS = 8


class ProbedNoise(keras.callbacks.Callback):
    """Measures the noise of mini-batches at the end of each epoch.

    The logs get the keys that `GradientNoiseMonitor` gives them, and `series`,
    a `NoiseSeries`, a row a probe. `judged` has keyword arguments of
    `scaling_report`, or is None for no report.
    """

    def __init__(self, images, labels, batch_size, judged=None):
        super().__init__()
        self.batch_size = batch_size
        self.series = NoiseSeries(sampling="independent")
        self._examples = images, labels
        self._judged = judged

    def on_epoch_end(self, epoch, logs=None):
        self._estimate = measure_gradient_noise(
            self.model,
            self._examples,
            self.batch_size,
            num_batches=_NUM_BATCHES,
            seed=epoch,
            verbose=0,
        )
        optimizer = self.model.optimizer
        decayed = backend.decayed_variables(self.model)
        norm = float(squared_norm(decayed or self.model.trainable_variables))
        steps = int(keras.ops.convert_to_numpy(optimizer.iterations))
        rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        self.series.append(
            step=steps,
            epoch=epoch + 1,
            iteration=steps,
            learning_rate=rate,
            rows=self.batch_size,
            weight_sq_norm=norm,
            grad_sq_norm=self._estimate.grad_sq_norm,
            example_noise=self._estimate.example_noise,
        )
        logs["weight_sq_norm"] = norm
        logs.update({key: getattr(self._estimate, key) for key in _LOGGED})

    def estimate(self):
        """`NoiseEstimate` of the last probe."""
        return self._estimate

    @property
    def report(self):
        """`ScalingReport` on all probes, or None if none is wanted."""
        if self._judged is None:
            return None
        images, _ = self._examples
        conditions = dataclasses.replace(
            conditions_of(self.model.optimizer),
            scale_invariant=is_scale_invariant(self.model, images[:_ROWS]),
            other_reasons=("noisy_gradient_descent",),
        )
        return scaling_report(
            self.series, conditions, batch_size=self.batch_size, **self._judged
        )

    def state_dict(self):
        return self.series.to_dict()

    def load_state_dict(self, state):
        self.series = NoiseSeries.from_dict(state)
