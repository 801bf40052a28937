"""What differs on JAX: state is passed in and out, and nothing is put back."""

import contextlib
import itertools
from typing import Any

import jax
import keras
from jax import numpy as jnp
from keras import ops

from keras_svag.backend import pairs, slices, train_function
from keras_svag.backend.host_observations import PairTrainer as HostTrainer
from keras_svag.backend.model import (
    gradient_weights,
    notes_kept,
    reset_new_metrics,
    seeds_of,
    state_of,
)
from keras_svag.backend.pairs import python_state_kept
from keras_svag.backend.slices import even_number_of_rows, halves, num_rows
from keras_svag.scaling.optimizers import without_loss_scale

__all__ = [
    "Beside",
    "Feed",
    "Gradients",
    "PairProgram",
    "PairTrainer",
    "is_one_process",
    "one_sentence",
    "preserved_state",
    "with_values",
    "writes_files",
]


# Of the state that Keras hands to a step, as it names them.
_PARTS = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)
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

    def gradients_of(self, loss, batch, factor=1.0):
        """Float32 gradients of a `TrainingLoss`; only the seeds go on."""
        weights = gradient_weights(loss.model)
        gradients, scale, after = self.gradients(
            lambda: loss.scaled_loss(batch, factor), weights, self.values()
        )
        seeds = {id(seed) for seed in self.seeds}
        for variable, value in zip(self.variables, after, strict=True):
            if id(variable) in seeds:
                variable.assign(value)
        return [g.astype("float32") / scale for g in gradients]


def _is_compiled(model):
    """Whether Keras makes programs of the steps of a model."""
    return model.jit_compile and not model.run_eagerly


class PairProgram(slices.PairProgram):
    """Measures the two halves of batches by a program of their values."""

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self._variables = Variables.of(model)
        self._programs = {}

    def _run(self, function, batch):
        def program(values, batch):
            with self._variables.having(values):
                return function(batch)

        program.__name__ = function.__name__  # As profiles show it.
        # What a program has the host draw, it draws while it runs, later.
        values = jax.block_until_ready(self._variables.values())
        with python_state_kept(self.model, self._keeps_generators):
            if _is_compiled(self.model):
                program = self._programs.setdefault(function, jax.jit(program))
            return jax.block_until_ready(program(values, batch))

    def _gradients(self, half):
        return self._variables.gradients_of(self, half)


def _variables_of(model):
    """Those whose values are the `_PARTS`."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


@contextlib.contextmanager
def _attached(model):
    """Context in which a model's variables have the values that `fit` keeps."""
    parts = dict(zip(_PARTS, _variables_of(model), strict=True))
    pairs = [
        pair
        for part, values in model._jax_state.items()
        for pair in zip(parts[part], values, strict=True)
    ]
    found = [(variable, variable._value) for variable, _ in pairs]
    try:
        for variable, value in pairs:
            variable._value = value
        yield
    finally:
        for variable, value in found:
            variable._value = value


class Feed(train_function.Feed):
    """Gives a train function an iterator."""

    def with_rest(self, batches, data):
        return itertools.chain(batches, data)


def with_values(model):
    """Context in which variables have values, within an epoch of `fit` too."""
    if getattr(model, "_jax_state_synced", True) or not model._jax_state:
        return contextlib.nullcontext()
    # Keras would write them back for good: the script may count on it not to.
    return _attached(model)


class Beside(train_function.Beside):
    """Shows a batch of a call before hers trains on it."""

    def _attached(self, state):
        # As after a call: what Keras goes back to if measuring is interrupted.
        self._model._jax_state = dict(zip(_PARTS, state, strict=True))
        return _attached(self._model)


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
                self._observations.add(*logs.pop(_ROW))
            last_logs.update(logs)
            return logs, state

        return step_on_host

    def train_step(self, state: Any, data: Any) -> Any:
        weights = self.trainable_variables
        variables = Variables(list(itertools.chain(*_variables_of(self))))
        ends = [0, *itertools.accumulate(map(len, state))]
        parts = list(map(slice, ends, ends[1:]))
        before = list(itertools.chain(*state))
        data = even_number_of_rows(data)
        first, second = halves(data)
        g1, logs, after = variables.gradients(
            lambda: self._loss_of(first), weights, before
        )
        gradients = g1
        if not self._leaves_no_trace or self._observations is not None:
            g2, others, after_both = variables.gradients(
                lambda: self._loss_of(second), weights, after
            )
            if not self._leaves_no_trace:
                after = after_both
                own = {
                    key: (logs[1][key] + others[1][key]) / 2 for key in logs[1]
                }
                logs = others[0], own
            with variables.having(before):
                gradients = self._mixed(g1, g2)
        logs = {**logs[0], **logs[1]}
        if self._observations is not None:
            with variables.having(before):
                logs[_ROW] = self._observed(g1, g2, data, num_rows(first))
        optimizer = self.optimizer
        with without_loss_scale(optimizer).mixed_gradients():
            trainable, of_optimizer = optimizer.stateless_apply(
                after[parts[2]], gradients, before[parts[0]]
            )
        state = trainable, after[parts[1]], of_optimizer, after[parts[3]]
        return logs, state

    def _loss_of(self, half):
        """The scaled loss of a half, and the logs of `_forward`."""
        loss, counted = self._forward(half)
        self.model._loss_tracker.update_state(
            loss, sample_weight=num_rows(half)
        )
        return self.optimizer.scale_loss(loss), counted()


class Gradients(pairs.Gradients):
    """Takes the gradient of the training loss on one batch after another."""

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self._all = Variables.of(model)

    def _gradients(self, batch, factor):
        return self._all.gradients_of(self, batch, factor)

    def compiled(self, function):
        if not _is_compiled(self.model):
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


def one_sentence(name):
    """Context of what JAX refuses of a batch: it checks no values."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def preserved_state(model, trains=False):
    """Context after which a model's state is what it was before, to the bit.

    See `keras_svag.backend.tensorflow.preserved_state`.
    """
    # A step of training takes the place of its arrays.
    kept = jnp.copy if trains else lambda value: value
    values = [(v, kept(v._value)) for v in state_of(model, trains)]
    try:
        with notes_kept(model):
            yield
    finally:
        for variable, value in values:
            variable._value = value
        reset_new_metrics(model, [variable for variable, _ in values])


def writes_files(model):
    """Whether this process is the one that writes for a model."""
    return jax.process_index() == 0


def is_one_process(model):
    """Whether no other process trains the model too."""
    return jax.process_count() == 1
