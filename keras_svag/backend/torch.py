"""What differs on PyTorch: each step is Python, and state is put back."""

import contextlib
import warnings
from typing import Any

import keras
import torch
from keras import ops

from keras_svag.backend import pairs, slices, train_function
from keras_svag.backend.host_observations import PairTrainer as HostTrainer
from keras_svag.backend.model import (
    gradient_weights,
    layers_of,
    notes_kept,
    seeds_of,
    state_of,
)
from keras_svag.backend.pairs import loss_scale, python_state_kept
from keras_svag.backend.slices import even_number_of_rows, halves, num_rows
from keras_svag.scaling.optimizers import without_loss_scale

__all__ = [
    "Feed",
    "Gradients",
    "PairProgram",
    "PairTrainer",
    "is_one_process",
    "one_sentence",
    "preserved_state",
    "writes_files",
]


class _Values:
    """The values that variables have now, to be put back.

    Args:
        variables: List of Keras's variables.
        tensors: List of others.
    """

    def __init__(self, variables, tensors=()):
        tensors = [*(v.value for v in variables), *tensors]
        self._values = [(t, t.detach().clone()) for t in tensors]

    def put_back(self):
        with torch.no_grad():
            for tensor, value in self._values:
                tensor.copy_(value)


def _buffers_of(model):
    """The buffers of PyTorch's own modules, as running averages."""
    return [b for layer in layers_of(model) for b in layer.buffers()]


@contextlib.contextmanager
def _generators_kept():
    """Context after which PyTorch's global generators are those of before."""
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        yield


@contextlib.contextmanager
def _all_but_seeds_kept(model):
    """Context after which a model has its values again but for its seeds."""
    seeds = {id(seed) for seed in seeds_of(model)}
    variables = [v for v in state_of(model) if id(v) not in seeds]
    values = _Values(variables, _buffers_of(model))
    try:
        yield
    finally:
        values.put_back()


def _gradients_of(loss, batch):
    """Float32 gradients of a `TrainingLoss`; only the seeds go on.

    None where there is none. Those that a step has left on the weights stay.
    """
    with _all_but_seeds_kept(loss.model):
        scaled, scale = loss.scaled_loss(batch)
        gradients = torch.autograd.grad(
            scaled,
            [weight.value for weight in gradient_weights(loss.model)],
            allow_unused=True,
        )
        return [None if g is None else g.float() / scale for g in gradients]


class PairProgram(slices.PairProgram):
    """Measures the two halves of batches, one operation after the other."""

    def _run(self, function, batch):
        seeds = _Values(seeds_of(self.model))
        with (
            python_state_kept(self.model, self._keeps_generators),
            _generators_kept(),
        ):
            try:
                values = function(batch)
            finally:
                seeds.put_back()
        return {name: value.detach() for name, value in values.items()}

    def _gradients(self, half):
        return _gradients_of(self, half)

    def _loss_in_inference(self, part):
        with torch.no_grad(), _all_but_seeds_kept(self.model):
            return super()._loss_in_inference(part)


class Feed(train_function.Feed):
    """Gives a train function a list of batches."""

    def __call__(self, batches, data):
        return batches


class PairTrainer(HostTrainer):
    """The step of `SVAGModel`, one operation after the other."""

    _own_logs: dict[str, Any] = {}

    def train_step(self, data: Any) -> dict[str, Any]:
        if not self._is_pair(data):
            return {**self.get_metrics_result(), **self._own_logs}
        data = even_number_of_rows(data)
        first, second = halves(data)
        rows = num_rows(first)
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
                self._keep_observation(g1, g2, data, rows)
            gradients = list(map(self._mix, g1, g2, self.trainable_weights))
        if not gradients:
            warnings.warn("There are no trainable weights.", stacklevel=2)
        else:
            optimizer = self.optimizer
            with (
                torch.no_grad(),
                without_loss_scale(optimizer).mixed_gradients(),
            ):
                optimizer.apply(gradients, self.trainable_weights)
        return {**self.get_metrics_result(), **self._own_logs}

    def _gradients(self, half):
        """Gradients of a half, scaled as its loss is, and logs of her own."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        y_pred = self(x, training=True)
        loss = self._compute_loss(x, y, y_pred, sample_weight, training=True)
        self.model._loss_tracker.update_state(
            loss.detach(), sample_weight=num_rows(half)
        )
        gradients = torch.autograd.grad(
            self.optimizer.scale_loss(loss),
            [weight.value for weight in self.trainable_weights],
            allow_unused=True,
        )
        logs = self.compute_metrics(x, y, y_pred, sample_weight)
        known = self.get_metrics_result()
        own = {
            key: ops.convert_to_tensor(value).detach()
            for key, value in logs.items()
            if key not in known
        }
        return gradients, own

    @torch.no_grad()
    def _keep_observation(self, g1, g2, batch, rows):
        self._observations.name_layers(self.trainable_weights)
        row, layers = self._observed(
            g1, g2, batch, rows, 1.0 / loss_scale(self)
        )
        row = torch.stack([torch.as_tensor(v).double() for v in row])
        if self._observations.per_layer:
            row = torch.cat([row, layers.ravel()])
        self._observations.add(row)


class Gradients(pairs.Gradients):
    """Takes the gradient of the training loss on one batch after another."""

    def _gradients(self, batch):
        return [
            ops.zeros(v.shape, "float32") if g is None else g
            for g, v in zip(
                _gradients_of(self, batch), self.variables, strict=True
            )
        ]


@contextlib.contextmanager
def one_sentence(name):
    """Context in which what PyTorch refuses of a batch is one sentence.

    Args:
        name: of the argument that the batch is of.

    Raises:
        ValueError: If a label or an index is out of its range, for example.
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
    variables = state_of(model, trains)
    known = {id(variable) for variable in variables}
    values = _Values(variables, _buffers_of(model))
    try:
        with notes_kept(model), _generators_kept():
            yield
    finally:
        values.put_back()
        for layer in layers_of(model):
            for metric in layer.metrics:
                if not all(id(v) in known for v in metric.variables):
                    metric.reset_state()


def writes_files(model):
    """Whether this process is the one that writes for a model."""
    return True


def is_one_process(model):
    """Whether no other process trains the model too."""
    return True
