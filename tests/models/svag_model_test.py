"""SVAGModel: what it computes, measures and logs in a training step."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_svag import SVAG, SVAGModel
from keras_svag.optimizers.svag import PAIRINGS, svag_weights
from tests.helpers.noise_keys import noise_keys
from tests.helpers.small_problems import (
    NUM_CLASSES,
    classification,
    copy_of,
    dense_network,
    interleaved,
    largest_difference,
    linear_model,
    regression,
)

SUB_BATCH = 6


def fit(model, x, y, batch_size, **kwargs):
    kwargs = {"verbose": 0, "shuffle": False, **kwargs}
    return model.fit(x, y, batch_size=batch_size, **kwargs).history


def fit_both(model, x, y, loss, optimizer, measure_noise=True, **kwargs):
    """Trains a plain copy on consecutive batches, the model on the pairs."""
    plain = copy_of(model)
    plain.compile(optimizer(), loss, **kwargs)
    fit(plain, x, y, SUB_BATCH)
    wrapped = SVAGModel(model, measure_noise=measure_noise)
    wrapped.compile(optimizer(), loss, **kwargs)
    x, y = interleaved(x, SUB_BATCH), interleaved(y, SUB_BATCH)
    fit(wrapped, x, y, 2 * SUB_BATCH)
    return plain, wrapped


class ScaledKernel(keras.layers.Layer):
    """`x @ (0.3 kernel)` with a penalty on a gain that nothing else uses.

    Its gradients end in a product by a constant, which the graph optimizer
    would merge with the weights that mix a pair.
    """

    def build(self, input_shape):
        shape = (input_shape[-1], NUM_CLASSES)
        self.kernel = self.add_weight(shape=shape)
        self.gain = self.add_weight(
            shape=(3,), initializer="ones", regularizer="l2"
        )

    def call(self, inputs):
        return ops.matmul(inputs, 0.3 * self.kernel)


def network(kind):
    """A classifier of (4, 4, 1) images."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((4, 4, 1))
    if kind == "conv":
        hidden = layers.Conv2D(
            4, 3, activation="relu", kernel_regularizer="l2"
        )(inputs)
        outputs = layers.Dense(NUM_CLASSES)(layers.Flatten()(hidden))
    elif kind == "shared":
        twice = layers.Dense(16, activation="tanh", bias_regularizer="l1")
        hidden = twice(twice(layers.Flatten()(inputs)))
        outputs = layers.Dense(NUM_CLASSES)(hidden)
    else:
        outputs = ScaledKernel()(layers.Flatten()(inputs))
    return keras.Model(inputs, layers.Softmax()(outputs))


@pytest.mark.filterwarnings("ignore:With ell=1")
@pytest.mark.parametrize("measure_noise", [False, True])
@pytest.mark.parametrize("ell", [1, 4])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("kind", ["conv", "shared", "scaled"])
def test_plain_model_is_the_svag_model_bit_for_bit(
    kind, pairing, ell, measure_noise
):
    def optimizer():
        schedule = keras.optimizers.schedules.CosineDecay(0.5, 10)
        return SVAG(schedule, ell=ell, pairing=pairing, weight_decay=0.1)

    x, y = classification(8 * SUB_BATCH, (4, 4, 1))
    plain, wrapped = fit_both(
        network(kind),
        x,
        y,
        "sparse_categorical_crossentropy",
        optimizer,
        measure_noise,
        jit_compile=False,
    )
    difference = largest_difference(plain, wrapped)
    if (pairing, ell, measure_noise) == ("halves", 1, False):
        # SGD in one pass over the whole batch, which adds in another order.
        assert difference < 1e-6
    else:
        assert difference == 0
    assert float(plain.optimizer.continuous_time) == float(
        wrapped.optimizer.continuous_time
    )


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_plain_model_is_the_svag_model_under_xla(pairing):
    x, y = classification(8 * SUB_BATCH, (4, 4, 1))
    plain, wrapped = fit_both(
        network("conv"),
        x,
        y,
        "sparse_categorical_crossentropy",
        lambda: SVAG(0.5, ell=4, pairing=pairing, weight_decay=0.1),
        jit_compile=True,
    )
    assert largest_difference(plain, wrapped) < 1e-6


@pytest.mark.parametrize("jit_compile", [False, True])
def test_plain_model_with_embedding_is_the_svag_model(jit_compile):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(7, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    rng = np.random.default_rng(0)
    x = rng.integers(0, 7, (8 * SUB_BATCH, 3))
    _, y = regression(8 * SUB_BATCH)
    plain, wrapped = fit_both(
        model,
        x,
        y,
        "mse",
        lambda: SVAG(0.5, ell=3, weight_decay=0.1),
        jit_compile=jit_compile,
    )
    assert largest_difference(plain, wrapped) <= (1e-6 if jit_compile else 0)


@pytest.mark.parametrize("measure_noise", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_ordinary_optimizer_trains_as_unwrapped(optimizer, measure_noise):
    x, y = regression(48)
    model = dense_network()
    plain = copy_of(model)
    plain.compile(optimizer, "mse", metrics=["mae"])
    expected = fit(plain, x, y, 12, epochs=3)
    wrapped = SVAGModel(model, measure_noise=measure_noise)
    wrapped.compile(optimizer, "mse", metrics=["mae"])
    history = fit(wrapped, x, y, 12, epochs=3)
    assert largest_difference(plain, wrapped) < 1e-5
    for key, values in expected.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-5)
    assert set(history) - set(expected) == (
        noise_keys(optimizer) if measure_noise else set()
    )
    assert np.all(np.isfinite(list(history.values())))


def numpy_pair(x, y, kernel):
    """Gradients of the halves of a batch, for the mse of `x @ kernel`."""
    return [
        2 * half_x.T @ (half_x @ kernel - half_y) / len(half_x)
        for half_x, half_y in ((x[::2], y[::2]), (x[1::2], y[1::2]))
    ]


@pytest.mark.parametrize(
    "optimizer, batch_size",
    [
        (lambda: SVAG(0.1, ell=4), 8),
        (lambda: SVAG(0.1, ell=4, pairing="halves"), 16),
        (lambda: SVAG(0.1, ell=1), 8),
        (lambda: "sgd", 16),
    ],
)
def test_noise_is_measured_at_the_simulated_batch_size(optimizer, batch_size):
    x, y = regression(16, num_outputs=1)
    model = linear_model(4)
    kernel = model.get_weights()[0].astype("float64")
    g1, g2 = numpy_pair(x, y, kernel)
    grad_sq_norm = np.sum(g1 * g2)
    noise_trace = np.sum((g1 - g2) ** 2) / 2 * 8 / batch_size
    wrapped = SVAGModel(model)
    wrapped.compile(optimizer(), "mse")
    logs = fit(wrapped, x, y, 16)
    expected = {
        "grad_sq_norm": grad_sq_norm,
        "noise_trace": noise_trace,
        "noise_to_signal": noise_trace / grad_sq_norm,
        "noise_scale": batch_size * noise_trace / grad_sq_norm,
        "weight_sq_norm": np.sum(kernel**2),
    }
    for key, value in expected.items():
        assert logs[key] == pytest.approx([value], rel=1e-5), key
    assert wrapped.gradient_noise.estimate().batch_size == batch_size


def test_logged_loss_is_that_of_the_whole_batch():
    # Not w1 L1 + w2 L2, whose variance is ell times too large.
    x, y = regression(16, num_outputs=1)
    model = linear_model(4)
    kernel = model.get_weights()[0]
    errors = (x @ kernel - y)[:, 0]
    wrapped = SVAGModel(model)
    wrapped.compile(SVAG(0.1, ell=16), "mse", metrics=["mae"])
    logs = fit(wrapped, x, y, 16)
    assert logs["loss"] == pytest.approx([np.mean(errors**2)], rel=1e-6)
    assert logs["mae"] == pytest.approx([np.mean(np.abs(errors))], rel=1e-6)


def test_num_examples_corrects_the_logs():
    x, y = regression(16, num_outputs=1)
    logs = []
    for num_examples in (None, 64):
        wrapped = SVAGModel(linear_model(4), num_examples=num_examples)
        wrapped.compile(SVAG(0.1, ell=2), "mse")
        logs.append(fit(wrapped, x, y, 16))
    raw, corrected = logs
    g, n = raw["grad_sq_norm"][0], raw["noise_trace"][0]
    assert corrected["grad_sq_norm"][0] == pytest.approx(g + 8 / 64 * n)
    assert corrected["noise_trace"][0] == pytest.approx(n * 63 / 64)


def test_svag_weights_mix_the_halves():
    x, y = regression(16, num_outputs=1)
    model = linear_model(4)
    kernel = model.get_weights()[0]
    g1, g2 = numpy_pair(x, y, kernel)
    w1, w2 = svag_weights(3)
    wrapped = SVAGModel(model)
    wrapped.compile(SVAG(0.3, ell=3, weight_decay=0.2), "mse")
    fit(wrapped, x, y, 16)
    expected = kernel - 0.1 * (w1 * g1 + w2 * g2 + 0.2 * kernel)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)
