"""Scripts in the manner of PyTorch train with a monitor as without it."""

import collections

import keras
import numpy as np
import pytest

from keras_svag import GradientNoiseMonitor
from tests.helpers.bits import assert_trains_alike, without_noise
from tests.helpers.small_problems import compiled, dense_network, regression

if keras.backend.backend() != "torch":
    pytest.skip("for PyTorch alone", allow_module_level=True)

import torch  # noqa: E402
from torch.utils.data import (  # noqa: E402
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)


def fit(model, monitors):
    rows = TensorDataset(*map(torch.as_tensor, regression(64)))
    data = DataLoader(rows, 8, shuffle=True)
    logs = model.fit(data, epochs=2, verbose=0, callbacks=monitors).history
    return without_noise(logs)


class Stream(IterableDataset):
    """Has no sampler."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)


@pytest.mark.parametrize(
    ("kind", "settings", "examples"),
    [
        (list, {"shuffle": True}, 60),
        (list, {"shuffle": True, "drop_last": True}, 56),
        (list, {"sampler": SubsetRandomSampler(range(21))}, 21),
        (list, {"sampler": WeightedRandomSampler(60 * [1.0], 60)}, None),
        (Stream, {}, 60),
        (Stream, {"drop_last": True}, 56),
    ],
)
def test_examples_are_those_that_a_loader_draws(kind, settings, examples):
    rows = TensorDataset(*map(torch.as_tensor, regression(60)))
    monitor = GradientNoiseMonitor(every=1)
    data = DataLoader(kind(rows), 8, **settings)
    compiled().fit(data, epochs=2, verbose=0, callbacks=[monitor])
    assert monitor.series.num_examples == examples


class EverySecondStep(keras.Sequential):
    """Takes the gradient of the losses of two batches, at once."""

    losses_so_far = ()

    def train_step(self, data):
        x, y = data
        loss = self.compute_loss(x, y, self(x, training=True))
        self.losses_so_far = *self.losses_so_far, loss
        if len(self.losses_so_far) == 2:
            self.zero_grad()
            sum(self.losses_so_far).backward()
            self.losses_so_far = ()
            weights = self.trainable_weights
            with torch.no_grad():
                self.optimizer.apply([w.value.grad for w in weights], weights)
        return {"loss": loss.detach()}


class ToCenter(keras.losses.Loss):
    """A loss with a variable, which Keras does not know."""

    def __init__(self):
        super().__init__()
        self.center = keras.Variable(np.zeros(2, "float32"), trainable=False)

    def call(self, y, y_pred):
        mean = y_pred.mean(0).detach()
        self.center.assign(0.9 * self.center + 0.1 * mean)
        return ((y_pred - y - self.center) ** 2).mean(-1)


class NoisyByNumPy(keras.layers.Layer):
    def call(self, x):
        return x + np.random.normal()


def centered(y, y_pred):
    """A loss that changes its targets in place."""
    y -= y.mean()
    return ((y_pred - y) ** 2).mean(-1)


def gradient_of_two_steps():
    layers = dense_network().layers
    return compiled(EverySecondStep([keras.Input((4,)), *layers]))


def frozen_by_its_flag():
    model = dense_network()
    model.layers[0].kernel.value.requires_grad = False
    return compiled(model)


def behind(layer):
    layers = layer, keras.layers.Dense(2)
    return compiled(keras.Sequential([keras.Input((4,)), *layers]))


def normalized():
    """By PyTorch's own BatchNorm, whose running averages are buffers."""
    module = torch.nn.BatchNorm1d(4)
    shape = (None, 4)
    return behind(keras.layers.TorchModuleWrapper(module, output_shape=shape))


@pytest.mark.parametrize(
    "make_model",
    [
        gradient_of_two_steps,
        frozen_by_its_flag,
        normalized,
        lambda: behind(NoisyByNumPy()),
        lambda: compiled(loss=centered),
        lambda: compiled(loss=ToCenter()),
    ],
)
def test_training_is_the_same(make_model):
    _, [monitor] = assert_trains_alike(make_model, fit)
    is_normalized = make_model is normalized
    assert ("batch_normalization" in monitor.series.codes) == is_normalized


class Remembering(keras.layers.Layer):
    """Shifts its inputs by what an attribute remembers of other batches."""

    def __init__(self, what):
        super().__init__()
        self.what, self.calls, self.means, self.seen = what, 0, [], set()
        self.last = collections.deque([0.0], 3)
        self.array, self.mean = np.zeros(4, "float32"), torch.zeros(4)
        self.register_buffer("buffer", torch.zeros(4))
        self.generator = torch.Generator()
        self.numpy_generator = np.random.default_rng(0)

    def call(self, x):
        if x.is_meta:
            return x
        mean = x.mean(0).detach()
        self.calls += 1
        self.means.append(mean)
        self.last.append(float(mean.sum()))
        self.seen.add(float(mean.sum()))
        self.array += mean.numpy()
        self.mean += mean
        self.buffer = self.buffer + mean
        return (
            x
            + {
                "number": self.calls,
                "list": sum(self.means),
                "queue": sum(self.last),
                "set": len(self.seen),
                "array": self.array.sum(),
                "tensor": self.mean,
                "another buffer": self.buffer,
                "generator": torch.rand(4, generator=self.generator),
                "NumPy's generator": self.numpy_generator.normal(),
            }[self.what]
        )


@pytest.mark.parametrize(
    "what",
    [
        *("number", "list", "queue", "set", "array", "tensor"),
        *("another buffer", "generator", "NumPy's generator"),
    ],
)
def test_what_attributes_remember_is_put_back(what):
    def life(model, monitors):
        logs = fit(model, monitors)
        return logs, model.predict(regression(8)[0], verbose=0)

    assert_trains_alike(lambda: behind(Remembering(what)), life)


class WithDropout(keras.Model):
    """Drops entries as PyTorch's own flag says."""

    def __init__(self):
        super().__init__()
        self.outputs_of = dense_network()

    def call(self, x):
        dropped = torch.nn.functional.dropout(x, training=self.training)
        return self.outputs_of(dropped)


def test_inference_is_in_the_mode_of_inference():
    monitor = GradientNoiseMonitor(every=1)
    fit(compiled(WithDropout()), [monitor])
    assert all(difference < 1e-5 for _, difference in monitor.series.couplings)
