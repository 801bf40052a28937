"""The two passes of a training step: which, in what order, with what state."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG, SVAGModel
from tests.helpers.small_problems import dense_network, regression


def fit(model, x, y, batch_size):
    return model.fit(
        x, y, batch_size=batch_size, verbose=0, shuffle=False
    ).history


def trace(model, batch_size=8):
    """The graph of a training step."""
    spec = (tf.TensorSpec((batch_size, 4)), tf.TensorSpec((batch_size, 2)))
    model.optimizer.build(model.trainable_variables)
    return tf.function(model.train_step).get_concrete_function(spec).graph


def operations_run(graph):
    """The operations of a graph, with those of the functions that it calls."""
    for operation in graph.get_operations():
        if operation.type.endswith("PartitionedCall"):
            name = operation.get_attr("f").name
            yield from operations_run(graph._get_function(name).graph)
        else:
            yield operation


def count_matmuls(model):
    return sum(op.type == "MatMul" for op in operations_run(trace(model)))


def test_ell_1_without_measuring_computes_no_second_pass():
    plain = dense_network()
    plain.compile("sgd", "mse")
    one_pass = count_matmuls(plain)
    assert one_pass > 0
    for ell, measure_noise, passes in (
        (1, False, 1),
        (1, True, 2),
        (2, False, 2),
    ):
        wrapped = SVAGModel(
            dense_network(), measure_noise=measure_noise, batch_size=8
        )
        wrapped.compile(SVAG(0.1, ell=ell), "mse")
        assert count_matmuls(wrapped) == passes * one_pass, (ell, measure_noise)


def test_second_pass_waits_for_the_first_gradients():
    wrapped = SVAGModel(dense_network(), batch_size=8)
    wrapped.compile(SVAG(0.1, ell=4), "mse")
    first, second = (
        operation
        for operation in trace(wrapped).get_operations()
        if operation.type.endswith("PartitionedCall")
    )

    def ancestors(operation):
        seen, stack = set(), [operation]
        while stack:
            op = stack.pop()
            if op not in seen:
                seen.add(op)
                stack.extend(op.control_inputs)
                stack.extend(tensor.op for tensor in op.inputs)
        return seen

    assert first in ancestors(second)


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


def test_measuring_at_ell_1_leaves_no_trace():
    x, y = regression(64)
    states = []
    for measure_noise in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(5),
                keras.layers.BatchNormalization(),
                Remembering(),
                keras.layers.Dense(2),
            ]
        )
        wrapped = SVAGModel(model, measure_noise=measure_noise)
        wrapped.compile(SVAG(0.1, ell=1), "mse")
        fit(wrapped, x, y, 16)
        states.append([v.numpy() for v in model.variables])
        assert float(model.layers[2].calls) == 4
    for unmeasured, measured in zip(*states, strict=True):
        np.testing.assert_array_equal(measured, unmeasured)


def test_batch_normalization_normalizes_each_half_by_its_own_statistics():
    x, y = regression(12, num_inputs=3)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dense(2),
        ]
    )
    kernel, bias = (v.numpy() for v in model.layers[1].trainable_variables)
    wrapped = SVAGModel(model)
    wrapped.compile(SVAG(0.1, ell=4), "mse")
    logs = fit(wrapped, x, y, 12)
    mean, variance, losses = np.zeros(3), np.ones(3), []
    for start in (0, 1):
        half = x[start::2]
        mean = (mean + half.mean(0)) / 2
        variance = (variance + half.var(0)) / 2
        normalized = (half - half.mean(0)) / np.sqrt(half.var(0) + 1e-3)
        predicted = normalized @ kernel + bias
        losses.append(np.mean((predicted - y[start::2]) ** 2))
    batch_norm = model.layers[0]
    np.testing.assert_allclose(batch_norm.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(batch_norm.moving_variance, variance, rtol=1e-5)
    assert logs["loss"] == pytest.approx([np.mean(losses)], rel=1e-5)


class RecordedDropout(keras.layers.Dropout):
    """Keeps what it gave out, in eager mode."""

    def __init__(self):
        super().__init__(0.5)
        self.outputs = []

    def call(self, inputs, training=None):
        outputs = super().call(inputs, training)
        if training and tf.executing_eagerly():
            self.outputs.append(np.asarray(outputs))
        return outputs


def test_dropout_is_independent_in_the_two_halves():
    keras.utils.set_random_seed(0)
    dropout = RecordedDropout()
    model = keras.Sequential(
        [keras.Input((64,)), dropout, keras.layers.Dense(1)]
    )
    wrapped = SVAGModel(model)
    wrapped.compile(SVAG(0.1, ell=4), "mse", run_eagerly=True)
    fit(wrapped, np.ones((8, 64), "float32"), np.ones((8, 1)), 8)
    first, second = dropout.outputs[-2:]
    assert 0.35 < np.mean(first == 0) < 0.65
    # Masks that are independent agree on half of the entries.
    assert 0.35 < np.mean((first == 0) == (second == 0)) < 0.65


def test_model_without_trainable_weights_warns():
    x, y = regression(8)
    model = dense_network()
    model.trainable = False
    wrapped = SVAGModel(model)
    wrapped.compile(SVAG(0.1, ell=4), "mse")
    with pytest.warns(UserWarning, match="no trainable weights"):
        logs = fit(wrapped, x, y, 8)
    assert np.isfinite(logs["loss"][0])
