"""The training step of an `SVAGModel` on TensorFlow."""

import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_svag.backend.batches import (
    dynamic_num_rows,
    even_number_of_rows,
    halves,
    map_arrays,
    num_rows,
)
from keras_svag.backend.model import (
    count_loss,
    decayed_variables,
    examples_of,
    has_second_moments,
    layers_of,
    names_of,
)
from keras_svag.backend.tensorflow import (
    loss_scale,
    preconditioned_pair,
    traced_once,
)
from keras_svag.backend.workers import MultiWorkerModel
from keras_svag.noise.moments import (
    common_rows,
    is_sparse,
    layer_moments,
    squared_norm,
)
from keras_svag.scaling.optimizers import without_loss_scale

# What a row of the observations begins with; moments by layer follow.
ROW = (
    "iteration",
    "learning_rate",
    "rows",
    "weight_sq_norm",
    "grad_sq_norm",
    "example_noise",
    "preconditioned_grad_sq_norm",
    "preconditioned_example_noise",
)


class PairTrainer(MultiWorkerModel):
    """A `keras.Model` that trains the one in it on the pairs of each batch.

    A subclass has it as `model`. Both are compiled with the same optimizer,
    one of SVAG's.
    """

    # Rows of the batches that `fit` makes; None where they vary or are not
    # known, and whether each batch has them.
    _nominal: int | None = None
    _is_always_nominal = False
    _largest = None
    _observations = None
    _notes_batches = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last_logs: dict[str, tf.Variable] = {}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)
        if self._observations is not None:
            # Another set of weights may be trained from now on.
            self._observations.restart()

    def observe(self, per_layer: bool = False) -> "Observations":
        """Keeps the moments of the pairs of a call, from the next one on.

        Args:
            per_layer: Whether to keep those of each variable.

        Returns:
            The `Observations`.
        """
        if self._observations is None:
            self._observations = Observations()
            self.train_function = None
        if self._observations.extend(self.steps_per_execution, per_layer):
            # Part of the step, which is traced anew.
            self.train_function = None
        return self._observations

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        self._notes_batches = True
        try:
            return super().fit(*args, **kwargs)
        finally:
            self._notes_batches = False

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # `evaluate` calls it too, also from within `fit`.
        if iterator is not None and self._notes_batches:
            self._notes_batches = False
            self._note_batches(iterator)
        super()._maybe_symbolic_build(iterator, data_batch)

    def _note_batches(self, data):
        """Notes what is known of the batches of a `fit`."""
        size = data.data_adapter.batch_size
        examples = examples_of(data).examples
        left_out = 0
        if None not in (size, examples):
            size = min(size, examples)
            left_out = examples % size + examples // size * (size % 2)
        if size is not None:
            self._check_rows(size // self._num_replicas)
        known = size, examples is not None and examples % size == 0
        if known != (self._nominal, self._is_always_nominal):
            # It is a constant of the traced step.
            self.train_function = None
        self._nominal, self._is_always_nominal = known
        if left_out:
            warnings.warn(
                f"SVAG leaves out {left_out:,} of the {examples:,} rows of "
                "each epoch: batches that are short, and the last row of odd "
                "ones.",
                stacklevel=4,
            )

    # As in Keras's own loop, where one of a user's own would convert it.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, Any]:
        with without_loss_scale(self.optimizer).mixed_gradients():
            # In a branch of the graph nothing can be built.
            self._build_in_step(data)
            is_pair = self._is_pair(data)
            replicas = self.distribute_strategy.num_replicas_in_sync
            if self._is_always_nominal or replicas > 1:
                own = self._take_step(data)
            else:
                if is_pair is True:
                    self._keep(self._take_step(data))
                elif is_pair is not False:
                    tf.cond(
                        is_pair,
                        lambda: self._keep(self._take_step(data)),
                        lambda: None,
                    )
                own = map_arrays(tf.convert_to_tensor, dict(self._last_logs))
            return {**self.get_metrics_result(), **own}

    def _keep(self, logs):
        """Keeps logs for the batches that are left out, in variables."""
        for key, value in logs.items():
            if key not in self._last_logs:
                with tf.init_scope():
                    self._last_logs[key] = tf.Variable(
                        tf.zeros(value.shape, value.dtype), trainable=False
                    )
            self._last_logs[key].assign(value)

    def _build_in_step(self, data):
        loss = self.model._compile_loss
        is_built = loss is None or loss.built
        if not is_built or not all(layer.built for layer in layers_of(self)):
            with tf.init_scope():
                self.model._symbolic_build(data_batch=data)
                self.built = True
        if self.trainable_variables and not self.optimizer.built:
            with tf.init_scope():
                self.optimizer.build(self.trainable_variables)

    def _is_pair(self, data):
        """Whether a batch has the nominal size: a bool, or a tensor of one."""
        rows = num_rows(data)
        if self.distribute_strategy.num_replicas_in_sync > 1:
            return self._check_rows(rows)
        if self._is_always_nominal:
            return True
        rows = dynamic_num_rows(data)
        if self._nominal is not None:
            return rows >= self._nominal
        # A larger batch may come, or have come.
        if self._largest is None:
            with tf.init_scope():
                self._largest = tf.Variable(2, trainable=False)
        return rows >= self._largest.assign(tf.maximum(self._largest, rows))

    def _check_rows(self, rows):
        replicas = self.distribute_strategy.num_replicas_in_sync
        if rows is None:
            raise ValueError(
                "SVAGModel needs batches of a static number of rows with "
                f"{replicas} replicas, got an unknown number; use "
                ".batch(batch_size, drop_remainder=True) with a "
                "tf.data.Dataset, and trim arrays to a multiple of the batch "
                f"size, which is a multiple of {2 * replicas}."
            )
        if rows < 2:
            each = " on each replica" if replicas > 1 else ""
            raise ValueError(
                f"SVAGModel needs batches of at least 2 rows{each}, for it "
                f"splits them into pairs, got {rows}; use a larger batch size."
            )
        return True

    def _take_step(self, data):
        """Mixes the gradients of a batch's two halves and applies them.

        Returns:
            What the model's own `compute_metrics` adds to the logs: the mean
            of the two halves' where both count.
        """
        optimizer = without_loss_scale(self.optimizer)
        first, second = halves(even_number_of_rows(data))
        leaves_no_trace = optimizer.gradient_weights == (1, 0)
        rows = dynamic_num_rows(first)
        gradients_of = traced_once(self._gradients, self)
        loss, g1, logs = gradients_of(first)
        count_loss(self.model, loss, rows)
        if leaves_no_trace and self._observations is None:
            self._apply([_summed(g) for g in g1])
            return logs
        if leaves_no_trace:
            state = [
                (v, tf.identity(v.value)) for v in self.non_trainable_variables
            ]
        # Unordered, both halves' activations could be held at once. The data
        # alone wait: if every operation did, tracing would take much longer.
        with tf.control_dependencies([g for g in g1 if g is not None]):
            second = map_arrays(tf.identity, second)
        loss, g2, others = gradients_of(second)
        count_loss(self.model, loss, rows)
        if leaves_no_trace:
            for variable, value in state:
                variable.assign(value)
        else:
            logs = {key: (logs[key] + others[key]) / 2 for key in logs}
        if self._observations is not None:
            self._observe(g1, g2, rows)
        self._apply(list(map(self._mix, g1, g2, self.trainable_weights)))
        return logs

    def _gradients(self, half):
        """The loss of a half, its gradients, scaled as the loss is, and logs.

        Of the logs those that no metric of the model has.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self._compute_loss(
                x, y, y_pred, sample_weight, training=True
            )
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_weights)
        logs = self.compute_metrics(x, y, y_pred, sample_weight)
        known = self.get_metrics_result()
        logs = {
            key: tf.convert_to_tensor(value)
            for key, value in logs.items()
            if key not in known
        }
        gradients = [None if g is None else _kept_apart(g) for g in gradients]
        return loss, gradients, logs

    def _mix(self, first, second, weight):
        optimizer = without_loss_scale(self.optimizer)
        if first is None:
            return None
        if _is_overwritten(weight):
            return second if optimizer.gradient_weights[1] else first
        mix = optimizer.mix
        if not is_sparse(first):
            return mix(first, second)
        *rows, indices = common_rows(first, second)
        return tf.IndexedSlices(mix(*rows), indices, first.dense_shape)

    def _apply(self, gradients):
        if not gradients:
            warnings.warn("There are no trainable weights.", stacklevel=2)
            return
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_weights, strict=True)
        )

    def _observe(self, g1, g2, rows):
        """Keeps the moments of a pair, averaged over the replicas."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        optimizer = without_loss_scale(self.optimizer)
        unscale = (replicas / loss_scale(self)) ** 2
        moved = [
            (first, second, weight)
            for first, second, weight in zip(
                g1, g2, self.trainable_weights, strict=True
            )
            if not _is_overwritten(weight)
        ]
        g1, g2, weights = zip(*moved, strict=True)
        self._observations.layers = names_of(weights)
        pairs = [layer_moments(g1, g2, rows, rows)]
        if has_second_moments(optimizer):
            scaled = preconditioned_pair(g1, g2, weights, optimizer)
            pairs.append(layer_moments(*scaled, rows, rows))
        decayed = decayed_variables(self) or self.trainable_weights
        totals = tf.reduce_sum(tf.concat(pairs, 1), 0) * unscale
        missing = tf.fill([4 - 2 * len(pairs)], float("nan"))
        # A step is counted on the host to more digits than float32 has.
        row = [
            optimizer.iterations,
            optimizer.learning_rate,
            2 * replicas * rows,
            squared_norm(decayed),
            *tf.unstack(tf.concat([totals, missing], 0)),
        ]
        row = tf.stack([tf.cast(value, "float64") for value in row])
        if self._observations.per_layer:
            layers = tf.reshape(pairs[0] * unscale, [-1])
            row = tf.concat([row, tf.cast(layers, "float64")], 0)
        if replicas > 1:
            context = tf.distribute.get_replica_context()
            row = context.all_reduce(tf.distribute.ReduceOp.MEAN, row)
        self._observations.add(row)


class Observations:
    """The moments of the last steps' pairs, a row each.

    A row begins with its number, by which it can be told apart from those of
    earlier calls. All who observe a model share them.

    Attributes:
        per_layer: Whether the moments of each variable are kept.
        layers: A name for each variable that is measured.
    """

    per_layer = False
    layers: list[str] = []
    _steps = 1
    _rows = None
    _next = 0

    def extend(self, steps: int, per_layer: bool) -> bool:
        """Makes room for the steps of a call, and for layers if wanted.

        Returns:
            Whether there was none.
        """
        wanted = steps, self.per_layer or per_layer
        is_new = wanted != (self._steps, self.per_layer)
        if is_new:
            self._steps, self.per_layer = wanted
            self.restart()
        return is_new

    def restart(self) -> None:
        """Drops the rows; later ones are numbered on."""
        self._next = max(self._next, 1 + int(self.last()[-1, 0]))
        self._rows = None

    def add(self, row: Any) -> None:
        """Adds the row of a step, in place of the oldest one."""
        if self._rows is None:
            with tf.init_scope():
                self._rows = tf.Variable(
                    tf.fill([self._steps, 1 + row.shape[0]], _nothing()),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
        number = tf.maximum(self._rows[-1:, 0] + 1, self._next)
        row = tf.concat([number, row], 0)
        self._rows.assign(tf.concat([self._rows[1:], row[None]], 0))

    def last(self) -> Any:
        """The rows of the last call, or less; a tensor that may come later.

        Before the first step there is one row with the number -1.
        """
        if self._rows is None:
            return tf.fill([1, 1], _nothing())
        strategy = getattr(
            self._rows, "distribute_strategy", tf.distribute.get_strategy()
        )
        return tf.identity(strategy.experimental_local_results(self._rows)[0])

    def unpacked(self, row: Any) -> dict[str, Any]:
        """A row as `{column: number}`, with `layers` where they are kept."""
        values = dict(zip(ROW, row[1:], strict=False))
        if self.per_layer:
            values["layers"] = row[1 + len(ROW) :].reshape(-1, 2)
        return values


def _nothing():
    return tf.constant(-1, "float64")


def _is_overwritten(weight):
    """Whether a weight, as a scale of float8, is given its new value."""
    return getattr(weight, "overwrite_with_gradient", False)


def _summed(gradient):
    """The gradient, of which no row that it touches is there twice."""
    if gradient is None or not is_sparse(gradient):
        return gradient
    rows, _, indices = common_rows(gradient, gradient)
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
