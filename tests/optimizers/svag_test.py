"""The update rules of SVAG, SVAGRMSprop and SVAGAdam, on plain models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_svag import SVAG, SVAGAdam, SVAGModel, SVAGRMSprop
from keras_svag.optimizers import paired
from keras_svag.optimizers.paired import random_sign
from keras_svag.optimizers.svag import PAIRINGS, svag_weights
from tests.helpers.pairs import fit, weights_of_step
from tests.helpers.small_problems import compiled, dense_network, regression

# A rate that float32 holds.
RATE, DECAY, EPSILON = 0.125, 0.02, 0.3
BETA_1, BETA_2 = 0.8, 0.9
# Of a sub-batch's gradient the variance, in units of a batch's at size B.
SUB_BATCH_VARIANCE = {"independent": 1, "halves": 2}
KINDS = {
    "sgd": (SVAG, {}),
    "rmsprop": (SVAGRMSprop, {"rho": BETA_2}),
    "adam": (SVAGAdam, {"beta_1": BETA_1, "beta_2": BETA_2}),
}

pytestmark = pytest.mark.filterwarnings("ignore:With ell=1")


def built(kind, start, dtype="float32", **arguments):
    """A variable, and an optimizer that is built for it."""
    make, own = KINDS[kind]
    optimizer = make(**own | arguments)
    variable = keras.Variable(start, dtype=dtype)
    optimizer.build([variable])
    return variable, optimizer


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_mean_is_kept_and_covariance_is_amplified_by_ell(pairing):
    assert svag_weights(3) == svag_weights(3, "independent")
    for ell in (1, 2, 1000, np.int64(4)):
        w1, w2 = svag_weights(ell, pairing)
        assert isinstance(w1, float) and isinstance(w2, float)
        assert w1 >= w2
        assert w1 + w2 == pytest.approx(1, rel=1e-14)
        amplification = (w1**2 + w2**2) * SUB_BATCH_VARIANCE[pairing]
        assert amplification == pytest.approx(ell, rel=1e-14)


def numpy_svag(kind, x, pairs, ell, pairing):
    """Sections 1 and 7 of docs/theory.md in float64: weights, and the time."""
    beta_1, beta_2 = (1 - (1 - beta) / ell for beta in (BETA_1, BETA_2))
    m = v = np.zeros_like(x)
    time = 0.0
    for k, (g1, g2) in enumerate(pairs):
        rate = RATE * 0.8 ** (k // ell)
        w1, w2 = weights_of_step(ell, pairing, k)
        step = g = w1 * g1 + w2 * g2
        old = np.maximum(v, (1 - beta_2) * g**2)
        if kind == "adam":
            m = beta_1 * m + (1 - beta_1) * g
            seen = (1 - beta_2 ** max(k, 1)) ** 0.5
            step = m / (1 - beta_1 ** (k + 1))
            step = step / (old**0.5 / seen + EPSILON * ell**0.5 / seen)
        elif kind == "rmsprop":
            step = g / np.sqrt(old + EPSILON * ell)
        v = beta_2 * v + (1 - beta_2) * g**2
        # The adaptive optimizers follow the square-root rule.
        power = 1 if kind == "sgd" else 0.5
        x = x - rate / ell**power * step - rate / ell * DECAY * x
        time += rate / ell if kind == "sgd" else rate**2 / ell
    return x, time


class Decaying(keras.optimizers.schedules.LearningRateSchedule):
    """Smaller by a fifth at every step: a fraction of a step would show."""

    def __call__(self, step):
        return RATE * 0.8 ** ops.cast(step, "float32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ell", "pairing", "mode"),
    [
        (1, "halves", "graph"),
        (2, "independent", "eager"),
        (4, "halves", "xla"),
        (8, "independent", "graph"),
    ],
)
def test_steps_agree_with_a_numpy_loop(kind, ell, pairing, mode):
    gradients = np.random.default_rng(0).normal(0.5, 1, (20, 2, 7))
    start = np.linspace(-1, 1, 7)
    expected, time = numpy_svag(kind, start, gradients, ell, pairing)
    arguments = {"ell": ell, "pairing": pairing, "weight_decay": DECAY}
    if kind != "sgd":
        arguments["epsilon"] = EPSILON
    x, optimizer = built(kind, start, learning_rate=Decaying(), **arguments)

    def apply(gradient):
        optimizer.apply([gradient])

    if mode != "eager":
        apply = tf.function(apply, jit_compile=mode == "xla")
    for gradient in gradients.reshape(-1, 7).astype("float32"):
        apply(tf.constant(gradient))
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert float(optimizer.continuous_time) == pytest.approx(time, rel=1e-6)
    assert optimizer.effective_iterations == 20 / ell


def displacements(optimizer, gradients):
    variable = keras.Variable(np.zeros(np.shape(gradients)[1:]))
    optimizer.build([variable])
    places = []
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, "float32")])
        places.append(variable.numpy())
    return np.diff(places, axis=0, prepend=0)


@pytest.mark.parametrize(
    ("kind", "simulated"), [(SVAG, "SGD"), (SVAGAdam, "Adam")]
)
def test_ell_1_is_the_simulated_optimizer_from_its_start(kind, simulated):
    # All squares are one, and the bias is corrected.
    signs = np.random.default_rng(2).choice([-2.0, 2.0], (9, 5))
    theirs = displacements(getattr(keras.optimizers, simulated)(RATE), signs)
    for pairing, second in (("halves", signs), ("independent", 7 + signs)):
        optimizer = kind(RATE, pairing=pairing)
        pairs = np.stack([signs, second], axis=1).reshape(-1, 5)
        if pairing == "halves":
            ours = displacements(optimizer, pairs)
        else:
            with pytest.warns(UserWarning, match="'halves' uses both"):
                ours = displacements(optimizer, pairs)
        np.testing.assert_allclose(ours[1::2], theirs, atol=1e-6)
        assert not ours[::2].any()


# All pairs of gradients m ± sigma: their means are expectations.
MEAN, SIGMA = 0.6, 1.5
PAIRS_OF_SIGNS = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]).T


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("ell", [1, 2, 8])
def test_drift_and_variance_are_those_of_the_family(kind, ell, pairing):
    arguments = {"epsilon": 0, "ell": ell, "pairing": pairing}
    x, optimizer = built(
        *(kind, np.zeros(4), "float64"), learning_rate=RATE, **arguments
    )
    # A step from moments that are at their means, for each of the pairs.
    optimizer.iterations.assign(20_000 * ell)
    stationary = MEAN**2 + ell * SIGMA**2
    optimizer._velocities[0].assign(np.full(4, stationary))
    if kind == "adam":
        optimizer._momentums[0].assign(np.full(4, MEAN))
    spread = SIGMA * SUB_BATCH_VARIANCE[pairing] ** 0.5
    for signs in PAIRS_OF_SIGNS:
        optimizer.apply([tf.constant(MEAN + spread * signs)])
    # One step of the simulated optimizer takes `ell` steps.
    drift, variance = -ell * x.numpy().mean(), ell * x.numpy().var()
    expected = RATE * MEAN / np.sqrt(MEAN**2 / ell + SIGMA**2)
    assert drift == pytest.approx(expected, rel=1e-12)
    expected = RATE**2 * SIGMA**2 / (MEAN**2 / ell + SIGMA**2)
    if kind == "adam":
        # Of the step, the share that the newest gradient has in the mean.
        expected *= ((1 - BETA_1) / ell) ** 2
    assert variance == pytest.approx(expected, rel=1e-12)
    # The second moment stays at its mean.
    velocity = optimizer._velocities[0].numpy()
    assert velocity.mean() == pytest.approx(stationary, rel=1e-12)
    assert velocity.std() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_gradient_moves_every_row_s_moments(kind):
    dense, sparse = np.zeros((6, 4, 1), "float32"), []
    for i, indices in enumerate([[1, 1, 3], [0, 0, 0], [2, 1, 2]] * 2):
        np.add.at(dense[i], indices, 1.0)
        slices = tf.ones((3, 1)), tf.constant(indices), tf.constant([4, 1])
        sparse.append(tf.IndexedSlices(*slices))
    found = []
    for given in (sparse, tf.constant(dense)):
        _, optimizer = built(kind, np.zeros((4, 1)), ell=2)
        for gradient in given:
            optimizer.apply([gradient])
        found.append([v.numpy() for v in optimizer._trainable_variables])
        found[-1] += [v.numpy() for v in optimizer.variables]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_of_svag_model_hashes_its_number_once(monkeypatch):
    steps = []

    def hashed(step):
        steps.append(int(step))
        return random_sign(step)

    monkeypatch.setattr(paired, "random_sign", hashed)
    model = SVAGModel(dense_network())
    model.compile(SVAG(0.1, ell=4), "mse", run_eagerly=True)
    fit(model, *regression(24))
    assert steps == [0, 1, 2]


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
    arguments = {"learning_rate": 0.05, "ell": 2, "pairing": pairing}
    variable, optimizer = built("sgd", [0.5], **arguments)
    places = []
    step = tf.function(lambda target: optimizer.apply([variable - target]))
    for target in map(tf.constant, 600 * [0.0, 1.0]):
        step(target)
        places.append(float(variable[0]))
    assert np.mean(places) == pytest.approx(0.5, abs=0.05)


def test_float64_variables_keep_their_precision_and_losses_are_unscaled():
    arguments = {"learning_rate": 0.25, "ell": 2, "loss_scale_factor": 4.0}
    variable, optimizer = built("sgd", np.ones(2), "float64", **arguments)
    first, second = np.array([1.0, 1e-9]), np.array([0.0, 1e-9])
    for gradient in (first, second):
        optimizer.apply([tf.constant(4 * gradient)])
    w1, w2 = svag_weights(2)
    expected = 1 - 0.125 * (w1 * first + w2 * second)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-14)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.filterwarnings("ignore:The following trainable")
def test_variable_without_gradient_stays_as_it_is():
    inputs = keras.Input((4,))
    used, unused = keras.layers.Dense(2), keras.layers.Dense(2)
    model = keras.Model(inputs, [used(inputs), unused(inputs)])
    before = unused.get_weights()
    model.compile(SVAG(0.5, ell=2, weight_decay=0.1), ["mse", None])
    x, y = regression(16)
    assert np.isfinite(fit(model, x, [y, y])["loss"][0])
    for ours, theirs in zip(unused.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
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


def test_what_comes_too_late_or_is_out_of_range_is_refused():
    variable, optimizer = built("sgd", [1.0], learning_rate=0.1)
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
    for gradients in (2 * [tf.zeros(1)],) * 2:
        optimizer.apply(gradients)
    assert [float(v[0]) < 1 for v in variables] == [True, False]


@pytest.mark.parametrize(
    "rate", [1, np.float32(1), tf.constant(1.0), lambda: 1.0]
)
def test_kinds_of_learning_rates(rate):
    arguments = {"learning_rate": rate, "ell": 4, "pairing": "halves"}
    variable, optimizer = built("sgd", [0.0], **arguments)
    for _ in range(2):
        optimizer.apply([tf.ones(1)])
    np.testing.assert_allclose(variable.numpy(), [-0.25], rtol=1e-6)
    assert float(optimizer.learning_rate) == 1


def test_learning_rate_scheduler_sees_and_sets_sgd_s_rate():
    model = compiled(optimizer=SVAG(0.8, ell=4))
    given, times = [], []

    def halved(epoch, rate):
        given.append(rate)
        times.append(float(model.optimizer.continuous_time))
        return rate / 2

    scheduler = keras.callbacks.LearningRateScheduler(halved)
    logs = fit(model, *regression(32), epochs=3, callbacks=[scheduler])
    np.testing.assert_allclose(given, [0.8, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(
        logs["learning_rate"], [0.4, 0.2, 0.1], rtol=1e-6
    )
    # Two steps an epoch: not (steps taken) x (first rate).
    expected = np.cumsum([0, 2 * 0.4 / 4, 2 * 0.2 / 4])
    np.testing.assert_allclose(times, expected, rtol=1e-6)
