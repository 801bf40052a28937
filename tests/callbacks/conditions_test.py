"""Whether a run's loss is scale-invariant, found without the user's help."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import LinearScalingRuleCheck, SVAGModel, applications
from keras_svag.callbacks import conditions
from tests.helpers.small_problems import largest_difference, regression

BATCH_SIZE = 8
UNKNOWN = "the loss is not known to be scale-invariant"
NOT_INVARIANT = "the loss is not scale-invariant"


def compiled(network, optimizer=None, loss="mse"):
    model = SVAGModel(network)
    optimizer = optimizer or keras.optimizers.SGD(0.05, weight_decay=0.01)
    model.compile(optimizer, loss)
    return model


def reasons(model, *data, **kwargs):
    check = LinearScalingRuleCheck(BATCH_SIZE, verbose=0)
    model.fit(*data, callbacks=[check], verbose=0, **kwargs)
    return check.report.verdict.heuristic_reasons


def invariant_network():
    return applications.ScaleInvariantMLP((4,), 3, (6, 6), seed=0)


def labels(rows):
    return np.random.default_rng(0).integers(0, 3, rows)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_an_invariant_network_is_found_to_be_one(as_dataset):
    # Eight steps may look like equilibrium by chance.
    keras.utils.set_random_seed(0)
    model = compiled(
        invariant_network(), loss="sparse_categorical_crossentropy"
    )
    x, y = regression(64)[0], labels(64)
    if as_dataset:
        data = tf.data.Dataset.from_tensor_slices((x, y))
        found = reasons(model, data.batch(BATCH_SIZE, drop_remainder=True))
    else:
        found = reasons(model, x, y, BATCH_SIZE)
    assert UNKNOWN not in found and NOT_INVARIANT not in found
    assert any("equilibrium (balance" in reason for reason in found)


def test_the_first_rows_of_arrays_are_looked_at(monkeypatch):
    seen = []

    def look(model, x):
        seen.append(x)
        return False

    monkeypatch.setattr(conditions, "is_scale_invariant", look)
    inputs = {"a": keras.Input((4,)), "b": keras.Input((3,))}
    outputs = keras.layers.Dense(2)(
        keras.layers.concatenate(list(inputs.values()))
    )
    model = compiled(keras.Model(inputs, outputs))
    a, y = regression(64)
    x = {"a": a, "b": np.ones((64, 3), "float32")}
    assert NOT_INVARIANT in reasons(model, x, y, BATCH_SIZE, epochs=2)
    (given,) = seen
    assert set(given) == {"a", "b"}
    np.testing.assert_array_equal(given["a"], a[:8])
    # Nothing of the data is kept when `fit` is done.
    assert model.rows_of_fit(8) is None


def test_a_data_set_is_not_drawn_from():
    drawn = []

    def rows():
        x, y = regression(4 * BATCH_SIZE)
        for begin in range(0, len(x), BATCH_SIZE):
            drawn.append(begin)
            yield x[begin : begin + BATCH_SIZE], y[begin : begin + BATCH_SIZE]

    data = tf.data.Dataset.from_generator(
        rows,
        output_signature=(
            tf.TensorSpec((BATCH_SIZE, 4)),
            tf.TensorSpec((BATCH_SIZE, 2)),
        ),
    )
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert NOT_INVARIANT in reasons(compiled(network), data)
    assert len(drawn) == 4


def test_indices_of_an_embedding_are_in_its_range():
    tokens, dense = keras.Input((None,), dtype="int32"), keras.Input((4,))
    table = keras.layers.Embedding(2, 4)(tokens)
    pooled = keras.layers.GlobalAveragePooling1D()(table)
    outputs = keras.layers.Dense(2)(keras.layers.add([pooled, dense]))
    network = keras.Model([tokens, dense], outputs)
    x, y = regression(64)
    indices = np.zeros((64, 5), "int32")
    data = tf.data.Dataset.from_tensor_slices(((indices, x), y))
    data = data.batch(BATCH_SIZE, drop_remainder=True)
    assert NOT_INVARIANT in reasons(compiled(network), data)


class Whimsical(keras.Model):
    """Refuses any batch that is not one of training."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        if tf.executing_eagerly():
            raise RuntimeError("only in graphs")
        return self.dense(x)


def test_what_cannot_be_told_is_not_known():
    x, y = regression(64)
    assert UNKNOWN in reasons(compiled(Whimsical()), x, y, BATCH_SIZE)


def test_nobody_asks_where_there_is_no_verdict(monkeypatch):
    def fail(model, x):
        pytest.fail("It was measured.")

    monkeypatch.setattr(conditions, "is_scale_invariant", fail)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model = compiled(network, keras.optimizers.Adam())
    reasons(model, *regression(64), BATCH_SIZE)


def test_training_is_left_as_it_is():
    models = []
    for callbacks in ([], [LinearScalingRuleCheck(BATCH_SIZE, verbose=0)]):
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(6),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(2),
            ]
        )
        models.append(compiled(network))
        data = tf.data.Dataset.from_tensor_slices(regression(64)).shuffle(64)
        data = data.batch(BATCH_SIZE, drop_remainder=True)
        models[-1].fit(data, epochs=2, callbacks=callbacks, verbose=0)
    assert largest_difference(*models) == 0
