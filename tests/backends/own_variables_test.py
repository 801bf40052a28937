"""What a model changes besides Keras's variables is put back."""

import collections
import importlib

import keras
import numpy as np
import pytest

from keras_svag import GradientNoiseMonitor
from tests.helpers.bits import assert_same_bits
from tests.helpers.small_problems import dense_network, regression

BACKEND = keras.backend.backend()
PLACES = {
    "attribute": lambda variable: variable,
    "list": lambda variable: [variable],
    "dict": lambda variable: {1: {"in": (variable,)}, "other": 2},
}


class Counting(keras.layers.Layer):
    """Counts its calls in a variable of TensorFlow's, and scales by them."""

    def __init__(self, place):
        super().__init__()
        variable = importlib.import_module("tensorflow").Variable(1.0)
        self.count, self.kept = lambda: variable, PLACES[place](variable)

    def call(self, x):
        return x / self.count().assign_add(1.0)


def averaging():
    """PyTorch's own BatchNorm, whose running averages are buffers."""
    module = importlib.import_module("torch").nn.BatchNorm1d(4)
    return keras.layers.TorchModuleWrapper(module, output_shape=(None, 4))


class Remembering(keras.layers.Layer):
    """Shifts its inputs by what its attributes remember of other batches."""

    def __init__(self, what):
        super().__init__()
        torch = importlib.import_module("torch")
        self.what, self.calls, self.means = what, 0, []
        self.last, self.seen = collections.deque([0.0], 3), set()
        self.array = np.zeros(4, "float32")
        self.mean = torch.zeros(4)
        self.register_buffer("buffer", torch.zeros(4))
        self.generator = torch.Generator()
        self.numpy_generator = np.random.default_rng(0)

    def call(self, x):
        if x.is_meta:
            return x
        self.calls += 1
        mean = x.mean(0).detach()
        if self.what == "number":
            return x + self.calls
        if self.what == "tensor":
            self.mean += mean
        elif self.what == "list":
            self.means.append(mean)
            return x + sum(self.means)
        elif self.what == "queue":
            self.last.append(float(mean.sum()))
            return x + sum(self.last)
        elif self.what == "set":
            self.seen.add(float(mean.sum()))
            return x + len(self.seen)
        elif self.what == "array":
            self.array += mean.numpy()
            return x + self.array.sum()
        elif self.what == "other buffer":
            self.buffer = self.buffer + mean
        elif self.what == "generator":
            self.mean = self.buffer.normal_(generator=self.generator)
        elif self.what == "NumPy's generator":
            return x + self.numpy_generator.normal()
        return x + self.mean + self.buffer


REMEMBERED = (
    "number",
    "tensor",
    "list",
    "queue",
    "set",
    "array",
    "other buffer",
    "generator",
    "NumPy's generator",
)
CASES = {
    "tensorflow": {
        f"{place}, {how}": (lambda place=place: Counting(place), how)
        for place in PLACES
        for how in ("eager", "graph")
    },
    "torch": {
        "buffers": (averaging, "eager"),
        **{
            what: (lambda what=what: Remembering(what), "eager")
            for what in REMEMBERED
        },
    },
}.get(BACKEND, {})


@pytest.mark.parametrize("name", CASES)
def test_training_is_the_same_with_own_variables(name):
    make, how = CASES[name]
    x, y = regression(64)
    ends = []
    for monitors in ([], [GradientNoiseMonitor(every=2)]):
        keras.utils.set_random_seed(0)
        layers = [make(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
        model.compile("sgd", "mse", run_eagerly=how == "eager")
        model.fit(x, y, 8, epochs=2, verbose=0, callbacks=monitors)
        ends.append([*model.get_weights(), model.predict(x, verbose=0)])
    assert len(monitors[0].series) > 2
    assert_same_bits(*ends)


def test_normalization_of_pytorch_is_an_assumption():
    if BACKEND != "torch":
        pytest.skip("PyTorch has it")
    x, y = regression(32)
    model = keras.Sequential([keras.Input((4,)), averaging()])
    model.add(keras.layers.Dense(2))
    model.compile("sgd", "mse")
    monitor = GradientNoiseMonitor(every=1)
    model.fit(x, y, 8, verbose=0, callbacks=[monitor])
    assert "batch_normalization" in monitor.series.codes


def test_moments_of_the_optimizer_stay():
    x, y = regression(64)
    ends = []
    for monitors in ([], [GradientNoiseMonitor(every=2)]):
        keras.utils.set_random_seed(0)
        model = dense_network()
        model.compile(keras.optimizers.RMSprop(centered=True), "mse")
        model.fit(x, y, 8, epochs=2, verbose=0, callbacks=monitors)
        ends.append(
            [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
        )
    assert_same_bits(*ends)
