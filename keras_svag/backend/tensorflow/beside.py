"""The gradients of a pair beside training, and the state around them.

A pair of gradients is measured beside training by a program of its own,
`PairProgram`; every variable that the program assigns is put back, to the bit.
"""

import contextlib

import keras
import tensorflow as tf
from tensorflow.python.framework import auto_control_deps_utils

from keras_svag.backend.batches import map_arrays
from keras_svag.backend.model import (
    call,
    gradient_weights,
    is_masked,
    names_of,
    seeds_of,
    state_of,
    training_loss,
)
from keras_svag.backend.pairs import (
    GivenLoss,
    loss_scale,
    observation,
    place_in_training,
    python_state_kept,
)
from keras_svag.backend.tensorflow.batches import (
    dynamic_num_rows,
    halves,
    without_optionals,
)
from keras_svag.noise.moments import is_sparse


class PairProgram:
    """Measures the two halves of batches at the weights that a model has.

    The gradients of rows 0, 2, 4, … and of rows 1, 3, 5, … are those of the
    training loss, in training mode; whatever they change is put back.

    Args:
        model: A compiled `keras.Model`.
        loss: Replaces the compiled loss, as in `keras.Model.compile`; None: it
            does not.
        per_layer: Whether to measure each variable apart too.
        keeps_generators: Whether to put back the global generators of Python
            and NumPy. Threads that draw from them at the same time would see
            their numbers again.
        rows_vary: Whether one program is to serve batches of any number of
            rows.

    Attributes:
        is_masked: Whether a batch was seen whose loss Keras divides by the
            entries that a mask keeps.
        layers: A name for each variable that was measured.
    """

    def __init__(
        self,
        model,
        loss=None,
        per_layer=False,
        keeps_generators=True,
        rows_vary=False,
    ):
        self._model = model
        self._keeps_generators = keeps_generators
        self._rows_vary = rows_vary
        self._strategy = model.distribute_strategy
        self._per_layer = per_layer
        self._objective = model
        if loss is not None:
            self._objective = GivenLoss(model, loss)
        self._handles = []
        self._programs = {}
        self.is_masked = False
        self.layers = []

    def moments(self, batch):
        """The observation of a batch: `{column: scalar tensor}`.

        With several replicas the rows are summed, all else is averaged. With
        `per_layer` there is also `"layers"`, of shape `(variables, 2)`.
        """
        return self._run(self._moments, batch)

    def losses(self, batch):
        """`(whole, mean)` of a batch in the mode of inference, two scalars.

        That of the whole batch, and the mean of its halves' by their rows.
        """
        return self._run(self._losses, batch)

    def _run(self, function, batch):
        batch = without_optionals(batch)
        self._runs_python = False
        with python_state_kept(
            self._model, lambda: self._runs_python and self._keeps_generators
        ):
            try:
                return self._program(function, batch)(batch)
            except NewVariables:
                return self._program(function, batch)(batch)

    def _program(self, function, batch):
        """The function of a batch, on every replica, as a graph if Keras is."""

        def program(batch):
            # A program that is traced already runs nothing of Python.
            self._runs_python = True
            return self._averaged(self._strategy.run(function, (batch,)))

        if self._model.run_eagerly:
            return program
        if function not in self._programs:
            made = tf.function(program, autograph=False, reduce_retracing=True)
            # TensorFlow takes those of several models for one function.
            made._omit_frequent_tracing_warning = True
            if self._rows_vary:
                made.get_concrete_function(_with_open_rows(batch))
            self._programs[function] = made
        return self._programs[function]

    def _averaged(self, values):
        values = {
            name: self._strategy.reduce("MEAN", value, axis=None)
            for name, value in values.items()
        }
        if "rows" in values:
            values["rows"] *= self._strategy.num_replicas_in_sync
            values |= place_in_training(self._model)
        return values

    def _moments(self, batch):
        model = self._model
        self.layers = names_of(gradient_weights(model))
        gradients_of = traced_once(self._gradients, model)
        first, second = halves(batch)
        with self._seeds_kept():
            g1 = gradients_of(first)
            # Unordered, both halves' activations could be held at once.
            with tf.control_dependencies([g for g in g1 if g is not None]):
                second = map_arrays(tf.identity, second)
            g2 = gradients_of(second)
        rows = map(dynamic_num_rows, (first, second))
        values = observation(model, g1, g2, *rows)
        if not self._per_layer:
            del values["layers"]
        return values

    def _gradients(self, half):
        model, weights = self._model, gradient_weights(self._model)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        state = State(state_of(self._model), self._handles, self._seeds())
        with state.kept(), tf.GradientTape() as tape:
            y_pred = call(model, x, training=True)
            loss = training_loss(self._objective, x, y, y_pred, sample_weight)
            self.is_masked |= is_masked(self._objective, y_pred)
            scale = loss_scale(model)
            gradients = tape.gradient(
                loss * tf.cast(scale, loss.dtype), weights
            )
            # Keras divides a loss by the number of replicas.
            unscale = self._strategy.num_replicas_in_sync / scale
            gradients = [_float32(g, unscale) for g in gradients]
        return gradients

    def _losses(self, batch):
        loss_of = traced_once(self._loss, self._model)
        parts = [batch, *halves(batch)]
        whole, *of_halves = map(loss_of, parts)
        rows = [
            tf.cast(dynamic_num_rows(part), "float32") for part in parts[1:]
        ]
        mean = sum(r * v for r, v in zip(rows, of_halves, strict=True))
        return {"whole": whole, "mean": mean / sum(rows)}

    def _loss(self, part):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(part)
        with State(state_of(self._model), self._handles).kept():
            y_pred = call(self._model, x, training=False)
            loss = training_loss(
                self._objective, x, y, y_pred, sample_weight, training=False
            )
            return tf.cast(loss, "float32")

    @contextlib.contextmanager
    def _seeds_kept(self):
        """Each half draws its own numbers; then training draws as without."""
        kept = [(handle, _read(handle)) for handle in self._seeds()]
        try:
            yield
        finally:
            for handle, value in kept:
                _assign(handle, value)

    def _seeds(self):
        """Handles of the states of random generators."""
        return [state._value.handle for state in seeds_of(self._model)]


def traced_once(function, model):
    """A function that is traced and optimized once for all calls in a graph.

    On several replicas it may hold collectives, and is inlined.
    """
    replicas = model.distribute_strategy.num_replicas_in_sync
    if model.run_eagerly or replicas > 1:
        return function
    attributes = {"_noinline": True}
    return tf.function(
        function, autograph=False, experimental_attributes=attributes
    )


def _with_open_rows(batch):
    """The specifications of batches like this one, of any number of rows."""

    def opened(spec):
        if hasattr(spec, "_value_specs"):  # Of several replicas.
            return type(spec)(*map(opened, spec._value_specs))
        shape = [None, *spec.shape[1:]]
        if isinstance(spec, tf.RaggedTensorSpec):
            return tf.RaggedTensorSpec(
                shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype
            )
        return type(spec)(shape, spec.dtype)

    return map_arrays(lambda leaf: opened(tf.type_spec_from_value(leaf)), batch)


class NewVariables(Exception):
    """While tracing, a variable was found that has to be put back too."""


class State:
    """The values that variables have, to be put back after a computation.

    In a graph those are put back that an operation of the computation may
    assign, whether Keras knows them or not; eagerly all that Keras knows.

    Args:
        variables: Keras variables, those of one replica.
        handles: List of handles of other variables, which grows.
        free: Handles of variables that keep what is assigned to them.
    """

    def __init__(self, variables, handles, free=()):
        self._others = handles
        self._free = {id(handle) for handle in free}
        found = [v._value.handle for v in variables if v._value is not None]
        self._values = {
            id(h): (h, _read(h))
            for h in (*found, *handles)
            if _dtype(h) and id(h) not in self._free
        }

    @contextlib.contextmanager
    def kept(self):
        """Context after which the variables have their values again."""
        eager = tf.executing_eagerly()
        graph = None if eager else tf.compat.v1.get_default_graph()
        done = 0 if eager else len(graph.get_operations())
        try:
            yield
        finally:
            if eager:
                for handle, value in self._values.values():
                    _assign(handle, value)
        if not eager:
            self._put_back(graph, done)

    def _put_back(self, graph, done):
        outer = {id(inner): handle for handle, inner in graph.captures}
        assigned = {}
        for operation in graph.get_operations()[done:]:
            _, writes = auto_control_deps_utils.get_read_write_resource_inputs(
                operation
            )
            for inner in writes:
                handle = outer.get(id(inner))
                if handle is None or id(handle) in self._free:
                    continue
                if _dtype(handle):
                    assigned[id(handle)] = handle
        new = [h for key, h in assigned.items() if key not in self._values]
        if new:
            self._others += new
            raise NewVariables
        for key in assigned:
            _assign(*self._values[key])


def _dtype(handle):
    """The dtype of the variable behind a resource; None of other resources."""
    data = handle._handle_data
    if data is None or not data.is_set or len(data.shape_and_type) != 1:
        return None
    return tf.dtypes.as_dtype(data.shape_and_type[0].dtype)


def _read(handle):
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=_dtype(handle))


def _assign(handle, value):
    tf.raw_ops.AssignVariableOp(resource=handle, value=value)


def _float32(gradient, factor):
    if gradient is None:
        return None
    if is_sparse(gradient):
        return tf.IndexedSlices(
            tf.cast(gradient.values, "float32") * factor,
            gradient.indices,
            gradient.dense_shape,
        )
    return tf.cast(gradient, "float32") * factor
