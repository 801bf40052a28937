"""A model that trains on pairs of sub-batches and measures their noise."""

import contextlib
import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_svag import arguments
from keras_svag.models.batches import (
    dynamic_num_rows,
    even_number_of_rows,
    fed_batch_size,
    interleaved_halves,
    map_arrays,
    num_examples,
    num_rows,
)
from keras_svag.models.internals import (
    accumulated_batches,
    build_in_step,
    decayed_variables,
    follows_data,
    has_batch_normalization,
    has_own_loss,
    has_second_moments,
    inner_optimizer,
    kept_entries,
    output_losses,
    why_no_mean_over_examples,
)
from keras_svag.models.preconditioner import preconditioned_pair
from keras_svag.models.state import preserved_state
from keras_svag.models.wrapper import ModelWrapper
from keras_svag.noise.pairs import (
    GradientNoise,
    common_rows,
    is_sparse,
    pair_moments,
    squared_norm,
)
from keras_svag.noise.sampling import Sampling
from keras_svag.optimizers.paired import PairedOptimizer


@keras.saving.register_keras_serializable(package="keras_svag")
class SVAGModel(ModelWrapper):
    """Trains a model on pairs of sub-batches, and measures the gradient noise.

    Each batch is split into its even and its odd rows. Both gradients are
    computed at the same weights, one half after the other; the pair is
    measured, then mixed and applied:

    - with `SVAG`, `SVAGAdam` or `SVAGRMSprop`, by its weights:
      `w1 * g1 + w2 * g2`;
    - with any other optimizer, by their shares of the rows, which is the
      gradient of the whole batch when the loss is a mean over the examples: the
      model trains as it does unwrapped, on batches of any size.

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

    With Adam, AdamW, Nadam, Adamax, RMSprop and Adagrad the logs also hold
    `preconditioned_grad_sq_norm` (G_P = Σ P_i ∇L_i²),
    `preconditioned_noise_trace` (N_P = Σ P_i Σ_ii at the same batch size) and
    `preconditioned_noise_to_signal`, with P_i = 1 / (√v_i + ε)² from the
    optimizer's second moments before the step (1 / (v_i + ε) where it has ε in
    the root): the noise in the norm in which it steps (derived). Where v_i is
    0 still, the entry does not count. The first tens of steps, whose v are
    averages of few squares, can outweigh all others of the first epoch.
    `preconditioned_gradient_noise.estimate()` has the error bars. Lion, Muon
    and Adafactor have no second moment of each entry: nothing is measured.

    Loss and metrics are those of the whole batch, except where only the first
    half is computed: `SVAG(ell=1, pairing="independent")` without
    `measure_noise`. Dropout draws anew for each half, BatchNormalization
    normalizes each by its own statistics.

    The halves weigh by their rows or, where the only output has a mask or its
    loss an `ignore_class`, by the entries that count. Other losses are no means
    over the examples, and train otherwise than unwrapped: several outputs that
    are masked, an activity regularizer beside a mask, a mean of one's own over
    tokens, Dice over a whole batch, in-batch negatives. A warning says so where
    it is seen from the model, or from what the loss gives for random examples,
    with one replica the model's own `compute_loss` too. That is not so where a
    loss skips labels that are neither 0 nor 1, or a `compute_loss` draws at
    random.

    N is stated at one nominal batch size, whatever rows a batch has; a batch of
    one row trains and is not measured. Where the optimizer accumulates the
    gradients of k batches, each of them is measured, and the batch size that
    N is stated at is k times theirs. The pairs of `SVAG` are equal halves:
    the last row of an odd batch is left out, and so is a batch that is smaller
    than the nominal one. With several replicas, or `compile(jit_compile=True)`,
    batches need a static number of rows; a model that was compiled before it
    was wrapped is compiled by XLA anew for each number of them, as unwrapped.

    Args:
        model: any `keras.Model` that trains by Keras's own `train_step`. Its
            `compute_loss` may be its own.
        measure_noise: whether to measure; `False` computes nothing for it.
        per_layer: whether to measure each trainable variable apart too.
        num_examples: size of the training set, to correct for the way batches
            are drawn from it.
        sampling: how they are drawn: `"shuffle"` (what `fit` does),
            `"without_replacement"` or `"with_replacement"`.
        batch_size: rows of a nominal batch as it is fed, over all replicas; by
            default the batch size that `fit` is given, or the largest batch
            seen.
        **kwargs: `name` and the like, as for any `keras.Model`.

    Raises:
        TypeError: if `model` is no `keras.Model`.
        ValueError: if an argument is out of range, if `model` has its own
            `train_step` or is compiled with an `SVAG` that already trains it
            (`compile` refuses that too); while tracing, if several replicas or
            XLA get a batch of unknown size.

    References:
        - [Li, Malladi, Arora, 2021](https://arxiv.org/abs/2102.12470)
        - [McCandlish et al., 2018](https://arxiv.org/abs/1812.06162)
    """

    def __init__(
        self,
        model: keras.Model,
        measure_noise: bool = True,
        per_layer: bool = False,
        num_examples: int | None = None,
        sampling: Sampling = "shuffle",
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Wanted where a model that is compiled is wrapped.
        self.measure_noise = measure_noise
        self._is_compiled = False
        super().__init__(model, **kwargs)
        self.batch_size = arguments.integer(
            "batch_size", batch_size, optional=True
        )
        self._nominal = self.batch_size
        self._largest = None
        self.per_layer = per_layer
        self.num_examples = num_examples
        self.sampling = sampling
        # It refuses bad arguments, also where nothing is measured.
        noise = GradientNoise(num_examples=num_examples, sampling=sampling)
        if measure_noise:
            self.gradient_noise = noise
            self.preconditioned_gradient_noise = GradientNoise(
                num_examples=num_examples,
                sampling=sampling,
                name="preconditioned_gradient_noise",
                preconditioned=True,
            )
            self.weight_sq_norm = keras.metrics.Mean(name="weight_sq_norm")
        self._name_layers()

    def _name_layers(self):
        paths = tuple(v.path for v in self.trainable_variables)
        if not (self.per_layer and paths):
            return
        for noise in self._noises:
            if noise.layers != paths:
                # A model that was not built has its variables only in tracing.
                with tf.init_scope():
                    noise.set_layers(paths)

    @property
    def _noises(self):
        """The metrics of the noise: of the gradients, and as they are scaled.

        The second one only where the optimizer scales them, entry by entry.
        """
        if not self.measure_noise:
            return []
        if self.compiled and has_second_moments(self.optimizer):
            return [self.gradient_noise, self.preconditioned_gradient_noise]
        return [self.gradient_noise]

    @property
    def training_metrics(self) -> list[keras.metrics.Metric]:
        noises = self._noises
        return [*noises, self.weight_sq_norm] if noises else []

    def __dir__(self):
        # Files are those of before this metric, which each epoch resets.
        return [
            name
            for name in super().__dir__()
            if name != "preconditioned_gradient_noise"
        ]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        self._is_compiled = kwargs.get("jit_compile") is True
        super().compile(*args, **kwargs)

    def _take_compilation(self):
        super()._take_compilation()
        self._is_loss_tried = False
        if self._simulates_sde:
            self._inner_optimizer.pair_within_step()
        self._warn_of_batch_normalization()

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        examples = num_examples(x, kwargs.get("validation_split", 0.0))
        nominal = self.batch_size or fed_batch_size(x, batch_size, examples)
        if nominal != self._nominal:
            # It is a constant of the traced step.
            self.train_function = None
        self._nominal = nominal
        self._warn_of_rows_left_out(examples)
        self._follow_batch_size()
        return super().fit(x, y, batch_size, *args, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        self._follow_batch_size()
        return super().train_on_batch(*args, **kwargs)

    def _follow_batch_size(self):
        """Makes the variables that an unknown batch size is kept in.

        Made while a step is traced, they would have it traced once more.
        """
        if self._nominal is not None or self._num_replicas > 1:
            return
        with tf.init_scope():
            if self._largest is None:
                self._largest = tf.Variable(0.0, trainable=False)
            for noise in self._noises:
                noise.follow_batch_size()

    # As in Keras's own loop, where one of a user's own would convert it.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, Any]:
        with self._optimizer_given_mixed_gradients():
            if not self.measure_noise and self._weights == (0.5, 0.5):
                return super().train_step(data)
            self._check_rows(data)
            self._follow_batch_size()
            # In a branch of the graph nothing can be built.
            build_in_step(self, data)
            self._begin_measuring(data)
            if self._simulates_sde:
                self._take_svag_step(data)
            else:
                self._apply(self._gradients_of_any_batch(data))
            return self.get_metrics_result()

    def _take_svag_step(self, data):
        """Trains on equal halves, unless the batch is a short one."""

        def step():
            self._apply(self._pair_gradients(even_number_of_rows(data)))

        # Without a nominal size a larger batch may come, or have come.
        rows = dynamic_num_rows(data)
        is_nominal = isinstance(rows, int) and rows == self._nominal
        if self._num_replicas > 1 or is_nominal:
            step()
        else:
            rows = tf.cast(rows, "float32")
            is_pair = (rows >= self._largest_batch(data)) & (rows > 1)
            tf.cond(is_pair, step, lambda: None)

    def _gradients_of_any_batch(self, data):
        """Those of the whole batch, from two halves if it has two rows."""
        rows = num_rows(data)
        if rows is None:
            return _either(
                dynamic_num_rows(data) > 1,
                lambda: self._pair_gradients(data),
                lambda: self._whole_gradients(data),
            )
        if rows == 1:
            return self._whole_gradients(data)
        return self._pair_gradients(data)

    def _apply(self, gradients):
        if gradients:
            self.optimizer.apply_gradients(
                zip(gradients, self.trainable_weights, strict=True)
            )
        else:
            warnings.warn("There are no trainable weights.", stacklevel=2)

    def _whole_gradients(self, data):
        loss, _, gradients = self._gradients(data, set())
        self._count_loss(loss, dynamic_num_rows(data))
        if self._simulates_sde:
            gradients = [_summed(g) for g in gradients]
        return gradients

    def _pair_gradients(self, data):
        """Gradients of a batch's two halves, measured and mixed."""
        first, second = interleaved_halves(data)
        if not self.measure_noise and self._weights == (1, 0):
            return self._whole_gradients(first)
        fixed = set()

        def gradients_of(half):
            return self._gradients(half, fixed)

        if self._num_replicas == 1 and not self.run_eagerly:
            # Traced and optimized once, instead of once for each half.
            gradients_of = tf.function(
                gradients_of,
                autograph=False,
                experimental_attributes={"_noinline": True},
            )
        means = output_losses(self) if num_rows(data) is None else []
        totals = [[tf.identity(mean.total.value) for mean in means]]
        loss1, kept1, g1 = gradients_of(first)
        totals.append([tf.identity(mean.total.value) for mean in means])
        second_leaves_no_trace = self._weights == (1, 0)
        if second_leaves_no_trace:
            state = [
                (v, tf.identity(v.value)) for v in self.non_trainable_variables
            ]
        # Unordered, both halves' activations could be held at once. The data
        # alone wait: if every operation did, tracing would take much longer.
        with tf.control_dependencies([g for g in g1 if g is not None]):
            second = map_arrays(tf.identity, second)
        loss2, kept2, g2 = gradients_of(second)
        if second_leaves_no_trace:
            for variable, value in state:
                variable.assign(value)
        rows = dynamic_num_rows(first), dynamic_num_rows(second)
        shares = _shares(*rows) if kept1 is None else _shares(kept1, kept2)
        for loss, share in zip((loss1, loss2), shares, strict=True):
            self._count_loss(loss, share * sum(rows))
        for mean, before, between in zip(means, *totals, strict=True):
            # Without a static size Keras counts each half as a batch.
            added = between - before, mean.total.value - between
            mean.total.assign(
                before + added[0] * shares[0] + added[1] * shares[1]
            )
            mean.count.assign_sub(1.0)
        if self.measure_noise and g1:
            self._measure(g1, g2, *rows)
        return [
            None if a is None else self._mix(a, b, *shares, i in fixed)
            for i, (a, b) in enumerate(zip(g1, g2, strict=True))
        ]

    def _gradients(self, half, fixed):
        """The half's loss, of how many entries it is the mean, its gradients.

        A masked loss is a mean over the entries that the mask keeps; any other
        one over the rows, which is said by None. The gradients are those of
        the scaled loss. The compiled metrics see the half. To `fixed` is added
        which sparse gradients may touch the same rows for any data.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self._compute_loss(
                x, y, y_pred, sample_weight, training=True
            )
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_weights)
        self.compute_metrics(x, y, y_pred, sample_weight)
        gradients = [None if g is None else _kept_apart(g) for g in gradients]
        fixed.update(
            i
            for i, g in enumerate(gradients)
            if is_sparse(g) and not follows_data(g.indices, half)
        )
        self._warn_of_other_means(x, y, y_pred)
        return loss, kept_entries(self, y, y_pred), gradients

    def _mix(self, first, second, first_share, second_share, is_fixed):
        if self._simulates_sde:
            if not is_sparse(first):
                return self._inner_optimizer.mix(first, second)
            rows, indices = common_rows(first, second)
            mixed = self._inner_optimizer.mix(*rows)
            return tf.IndexedSlices(mixed, indices, first.dense_shape)
        if is_sparse(first):
            return _joined(first, second, first_share, second_share, is_fixed)
        if isinstance(first_share, float) and first_share == second_share:
            return (first + second) / 2
        return first * tf.cast(first_share, first.dtype) + second * tf.cast(
            second_share, second.dtype
        )

    def _begin_measuring(self, data):
        """Measures the weights, and makes what no branch of a graph can."""
        if not (self.measure_noise and self.trainable_variables):
            return
        self._name_layers()
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        decayed = decayed_variables(self) or self.trainable_variables
        self.weight_sq_norm.update_state(squared_norm(decayed))
        if self._num_replicas > 1:
            self._set_batch_size(num_rows(data) * self._num_replicas)
        elif self._nominal is not None:
            self._set_batch_size(self._nominal)
        else:
            largest = self._simulated_batch_size(self._largest_batch(data))
            for noise in self._noises:
                noise.restate(largest)

    def _set_batch_size(self, rows):
        """States N at the simulated size of batches of so many rows."""
        for noise in self._noises:
            noise.set_batch_size(
                self._simulated_batch_size(rows),
                rows // (2 * self._num_replicas),
            )

    def _measure(self, g1, g2, rows1, rows2):
        """Adds the pair of one replica, of halves of so many rows."""
        # The loss was scaled by Keras, by 1 / replicas, and by the optimizer.
        scale = tf.cast(self.optimizer.scale_loss(1.0), "float64")
        unscale = (self._num_replicas / scale) ** 2
        # |g1 - g2|² / (1 / r1 + 1 / r2) is the noise of one example.
        rows = tf.cast(2 * rows1 * rows2 / (rows1 + rows2), "float64")
        stated_at = tf.cast(self.gradient_noise.stated_at, "float64")
        for noise in self._noises:
            if noise.preconditioned:
                g1, g2 = preconditioned_pair(
                    g1, g2, self.trainable_weights, self.optimizer
                )
            grad_sq_norm, noise_trace = pair_moments(g1, g2)
            noise.update_state(
                grad_sq_norm * unscale,
                noise_trace * unscale * (rows / stated_at),
            )

    def _largest_batch(self, data):
        """Rows of the largest batch so far, this one included, a tensor."""
        if self._nominal is not None:
            return tf.constant(self._nominal, "float32")
        largest = tf.maximum(self._largest, dynamic_num_rows(data))
        return self._largest.assign(largest)

    def _check_rows(self, data):
        rows = num_rows(data)
        if rows is None and self._needs_static_rows:
            where, size = "jit_compile=True", "batch size"
            if self._num_replicas > 1:
                where = f"{self._num_replicas} replicas"
                size += f", which is a multiple of {2 * self._num_replicas}"
            raise ValueError(
                "SVAGModel needs batches of a static number of rows with "
                f"{where}, got an unknown number; use .batch(batch_size, "
                "drop_remainder=True) with a tf.data.Dataset, and trim arrays "
                f"to a multiple of the {size}."
            )
        if self._simulates_sde and rows == 1:
            raise ValueError(
                "SVAG inside an SVAGModel needs batches of at least 2 rows on "
                "each replica, for it splits them into pairs, got 1; use a "
                "larger batch size."
            )

    def _warn_of_rows_left_out(self, examples):
        """Says what SVAG's pairs, which are equal halves, leave out."""
        size = self._nominal
        if not self._simulates_sde or None in (size, examples):
            return
        left_out = examples % size + examples // size * (size % 2)
        if left_out:
            warnings.warn(
                f"SVAG leaves out {left_out:,} of the {examples:,} rows of "
                "each epoch: batches that are short, and the last row of odd "
                "ones.",
                stacklevel=3,
            )

    @property
    def _inner_optimizer(self):
        return inner_optimizer(self.optimizer)

    @property
    def _simulates_sde(self):
        return isinstance(self._inner_optimizer, PairedOptimizer)

    @property
    def _needs_static_rows(self):
        return self._num_replicas > 1 or self._is_compiled

    def _simulated_batch_size(self, rows):
        """B where batches of so many rows are fed."""
        if self._pairing == "independent":
            return rows // 2
        return rows * accumulated_batches(self.optimizer)

    @property
    def _weights(self):
        return getattr(self._inner_optimizer, "gradient_weights", (0.5, 0.5))

    @property
    def _pairing(self):
        return getattr(self._inner_optimizer, "pairing", None)

    def _optimizer_given_mixed_gradients(self):
        if self._simulates_sde:
            return self._inner_optimizer.mixed_gradients()
        return contextlib.nullcontext()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        super()._maybe_symbolic_build(iterator, data_batch)
        self._name_layers()

    def _warn_of_other_means(self, x, y, y_pred):
        """Says once what makes a whole batch's loss no mean of its halves'."""
        if self._simulates_sde or self._is_loss_tried:
            return
        self._is_loss_tried = True
        restored = contextlib.nullcontext()
        if has_own_loss(self.model):
            # It may count what it computes, or draw at random.
            restored = preserved_state(self.model)
        with tf.init_scope(), restored:
            reason = why_no_mean_over_examples(self.model, x, y, y_pred)
        if reason:
            warnings.warn(
                "SVAGModel trains on the mean of the losses of a batch's "
                f"halves, which is not that of the batch: {reason}. The model "
                "trains otherwise than unwrapped; "
                "keras_svag.ScalingRuleCheck(batch_size, probe=dataset) "
                "measures the unwrapped model and leaves training untouched.",
                stacklevel=2,
            )

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
                "keras_svag.ScalingRuleCheck(batch_size, probe=dataset) "
                "measures the unwrapped model and leaves training untouched.",
                stacklevel=3,
            )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            {
                "measure_noise": self.measure_noise,
                "per_layer": self.per_layer,
                "num_examples": self.num_examples,
                "sampling": self.sampling,
                "batch_size": self.batch_size,
            }
        )
        return config


def _shares(first, second):
    """What part of a mean each of two numbers of entries is."""
    total = first + second
    if isinstance(total, int):
        return first / total, second / total
    # Nothing may be kept by a mask.
    total = tf.maximum(total, 1.0)
    return first / total, second / total


def _either(condition, first, second):
    """Gradients from one of two branches of a graph; None is kept."""
    missing = []

    def given(branch):
        gradients = branch()
        missing[:] = [g is None for g in gradients]
        return [g for g in gradients if g is not None]

    found = iter(
        tf.cond(condition, lambda: given(first), lambda: given(second))
    )
    return [None if is_missing else next(found) for is_missing in missing]


def _joined(first, second, first_share, second_share, is_fixed):
    """A sparse gradient of a batch from those of its parts.

    Keras's optimizers square and clip the slices of a row before they sum
    them, so that they have to get those of the whole batch: one for each look
    up. Parts that look up the same rows whatever the data, such as those of
    positions, share them, as a batch's examples do.
    """
    dtype = first.values.dtype
    a = first.values * tf.cast(first_share, dtype)
    b = second.values * tf.cast(second_share, dtype)
    if is_fixed and a.shape.is_compatible_with(b.shape):
        a, b = tf.cond(
            _are_one_set(first.indices, second.indices),
            lambda: (a + b, tf.zeros_like(b)),
            lambda: (a, b),
        )
    return tf.IndexedSlices(
        tf.concat([a, b], 0),
        tf.concat([first.indices, second.indices], 0),
        first.dense_shape,
    )


def _are_one_set(first, second):
    """Whether two vectors of indices are the same, and hold none twice."""

    def same():
        ordered = tf.sort(first)
        return tf.reduce_all(first == second) & tf.reduce_all(
            ordered[1:] > ordered[:-1]
        )

    return tf.cond(
        tf.size(first) == tf.size(second), same, lambda: tf.constant(False)
    )


def _summed(gradient):
    """The gradient, of which no row that it touches is there twice."""
    if not is_sparse(gradient):
        return gradient
    (rows,), indices = common_rows(gradient)
    return tf.IndexedSlices(rows, indices, gradient.dense_shape)


def _kept_apart(gradient):
    """The gradient, whose arithmetic no later one is folded into.

    The graph optimizer would fold the weights that mix a pair into the
    gradient's own arithmetic, and a pair's last bits would then depend on the
    graph around it: it does not look through `ensure_shape`.
    """
    if is_sparse(gradient):
        return tf.IndexedSlices(
            _kept_apart(gradient.values), gradient.indices, gradient.dense_shape
        )
    gradient = tf.convert_to_tensor(gradient)
    return tf.ensure_shape(gradient, gradient.shape)
