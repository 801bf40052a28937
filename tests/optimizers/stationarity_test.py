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
but the ends of the time window: relative standard errors near 1.4e-4. The
variances at two ell differ by 1% and more, of order 1/ell.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG

NUM_COORDINATES = 4096
LEARNING_RATE, CURVATURE, NOISE_STD = 0.4, 0.5, 1.5
RATE = LEARNING_RATE * CURVATURE  # 0.2, the relaxation per SGD step
BURN_IN, WINDOW = 60, 600  # SGD steps
# A half of a batch has twice the batch's variance.
SUB_BATCH_STD = {"independent": 1.0, "halves": 2**0.5}


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


@pytest.mark.filterwarnings("ignore:With ell=")
@pytest.mark.parametrize("pairing", SUB_BATCH_STD)
@pytest.mark.parametrize("ell", [1, 2, 4, 8])
def test_stationary_variance_is_the_exact_one(ell, pairing):
    variance, error = measured_variance(ell, pairing)
    expected = LEARNING_RATE * NOISE_STD**2 / (CURVATURE * (2 - RATE / ell))
    assert error < 2e-4 * variance
    assert abs(variance - expected) < 3 * error
