"""The weak order of SVAGRMSprop and SVAGAdam, on a quadratic.

Independent coordinates with loss a x²/2 and gradient noise of variance s; the
second moment begins at its mean. In the limit of a large `ell` the noise is all
of a squared gradient, v/ell stays at s, and steps are linear (derived): with
the root r = √s + ε of Adam, or √(s + ε) of RMSprop, and noise z of variance 1,

    RMSprop:  x -= η/(r ell) (a x + √(s ell) z)
    Adam:     m += (1 - β₁)/ell (a x + √(s ell) z - m),  x -= η/(r ell) m

so that E x² after a time is known for every `ell`, and that of the SDE is its
limit. What is measured is the relative error of the mean of x² over the
coordinates.

Statistical error: beside x goes y, which takes the linear steps with the same
noise. What is averaged is x² - y², of which the fluctuations of v are the only
cause. The standard error is that of a mean over independent coordinates: 1% to
3% of the error that is measured, and near 0.01 for the fitted slope.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAGAdam, SVAGRMSprop

pytestmark = pytest.mark.slow

NUM_COORDINATES = 16_384
RATE, CURVATURE, VARIANCE, EPSILON = 0.1, 1.0, 1.0, 0.3
BETA_1, BETA_2 = 0.5, 0.99
START, TIME = 1.0, 16  # steps of the simulated optimizer
ELLS = (2, 4, 8, 16)


def linear_step(kind, ell):
    """Matrix of one step of y, or of (y, m), and what its noise does."""
    noise = (VARIANCE * ell) ** 0.5
    if kind == "rmsprop":
        scale = RATE / (VARIANCE + EPSILON) ** 0.5 / ell
        return np.array([[1 - scale * CURVATURE]]), np.array([-scale * noise])
    scale, part = RATE / (VARIANCE**0.5 + EPSILON) / ell, (1 - BETA_1) / ell
    # The mean takes the gradient in, then the coordinate takes the mean.
    m_row = np.array([part * CURVATURE, 1 - part])
    matrix = np.array([[1, 0] - scale * m_row, m_row])
    return matrix, np.array([-scale * part, part]) * noise


def second_moment(kind, ell):
    """E y² after all steps, by the linear recursion of the moments."""
    matrix, noise = linear_step(kind, ell)
    recursion = np.eye(len(noise) ** 2 + 1)
    recursion[:-1, :-1] = np.kron(matrix, matrix)
    recursion[:-1, -1] = np.outer(noise, noise).ravel()
    state = np.eye(len(recursion))[0] * START**2
    state[-1] = 1
    return (np.linalg.matrix_power(recursion, TIME * ell) @ state)[0]


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
    expected = second_moment(kind, ell=2**20)
    error = second_moment(kind, ell) + differences.mean() - expected
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
