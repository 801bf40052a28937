"""SVAG on unusual variables: sparse, frozen, unused, excluded, float16."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG, SVAGModel
from keras_svag.optimizers.svag import svag_weights
from tests.helpers.small_problems import dense_network, interleaved, regression

LEARNING_RATE, DECAY = 0.5, 0.1


def token_batches(num_rows, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 7, (num_rows, 3))
    return tokens, rng.normal(size=(num_rows, 2)).astype("float32")


def token_network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(7, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


def gradients_of(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    return [tf.convert_to_tensor(g).numpy() for g in gradients]


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("within_step", [False, True])
def test_embedding_is_updated_as_a_dense_variable(within_step, eager):
    x, y = token_batches(10)
    model = token_network()
    w1, w2 = svag_weights(4)
    expected = [
        v - LEARNING_RATE / 4 * (w1 * a + w2 * b + DECAY * v)
        for v, a, b in zip(
            model.get_weights(),
            gradients_of(model, x[:5], y[:5]),
            gradients_of(model, x[5:], y[5:]),
            strict=True,
        )
    ]
    trained = SVAGModel(model) if within_step else model
    if within_step:
        x, y = interleaved(x, 5), interleaved(y, 5)
    optimizer = SVAG(LEARNING_RATE, ell=4, weight_decay=DECAY)
    trained.compile(optimizer, "mse", run_eagerly=eager)
    size = 10 if within_step else 5
    trained.fit(x, y, batch_size=size, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_sparse_gradient_with_a_repeated_row_adds_up():
    table = keras.Variable(np.zeros((4, 1), "float32"))
    optimizer = SVAG(1.0, ell=2)
    optimizer.build([table])
    rows = [[1, 1, 3], [0, 0, 0]]
    for indices in rows:
        slices = tf.IndexedSlices(
            tf.ones((3, 1)), tf.constant(indices), tf.constant([4, 1])
        )
        optimizer.apply([slices])
    w1, w2 = svag_weights(2)
    expected = -0.5 * np.array([[3 * w2], [2 * w1], [0], [w1]])
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("within_step", [False, True])
def test_frozen_layer_stays_as_it_is(within_step):
    model = dense_network()
    model.layers[0].trainable = False
    frozen = model.layers[0].get_weights()
    free = model.layers[1].get_weights()
    trained = SVAGModel(model) if within_step else model
    trained.compile(SVAG(0.5, ell=2, weight_decay=0.1), "mse")
    trained.fit(*regression(8), batch_size=4, verbose=0)
    for ours, before in zip(model.layers[0].get_weights(), frozen, strict=True):
        np.testing.assert_array_equal(ours, before)
    for ours, before in zip(model.layers[1].get_weights(), free, strict=True):
        assert np.all(ours != before)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.filterwarnings("ignore:The following trainable")
@pytest.mark.parametrize("within_step", [False, True])
def test_variable_without_gradient_stays_as_it_is(within_step):
    inputs = keras.Input((4,))
    used, unused = keras.layers.Dense(2), keras.layers.Dense(2)
    model = keras.Model(inputs, [used(inputs), unused(inputs)])
    before = unused.get_weights()
    trained = SVAGModel(model) if within_step else model
    trained.compile(SVAG(0.5, ell=2, weight_decay=0.1), ["mse", None])
    x, y = regression(8)
    history = trained.fit(x, [y, y], batch_size=4, verbose=0)
    for ours, theirs in zip(unused.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(history.history["loss"][0])
    assert np.any(used.get_weights()[1] != 0)


@pytest.mark.parametrize("ell", [1, 4])
def test_weight_decay_is_divided_by_ell_and_not_amplified(ell):
    variable = keras.Variable([2.0])
    optimizer = SVAG(0.5, ell=ell, pairing="halves", weight_decay=0.1)
    optimizer.build([variable])
    for _ in range(2):
        optimizer.apply([tf.zeros(1)])
    np.testing.assert_allclose(
        variable.numpy(), 2 * (1 - 0.5 / ell * 0.1), rtol=1e-6
    )


@pytest.mark.parametrize("by", ["list", "name"])
def test_excluded_variables_do_not_decay(by):
    model = dense_network()
    optimizer = SVAG(0.5, ell=2, weight_decay=0.1)
    if by == "list":
        biases = [layer.bias for layer in model.layers]
        optimizer.exclude_from_weight_decay(var_list=biases)
    else:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    for layer in model.layers:
        layer.bias.assign(np.ones(layer.bias.shape))
    before = model.get_weights()
    optimizer.build(model.trainable_variables)
    zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply(zeros)
    optimizer.apply(zeros)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        decay = 0 if variable.name == "bias" else 0.25 * 0.1
        np.testing.assert_allclose(variable, value * (1 - decay), rtol=1e-6)


def network_of(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return dense_network()
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("within_step", [False, True])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_near_float32(policy, within_step):
    x, y = regression(64)
    losses = []
    for dtype in (policy, "float32"):
        model = network_of(dtype)
        trained = SVAGModel(model) if within_step else model
        trained.compile(SVAG(0.2, ell=2), "mse")
        assert (dtype == "mixed_float16") == isinstance(
            trained.optimizer, keras.optimizers.LossScaleOptimizer
        )
        logs = trained.fit(
            x, y, batch_size=16, epochs=6, shuffle=False, verbose=0
        )
        losses.append(logs.history["loss"])
    np.testing.assert_allclose(*losses, rtol=0.02)
    assert losses[0][-1] < losses[0][0]


def test_skipped_steps_of_loss_scaling_are_no_steps():
    variable = keras.Variable([1.0])
    inner = SVAG(0.5, ell=2)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    optimizer.build([variable])
    optimizer.apply([tf.constant([8.0])])
    optimizer.apply([tf.constant([np.inf])])
    # The second of the pair was skipped: the next one, at half of the scale,
    # takes its place.
    np.testing.assert_array_equal(variable.numpy(), [1.0])
    assert int(optimizer.iterations) == 1
    assert float(inner.continuous_time) == 0
    optimizer.apply([tf.constant([12.0])])
    w1, w2 = svag_weights(2)
    expected = 1 - 0.25 * (w1 * 8 / 8 + w2 * 12 / 4)
    np.testing.assert_allclose(variable.numpy(), [expected], rtol=1e-6)
    assert float(inner.continuous_time) == pytest.approx(0.25)
