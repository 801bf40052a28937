"""What differs on PyTorch: each step is Python, and state is put back."""

import contextlib
import warnings
from typing import Any

import keras
import torch
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


class _Values:
    """The values that variables have now, to be put back.

    Args:
        variables: List of Keras's variables.
    """

    def __init__(self, variables):
        self._values = [(v.value, v.value.detach().clone()) for v in variables]

    def put_back(self):
        with torch.no_grad():
            for tensor, value in self._values:
                tensor.copy_(value)


@contextlib.contextmanager
def _generators_kept():
    """Context after which PyTorch's global generators are those of before."""
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        yield


def _scaled_gradients(loss, scale, weights):
    """Gradients of a loss, float32, by way of its scale; None if there is none.

    Those that a step has left on the weights stay there.
    """
    gradients = torch.autograd.grad(
        loss * scale.to(loss.dtype),
        [weight.value for weight in weights],
        allow_unused=True,
    )
    return [None if g is None else g.float() / scale for g in gradients]


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
        self.is_masked = False
        self.layers = names_of(gradient_weights(model))

    def moments(self, batch):
        """The observation of a batch: `{column: scalar tensor}`."""
        first, second = halves(batch)
        rows = num_rows(first), num_rows(second)
        with self._kept():
            g1 = self._gradients(first)
            g2 = self._gradients(second)
        result = observation(self._model, g1, g2, *rows)
        result |= place_in_training(self._model)
        if not self._per_layer:
            del result["layers"]
        return {name: value.detach() for name, value in result.items()}

    def losses(self, batch):
        """`{"whole", "mean"}` of a batch in the mode of inference."""
        parts = halves(batch)
        with self._kept(), torch.no_grad():
            whole, *of_halves = map(self._loss, (batch, *parts))
        rows = [num_rows(part) for part in parts]
        mean = sum(r * v for r, v in zip(rows, of_halves, strict=True))
        return {"whole": whole, "mean": mean / sum(rows)}

    @contextlib.contextmanager
    def _kept(self):
        seeds = _Values(seeds_of(self._model))
        with (
            python_state_kept(self._model, lambda: self._keeps_generators),
            _generators_kept(),
        ):
            try:
                yield
            finally:
                seeds.put_back()

    @contextlib.contextmanager
    def _all_but_seeds_kept(self):
        """So that each half draws its own random numbers."""
        seeds = {id(seed) for seed in seeds_of(self._model)}
        values = _Values(
            [v for v in state_of(self._model) if id(v) not in seeds]
        )
        try:
            yield
        finally:
            values.put_back()

    def _gradients(self, half):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        with self._all_but_seeds_kept():
            y_pred = call(self._model, x, training=True)
            loss = training_loss(self._objective, x, y, y_pred, sample_weight)
            self.is_masked |= is_masked(self._objective, y_pred)
            return _scaled_gradients(
                loss, loss_scale(self._model), gradient_weights(self._model)
            )

    def _loss(self, part):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(part)
        with self._all_but_seeds_kept():
            y_pred = call(self._model, x, training=False)
            return training_loss(
                self._objective, x, y, y_pred, sample_weight, training=False
            )


class Beside(TrainFunction):
    """Shows the batch of a call to a function before hers trains on it.

    Args:
        model: The model.
        choose: Not called: a call has one batch.
        observe: Function of that batch and its index, 0.
        in_loop: Whether `train_on_batch` calls it.
    """

    def __init__(self, model, choose, observe, in_loop=False):
        super().__init__(model, in_loop)
        self._observe = observe

    def _call(self, data):
        self._observe(data[0], 0)
        return self.found(data)


class FirstCall(TrainFunction):
    """Looks at the first batch, as far as it can be halved.

    Args:
        model: The model.
        note: Function of whether batches may differ in their rows.
    """

    def __init__(self, model, note):
        super().__init__(model)

    def _call(self, data):
        fewest_rows(data[0])
        return self.found(data)


class PairTrainer(HostTrainer):
    """The step of `SVAGModel`, one operation after the other."""

    _own_logs: dict[str, Any] = {}

    def train_step(self, data: Any) -> dict[str, Any]:
        if not self._is_pair(data):
            return {**self.get_metrics_result(), **self._own_logs}
        first, second = halves(even_number_of_rows(data))
        rows = num_rows(first)
        g1, self._own_logs = self._gradients(first)
        gradients = g1
        if not self._leaves_no_trace or self._observations is not None:
            before = _Values(self.non_trainable_variables)
            g2, others = self._gradients(second)
            if self._leaves_no_trace:
                before.put_back()
            else:
                self._own_logs = {
                    key: (value + others[key]) / 2
                    for key, value in self._own_logs.items()
                }
            if self._observations is not None:
                self._keep_observation(g1, g2, rows)
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
    def _keep_observation(self, g1, g2, rows):
        self._observations.name_layers(self.trainable_weights)
        row, layers = self._observed(g1, g2, rows, 1.0 / loss_scale(self))
        row = torch.stack([torch.as_tensor(v).double() for v in row])
        if self._observations.per_layer:
            row = torch.cat([row, layers.ravel()])
        self._observations.add(row)


class Gradients:
    """Takes the gradient of the training loss on one batch after another.

    See `keras_svag.backend.tensorflow.Gradients`.
    """

    def __init__(self, model, loss=None, preconditioned=False):
        self.variables = gradient_weights(model)
        self._model = model
        self._objective = model if loss is None else GivenLoss(model, loss)
        self._scaled = model if model.compiled else self._objective
        seeds = {id(seed) for seed in seeds_of(model)}
        self._state = [v for v in model.variables if id(v) not in seeds]
        self._scales = [1.0] * len(self.variables)
        if preconditioned:
            self._scales = inverse_roots(model.optimizer, self.variables)

    def of(self, batch):
        """The gradient of each variable on a batch, float32 and dense."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        kept = _Values(self._state)
        y_pred = call(self._model, x, training=True)
        loss = training_loss(self._objective, x, y, y_pred, sample_weight)
        gradients = _scaled_gradients(
            loss, loss_scale(self._scaled), self.variables
        )
        kept.put_back()
        return [
            ops.zeros(v.shape, "float32") if g is None else g * s
            for g, s, v in zip(
                gradients, self._scales, self.variables, strict=True
            )
        ]

    def compiled(self, function):
        """The function, which calls `of` and is not compiled."""
        return function


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
    values = _Values(variables)
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
