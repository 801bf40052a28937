"""Variables of the backend's own, which Keras does not know, are put back."""

import importlib

import keras
import pytest

from keras_svag import GradientNoiseMonitor
from tests.helpers.bits import assert_same_bits
from tests.helpers.small_problems import regression

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


CASES = {
    "tensorflow": {
        f"{place}, {how}": (lambda place=place: Counting(place), how)
        for place in PLACES
        for how in ("eager", "graph")
    },
    "torch": {"buffers": (averaging, "eager")},
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
