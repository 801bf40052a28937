"""The update rules of SVAGRMSprop and SVAGAdam."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAGAdam, SVAGRMSprop
from keras_svag.optimizers.svag import PAIRINGS
from tests.helpers.pairs import weights_of_step

# A rate that float32 holds.
RATE, DECAY, EPSILON = 0.125, 0.02, 0.3
BETA_1, BETA_2 = 0.8, 0.9
ELLS = (1, 2, 4, 8)

pytestmark = pytest.mark.filterwarnings("ignore:With ell=")


def optimizer_of(kind, **kwargs):
    if kind == "adam":
        return SVAGAdam(beta_1=BETA_1, beta_2=BETA_2, **kwargs)
    return SVAGRMSprop(rho=BETA_2, **kwargs)


both = pytest.mark.parametrize("kind", ["adam", "rmsprop"])


def numpy_svag(kind, x, pairs, ell, pairing, schedule):
    """Section 7 of docs/theory.md, in float64: weights and continuous time."""
    beta_1, beta_2 = (1 - (1 - beta) / ell for beta in (BETA_1, BETA_2))
    m = v = np.zeros_like(x)
    time = 0.0
    for k, (g1, g2) in enumerate(pairs):
        rate = schedule(k // ell) / ell**0.5
        w1, w2 = weights_of_step(ell, pairing, k)
        g = w1 * g1 + w2 * g2
        old = np.maximum(v, (1 - beta_2) * g**2)
        if kind == "adam":
            m = beta_1 * m + (1 - beta_1) * g
            mean = m / (1 - beta_1 ** (k + 1))
            seen = (1 - beta_2 ** max(k, 1)) ** 0.5
            step = mean / (old**0.5 / seen + EPSILON * ell**0.5 / seen)
        else:
            step = g / np.sqrt(old + EPSILON * ell)
        x = x - rate * step - rate * (DECAY / ell**0.5) * x
        v = beta_2 * v + (1 - beta_2) * g**2
        time += rate**2
    return x, time


class Decaying(keras.optimizers.schedules.LearningRateSchedule):
    """Smaller by a fifth at every step: a fraction of a step would show."""

    def __call__(self, step):
        return RATE * 0.8 ** keras.ops.cast(step, "float32")


@both
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
    expected, time = numpy_svag(
        kind, start, gradients, ell, pairing, lambda step: RATE * 0.8**step
    )
    x = keras.Variable(start, dtype="float32")
    optimizer = optimizer_of(
        kind,
        learning_rate=Decaying(),
        epsilon=EPSILON,
        ell=ell,
        pairing=pairing,
        weight_decay=DECAY,
    )
    optimizer.build([x])

    def apply(gradient):
        optimizer.apply([gradient])

    if mode != "eager":
        apply = tf.function(apply, jit_compile=mode == "xla")
    for gradient in gradients.reshape(-1, 7).astype("float32"):
        apply(tf.constant(gradient))
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert float(optimizer.continuous_time) == pytest.approx(time, rel=1e-6)
    assert optimizer.effective_iterations == 20 / ell


def velocity_of(optimizer):
    return optimizer._velocities[0].numpy()


def displacements(optimizer, gradients):
    variable = keras.Variable(np.zeros(np.shape(gradients)[1:]))
    optimizer.build([variable])
    places = []
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, "float32")])
        places.append(variable.numpy())
    return np.diff(places, axis=0, prepend=0)


def test_adam_is_keras_adam_from_its_start():
    # All squares are one, and the bias is corrected.
    signs = np.random.default_rng(2).choice([-2.0, 2.0], (9, 5))
    pairs = np.repeat(signs, 2, axis=0)
    ours = displacements(SVAGAdam(RATE, pairing="halves"), pairs)
    theirs = displacements(keras.optimizers.Adam(RATE), signs)
    np.testing.assert_allclose(ours[1::2], theirs, atol=1e-6)
    assert not ours[::2].any()


# All pairs of gradients m ± sigma: their means are expectations.
MEAN, SIGMA = 0.6, 1.5
PAIRS_OF_SIGNS = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]).T
# A half of a batch has twice the batch's variance.
SUB_BATCH_STD = {"independent": 1.0, "halves": 2**0.5}


def one_step(kind, ell, pairing):
    """A step from moments that are at their means, for each of the pairs."""
    x = keras.Variable(np.zeros(4), dtype="float64")
    optimizer = optimizer_of(
        kind, learning_rate=RATE, epsilon=0, ell=ell, pairing=pairing
    )
    optimizer.build([x])
    optimizer.iterations.assign(20_000 * ell)
    stationary = MEAN**2 + ell * SIGMA**2
    optimizer._velocities[0].assign(np.full(4, stationary))
    if kind == "adam":
        optimizer._momentums[0].assign(np.full(4, MEAN))
    gradients = MEAN + SIGMA * SUB_BATCH_STD[pairing] * PAIRS_OF_SIGNS
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)])
    return -x.numpy(), velocity_of(optimizer), stationary


@both
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("ell", ELLS)
def test_drift_and_variance_are_those_of_the_family(kind, ell, pairing):
    steps, velocity, stationary = one_step(kind, ell, pairing)
    # One step of the simulated optimizer takes `ell` steps.
    drift = ell * steps.mean()
    expected = RATE * MEAN / np.sqrt(MEAN**2 / ell + SIGMA**2)
    assert drift == pytest.approx(expected, rel=1e-12)
    variance = ell * steps.var()
    expected = RATE**2 * SIGMA**2 / (MEAN**2 / ell + SIGMA**2)
    if kind == "adam":
        # Of the step, the share that the newest gradient has in the mean.
        expected *= ((1 - BETA_1) / ell) ** 2
    assert variance == pytest.approx(expected, rel=1e-12)
    # The second moment stays at its mean.
    assert velocity.mean() == pytest.approx(stationary, rel=1e-12)
    assert velocity.std() > 0


@both
def test_sparse_gradient_moves_every_row_s_moments(kind):
    gradients = np.zeros((3, 2, 4, 1))
    slices = []
    for i, indices in enumerate([[1, 1, 3], [0, 0, 0], [2, 1, 2]] * 2):
        np.add.at(gradients[i // 2, i % 2], indices, 1.0)
        slices.append(
            tf.IndexedSlices(
                tf.ones((3, 1)), tf.constant(indices), tf.constant([4, 1])
            )
        )
    tables = []
    dense = tf.constant(gradients.reshape(6, 4, 1), "float32")
    for given in (slices, dense):
        table = keras.Variable(np.zeros((4, 1)))
        optimizer = optimizer_of(kind, learning_rate=RATE, ell=2)
        optimizer.build([table])
        for gradient in given:
            optimizer.apply([gradient])
        tables.append((table.numpy(), velocity_of(optimizer)))
    np.testing.assert_array_equal(*tables)
