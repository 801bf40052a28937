"""A measured batch is trained on by the program that trains on the others.

Another program (of other shapes, or called by itself) has other last bits, and
what draws by `tf.random` begins anew in it.
"""

import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import GradientNoiseMonitor, backend
from tests.helpers.bits import assert_trains_alike
from tests.helpers.small_problems import regression

# Batches of 12 rows: a division by 12 is no shift of the exponent.
X, Y = regression(57, 8, 3)
WEIGHTS = np.linspace(0.5, 1.5, len(X), dtype="float32")
ROWS = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS))


class Noise(keras.layers.Layer):
    def call(self, x, training=False):
        return x + tf.random.normal(tf.shape(x)) if training else x


class NumPyNoise(keras.layers.Layer):
    def call(self, x):
        noise = tf.numpy_function(np.random.normal, [0.0, 1.0], tf.float64)
        return x + tf.cast(tf.ensure_shape(noise, ()), x.dtype)


class Counting(keras.layers.Layer):
    """Scales by its calls, counted in a variable that Keras does not know."""

    def __init__(self, keep):
        super().__init__()
        variable = tf.Variable(1.0)
        self.count, self.kept = lambda: variable, keep(variable)

    def call(self, x):
        return x / self.count().assign_add(1.0)


class Mixup(keras.Model):
    def train_step(self, data):
        x, y = data
        part = tf.random.uniform([])
        return super().train_step((part * x + (1 - part) * x[::-1], y))


class OwnLoop(keras.Model):
    def make_train_function(self, force=False):
        self.train_function = tf.function(
            lambda it: self.train_step(it.get_next())
        )


class Tempered(keras.Model):
    """Has a scalar beside the rows of a batch."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs["rows"]) / inputs["temperature"]


def fit(model, callbacks, *args, **kwargs):
    model.fit(*args, **{"verbose": 0, "callbacks": callbacks} | kwargs)


def fit_arrays(model, callbacks, **kwargs):
    fit(model, callbacks, X, Y, batch_size=12, epochs=2, **kwargs)


def fit_another_structure(model, callbacks):
    fit_arrays(model, callbacks)
    fit_arrays(model, callbacks, sample_weight=WEIGHTS)


def fit_after_train_on_batch(model, callbacks):
    model.train_on_batch(X[:12], Y[:12], WEIGHTS[:12])
    fit(model, callbacks, ROWS.batch(12), epochs=3)


def fit_short_batches_later(model, callbacks):
    fit(model, callbacks, ROWS.batch(12, drop_remainder=True))
    fit(model, callbacks, ROWS.batch(12), epochs=3)


def fit_tempered(model, callbacks):
    data = ROWS.batch(12).map(
        lambda x, y, _: ({"rows": x, "temperature": tf.constant(2.0)}, y)
    )
    fit(model, callbacks, data, epochs=2)


def perceptron(kind=keras.Model, layer=keras.layers.Identity):
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(13, activation="tanh")(layer()(inputs))
    return kind(inputs, keras.layers.Dense(3)(hidden))


def having(layer, *arguments):
    return lambda: perceptron(layer=functools.partial(layer, *arguments))


def nested(variable):
    return {1: {"in": (variable,)}, "other": 2}


EAGER = {"run_eagerly": True}


@pytest.mark.parametrize(
    ("make", "train", "settings"),
    [
        (perceptron, fit_another_structure, {}),
        (perceptron, fit_after_train_on_batch, {}),
        (perceptron, fit_short_batches_later, {}),
        (having(Noise), fit_arrays, {}),
        (having(Noise), fit_arrays, EAGER),
        (having(Noise), fit_arrays, {"steps_per_execution": 3}),
        (having(NumPyNoise), fit_arrays, {}),
        (having(Counting, lambda variable: variable), fit_arrays, {}),
        (having(Counting, lambda variable: [variable]), fit_arrays, EAGER),
        (having(Counting, nested), fit_arrays, EAGER),
        (lambda: perceptron(Mixup), fit_arrays, {}),
        (lambda: perceptron(OwnLoop), fit_arrays, {}),
        (Tempered, fit_tempered, {}),
    ],
)
def test_training_has_the_bits_of_training_without(make, train, settings):
    def build_model():
        model = make()
        model.compile("adam", "mse", **settings)
        return model

    _, [monitor] = assert_trains_alike(build_model, train)
    assert len(monitor.series) > 2
    is_own = isinstance(build_model(), Mixup)
    assumptions = monitor.estimate().assumptions
    assert ("own_train_step" in assumptions) == is_own


def test_a_batch_that_was_not_read_is_not_handed_on_later():
    feed, data = backend.Feed(), iter(tf.data.Dataset.range(9))
    feed([next(data)], data)
    handed = feed([next(data), next(data)], data)
    assert [int(number) for number in handed] == [1, 2]
    # It was read to its end.
    assert int(next(feed([next(data)], data))) == 3
    # It goes with its monitor, and not at the end of Python alone.
    left = weakref.ref(feed)
    del feed
    gc.collect()
    assert left() is None


class AtLeast(keras.layers.Layer):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def call(self, x):
        if (x.shape[0] or self.rows) < self.rows:
            raise ValueError("too few rows")
        return x


def of_eight_rows(y, y_pred):
    return tf.reduce_mean(tf.reshape(y - y_pred, (8, 3)) ** 2)


@pytest.mark.parametrize(
    ("make", "loss"),
    # Seen while the half is traced, and when it is run.
    [(having(AtLeast, 8), "mse"), (perceptron, of_eight_rows)],
)
def test_a_half_that_cannot_be_computed_is_refused_in_a_sentence(make, loss):
    model = make()
    model.compile("sgd", loss)
    monitors = [GradientNoiseMonitor(every=1)]
    with pytest.raises(ValueError, match="half a batch .*whole batches") as e:
        fit(model, monitors, X[:48], Y[:48], batch_size=8)
    assert "\x1b" not in str(e.value)


def test_a_later_half_that_cannot_be_computed_ends_no_training():
    model, monitor = having(AtLeast, 3)(), GradientNoiseMonitor(1)
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="too few rows"):
        fit(model, [monitor], X[:28], Y[:28], batch_size=12)
    assert int(model.optimizer.iterations) == 3
    assert monitor.series["rows"].tolist() == [12]


def test_batches_of_one_row_are_named_where_fit_does_not_know_them():
    model, monitor = perceptron(), GradientNoiseMonitor(every=2)
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="one row"):
        fit(model, [monitor], ROWS.take(6).batch(1))
    assert len(monitor.series) == 0
