"""What differs on JAX: state is passed in and out, and nothing is put back."""

import contextlib
import itertools
from typing import Any

import jax
import keras
from jax import numpy as jnp
from keras import ops

from keras_svag.backend.host_observations import PairTrainer as HostTrainer
from keras_svag.backend.model import (
    call,
    gradient_weights,
    is_masked,
    layers_of,
    names_of,
    notes_kept,
    seeds_of,
    state_of,
    training_loss,
)
from keras_svag.backend.normalization import (
    BatchNormalization,
    GroupNormalization,
)
from keras_svag.backend.pairs import (
    GivenLoss,
    inverse_roots,
    loss_scale,
    observation,
    place_in_training,
    python_state_kept,
)
from keras_svag.backend.slices import (
    even_number_of_rows,
    fewest_rows,
    first_rows,
    halves,
    num_rows,
)
from keras_svag.backend.train_function import TrainFunction, Within
from keras_svag.scaling.optimizers import without_loss_scale

__all__ = [
    "BatchNormalization",
    "Beside",
    "FirstCall",
    "Gradients",
    "GroupNormalization",
    "PairProgram",
    "PairTrainer",
    "Within",
    "fewest_rows",
    "first_rows",
    "is_one_process",
    "num_rows",
    "one_sentence",
    "preserved_state",
    "writes_files",
]

# Where the logs of an observed step have its observation, on the device.
_ROW = "keras_svag_observation"


class Variables:
    """Variables that are computed with as values.

    Args:
        variables: List of Keras's variables.
        seeds: Those of them that are the states of random generators.
    """

    def __init__(self, variables, seeds=()):
        self.variables = variables
        self.seeds = seeds

    @classmethod
    def of(cls, model):
        """Those of a built model and of its optimizer."""
        optimizer = getattr(model, "optimizer", None)
        of_optimizer = [] if optimizer is None else optimizer.variables
        variables = {id(v): v for v in (*state_of(model), *of_optimizer)}
        return cls(list(variables.values()), seeds_of(model))

    def values(self):
        """The present value of each of the variables."""
        return [ops.convert_to_tensor(v) for v in self.variables]

    def having(self, values, others=(), values_of_others=()):
        """A context in which the variables have values, some of them others."""
        mapping = list(zip(self.variables, values, strict=True))
        mapping += zip(others, values_of_others, strict=True)
        return keras.StatelessScope(mapping, collect_losses=True)

    def gradients(self, compute, weights, values):
        """Gradients of a loss, in the loss's dtype, which assign nothing.

        Args:
            compute: Function without arguments of a scalar loss and of a nest
                of other tensors.
            weights: Those of the variables that are moved.
            values: The values of all.

        Returns:
            `(gradients, others, values)`: what compute's other tensors are,
            and the values that the variables would have afterwards; the
            weights have those of before.
        """

        def of_weights(moved):
            with self.having(values, weights, moved) as scope:
                loss, others = compute()
                after = [scope.get_current_value(v) for v in self.variables]
            return loss, (others, after)

        places = {id(v): i for i, v in enumerate(self.variables)}
        places = [places[id(w)] for w in weights]
        before = [values[i] for i in places]
        gradients, (others, after) = jax.grad(of_weights, has_aux=True)(before)
        for place, value in zip(places, before, strict=True):
            after[place] = value
        return gradients, others, after

    def with_seeds_of(self, values, after):
        """The values, with the random seeds of others."""
        seeds = {id(seed) for seed in self.seeds}
        return [
            new if id(variable) in seeds else old
            for variable, old, new in zip(
                self.variables, values, after, strict=True
            )
        ]


class PairProgram:
    """Measures the two halves of batches at the weights that a model has.

    See `keras_svag.backend.tensorflow.PairProgram`.
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
        self._per_layer = per_layer
        self._objective = model if loss is None else GivenLoss(model, loss)
        self._variables = Variables.of(model)
        self._programs = {}
        self.is_masked = False
        self.layers = names_of(gradient_weights(model))

    def moments(self, batch):
        """The observation of a batch: `{column: scalar array}`."""
        return self._run(self._moments, batch)

    def losses(self, batch):
        """`{"whole", "mean"}` of a batch in the mode of inference."""
        return self._run(self._losses, batch)

    def _run(self, function, batch):
        with python_state_kept(self._model, lambda: self._keeps_generators):
            if self._model.run_eagerly:
                return function(self._variables.values(), batch)
            if function not in self._programs:
                self._programs[function] = jax.jit(function)
            return self._programs[function](self._variables.values(), batch)

    def _moments(self, values, batch):
        variables = self._variables
        first, second = halves(batch)
        g1, after = self._gradients(first, values)
        # Each half draws its own random numbers.
        g2, _ = self._gradients(second, variables.with_seeds_of(values, after))
        with variables.having(values):
            rows = num_rows(first), num_rows(second)
            result = observation(self._model, g1, g2, *rows)
            result |= place_in_training(self._model)
        if not self._per_layer:
            del result["layers"]
        return result

    def _gradients(self, half, values):
        weights = gradient_weights(self._model)
        gradients, scale, after = self._variables.gradients(
            lambda: self._scaled_loss(half), weights, values
        )
        return [g.astype("float32") / scale for g in gradients], after

    def _scaled_loss(self, half):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        y_pred = call(self._model, x, training=True)
        loss = training_loss(self._objective, x, y, y_pred, sample_weight)
        self.is_masked |= is_masked(self._objective, y_pred)
        scale = loss_scale(self._model)
        return loss * scale.astype(loss.dtype), scale

    def _losses(self, values, batch):
        parts = halves(batch)
        whole, *of_halves = (self._loss(p, values) for p in (batch, *parts))
        rows = [num_rows(part) for part in parts]
        mean = sum(r * v for r, v in zip(rows, of_halves, strict=True))
        return {"whole": whole, "mean": mean / sum(rows)}

    def _loss(self, part, values):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(part)
        with self._variables.having(values):
            y_pred = call(self._model, x, training=False)
            return training_loss(
                self._objective, x, y, y_pred, sample_weight, training=False
            )


@contextlib.contextmanager
def _attached(model, state):
    """Context in which a model's variables have the values that `fit` keeps."""
    parts = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    pairs = [
        pair
        for variables, values in zip(parts, state, strict=True)
        for pair in zip(variables, values, strict=True)
    ]
    found = [(variable, variable._value) for variable, _ in pairs]
    try:
        for variable, value in pairs:
            variable._value = value
        yield
    finally:
        for variable, value in found:
            variable._value = value


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

    def _call(self, state, iterator):
        batches = list(
            itertools.islice(iterator, self._model.steps_per_execution)
        )
        if not batches:
            # On data of unknown size Keras counts a step that finds no more.
            return self.found(state, iterator)
        place = self._choose(len(batches))
        if place:
            _, state = self.found(state, iter(batches[:place]))
        with _attached(self._model, state):
            self._observe(batches[place], place)
        return self.found(state, iter(batches[place:]))


class FirstCall(TrainFunction):
    """Looks at the first batch, as far as it can be halved.

    Args:
        model: The model.
        note: Function of whether batches may differ in their rows.
    """

    def __init__(self, model, note):
        super().__init__(model)

    def _call(self, state, iterator):
        batches = list(
            itertools.islice(iterator, self._model.steps_per_execution)
        )
        for batch in batches:
            fewest_rows(batch)
        return self.found(state, iter(batches))


class PairTrainer(HostTrainer):
    """The step of `SVAGModel` as a function of its state."""

    _is_made_for_training = False

    def make_train_function(self, force: bool = False) -> None:
        self._is_made_for_training = True
        try:
            super().make_train_function(force)
        finally:
            self._is_made_for_training = False

    def _make_function(self, step_function, concatenate_outputs=False):
        if self._is_made_for_training:
            step_function = self._on_host(step_function)
        return super()._make_function(step_function, concatenate_outputs)

    def _on_host(self, step):
        """The step, which is not called for batches that are left out."""
        last_logs = {}

        def step_on_host(state, data):
            if not self._is_pair(data):
                return dict(last_logs), state
            logs, state = step(state, data)
            if _ROW in logs:
                self._observations.add(logs.pop(_ROW))
            last_logs.update(logs)
            return logs, state

        return step_on_host

    def train_step(self, state: Any, data: Any) -> Any:
        weights = self.trainable_variables
        variables = Variables(
            [
                *weights,
                *self.non_trainable_variables,
                *self.optimizer.variables,
                *self.metrics_variables,
            ]
        )
        ends = [0, *itertools.accumulate(map(len, state))]
        parts = list(map(slice, ends, ends[1:]))
        before = list(itertools.chain(*state))
        first, second = halves(even_number_of_rows(data))
        g1, (logs, scale), after = variables.gradients(
            lambda: self._loss_of(first), weights, before
        )
        gradients = g1
        if not self._leaves_no_trace or self._observations is not None:
            of_first = after
            g2, (others, _), after = variables.gradients(
                lambda: self._loss_of(second), weights, of_first
            )
            if self._leaves_no_trace:
                after[parts[1]] = of_first[parts[1]]
                result, own = others[0], logs[1]
            else:
                result, own = (
                    others[0],
                    {
                        key: (logs[1][key] + others[1][key]) / 2
                        for key in logs[1]
                    },
                )
            logs = result, own
            gradients = list(map(self._mix, g1, g2, weights))
        logs = {**logs[0], **logs[1]}
        if self._observations is not None:
            self._observations.name_layers(weights)
            with variables.having(before):
                row, layers = self._observed(
                    g1, g2, num_rows(first), 1.0 / scale
                )
            row = jnp.stack([jnp.asarray(v, "float32") for v in row])
            if self._observations.per_layer:
                row = jnp.concatenate([row, layers.ravel()])
            logs[_ROW] = row
        optimizer = self.optimizer
        with without_loss_scale(optimizer).mixed_gradients():
            trainable, of_optimizer = optimizer.stateless_apply(
                after[parts[2]], gradients, before[parts[0]]
            )
        state = trainable, after[parts[1]], of_optimizer, after[parts[3]]
        return logs, state

    def _loss_of(self, half):
        """The scaled loss of a half; logs, those of her own, and the scale."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        y_pred = self(x, training=True)
        loss = self._compute_loss(x, y, y_pred, sample_weight, training=True)
        self.model._loss_tracker.update_state(
            loss, sample_weight=num_rows(half)
        )
        logs = self.compute_metrics(x, y, y_pred, sample_weight)
        result = self.get_metrics_result()
        own = {k: jnp.asarray(v) for k, v in logs.items() if k not in result}
        scaled = self.optimizer.scale_loss(loss)
        return scaled, ((result, own), loss_scale(self))


class Gradients:
    """Takes the gradient of the training loss on one batch after another.

    See `keras_svag.backend.tensorflow.Gradients`.
    """

    def __init__(self, model, loss=None, preconditioned=False):
        self.variables = gradient_weights(model)
        self._model = model
        self._objective = model if loss is None else GivenLoss(model, loss)
        self._scaled = model if model.compiled else self._objective
        self._all = Variables.of(model)
        self._scales = [1.0] * len(self.variables)
        if preconditioned:
            self._scales = inverse_roots(model.optimizer, self.variables)

    def of(self, batch):
        """The gradient of each variable on a batch, float32 and dense."""
        gradients, scale, after = self._all.gradients(
            lambda: self._scaled_loss(batch), self.variables, self._all.values()
        )
        ids = map(id, self._all.variables)
        drawn = dict(zip(ids, after, strict=True))
        for seed in self._all.seeds:
            seed.assign(drawn[id(seed)])
        return [
            g.astype("float32") / scale * s
            for g, s in zip(gradients, self._scales, strict=True)
        ]

    def _scaled_loss(self, batch):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        y_pred = call(self._model, x, training=True)
        loss = training_loss(self._objective, x, y, y_pred, sample_weight)
        scale = loss_scale(self._scaled)
        return loss * scale.astype(loss.dtype), scale

    def compiled(self, function):
        """A function that calls `of`, as one program unless Keras runs eagerly.

        Args:
            function: Function of arrays and nests of them.
        """
        if self._model.run_eagerly:
            return function
        seeds = self._all.seeds

        @jax.jit
        def program(values, *arguments):
            with self._all.having(values) as scope:
                result = function(*arguments)
            return result, [scope.get_current_value(seed) for seed in seeds]

        def run(*arguments):
            result, drawn = program(self._all.values(), *arguments)
            for seed, value in zip(seeds, drawn, strict=True):
                seed.assign(value)
            return result

        return run


@contextlib.contextmanager
def one_sentence(name):
    """Context of what JAX refuses of a batch: it checks no values."""
    yield


@contextlib.contextmanager
def preserved_state(model, trains=False):
    """Context after which a model's state is what it was before, to the bit.

    See `keras_svag.backend.tensorflow.preserved_state`.
    """
    # A step of training takes the place of its arrays.
    kept = jnp.copy if trains else lambda value: value
    values = [(v, kept(v._value)) for v in state_of(model, trains)]
    known = {id(variable) for variable, _ in values}
    try:
        with notes_kept(model):
            yield
    finally:
        for variable, value in values:
            variable._value = value
        for layer in layers_of(model):
            for metric in layer.metrics:
                if not all(id(v) in known for v in metric.variables):
                    metric.reset_state()


def writes_files(model):
    """Whether this process is the one that writes for a model."""
    return jax.process_index() == 0


def is_one_process(model):
    """Whether no other process trains the model too."""
    return jax.process_count() == 1
