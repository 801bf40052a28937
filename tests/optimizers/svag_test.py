"""The update rule of SVAG, on plain models and inside SVAGModel."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_svag import SVAG, SVAGModel
from keras_svag.optimizers.svag import PAIRINGS, svag_weights
from tests.helpers.small_problems import (
    dense_network,
    interleaved,
    largest_difference,
    regression,
)

SUB_BATCH = 6


def numpy_gradients(weights, x, y):
    """Backpropagation by hand: mse of `tanh(x k1 + b1) k2 + b2`, in float64."""
    k1, b1, k2, b2 = weights
    hidden = np.tanh(x @ k1 + b1)
    output_grad = 2 * (hidden @ k2 + b2 - y) / y.size
    hidden_grad = output_grad @ k2.T * (1 - hidden**2)
    return [
        x.T @ hidden_grad,
        hidden_grad.sum(0),
        hidden.T @ output_grad,
        output_grad.sum(0),
    ]


def numpy_svag(weights, batches, schedule, ell, pairing, decay):
    """SVAG over the list of pairs of batches, in float64.

    Returns the weights and the continuous time.
    """
    weights = [np.asarray(w, "float64") for w in weights]
    w1, w2 = svag_weights(ell, pairing)
    time = 0.0
    for step, (first, second) in enumerate(batches):
        step_size = schedule(step // ell) / ell
        g1 = numpy_gradients(weights, *first)
        g2 = numpy_gradients(weights, *second)
        weights = [
            w - step_size * (w1 * a + w2 * b + decay * w)
            for w, a, b in zip(weights, g1, g2, strict=True)
        ]
        time += step_size
    return weights, time


@keras.saving.register_keras_serializable(package="svag_test")
class Decaying(keras.optimizers.schedules.LearningRateSchedule):
    """Smaller by a fifth at every step: a fraction of a step would show."""

    def __call__(self, step):
        return 0.4 * 0.8 ** ops.cast(step, "float32")

    def get_config(self):
        return {}


def pairs_of(x, y):
    batches = [
        (x[i : i + SUB_BATCH], y[i : i + SUB_BATCH])
        for i in range(0, len(x), SUB_BATCH)
    ]
    return list(zip(batches[::2], batches[1::2], strict=True))


def fit(model, x, y, within_step, **kwargs):
    """Trains on consecutive batches as pairs, in either of the two ways."""
    if within_step:
        x, y = interleaved(x, SUB_BATCH), interleaved(y, SUB_BATCH)
    size = SUB_BATCH * (2 if within_step else 1)
    kwargs = {"verbose": 0, "shuffle": False, **kwargs}
    return model.fit(x, y, batch_size=size, **kwargs)


@pytest.mark.parametrize("within_step", [False, True])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("mode", ["graph", "eager", "xla"])
def test_twenty_steps_agree_with_a_numpy_loop(mode, pairing, within_step):
    ell, decay = 4, 0.1
    x, y = regression(20 * 2 * SUB_BATCH)
    model = dense_network()
    weights, time = numpy_svag(
        model.get_weights(),
        pairs_of(x, y),
        lambda step: 0.4 * 0.8**step,
        ell,
        pairing,
        decay,
    )
    trained = SVAGModel(model) if within_step else model
    trained.compile(
        SVAG(Decaying(), ell=ell, pairing=pairing, weight_decay=decay),
        "mse",
        run_eagerly=mode == "eager",
        jit_compile=mode == "xla",
    )
    fit(trained, x, y, within_step)
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    optimizer = trained.optimizer
    assert optimizer.effective_iterations == 20 / ell
    assert float(optimizer.continuous_time) == pytest.approx(time, rel=1e-6)


def test_first_batch_of_a_pair_moves_nothing():
    model = dense_network()
    model.compile(SVAG(0.1, ell=4, weight_decay=0.1), "mse")
    before = model.get_weights()
    x, y = regression(2 * SUB_BATCH)
    fit(model, x[:SUB_BATCH], y[:SUB_BATCH], within_step=False)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert float(model.optimizer.continuous_time) == 0
    assert model.optimizer.effective_iterations == 0
    fit(model, x[SUB_BATCH:], y[SUB_BATCH:], within_step=False)
    assert float(model.optimizer.continuous_time) == pytest.approx(0.1 / 4)
    assert model.optimizer.effective_iterations == 0.25


def test_no_gradient_is_kept_inside_svag_model():
    model = SVAGModel(dense_network())
    model.compile(SVAG(0.1, ell=4), "mse")
    fit(model, *regression(2 * SUB_BATCH), within_step=True)
    assert [v.name for v in model.optimizer.variables] == [
        "iteration",
        "learning_rate",
        "continuous_time",
    ]


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_ell_1_is_sgd(pairing):
    x, y = regression(8 * SUB_BATCH)
    model = dense_network()
    model.compile(SVAG(0.3, ell=1, pairing=pairing), "mse")
    sgd = dense_network()
    sgd.compile(keras.optimizers.SGD(0.3), "mse")
    size = SUB_BATCH
    if pairing == "halves":
        fit(model, x, y, within_step=False)
        sgd.fit(x, y, batch_size=2 * size, shuffle=False, verbose=0)
    else:
        with pytest.warns(UserWarning, match="pairing='halves' uses both"):
            fit(model, x, y, within_step=False)
        every_first = np.arange(len(x)) // size % 2 == 0
        x, y = x[every_first], y[every_first]
        sgd.fit(x, y, batch_size=size, shuffle=False, verbose=0)
    assert largest_difference(model, sgd) < 1e-6


def test_ell_1_of_halves_does_not_warn(recwarn):
    model = dense_network()
    model.compile(SVAG(ell=1, pairing="halves"), "mse")
    fit(model, *regression(2 * SUB_BATCH), within_step=False)
    assert not [w for w in recwarn if "SVAG" in str(w.message)]


def step_once(optimizer, variable, first, second):
    optimizer.build([variable])
    optimizer.apply([first])
    optimizer.apply([second])


def test_loss_scale_factor_divides_both_gradients():
    variable = keras.Variable([1.0, 2.0])
    optimizer = SVAG(0.1, ell=2, loss_scale_factor=4.0)
    step_once(optimizer, variable, np.float32([4, 8]), np.float32([12, -4]))
    w1, w2 = svag_weights(2)
    mixed = w1 * np.array([1, 2]) + w2 * np.array([3, -1])
    expected = np.array([1, 2]) - 0.05 * mixed
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)


def test_float64_variables_keep_their_precision():
    variable = keras.Variable(np.ones(2), dtype="float64")
    optimizer = SVAG(0.25, ell=2)
    first, second = np.array([1.0, 1e-9]), np.array([0.0, 1e-9])
    step_once(optimizer, variable, tf.constant(first), tf.constant(second))
    w1, w2 = svag_weights(2)
    expected = 1 - 0.125 * (w1 * first + w2 * second)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-14)


def test_constraint_holds_after_the_step():
    kernel = {"kernel_constraint": keras.constraints.NonNeg()}
    model = dense_network(**kernel)
    model.compile(SVAG(0.5, ell=2), "mse")
    fit(model, *regression(4 * SUB_BATCH), within_step=False)
    assert model.layers[0].kernel.numpy().min() == 0
