"""In which order the rows come that SVAG tells apart."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG, SVAGModel
from tests.helpers.small_problems import dense_network, regression

ROWS, BATCH_SIZE = 16, 4


class Seen(keras.layers.Layer):
    """Keeps the first entry of each row that it is given."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def call(self, x):
        self.rows.append(np.array(x)[:, 0])
        return x


def orders(data):
    """The order of the rows in two epochs of a `fit`."""
    keras.utils.set_random_seed(0)
    seen = Seen()
    model = keras.Sequential([keras.Input((1,)), seen, keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    seen.rows.clear()
    model.fit(**data, epochs=2, verbose=0)
    return np.concatenate(seen.rows).reshape(2, -1)


X = np.arange(ROWS, dtype=np.float32)[:, None]


def shuffled():
    data = tf.data.Dataset.from_tensor_slices((X, X))
    return data.shuffle(ROWS).batch(BATCH_SIZE, drop_remainder=True)


def test_keras_has_one_order_for_all_epochs_where_we_say_so():
    first, second = orders({"x": X, "y": X, "batch_size": BATCH_SIZE})
    assert [*first] == [*second] != sorted(first)
    first, second = orders({"x": shuffled()})
    assert [*first] != [*second]


@pytest.mark.parametrize(
    ("ell", "settings", "is_said"),
    [
        (2, {"epochs": 2}, True),
        (1, {"epochs": 2}, False),
        (2, {"epochs": 1}, False),
        (2, {"epochs": 2, "shuffle": False}, False),
        (2, {"epochs": 2, "x": shuffled()}, False),
        (2, {"epochs": 2, "seed": None}, False),
    ],
)
def test_one_order_for_all_epochs_is_said(ell, settings, is_said):
    x, y = regression(ROWS)
    settings = {"seed": 0, "x": x, "y": y, "batch_size": 4} | settings
    if isinstance(settings["x"], tf.data.Dataset):
        settings |= {"x": settings["x"].map(widened), "y": None}
        del settings["batch_size"]
    model = SVAGModel(dense_network())
    model.compile(SVAG(0.1, ell=ell, pairing="halves"), "mse")
    tf.random.set_seed(settings.pop("seed"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(**settings, verbose=0)
    said = [str(w.message) for w in caught if "one order" in str(w.message)]
    assert len(said) == is_said


def widened(x, y):
    return tf.repeat(x, 4, axis=1), tf.repeat(y, 2, axis=1)
