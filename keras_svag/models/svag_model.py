"""A model that trains on pairs of sub-batches and measures their noise."""

import contextlib
import warnings

import keras
import tensorflow as tf

from keras_svag.models.batches import arrays_of, map_arrays, num_rows
from keras_svag.models.internals import (
    decayed_variables,
    has_batch_normalization,
    inner_optimizer,
)
from keras_svag.models.wrapper import ModelWrapper
from keras_svag.noise.pairs import GradientNoise, pair_moments, squared_norm
from keras_svag.optimizers.svag import SVAG


@keras.saving.register_keras_serializable(package="keras_svag")
class SVAGModel(ModelWrapper):
    """Trains a model on pairs of sub-batches, and measures the gradient noise.

    Each batch is split into its even and its odd rows. Both gradients are
    computed at the same weights, one half after the other; the pair is
    measured, then mixed and applied:

    - with `SVAG`, by its weights: `w1 * g1 + w2 * g2`;
    - with any other optimizer, by 1/2 and 1/2, which is the gradient of the
      whole batch when the loss is a mean over the examples: the model trains
      as it does unwrapped.

    ```python
    svag_model = keras_svag.SVAGModel(model)
    svag_model.compile(optimizer="sgd", loss="mse")
    history = svag_model.fit(x, y, batch_size=128)
    history.history["noise_to_signal"]
    ```

    During training the logs hold `grad_sq_norm` (G = |∇L|²), `noise_trace`
    (N = Tr Σ at the simulated batch size), `noise_to_signal` (N/G),
    `noise_scale` (B N/G) and `weight_sq_norm` (R, the squared norm of the
    decayed trainable variables, or of all of them if none is decayed), each
    over the epoch so far. `gradient_noise.estimate()` has the error bars.

    Loss and metrics are those of the whole batch, except where only the first
    half is computed: `SVAG(ell=1, pairing="independent")` without
    `measure_noise`. Dropout draws anew for each half, BatchNormalization
    normalizes each by its own statistics, masks and weights are averaged
    within a half, and the halves weigh equally.

    Args:
        model: any `keras.Model` that trains by Keras's own `train_step`. Its
            `compute_loss` may be its own.
        measure_noise: whether to measure; `False` computes nothing for it.
        per_layer: whether to measure each trainable variable apart too.
        num_examples: size of the training set, to correct for the way batches
            are drawn from it.
        sampling: how they are drawn: `"shuffle"` (what `fit` does),
            `"without_replacement"` or `"with_replacement"`.
        **kwargs: `name` and the like, as for any `keras.Model`.

    Raises:
        TypeError: if `model` is no `keras.Model`.
        ValueError: if an argument is out of range or `model` has its own
            `train_step`; while tracing, if a replica's batch has no static,
            even number of rows.

    References:
        - [Li, Malladi, Arora, 2021](https://arxiv.org/abs/2102.12470)
        - [McCandlish et al., 2018](https://arxiv.org/abs/1812.06162)
    """

    def __init__(
        self,
        model,
        measure_noise=True,
        per_layer=False,
        num_examples=None,
        sampling="shuffle",
        **kwargs,
    ):
        super().__init__(model, **kwargs)
        self.measure_noise = measure_noise
        self.per_layer = per_layer
        self.num_examples = num_examples
        self.sampling = sampling
        # It refuses bad arguments, also where nothing is measured.
        noise = GradientNoise(num_examples=num_examples, sampling=sampling)
        if measure_noise:
            self.gradient_noise = noise
            self.weight_sq_norm = keras.metrics.Mean(name="weight_sq_norm")
        self._name_layers()

    def _name_layers(self):
        paths = tuple(v.path for v in self.trainable_variables)
        if self.measure_noise and self.per_layer and paths:
            if self.gradient_noise.layers != paths:
                # A model that was not built has its variables only in tracing.
                with tf.init_scope():
                    self.gradient_noise.set_layers(paths)

    @property
    def training_metrics(self):
        if not self.measure_noise:
            return []
        return [self.gradient_noise, self.weight_sq_norm]

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """Configures the model for training, as `keras.Model.compile` does.

        Args:
            optimizer: a `SVAG` or any other Keras optimizer.
            loss: as in Keras, reduced by a mean over the examples.
            **kwargs: the other arguments of `keras.Model.compile`.

        Raises:
            ValueError: if a loss is reduced by other than a mean, if `SVAG`
                already trains a plain model, or if `steps_per_execution` is
                above 1 with several replicas.
        """
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        if isinstance(self._inner_optimizer, SVAG):
            self._inner_optimizer.pair_within_step()
        self._warn_of_batch_normalization()

    def train_step(self, data):
        with self._optimizer_given_mixed_gradients():
            if not self.measure_noise and self._weights == (0.5, 0.5):
                return super().train_step(data)
            first, second = _interleaved_halves(data, self._num_replicas)
            if not self.measure_noise and self._weights == (1, 0):
                return self._applied(self._gradients(first))
            return self._applied(self._mixed_gradients(first, second))

    def _applied(self, gradients):
        if gradients:
            self.optimizer.apply_gradients(
                zip(gradients, self.trainable_weights, strict=True)
            )
        else:
            warnings.warn("There are no trainable weights.", stacklevel=2)
        return self.get_metrics_result()

    def _mixed_gradients(self, first, second):
        gradients_of = self._gradients
        if self._num_replicas == 1 and not self.run_eagerly:
            # Traced and optimized once, instead of once for each half.
            gradients_of = tf.function(
                gradients_of,
                autograph=False,
                experimental_attributes={"_noinline": True},
            )
        g1 = gradients_of(first)
        second_leaves_no_trace = self._weights == (1, 0)
        if second_leaves_no_trace:
            state = [
                (v, tf.identity(v.value)) for v in self.non_trainable_variables
            ]
        # Unordered, both halves' activations could be held at once. The data
        # alone wait: if every operation did, tracing would take much longer.
        with tf.control_dependencies([g for g in g1 if g is not None]):
            second = map_arrays(tf.identity, second)
        g2 = gradients_of(second)
        if second_leaves_no_trace:
            for variable, value in state:
                variable.assign(value)
        if self.measure_noise and g1:
            self._measure(g1, g2, num_rows(first))
        return [
            None if a is None else self._mix(a, b)
            for a, b in zip(g1, g2, strict=True)
        ]

    def _gradients(self, half):
        """Gradients of the half's (scaled) loss; the metrics see the half."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self._compute_loss(
                x, y, y_pred, sample_weight, training=True
            )
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_weights)
        self._update_metrics(loss, x, y, y_pred, sample_weight)
        return [None if g is None else _dense(g) for g in gradients]

    def _mix(self, first, second):
        if isinstance(self._inner_optimizer, SVAG):
            return self._inner_optimizer.mix(first, second)
        return (first + second) / 2

    def _measure(self, g1, g2, rows):
        """Adds the pair of one replica, with `rows` rows a half."""
        batch_size = rows * self._num_replicas
        if self._pairing != "independent":
            batch_size *= 2
        self._name_layers()
        self.gradient_noise.set_batch_size(batch_size, rows)
        # The loss was scaled by Keras, by 1 / replicas, and by the optimizer.
        unscale = (self._num_replicas / self.optimizer.scale_loss(1.0)) ** 2
        grad_sq_norm, noise_trace = pair_moments(g1, g2)
        self.gradient_noise.update_state(
            grad_sq_norm * unscale,
            noise_trace * unscale * (rows / batch_size),
        )
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        decayed = decayed_variables(self) or self.trainable_variables
        self.weight_sq_norm.update_state(squared_norm(decayed))

    @property
    def _inner_optimizer(self):
        return inner_optimizer(self.optimizer)

    @property
    def _weights(self):
        return getattr(self._inner_optimizer, "gradient_weights", (0.5, 0.5))

    @property
    def _pairing(self):
        return getattr(self._inner_optimizer, "pairing", None)

    def _optimizer_given_mixed_gradients(self):
        if isinstance(self._inner_optimizer, SVAG):
            return self._inner_optimizer.mixed_gradients()
        return contextlib.nullcontext()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        super()._maybe_symbolic_build(iterator, data_batch)
        self._name_layers()

    def _warn_of_batch_normalization(self):
        if not has_batch_normalization(self):
            return
        if self._pairing == "halves":
            warnings.warn(
                "pairing='halves' with BatchNormalization: each half is "
                "normalized by its own statistics, which is another noise "
                "model than SGD's at the whole batch; use "
                "pairing='independent'.",
                stacklevel=3,
            )
        elif self._pairing is None and self.measure_noise:
            warnings.warn(
                "SVAGModel normalizes the halves of a batch apart, so a model "
                "with BatchNormalization trains otherwise than unwrapped; "
                "keras_svag.LinearScalingRuleCheck(batch_size, probe=dataset) "
                "measures the unwrapped model and leaves training untouched.",
                stacklevel=3,
            )

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "measure_noise": self.measure_noise,
                "per_layer": self.per_layer,
                "num_examples": self.num_examples,
                "sampling": self.sampling,
            }
        )
        return config


def _interleaved_halves(data, replicas):
    """One replica's batch of rows 0, 2, 4, … and that of rows 1, 3, 5, …."""
    for rows in (leaf.shape[0] for leaf in arrays_of(data)):
        if rows is None or rows < 2 or rows % 2:
            raise ValueError(
                "SVAGModel splits a batch into pairs and needs a static, even "
                "number of rows on each replica, got "
                f"{'an unknown number' if rows is None else rows} on each of "
                f"{replicas}; with a tf.data.Dataset use .batch(batch_size, "
                "drop_remainder=True), trim arrays to a multiple of the batch "
                "size, x[: len(x) // batch_size * batch_size], and let the "
                f"batch size be a multiple of {2 * replicas}."
            )

    def every_other_row(start):
        # A slice with a stride is ten times as slow.
        return map_arrays(
            lambda leaf: tf.gather(leaf, tf.range(start, leaf.shape[0], 2)),
            data,
        )

    return every_other_row(0), every_other_row(1)


def _dense(gradient):
    """The gradient as a dense tensor, as embeddings' sparse ones are not.

    The graph optimizer would fold the weights that mix a pair into the
    gradient's own arithmetic, and a pair's last bits would then depend on the
    graph around it: it does not look through `ensure_shape`.
    """
    gradient = tf.convert_to_tensor(gradient)
    return tf.ensure_shape(gradient, gradient.shape)
