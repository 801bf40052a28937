"""The real optimizer against the exact stationary law of a linear problem.

Independent coordinates with loss a x²/2 and gradient noise of variance σ² at
SGD's batch size: a SVAG step is `x ← (1 - η a/ell) x + noise` with noise of
variance η² σ²/ell, so (derived) the stationary variance is
η σ² / (a (2 - η a/ell)), and η σ² / (2 a) for the SDE.

Statistical error: each coordinate's time average of x² is one observation, and
the standard error is that of the mean of the independent coordinates. The
fresh normals z1, z2 of a step are independent of x before it, so the time
averages of z1² - 1, z2² - 1, z1 z2, x z1 and x z2 have mean 0 whatever the
optimizer does with them. Regressing them out as control variates leaves little
but the ends of the time window: relative standard errors near 1.4e-4, and of
the fitted slope near 0.01.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG

NUM_COORDINATES = 4096
LEARNING_RATE, CURVATURE, NOISE_STD = 0.4, 0.5, 1.5
RATE = LEARNING_RATE * CURVATURE  # 0.2, the relaxation per SGD step
BURN_IN, WINDOW = 60, 600  # SGD steps
ELLS = (1, 2, 4, 8)
# A half of a batch has twice the batch's variance.
SUB_BATCH_STD = {"independent": 1.0, "halves": 2**0.5}
SDE_VARIANCE = LEARNING_RATE * NOISE_STD**2 / (2 * CURVATURE)


def stationary_variance(ell):
    return LEARNING_RATE * NOISE_STD**2 / (CURVATURE * (2 - RATE / ell))


@functools.cache
def measured_variance(ell, pairing):
    """Time and coordinate average of x², and its standard error."""
    x = keras.Variable(tf.zeros(NUM_COORDINATES))
    optimizer = SVAG(LEARNING_RATE, ell=ell, pairing=pairing)
    optimizer.build([x])
    noise_std = NOISE_STD * SUB_BATCH_STD[pairing]

    def step(index):
        before = tf.identity(x.value)
        z = tf.random.stateless_normal((2, NUM_COORDINATES), [ell, index])
        for sub_batch in range(2):
            optimizer.apply([CURVATURE * x + noise_std * z[sub_batch]])
        return before, z[0], z[1]

    @tf.function
    def burn_in(steps):
        for index in tf.range(steps):
            step(-1 - index)

    @tf.function
    def moments(steps):
        sums = tf.zeros((6, NUM_COORDINATES))
        for index in tf.range(steps):
            x0, z1, z2 = step(index)
            sums += tf.stack(
                [x0**2, z1**2 - 1, z2**2 - 1, z1 * z2, x0 * z1, x0 * z2]
            )
        return sums / tf.cast(steps, tf.float32)

    burn_in(tf.constant(BURN_IN * ell))
    averages = moments(tf.constant(WINDOW * ell)).numpy().astype("float64")
    return without_controls(averages[0], averages[1:].T)


def without_controls(values, controls):
    """Mean of `values` given that the controls' means are 0, and its error."""
    design = np.column_stack([np.ones(len(values)), controls])
    coefficients, *_ = np.linalg.lstsq(design, values, rcond=None)
    residuals = values - design @ coefficients
    variance = residuals @ residuals / (len(values) - design.shape[1])
    return coefficients[0], np.sqrt(
        variance * np.linalg.inv(design.T @ design)[0, 0]
    )


def weak_error(ell, pairing):
    """Relative error of the variance against the SDE's, and its error."""
    variance, error = measured_variance(ell, pairing)
    return variance / SDE_VARIANCE - 1, error / SDE_VARIANCE


@pytest.fixture(params=["independent", "halves"])
def pairing(request, recwarn):
    # With ell = 1 or 2 one of the pairings ignores every second batch.
    return request.param


@pytest.mark.parametrize("ell", ELLS)
def test_stationary_variance_is_the_exact_one(ell, pairing):
    variance, error = measured_variance(ell, pairing)
    assert error < 2e-4 * variance
    assert abs(variance - stationary_variance(ell)) < 3 * error


def test_weak_error_is_of_order_1_in_1_over_ell(pairing):
    errors = [weak_error(ell, pairing) for ell in ELLS]
    log_errors = np.log([error for error, _ in errors])
    # The slope is a weighted sum of the independent log errors.
    centred = np.log(ELLS) - np.log(ELLS).mean()
    weights = centred / (centred @ centred)
    slope = weights @ log_errors
    relative = np.array([se / error for error, se in errors])
    slope_error = np.sqrt(np.sum((weights * relative) ** 2))
    assert slope_error < 0.02
    assert abs(slope + 1) < 0.1 - 2 * slope_error


def test_richardson_of_ell_1_and_2_is_nearer_to_the_sde_than_ell_4(pairing):
    (e1, s1), (e2, s2), (e4, s4) = (
        weak_error(ell, pairing) for ell in (1, 2, 4)
    )
    richardson, error = 2 * e2 - e1, np.hypot(2 * s2, s1)
    assert abs(richardson) + 3 * error < e4 - 3 * s4
    # Order 2: u / (ell - u) with u = η a / 2 leaves -u² (derived).
    expected = 2 * (RATE / 2) / (2 - RATE / 2) - (RATE / 2) / (1 - RATE / 2)
    assert abs(richardson - expected) < 3 * error
