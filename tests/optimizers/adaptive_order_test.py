"""The weak order of SVAGRMSprop and SVAGAdam, on a quadratic.

Independent coordinates with loss a x²/2 and gradient noise of variance s; the
second moment begins at its mean. In the limit of a large `ell` the noise is all
of a squared gradient, v/ell stays at s, and the SDE is linear (derived): with τ
counting steps of the simulated optimizer and the root r = √s + ε of Adam, or
√(s + ε) of RMSprop,

    RMSprop:  dX = -(η/r) (a X dτ + √s dW)
    Adam:     dX = -(η/r) M dτ,  dM = (1 - β₁) ((a X - M) dτ + √s dW)

so that E X² after a time is known. What is measured is the relative error of
the mean of x² over the coordinates.

Statistical error: beside x goes y, which is given the same noise, but divided
by the root r; its step is linear, and E y² is known for every `ell`. What is
averaged is x² - y², of which the fluctuations of v are the only cause. The
standard error is that of a mean over independent coordinates: 1% to 3% of the
error that is measured, and near 0.01 for the fitted slope.
"""

import functools

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from keras_svag import SVAGAdam, SVAGRMSprop

pytestmark = pytest.mark.slow

NUM_COORDINATES = 16_384
RATE, CURVATURE, VARIANCE, EPSILON = 0.1, 1.0, 1.0, 0.3
BETA_1, BETA_2 = 0.5, 0.99
START, TIME = 1.0, 16  # steps of the simulated optimizer
ELLS = (2, 4, 8, 16)


def linear_system(kind):
    """Drift matrix and noise vector of the SDE in τ; x comes first."""
    scale, noise = RATE / root(kind), VARIANCE**0.5
    if kind == "rmsprop":
        return np.array([[-scale * CURVATURE]]), np.array([-scale * noise])
    part = 1 - BETA_1
    drift = [[0, -scale], [part * CURVATURE, -part]]
    return np.array(drift), np.array([0, part * noise])


def root(kind):
    if kind == "adam":
        return VARIANCE**0.5 + EPSILON
    return (VARIANCE + EPSILON) ** 0.5


def sde_second_moment(kind):
    """E X², by the matrix exponential of the second moments' equation."""
    drift, noise = linear_system(kind)
    size = len(noise)
    start = np.zeros((size, size))
    start[0, 0] = START**2
    identity = np.eye(size)
    generator = np.zeros((size**2 + 1, size**2 + 1))
    generator[:-1, :-1] = np.kron(drift, identity) + np.kron(identity, drift)
    generator[:-1, -1] = np.outer(noise, noise).ravel()
    state = np.append(start.ravel(), 1)
    return (scipy.linalg.expm(generator * TIME) @ state)[0]


def linear_step(kind, ell):
    """Matrix of one step of y, or of (y, m), and what its noise does."""
    scale, part = RATE / root(kind) / ell, (1 - BETA_1) / ell
    noise = (VARIANCE * ell) ** 0.5
    if kind == "rmsprop":
        return np.array([[1 - scale * CURVATURE]]), np.array([-scale * noise])
    # The mean takes the gradient in, then the coordinate takes the mean.
    m_row = np.array([part * CURVATURE, 1 - part])
    matrix = np.array([[1, 0] - scale * m_row, m_row])
    return matrix, np.array([-scale * part, part]) * noise


def linear_second_moment(kind, ell):
    matrix, noise = linear_step(kind, ell)
    moments = np.zeros((len(noise), len(noise)))
    moments[0, 0] = START**2
    for _ in range(TIME * ell):
        moments = matrix @ moments @ matrix.T + np.outer(noise, noise)
    return moments[0, 0]


@functools.cache
def weak_error(kind, ell):
    """Relative error of E x² against the SDE's, and its standard error."""
    x = keras.Variable(tf.fill([NUM_COORDINATES], START))
    if kind == "adam":
        optimizer = SVAGAdam(RATE, BETA_1, BETA_2, EPSILON, ell=ell)
    else:
        optimizer = SVAGRMSprop(RATE, BETA_2, EPSILON, ell=ell)
    optimizer.build([x])
    # So late that no bias is left to be corrected.
    optimizer.iterations.assign(20_000 * ell)
    optimizer._velocities[0].assign(tf.fill(x.shape, VARIANCE * ell))
    matrix, noise = (v.astype("float32") for v in linear_step(kind, ell))

    @tf.function
    def train():
        y = tf.scatter_nd([[0]], [x.value], (len(noise), NUM_COORDINATES))
        for index in tf.range(TIME * ell):
            z = tf.random.stateless_normal((2, NUM_COORDINATES), [ell, index])
            before = tf.identity(x.value)
            mixed = optimizer.mix(z[0], z[1]) / ell**0.5
            for sub_batch in range(2):
                gradient = CURVATURE * before + VARIANCE**0.5 * z[sub_batch]
                optimizer.apply([gradient])
            y = matrix @ y + noise[:, None] * mixed
        return y[0]

    y = train().numpy().astype("float64")
    differences = x.numpy().astype("float64") ** 2 - y**2
    expected = sde_second_moment(kind)
    error = linear_second_moment(kind, ell) + differences.mean() - expected
    standard_error = differences.std() / NUM_COORDINATES**0.5
    return error / expected, standard_error / expected


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_weak_error_is_of_order_1_in_1_over_ell(kind):
    errors, standard_errors = np.transpose(
        [weak_error(kind, ell) for ell in ELLS]
    )
    relative = standard_errors / np.abs(errors)
    # The slope is a weighted sum of the independent log errors.
    centred = np.log(ELLS) - np.log(ELLS).mean()
    weights = centred / (centred @ centred)
    slope = weights @ np.log(np.abs(errors))
    slope_error = np.sqrt(np.sum((weights * relative) ** 2))
    assert slope_error < 0.02
    assert abs(slope + 1) < 0.1 - 2 * slope_error
    # Richardson's step takes what is of order 1 away.
    richardson = 2 * errors[-1] - errors[-2]
    error = np.hypot(2 * standard_errors[-1], standard_errors[-2])
    assert abs(richardson) + 3 * error < abs(errors[-1]) / 2
