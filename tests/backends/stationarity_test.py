"""SVAG's stationary variance on a quadratic, by the optimizer of the backend.

The loss is x²/2 with gradients x + s z, z standard normal. Steps of η/ell with
noise of variance ell s² have the stationary variance s² η / (2 - η/ell): that
of SGD at ell = 1, of the SDE, s² η / 2, as ell grows, off by the order 1/ell.
"""

import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_svag

RATE, NOISE, COORDINATES = 0.8, 0.5, 40_000


@pytest.mark.parametrize("ell", [1, 2, 8])
@pytest.mark.parametrize("pairing", ["independent", "halves"])
@pytest.mark.filterwarnings("ignore:With ell=1")
def test_stationary_variance_is_the_exact_one(ell, pairing):
    rng = np.random.default_rng(ell)
    x = keras.Variable(np.zeros(COORDINATES, "float32"))
    optimizer = keras_svag.SVAG(RATE, ell=ell, pairing=pairing)
    optimizer.build([x])
    # A half has twice the noise of the batch that is simulated.
    noise = NOISE * (1 if pairing == "independent" else math.sqrt(2))
    for _ in range(8 * ell):
        at = ops.convert_to_numpy(x).copy()
        for _ in range(2):
            z = rng.standard_normal(COORDINATES)
            gradient = (at + noise * z).astype("float32")
            optimizer.apply([ops.convert_to_tensor(gradient)], [x])
    variance = np.var(ops.convert_to_numpy(x))
    left = (1 - RATE / ell) ** (2 * 8 * ell)
    expected = (1 - left) * NOISE**2 * RATE / (2 - RATE / ell)
    error = expected * math.sqrt(2 / COORDINATES)
    assert abs(variance - expected) < 4 * error
    assert float(optimizer.continuous_time) == pytest.approx(8 * RATE)
