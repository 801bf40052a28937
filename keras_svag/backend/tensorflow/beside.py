"""The gradients of a pair beside training, and the state around them.

A pair of gradients is measured beside training by a program of its own,
`PairProgram`; every variable that the program assigns is put back, to the bit.
"""

import contextlib

import tensorflow as tf
from tensorflow.python.framework import auto_control_deps_utils

from keras_svag.backend.batches import has_rows, map_arrays
from keras_svag.backend.model import gradient_weights, seeds_of, state_of
from keras_svag.backend.pairs import PairProgram as AnyProgram
from keras_svag.backend.pairs import place_in_training, python_state_kept
from keras_svag.backend.tensorflow.batches import (
    dynamic_num_rows,
    halves,
    without_optionals,
)
from keras_svag.backend.tensorflow.state import (
    eager_seeds_kept,
    tensorflow_variables,
)


class PairProgram(AnyProgram):
    """Measures the two halves of batches on every replica, in a graph."""

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self._strategy = model.distribute_strategy
        self._handles = []
        self._programs = {}

    def _run(self, function, batch):
        batch = without_optionals(batch)
        with (
            python_state_kept(self.model, self._keeps_generators),
            eager_seeds_kept(),
        ):
            try:
                # Making the program may trace it, too.
                return self._program(function, batch)(batch)
            except NewVariables:
                return self._program(function, batch)(batch)

    def _program(self, function, batch):
        """The function of a batch, on every replica, as a graph if Keras is."""

        def program(batch):
            if tf.executing_eagerly():
                # No graph tells which of them a layer assigns.
                variables = tensorflow_variables(self.model)
                self._handles = [v.handle for v in variables]
            return self._averaged(self._strategy.run(function, (batch,)))

        if self.model.run_eagerly:
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
            values |= place_in_training(self.model)
        return values

    def _moments(self, batch):
        gradients_of = traced_once(self._gradients, self.model)
        first, second = halves(batch)
        # Each half draws its own numbers; then training draws as without.
        seeds = [(handle, _read(handle)) for handle in self._seeds()]
        try:
            g1 = gradients_of(first)
            # Unordered, both halves' activations could be held at once.
            with tf.control_dependencies([g for g in g1 if g is not None]):
                second = map_arrays(tf.identity, second)
            g2 = gradients_of(second)
        finally:
            for handle, value in seeds:
                _assign(handle, value)
        return self._observation(
            (g1, g2), batch, (first, second), dynamic_num_rows
        )

    def _gradients(self, half):
        weights = gradient_weights(self.model)
        state = State(state_of(self.model), self._handles, self._seeds())
        with state.kept(), tf.GradientTape() as tape:
            loss, scale = self.scaled_loss(half)
            gradients = tape.gradient(loss, weights)
            # Keras divides a loss by the number of replicas.
            unscale = self._strategy.num_replicas_in_sync / scale
            return [g if g is None else _float32(g, unscale) for g in gradients]

    def _losses(self, batch):
        loss_of = traced_once(self._loss_in_inference, self.model)
        parts = halves(batch)
        whole, *losses = map(loss_of, (batch, *parts))
        mean = self._mean_loss(parts, losses, dynamic_num_rows)
        return {"whole": whole, "mean": mean}

    def _loss_in_inference(self, part):
        with State(state_of(self.model), self._handles).kept():
            return tf.cast(self.loss_of(part, training=False), "float32")

    def _seeds(self):
        """Handles of the states of random generators."""
        return [state._value.handle for state in seeds_of(self.model)]


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
        if not has_rows(spec):
            return spec
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
    assign, whether Keras knows them or not; eagerly all that are known.

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
        if tf.executing_eagerly():
            try:
                yield
            finally:
                for handle, value in self._values.values():
                    _assign(handle, value)
            return
        graph = tf.compat.v1.get_default_graph()
        done = len(graph.get_operations())
        yield
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
    return tf.math.scalar_mul(factor, tf.cast(gradient, "float32"))
