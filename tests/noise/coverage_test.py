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


def bursts(rng, length, correlation=0.6, size=1.5):
    """Log-normal bursts of mean 1: the top 1% carry 15% of the sum."""
    z = rng.normal(size=(RUNS, length))
    for t in range(1, length):
        z[:, t] *= (1 - correlation**2) ** 0.5
        z[:, t] += correlation * z[:, t - 1]
    return np.exp(size * z - size**2 / 2)


def ends(g, s, batches=None):
    """The low and the high ends of all runs."""
    runs = (
        NoiseEstimate.from_observations(*run, batches, batch_size=1)
        for run in zip(g, s, strict=True)
    )
    return np.transpose([run.interval() for run in runs])


def test_sets_of_a_gradient_in_bursts_rarely_err():
    rng = np.random.default_rng(5)
    signal = bursts(rng, 400)
    other = rng.normal(size=(2, RUNS, 400))
    low, high = ends(signal + other[0], 10 + 2 * other[1] + 2 * signal)
    assert np.mean(low > 12) <= bound(0.03)
    # Without the skewness, which moves both ends up, almost none is too low.
    assert 0.01 <= np.mean(high < 12) <= bound(0.04)
    assert 0.55 < np.median(low) / 12 and np.median(high) / 12 < 1.6


def test_sets_of_batches_that_come_again_rarely_err():
    rng = np.random.default_rng(6)
    of_batch = np.tile(rng.normal(size=(2, RUNS, 100)), 10)
    g, s = of_batch + 0.3 * rng.normal(size=of_batch.shape)
    batches = np.tile(np.arange(100), 10)
    for given, is_right in ((batches, True), (None, False)):
        low, high = ends(1 + g, 10 + 2 * s - g, given)
        wrong = np.mean(low > 10), np.mean(high < 10)
        assert (max(wrong) <= bound(0.04)) == is_right, wrong
