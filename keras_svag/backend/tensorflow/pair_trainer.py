"""The training step of an `SVAGModel` on TensorFlow."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_svag.backend.batches import map_arrays
from keras_svag.backend.model import layers_of, state_of
from keras_svag.backend.pair_trainer import Observations as AnyObservations
from keras_svag.backend.pair_trainer import PairTrainer as AnyTrainer
from keras_svag.backend.tensorflow.batches import (
    dynamic_num_rows,
    even_number_of_rows,
    halves,
    num_rows,
)
from keras_svag.backend.tensorflow.beside import (
    NewVariables,
    State,
    traced_once,
)
from keras_svag.backend.tensorflow.state import (
    replicas,
    tensorflow_variables,
)
from keras_svag.backend.tensorflow.workers import MultiWorkerModel, count_loss
from keras_svag.noise.moments import common_rows, is_sparse

_MIRRORED = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
)


class PairTrainer(AnyTrainer, MultiWorkerModel):
    """The step of a graph, on any number of replicas."""

    train_function: Any
    _largest = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last_logs: dict[str, tf.Variable] = {}

    @property
    def _replicas(self):
        return self.distribute_strategy.num_replicas_in_sync

    @property
    def _is_mirrored(self):
        """Whether a step exchanges something, as one replica alone does too.

        It cannot do so in a branch of the graph.
        """
        return self._replicas > 1 or isinstance(
            self.distribute_strategy, _MIRRORED
        )

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is not None and not force:
            return
        super().make_train_function(force=True)
        made = self.train_function

        def run(*args):
            nonlocal made
            try:
                return made(*args)
            except NewVariables:
                # A function of Keras's whose first trace failed stays broken.
                in_place = self.train_function
                super(PairTrainer, self).make_train_function(force=True)
                made, self.train_function = self.train_function, in_place
                return made(*args)

        self.train_function = run

    def _new_observations(self):
        # What a half that trains nothing may assign besides.
        self._handles = [v.handle for v in tensorflow_variables(self)]
        return Observations()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        self._note_first(iterator)
        super()._maybe_symbolic_build(iterator, data_batch)

    # As in Keras's own loop, where one of a user's own would convert it.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, Any]:
        if self._observations is not None:
            self._observations.begin()
        # In a branch of the graph nothing can be built.
        self._build_in_step(data)
        is_pair = self._is_pair(data)
        if self._is_always_nominal or self._is_mirrored:
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
        if self._is_mirrored:
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

    def _take_step(self, data):
        """Mixes the gradients of a batch's two halves and applies them.

        Returns:
            What the model's own `compute_metrics` adds to the logs: the mean
            of the two halves' where both count.
        """
        data = even_number_of_rows(data)
        first, second = halves(data)
        rows = dynamic_num_rows(first)
        gradients_of = traced_once(self._gradients, self)
        loss, g1, logs = gradients_of(first)
        count_loss(self.model, loss, rows)
        if self._leaves_no_trace and self._observations is None:
            self._apply_mixed([_summed(g) for g in g1])
            return logs
        # Unordered, both halves' activations could be held at once. The data
        # alone wait: if every operation did, tracing would take much longer.
        with tf.control_dependencies([g for g in g1 if g is not None]):
            second = map_arrays(tf.identity, second)
        if self._leaves_no_trace:
            with State(state_of(self), self._handles).kept():
                _, g2, _ = gradients_of(second)
        else:
            loss, g2, others = gradients_of(second)
            count_loss(self.model, loss, rows)
            logs = {key: (logs[key] + others[key]) / 2 for key in logs}
        if self._observations is not None:
            self._keep_observation(g1, g2, data, rows)
        self._apply_mixed(self._mixed(g1, g2))
        return logs

    def _gradients(self, half):
        """The loss of a half, its gradients, scaled as the loss is, and logs.

        Of the logs those that no metric of the model has.
        """
        with tf.GradientTape() as tape:
            loss, counted = self._forward(half)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_weights)
        _, logs = counted()
        gradients = [None if g is None else _kept_apart(g) for g in gradients]
        return loss, gradients, logs

    def _keep_observation(self, g1, g2, batch, rows):
        """Keeps the moments of a pair, averaged over the replicas."""
        iteration, row = self._observed(g1, g2, batch, rows)
        if self._replicas > 1:
            context = tf.distribute.get_replica_context()
            row = context.all_reduce(tf.distribute.ReduceOp.MEAN, row)
        self._observations.add(iteration, row)


class Observations(AnyObservations):
    """Rows in a variable, which the step assigns."""

    _count: Any = None
    _rows: Any = None

    def restart(self) -> None:
        self._rows = None

    def begin(self) -> None:
        if self._count is None:
            self._count = _variable(0.0)
        self._count.assign_add(1.0)

    def add(self, iteration: Any, row: Any) -> None:
        """Adds the row of a step, in place of the oldest one."""
        if self._rows is None:
            self._rows = _variable(np.zeros([self.room, 2 + row.shape[0]]))
        # Numbers of steps may have more digits than float32.
        steps = tf.stack([self._count, tf.cast(iteration, "float64")])
        row = tf.concat([steps, tf.cast(row, "float64")], 0)
        self._rows.assign(tf.concat([self._rows[1:], row[None]], 0))

    def last(self) -> Any:
        if self._rows is None:
            return 0.0 if self._count is None else _read(self._count), []
        return _read(self._count), _read(self._rows)


def _variable(value):
    """A variable of float64 of which every replica has its own."""
    with tf.init_scope():
        return tf.Variable(
            tf.constant(value, "float64"),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )


def _read(variable):
    """What it holds now; later assignments do not change it."""
    own = replicas(variable)[0]
    return tf.raw_ops.ReadVariableOp(resource=own.handle, dtype=own.dtype)


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
