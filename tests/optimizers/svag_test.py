"""The update rule of SVAG, on plain models and inside SVAGModel."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_svag import SVAG, SVAGModel
from keras_svag.optimizers.paired import random_sign
from keras_svag.optimizers.svag import PAIRINGS, svag_weights
from tests.helpers.pairs import weights_of_step
from tests.helpers.small_problems import (
    dense_network,
    interleaved,
    largest_difference,
    regression,
)

SUB_BATCH = 6
DECAY = 0.1
# Covariance of a sub-batch's gradient, in units of a batch's at size B.
SUB_BATCH_COVARIANCE = {"independent": 1, "halves": 2}


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_mean_is_kept_and_covariance_is_amplified_by_ell(pairing):
    assert svag_weights(3) == svag_weights(3, "independent")
    for ell in (1, 2, 1000, np.int64(4)):
        w1, w2 = svag_weights(ell, pairing)
        assert isinstance(w1, float) and isinstance(w2, float)
        assert w1 >= w2
        assert w1 + w2 == pytest.approx(1, rel=1e-14)
        amplification = (w1**2 + w2**2) * SUB_BATCH_COVARIANCE[pairing]
        assert amplification == pytest.approx(ell, rel=1e-14)


def numpy_svag(weights, x, y, ell, pairing):
    """SVAG of a dense layer's mse over pairs of batches, in float64.

    Returns the weights and the continuous time.
    """
    kernel, bias = (w.astype("float64") for w in weights)
    time = 0.0
    for step in range(len(x) // (2 * SUB_BATCH)):
        step_size = 0.4 * 0.8 ** (step // ell) / ell
        to_kernel, to_bias = DECAY * kernel, DECAY * bias
        for half, weight in enumerate(weights_of_step(ell, pairing, step)):
            start = (2 * step + half) * SUB_BATCH
            rows = slice(start, start + SUB_BATCH)
            errors = 2 * (x[rows] @ kernel + bias - y[rows]) / y[rows].size
            to_kernel = to_kernel + weight * x[rows].T @ errors
            to_bias = to_bias + weight * errors.sum(0)
        kernel = kernel - step_size * to_kernel
        bias = bias - step_size * to_bias
        time += step_size
    return [kernel, bias], time


class Decaying(keras.optimizers.schedules.LearningRateSchedule):
    """Smaller by a fifth at every step: a fraction of a step would show."""

    def __call__(self, step):
        return 0.4 * 0.8 ** ops.cast(step, "float32")


def fit(model, x, y, within_step, **kwargs):
    """Trains on consecutive batches as pairs, in either of the two ways."""
    if within_step:
        x, y = interleaved(x, SUB_BATCH), interleaved(y, SUB_BATCH)
    size = SUB_BATCH * (2 if within_step else 1)
    kwargs = {"verbose": 0, "shuffle": False, **kwargs}
    return model.fit(x, y, batch_size=size, **kwargs)


@pytest.mark.parametrize(
    ("mode", "pairing", "within_step"),
    [
        ("graph", "independent", False),
        ("eager", "halves", False),
        ("xla", "independent", True),
        ("graph", "halves", True),
    ],
)
def test_twenty_steps_agree_with_a_numpy_loop(mode, pairing, within_step):
    ell = 4
    x, y = regression(20 * 2 * SUB_BATCH)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    weights, time = numpy_svag(model.get_weights(), x, y, ell, pairing)
    trained = SVAGModel(model) if within_step else model
    trained.compile(
        SVAG(Decaying(), ell=ell, pairing=pairing, weight_decay=DECAY),
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


def test_either_of_a_pair_gets_the_larger_weight_in_every_part_of_an_epoch():
    epochs = 100
    for pairs in (1, 2, 3, 7, 16, 64, 625, 32717, 32749, 2**16):
        first = np.arange(min(pairs, 40))
        steps = np.arange(epochs)[:, None] * pairs + first
        signs = random_sign(steps).numpy()
        assert set(signs.ravel()) == {-1, 1}
        # As of coins: sums of a pair's signs over the epochs.
        z = signs.sum(0) / epochs**0.5
        assert np.mean(z**2) < 1 + 4 * (2 / len(first)) ** 0.5


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_rows_in_one_order_count_alike(pairing):
    # Of each pair the first row's target is 0, the second's is 1.
    optimizer = SVAG(0.05, ell=2, pairing=pairing)
    variable = keras.Variable([0.5])
    optimizer.build([variable])
    places = []
    step = tf.function(lambda target: optimizer.apply([variable - target]))
    for target in map(tf.constant, 600 * [0.0, 1.0]):
        step(target)
        places.append(float(variable[0]))
    assert np.mean(places) == pytest.approx(0.5, abs=0.05)


def test_float64_variables_keep_their_precision_and_losses_are_unscaled():
    variable = keras.Variable(np.ones(2), dtype="float64")
    optimizer = SVAG(0.25, ell=2, loss_scale_factor=4.0)
    optimizer.build([variable])
    first, second = np.array([1.0, 1e-9]), np.array([0.0, 1e-9])
    for gradient in (first, second):
        optimizer.apply([tf.constant(4 * gradient)])
    w1, w2 = svag_weights(2)
    expected = 1 - 0.125 * (w1 * first + w2 * second)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-14)


# Unusual variables


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.filterwarnings("ignore:The following trainable")
def test_variable_without_gradient_stays_as_it_is():
    inputs = keras.Input((4,))
    used, unused = keras.layers.Dense(2), keras.layers.Dense(2)
    model = keras.Model(inputs, [used(inputs), unused(inputs)])
    before = unused.get_weights()
    model.compile(SVAG(0.5, ell=2, weight_decay=0.1), ["mse", None])
    x, y = regression(8)
    history = model.fit(x, [y, y], batch_size=4, verbose=0)
    for ours, theirs in zip(unused.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(history.history["loss"][0])
    assert np.any(used.get_weights()[1] != 0)


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
    assert int(inner.iterations) == 1
    assert float(inner.continuous_time) == 0
    optimizer.apply([tf.constant([12.0])])
    w1, w2 = svag_weights(2)
    expected = 1 - 0.25 * (w1 * 8 / 8 + w2 * 12 / 4)
    np.testing.assert_allclose(variable.numpy(), [expected], rtol=1e-6)
    assert float(inner.continuous_time) == pytest.approx(0.25)


# Arguments and learning rates


def test_what_comes_too_late_or_is_out_of_range_is_refused():
    optimizer = SVAG(0.1, weight_decay=0.1)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    with pytest.raises(ValueError, match="`exclude_from_weight_decay`.*before"):
        optimizer.exclude_from_weight_decay(var_list=[variable])
    with pytest.raises(ValueError, match="`learning_rate` must"):
        optimizer.learning_rate = -1.0
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_names_to_exclude_are_no_regular_expressions():
    # A file can bring one; searched for as such, this one takes years.
    names = {"paths": [], "names": ["(a+)+$", "aab"], "mask": []}
    config = SVAG(weight_decay=0.1).get_config()
    config["excluded_from_weight_decay"] = names
    optimizer = SVAG.from_config(config)
    variables = [keras.Variable([1.0], name=50 * "a" + end) for end in "!b"]
    optimizer.build(variables)
    assert list(map(optimizer._use_weight_decay, variables)) == [True, False]


@pytest.mark.parametrize(
    "rate", [1, np.float32(1), tf.constant(1.0), lambda: 1.0]
)
def test_kinds_of_learning_rates(rate):
    variable = keras.Variable([0.0])
    optimizer = SVAG(rate, ell=4, pairing="halves")
    optimizer.build([variable])
    for _ in range(2):
        optimizer.apply([tf.ones(1)])
    np.testing.assert_allclose(variable.numpy(), [-0.25], rtol=1e-6)
    assert float(optimizer.learning_rate) == 1


class Seen(keras.callbacks.Callback):
    rates, times = [], []

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        self.rates.append(float(optimizer.learning_rate))
        self.times.append(float(optimizer.continuous_time))


def test_learning_rate_scheduler_sees_and_sets_sgd_s_rate():
    model = dense_network()
    model.compile(SVAG(0.8, ell=4), "mse")
    seen, given = Seen(), []

    def halved(epoch, rate):
        given.append(rate)
        return rate / 2

    scheduler = keras.callbacks.LearningRateScheduler(halved)
    logs = model.fit(
        *regression(24), 6, epochs=3, verbose=0, callbacks=[scheduler, seen]
    ).history
    np.testing.assert_allclose(given, [0.8, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(seen.rates, [0.4, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(logs["learning_rate"], seen.rates, rtol=1e-6)
    # Two steps an epoch: not (steps taken) x (first rate).
    times = np.cumsum([2 * 0.4 / 4, 2 * 0.2 / 4, 2 * 0.1 / 4])
    np.testing.assert_allclose(seen.times, times, rtol=1e-6)
