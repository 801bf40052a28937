"""What differs on PyTorch: each step is Python, and state is put back."""

import contextlib
import functools
import random
from collections import OrderedDict, deque
from functools import partial
from typing import Any

import keras
import numpy as np
import torch
from keras import ops

from keras_svag.backend import model as model_of_keras
from keras_svag.backend import pairs, slices, train_function
from keras_svag.backend.host_observations import PairTrainer as HostTrainer
from keras_svag.backend.model import (
    gradient_weights,
    layers_of,
    notes_kept,
    reset_new_metrics,
    seeds_of,
    state_of,
)
from keras_svag.backend.pairs import python_state_kept
from keras_svag.backend.slices import even_number_of_rows, halves, num_rows

__all__ = [
    "Feed",
    "Gradients",
    "PairProgram",
    "PairTrainer",
    "has_batch_normalization",
    "is_one_process",
    "one_sentence",
    "preserved_state",
    "writes_files",
]


@functools.singledispatch
def _kept(value):
    """A function that puts a value back as it is now, and what it holds.

    None and nothing where it is not looked into.
    """
    return None, ()


@_kept.register(torch.Tensor)
def _(tensor):
    is_expanded = tensor.layout == torch.strided and 0 in tensor.stride()
    if is_expanded or tensor.is_inference():
        # PyTorch lets nobody write to it.
        return None, ()
    value = tensor.detach().clone()
    # A graph of hers that still needs the tensor shall not see it written.
    return lambda: tensor.data.copy_(value), ()


@_kept.register(keras.Variable)
def _(variable):
    return None, [variable.value]


@functools.cache
def _names_of_keras():
    """Names of attributes that every layer has, for Keras and PyTorch."""
    names = vars(keras.layers.Layer(name="any")).keys()
    return names - {"_buffers", "_modules", "_parameters"}


@_kept.register(torch.nn.Module)
def _(module):
    attributes = vars(module)
    own = attributes.keys() - _names_of_keras()
    return _kept(attributes)[0], [attributes[name] for name in own]


@_kept.register(keras.losses.Loss)
@_kept.register(keras.metrics.Metric)
def _(value):
    return None, [vars(value)]


@_kept.register(np.ndarray)
def _(array):
    value = array.copy()
    put_back = partial(np.copyto, array, value)
    return put_back if array.flags.writeable else None, ()


@_kept.register(tuple)
def _(values):
    return None, values


# By the methods of these classes themselves: Keras's own track what is set.
@_kept.register(list)
def _(values):
    held = list(values)
    return lambda: list.__setitem__(values, slice(None), held), held


@_kept.register(deque)
def _(values):
    held = list(values)

    def put_back():
        values.clear()
        values.extend(held)

    return put_back, held


@_kept.register(set)
def _(values):
    held = set(values)

    def put_back():
        set.intersection_update(values, held)
        set.update(values, held)

    return put_back, ()


@_kept.register(dict)
def _(values, kind=dict):
    held = dict(values)

    def put_back():
        for key in [key for key in values if key not in held]:
            kind.pop(values, key)
        kind.update(values, held)

    return put_back, held.values()


@_kept.register(OrderedDict)
def _(values):
    return _kept.dispatch(dict)(values, OrderedDict)


@_kept.register(torch.Generator)
@_kept.register(np.random.RandomState)
def _(generator):
    return partial(generator.set_state, generator.get_state()), ()


@_kept.register(random.Random)
def _(generator):
    return partial(generator.setstate, generator.getstate()), ()


@_kept.register(np.random.Generator)
def _(generator):
    bits = generator.bit_generator
    return partial(setattr, bits, "state", bits.state), ()


_GENERATORS = (
    torch.Generator,
    np.random.RandomState,
    np.random.Generator,
    random.Random,
)


class _State:
    """What a call of a model may change, as it is now, to be put back.

    It is what the model, its layers, PyTorch's modules, and its losses and
    metrics have as attributes, in lists, sets and dicts too: variables,
    buffers and other tensors, arrays, random generators, and which objects
    they are. Into objects of other classes it does not look.

    Args:
        model: The model.
        trains: Whether its optimizer's variables are among it.
    """

    def __init__(self, model, trains=False):
        seeds = {id(seed.value) for seed in seeds_of(model)}
        layers = layers_of(model)
        buffers = [buffer for layer in layers for buffer in layer.buffers()]
        waiting = [*state_of(model, trains), *buffers, *layers]
        self._values, self._draws = [], []
        # An id is that of another object once its own is gone.
        seen = {}
        while waiting:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen[id(value)] = value
            put_back, held = _kept(value)
            waiting += held
            if put_back is not None:
                is_draw = id(value) in seeds or isinstance(value, _GENERATORS)
                (self._draws if is_draw else self._values).append(put_back)

    def put_back(self, draws=True):
        """Puts all back, random generators and seeds only with `draws`."""
        for put_back in self._values + (self._draws if draws else []):
            put_back()


@contextlib.contextmanager
def _generators_kept():
    """Context after which PyTorch's global generators are those of before."""
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        yield


def _gradients_at(weights, loss):
    """The gradient of a loss at each weight, None where there is none.

    Those that a step has left on the weights stay.
    """
    tensors = [weight.value for weight in weights]
    # PyTorch's own flag may be off where Keras's is on.
    asked = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(torch.autograd.grad(loss, asked, allow_unused=True))
    return [next(found) if t.requires_grad else None for t in tensors]


def _gradients_of(loss, batch, factor=1.0):
    """Float32 gradients of a `TrainingLoss`, None where there is none."""
    scaled, scale = loss.scaled_loss(batch, factor)
    gradients = _gradients_at(gradient_weights(loss.model), scaled)
    return [None if g is None else g.float() / scale for g in gradients]


class PairProgram(slices.PairProgram):
    """Measures the two halves of batches, one operation after the other."""

    def _run(self, function, batch):
        self._state = _State(self.model)
        with (
            python_state_kept(self.model, self._keeps_generators),
            _generators_kept(),
        ):
            try:
                values = function(batch)
            finally:
                self._state.put_back()
                self._state = None
        return {name: value.detach() for name, value in values.items()}

    def _gradients(self, half):
        gradients = _gradients_of(self, half)
        self._state.put_back(draws=False)
        return gradients

    def _loss_in_inference(self, part):
        # A layer may go by its own flag, as PyTorch's modules do.
        self.model.eval()
        with torch.no_grad():
            loss = super()._loss_in_inference(part)
        self._state.put_back(draws=False)
        return loss


class Feed(train_function.Feed):
    """Gives a train function a list of batches."""

    def __call__(self, batches, data):
        return batches


class PairTrainer(HostTrainer):
    """The step of `SVAGModel`, one operation after the other."""

    _own_logs: dict[str, Any] = {}

    def train_step(self, data: Any) -> dict[str, Any]:
        if self._is_pair(data):
            self._take_step(even_number_of_rows(data))
        return {**self.get_metrics_result(), **self._own_logs}

    def _take_step(self, data):
        first, second = halves(data)
        g1, self._own_logs = self._gradients(first)
        gradients = g1
        if not self._leaves_no_trace or self._observations is not None:
            if self._leaves_no_trace:
                with preserved_state(self):
                    g2, _ = self._gradients(second)
            else:
                g2, others = self._gradients(second)
                self._own_logs = {
                    key: (value + others[key]) / 2
                    for key, value in self._own_logs.items()
                }
            if self._observations is not None:
                with torch.no_grad():
                    row = self._observed(g1, g2, data, num_rows(first))
                self._observations.add(*row)
            gradients = self._mixed(g1, g2)
        with torch.no_grad():
            self._apply_mixed(gradients)

    def _gradients(self, half):
        """Gradients of a half, scaled as its loss is, and logs of her own."""
        loss, counted = self._forward(half)
        self.model._loss_tracker.update_state(
            loss.detach(), sample_weight=num_rows(half)
        )
        gradients = _gradients_at(
            self.trainable_weights, self.optimizer.scale_loss(loss)
        )
        return gradients, counted()[1]


class Gradients(pairs.Gradients):
    """Takes the gradient of the training loss on one batch after another."""

    def _gradients(self, batch, factor):
        state = _State(self.model)
        try:
            gradients = _gradients_of(self, batch, factor)
        finally:
            state.put_back(draws=False)
        return [
            ops.zeros(v.shape, "float32") if g is None else g
            for g, v in zip(gradients, self.variables, strict=True)
        ]


@contextlib.contextmanager
def one_sentence(name):
    """Context in which what PyTorch refuses of a batch is one sentence.

    See `keras_svag.backend.tensorflow.one_sentence`.
    """
    try:
        yield
    except (IndexError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"`{name}` must have batches of which the loss can be computed, "
            f"got one of which it cannot ({why:.200})."
        ) from None


@contextlib.contextmanager
def preserved_state(model, trains=False):
    """Context after which a model's state is what it was before, to the bit.

    See `keras_svag.backend.tensorflow.preserved_state`.
    """
    known, state = state_of(model, trains), _State(model, trains)
    try:
        with notes_kept(model), _generators_kept():
            yield
    finally:
        state.put_back()
        reset_new_metrics(model, known)


def has_batch_normalization(model):
    """Whether a layer normalizes by the statistics of a training batch.

    PyTorch's own layers do so whether or not their weights are trained.
    """
    return model_of_keras.has_batch_normalization(model) or any(
        isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for layer in layers_of(model)
        for module in layer.modules()
    )


def writes_files(model):
    """Whether this process is the one that writes for a model."""
    return True


def is_one_process(model):
    """Whether no other process trains the model too."""
    return True
