"""The two passes of a training step: which, and with what state."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG, GradientNoiseMonitor
from tests.helpers.pairs import assert_same, fit, svag_model
from tests.helpers.small_problems import dense_network, regression


def trace(model, x=None, y=None):
    """The graph of a training step."""
    specs = x or tf.TensorSpec((8, 4)), y or tf.TensorSpec((8, 2))
    model.optimizer.build(model.trainable_variables)
    return tf.function(model.train_step).get_concrete_function(specs).graph


def functions_of(graph):
    """A graph and those of all functions that it calls or branches to."""
    yield graph
    for operation in graph.get_operations():
        for value in operation.node_def.attr.values():
            for name in (value.func.name, *(f.name for f in value.list.func)):
                if name:
                    yield from functions_of(graph._get_function(name).graph)


def count_matmuls(model):
    return sum(
        operation.type == "MatMul"
        for graph in functions_of(trace(model))
        for operation in graph.get_operations()
    )


def test_ell_1_computes_nothing_of_the_second_half_unless_it_is_observed():
    plain = dense_network()
    plain.compile("sgd", "mse")
    one_pass = count_matmuls(plain)
    assert one_pass > 0
    for ell, pairing, is_observed, passes in (
        (1, "independent", False, 1),
        (1, "independent", True, 2),
        (1, "halves", False, 2),
        (2, "independent", False, 2),
    ):
        model = svag_model(dense_network(), SVAG(0.1, ell=ell, pairing=pairing))
        if is_observed:
            model.observe()
        assert count_matmuls(model) == passes * one_pass, (ell, is_observed)


def test_no_gradient_is_as_large_as_an_embedding():
    words = 1234
    model = svag_model(
        keras.Sequential(
            [
                keras.Input((3,), dtype="int32"),
                keras.layers.Embedding(words, 2),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        ),
        SVAG(0.1, ell=4),
    )
    model.observe(per_layer=True)
    specs = tf.TensorSpec((None, 3), "int32"), tf.TensorSpec((None, 1))
    large = {
        operation.type
        for graph in functions_of(trace(model, *specs))
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.rank and output.shape[0] == words
    }
    # The table is read to look words up in it, and squared for its norm.
    assert large <= {"ReadVariableOp", "Identity", "Square", "Mul"}


class Remembering(keras.layers.Layer):
    """Dropout and a count of calls: state that a pass leaves behind."""

    def __init__(self):
        super().__init__()
        self.dropout = keras.layers.Dropout(0.5, seed=3)

    def build(self, input_shape):
        self.calls = self.add_weight(
            shape=(), initializer="zeros", trainable=False
        )

    def call(self, inputs):
        self.calls.assign(self.calls + 1)
        return self.dropout(inputs)


def with_state():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(),
            Remembering(),
            keras.layers.Dense(2),
        ]
    )


def test_observing_at_ell_1_leaves_no_trace():
    states = []
    for callbacks in ([], [GradientNoiseMonitor()]):
        model = svag_model(with_state(), SVAG(0.1, ell=1))
        fit(model, *regression(64), batch_size=16, callbacks=callbacks)
        assert float(model.model.layers[2].calls) == 4
        states.append(model.variables)
    assert_same(*states)


def batch_normalized(units=None):
    layers = [keras.layers.BatchNormalization(momentum=0.5)]
    if units:
        layers.append(keras.layers.Dense(units))
    return keras.Sequential([keras.Input((4,)), *layers])


def test_batch_normalization_normalizes_each_half_by_its_own_statistics():
    x, y = regression(8)
    model = batch_normalized(2)
    kernel, bias = (v.numpy() for v in model.layers[1].trainable_variables)
    logs = fit(svag_model(model, SVAG(0.1, ell=4)), x, y)
    mean, variance, losses = np.zeros(4), np.ones(4), []
    for half in (x[::2], x[1::2]):
        mean = (mean + half.mean(0)) / 2
        variance = (variance + half.var(0)) / 2
        normalized = (half - half.mean(0)) / np.sqrt(half.var(0) + 1e-3)
        predicted = normalized @ kernel + bias
        losses.append(np.mean((predicted - y[len(losses) :: 2]) ** 2))
    layer = model.layers[0]
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)
    assert logs["loss"] == pytest.approx([np.mean(losses)], rel=1e-5)


@pytest.mark.parametrize(
    ("pairing", "trainable", "warns"),
    [
        ("halves", True, True),
        ("halves", False, False),
        ("independent", True, False),
    ],
)
def test_halves_with_batch_normalization_warn(pairing, trainable, warns):
    inner = batch_normalized()
    inner.trainable = trainable
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svag_model(model, SVAG(0.1, ell=2, pairing=pairing))
    found = [w for w in caught if "BatchNormalization" in str(w.message)]
    assert len(found) == warns
    assert all("pairing='independent'" in str(w.message) for w in found)


def test_model_without_trainable_weights_warns():
    model = dense_network()
    model.trainable = False
    model = svag_model(model, SVAG(0.1, ell=4))
    with pytest.warns(UserWarning, match="no trainable weights"):
        logs = fit(model, *regression(8))
    assert np.isfinite(logs["loss"][0])
