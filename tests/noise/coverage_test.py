"""Coverage of the confidence sets, simulated.

A set that is too high rules too little out, one that is too low too much: the
rates of both are counted apart. Each bound is what the rule was found to have,
and three standard errors of the simulated rate are added to it.
"""

import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate

pytestmark = pytest.mark.slow
RUNS = 2000


def bound(nominal):
    return nominal + 3 * np.sqrt(nominal * (1 - nominal) / RUNS)


def autoregressive(rng, shape, correlation):
    """Standard normal series, correlated along their last axis."""
    z = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        z[..., t] *= (1 - correlation**2) ** 0.5
        z[..., t] += correlation * z[..., t - 1]
    return z


def bursts(rng, shape, correlation=0.6, size=1.5):
    """Log-normal bursts of mean 1: the top 1% carry 15% of the sum."""
    z = autoregressive(rng, shape, correlation)
    return np.exp(size * z - size**2 / 2)


def test_sets_of_a_gradient_in_bursts_rarely_err():
    rng = np.random.default_rng(5)
    signal = bursts(rng, (RUNS, 400))
    other = rng.normal(size=(2, RUNS, 400))
    observations = signal + other[0], 10 + 2 * other[1] + 2 * signal
    low, high = np.transpose(
        [
            NoiseEstimate.from_observations(*run, batch_size=1).interval()
            for run in zip(*observations, strict=True)
        ]
    )
    assert np.mean(low > 12) <= bound(0.03)
    # Without the skewness, which moves both ends up, almost none is too low.
    assert 0.01 <= np.mean(high < 12) <= bound(0.04)
    assert 0.55 < np.median(low) / 12 and np.median(high) / 12 < 1.6


def test_sets_of_batches_that_come_again_rarely_err():
    rng = np.random.default_rng(6)
    epochs, batches = 10, np.tile(np.arange(100), 10)
    of_batch = np.tile(rng.normal(size=(2, RUNS, 100)), epochs)
    g, s = of_batch + 0.3 * rng.normal(size=of_batch.shape)
    observations = 1 + g, 10 + 2 * s - g
    for given, is_right in ((batches, True), (None, False)):
        low, high = np.transpose(
            [
                NoiseEstimate.from_observations(
                    *run, given, batch_size=1
                ).interval()
                for run in zip(*observations, strict=True)
            ]
        )
        wrong = np.mean(low > 10), np.mean(high < 10)
        assert (max(wrong) <= bound(0.04)) == is_right, wrong
