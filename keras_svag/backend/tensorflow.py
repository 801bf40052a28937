"""What differs on TensorFlow: gradients of a pair, and the state around them.

A pair of gradients is measured beside training by a program of its own,
`PairProgram`; every variable that the program assigns is put back, to the bit.
`TrainFunction` takes the place of a model's train function for one call.
"""

import contextlib
import inspect
import itertools
import random

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from tensorflow.python.framework import auto_control_deps_utils

from keras_svag.backend.batches import (
    arrays_of,
    dynamic_num_rows,
    halves,
    map_arrays,
    without_optionals,
)
from keras_svag.backend.model import (
    call,
    decayed_variables,
    global_seed,
    gradient_weights,
    has_second_moments,
    inverse_root_second_moments,
    is_masked,
    iterations,
    layers_of,
    names_of,
    notes_kept,
    training_loss,
)
from keras_svag.noise.moments import (
    common_rows,
    is_sparse,
    layer_moments,
    squared_norm,
)
from keras_svag.scaling.optimizers import without_loss_scale

_CANNOT_HALVE = (
    "keras_svag.measure_gradient_noise(model, data) measures it by whole "
    "batches."
)


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
            self._objective = GivenLoss(model)
            self._objective.compile(optimizer="sgd", loss=loss)
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
        with self._python_state_kept():
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

    @contextlib.contextmanager
    def _python_state_kept(self):
        """Keeps what a call changes outside of variables."""
        of_python, of_numpy = random.getstate(), np.random.get_state()
        try:
            with notes_kept(self._model):
                yield
        finally:
            if self._runs_python and self._keeps_generators:
                random.setstate(of_python)
                np.random.set_state(of_numpy)

    def _averaged(self, values):
        values = {
            name: self._strategy.reduce("MEAN", value, axis=None)
            for name, value in values.items()
        }
        if "rows" in values:
            values["rows"] *= self._strategy.num_replicas_in_sync
            optimizer = without_loss_scale(
                getattr(self._model, "optimizer", None)
            )
            if optimizer is not None:
                values["learning_rate"] = _scalar(optimizer.learning_rate)
                values["iteration"] = iterations(optimizer)
        return values

    def _moments(self, batch):
        model = self._model
        weights = gradient_weights(model)
        self.layers = names_of(weights)
        gradients_of = traced_once(self._gradients, model)
        first, second = halves(batch)
        with self._seeds_kept():
            g1 = gradients_of(first)
            # Unordered, both halves' activations could be held at once.
            with tf.control_dependencies([g for g in g1 if g is not None]):
                second = map_arrays(tf.identity, second)
            g2 = gradients_of(second)
        rows = [
            tf.cast(dynamic_num_rows(half), "float32")
            for half in (first, second)
        ]
        pairs = [layer_moments(g1, g2, *rows)]
        optimizer = without_loss_scale(getattr(model, "optimizer", None))
        if has_second_moments(optimizer) and optimizer.built:
            scaled = preconditioned_pair(g1, g2, weights, optimizer)
            pairs.append(layer_moments(*scaled, *rows))
        decayed = decayed_variables(model) or weights
        values = {
            "rows": rows[0] + rows[1],
            "weight_sq_norm": squared_norm(decayed),
        }
        values |= dict(
            zip(
                (
                    "grad_sq_norm",
                    "example_noise",
                    "preconditioned_grad_sq_norm",
                    "preconditioned_example_noise",
                ),
                tf.unstack(tf.reduce_sum(tf.concat(pairs, 1), 0)),
                strict=False,
            )
        )
        if self._per_layer:
            values["layers"] = pairs[0]
        return values

    def _gradients(self, half):
        model, weights = self._model, gradient_weights(self._model)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        state = State(self._variables(), self._handles, self._seeds())
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
        with State(self._variables(), self._handles).kept():
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
        generators = [
            generator
            for layer in layers_of(self._model)
            for generator in layer._seed_generators
        ]
        generators += [] if global_seed() is None else [global_seed()]
        states = {id(g.state): g.state for g in generators}
        return [state._value.handle for state in states.values()]

    def _variables(self):
        model, seed = self._model, global_seed()
        metrics = [m for layer in layers_of(model) for m in layer.metrics]
        variables = [*model.variables, *model.metrics_variables]
        variables += [v for metric in metrics for v in metric.variables]
        variables += [] if seed is None else [seed.state]
        return list({id(v): v for v in variables}.values())


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


class GivenLoss(keras.Model):
    """Computes the given loss, plus the losses that the model adds."""

    def __init__(self, model):
        super().__init__(dtype=model.dtype_policy)
        self.model = model


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


def loss_scale(model):
    optimizer = getattr(model, "optimizer", None)
    scale = getattr(optimizer, "scale_loss", lambda one: one)
    return tf.cast(scale(tf.constant(1.0)), "float32")


def _scalar(value):
    return tf.cast(tf.convert_to_tensor(value), "float64")


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


def preconditioned_pair(first, second, variables, optimizer):
    """The gradients of a pair, each over the root of its second moment.

    A gradient g becomes g / (√v + ε), with v and ε those of the optimizer
    before it has seen this pair: the scale is then independent of both
    gradients, and ⟨g1, P g2⟩ with P = 1 / (√v + ε)² stays unbiased. Where v is
    0 still, nothing is known of the scale: the entry is 0, and is left out.

    Args:
        first, second: Lists of gradients, one for each variable: tensors,
            `tf.IndexedSlices`, or `None`.
        variables: The variables.
        optimizer: A built optimizer that `has_second_moments`.

    Returns:
        `(first, second)`, lists of tensors, `None` where a gradient is.
    """
    pairs = []
    for g1, g2, variable in zip(first, second, variables, strict=True):
        rows = None
        if g1 is None:
            pairs.append((None, None))
            continue
        if is_sparse(g1):
            g1, g2, rows = common_rows(g1, g2)
        scale = inverse_root_second_moments(optimizer, variable, rows)
        pairs.append(tuple(tf.cast(g, scale.dtype) * scale for g in (g1, g2)))
    return tuple(zip(*pairs, strict=True))


class TrainFunction:
    """Stands in for a model's train function during one call of it.

    It puts back what it found first of all, so that nothing is left behind
    whatever happens in the call. In another `fit` than the one in which it was
    made it does nothing of its own.

    Args:
        model: The model whose train function it takes the place of.
        in_loop: Whether `train_on_batch` calls it, whose data are a generator.
    """

    def __init__(self, model, in_loop=False):
        self._model = model
        self._in_loop = in_loop
        self._is_over = False
        self._fit = getattr(model, "history", None)
        self.found = model.train_function
        model.train_function = self

    def __call__(self, iterator):
        model = self._model
        if model.train_function is self:
            model.train_function = self.found
        if (
            self._is_over
            or getattr(model, "history", None) is not self._fit
            or (inspect.isgenerator(iterator) and not self._in_loop)
        ):
            return self.found(iterator)
        self._is_over = True
        return self._call(iterator)

    def _call(self, iterator):
        raise NotImplementedError


class Beside(TrainFunction):
    """Shows a batch of the call to a function before hers trains on it.

    Args:
        model: The model.
        choose: Function from the number of batches of the call, which are more
            than one with `steps_per_execution`, to the index of the one.
        observe: Function of that batch and its index.
        in_loop: Whether `train_on_batch` calls it.
    """

    def __init__(self, model, choose, observe, in_loop=False):
        super().__init__(model, in_loop)
        self._choose, self._observe = choose, observe

    def _call(self, iterator):
        batches = list(
            itertools.islice(iterator, self._model.steps_per_execution)
        )
        if not batches:
            # On data of unknown size Keras counts a step that finds no more.
            return self.found(iterator)
        place = self._choose(len(batches))
        if place:
            self.found(iter(batches[:place]))
        self._observe(batches[place], place)
        return self.found(iter(batches[place:]))


class Within(TrainFunction):
    """Calls a function after a call of a train function that observes itself.

    Args:
        model: The model.
        observe: The function, without arguments.
        in_loop: Whether `train_on_batch` calls it.
    """

    def __init__(self, model, observe, in_loop=False):
        super().__init__(model, in_loop)
        self._observe = observe

    def _call(self, iterator):
        logs = self.found(iterator)
        self._observe()
        return logs


class FirstCall(TrainFunction):
    """Looks at what the iterator of `fit` declares, and draws nothing.

    Args:
        model: The model.
        note: Function of whether batches may differ in their rows.
    """

    def __init__(self, model, note):
        super().__init__(model)
        self._note = note

    def _call(self, iterator):
        spec = getattr(iterator, "element_spec", None)
        if spec is not None:
            rows = [_declared_rows(s) for s in tf.nest.flatten(spec)]
            check_rows(rows)
            self._note(None in rows)
        return self.found(iterator)


def innermost(train_function):
    """The function that stands behind any number of stand-ins."""
    while isinstance(train_function, TrainFunction):
        train_function = train_function.found
    return train_function


def _declared_rows(spec):
    while hasattr(spec, "_value_specs"):  # Of several replicas.
        spec = spec._value_specs[0]
    shape = getattr(spec, "shape", None)
    return shape[0] if shape is not None and shape.rank else None


def fewest_rows(batch):
    """Rows of the replica that has the fewest in a batch of `fit`.

    Raises:
        ValueError: If the batch cannot be halved.
    """
    leaves = arrays_of(without_optionals(batch))
    replicas = [getattr(leaf, "values", None) for leaf in leaves]
    if not isinstance(replicas[0], tuple):
        return check_rows([_eager_rows(leaf) for leaf in leaves])
    return min(
        check_rows([_eager_rows(leaf) for leaf in leaves])
        for leaves in zip(*replicas, strict=True)
    )


def _eager_rows(leaf):
    if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)):
        return int(dynamic_num_rows(leaf))
    return np.shape(leaf)[0] if len(leaf.shape) else None


def check_rows(rows):
    """The number of rows that all leaves have, the known ones of `rows`."""
    known = {count for count in rows if count is not None}
    if len(known) > 1:
        raise ValueError(
            "GradientNoiseMonitor halves every batch, and the parts of this "
            "one have different numbers of rows, "
            f"{', '.join(map(str, sorted(known)))}: {_CANNOT_HALVE}"
        )
    return min(known, default=None)


def fetched(values):
    """The tensors of a nest as NumPy arrays, or floats."""
    return tree.map_structure(lambda v: np.asarray(v, np.float64), values)
