"""Coverage of the confidence sets, simulated.

A set that is too high rules too little out, one that is too low too much: the
rates of both are counted apart. Each bound is what the rule was found to have,
and three standard errors of the simulated rate are added to it.
"""

import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate
from tests.helpers.trajectories import (
    coverage,
    estimates,
    ratio_of_means,
    sgd_trajectories,
)

pytestmark = pytest.mark.slow
RUNS = 1000


def rates(runs, truth):
    """Shares of sets above and below the truth, and the median set."""
    sets = np.array([run.interval() for run in runs])
    low, high = sets.T
    return np.mean(low > truth), np.mean(high < truth), np.median(sets, 0)


def bound(nominal, runs=RUNS):
    return nominal + 3 * np.sqrt(nominal * (1 - nominal) / runs)


def draw_pairs(rng, shape, noise_to_signal, dimension):
    """Observations with G = 1 and isotropic Gaussian noise.

    The half sum and the half difference of a pair are independent, so three
    draws stand for a pair of any dimension.
    """
    variance = noise_to_signal / dimension / 2
    along = 1 + variance**0.5 * rng.standard_normal(shape)
    mean = along**2 + variance * rng.chisquare(dimension - 1, shape)
    difference = variance * rng.chisquare(dimension, shape)
    return mean - difference, 2 * difference


@pytest.mark.parametrize(
    ("ratio", "pairs", "dimension"),
    [(1, 20, 1000), (10, 100, 30), (100, 20, 30), (100, 400, 1000)],
)
def test_sets_of_independent_pairs_rarely_err(ratio, pairs, dimension):
    rng = np.random.default_rng([ratio, pairs, dimension])
    pairs = draw_pairs(rng, (RUNS, pairs), ratio, dimension)
    high, low, _ = rates(estimates(*pairs, batch_size=1), ratio)
    assert high <= bound(0.025)
    assert low <= bound(0.03)


def autoregressive(rng, shape, correlation):
    """Standard normal series of shape (2, *shape), correlated along it."""
    z = rng.normal(size=(2, *shape))
    for t in range(1, shape[-1]):
        z[..., t] *= (1 - correlation**2) ** 0.5
        z[..., t] += correlation * z[..., t - 1]
    return z


def test_sets_of_correlated_observations_rarely_err():
    # (1 + 0.8) / (1 - 0.8): errors of single observations are 3 times too
    # small.
    z = autoregressive(np.random.default_rng(0), (RUNS, 400), 0.8)
    runs = estimates(1 + z[0], 10 + 3 * z[1], batch_size=1)
    high, low, ends = rates(runs, 10)
    assert high <= bound(0.03)
    assert low <= bound(0.04)
    assert 6 < ends[0] and ends[1] < 20


def bursts(rng, shape, correlation=0.6, size=1.5):
    """Log-normal bursts of mean 1: the top 1% carry 15% of the sum."""
    z = autoregressive(rng, shape, correlation)[0]
    return np.exp(size * z - size**2 / 2)


def test_sets_of_a_gradient_in_bursts_rarely_err():
    rng = np.random.default_rng(5)
    count = 2 * RUNS
    signal = bursts(rng, (count, 400))
    other = rng.normal(size=(2, count, 400))
    runs = estimates(
        signal + other[0], 10 + 2 * other[1] + 2 * signal, batch_size=1
    )
    high, low, ends = rates(runs, 12)
    assert high <= bound(0.03, count)
    # Without the skewness, which moves both ends up, almost none is too low.
    assert 0.01 <= low <= bound(0.04, count)
    assert 0.55 < ends[0] / 12 and ends[1] / 12 < 1.6


@pytest.mark.parametrize("count", [10, 30])
def test_means_of_probes_at_several_weights_rarely_err(count):
    # Each probe knows its own mean, but the means move.
    rng = np.random.default_rng(count)
    z = np.exp(0.5 * autoregressive(rng, (RUNS, count), 0.3))
    means = np.exp(0.5**2 / 2)
    runs = [
        NoiseEstimate.mean_of(
            NoiseEstimate(g, s, 0.01, 0.01, 0.0, 32, batch_size=1)
            for g, s in run.T
        )
        for run in np.stack([z[0], 10 * z[1]], 1)
    ]
    high, low, _ = rates(runs, 10 * means / means)
    assert high <= bound(0.025)
    assert low <= bound(0.036)


def test_sets_over_seeds_rarely_err_and_are_narrower():
    rng = np.random.default_rng(7)
    signal = bursts(rng, (3 * 600, 200))
    other = rng.normal(size=(2, 3 * 600, 200))
    runs = estimates(signal + other[0], 10 + other[1], batch_size=1)
    seeds = [
        NoiseEstimate.over_runs(runs[i : i + 3]) for i in range(0, 1800, 3)
    ]
    high, low, ends = rates(seeds, 10)
    assert high <= bound(0.03, 600)
    assert low <= bound(0.04, 600)
    one = rates(runs, 10)[2]
    # 1 / √3, and Student's quantile is smaller.
    assert 0.4 < (ends[1] - ends[0]) / (one[1] - one[0]) < 0.7


def test_interval_covers_along_a_real_trajectory():
    g, s, truth = sgd_trajectories("with_replacement", 600, 500, 8, 200, 100)
    runs = estimates(g, s, batch_size=8)
    assert 0.92 <= coverage(runs, truth) <= 0.985


def shuffled_readings(rate, spread):
    g, s, truth = sgd_trajectories(
        "shuffle", 300, 500, 8, steps=620, skip=62, rate=rate, spread=spread
    )
    raw = estimates(g, s, batch_size=8, num_examples=500)
    corrected = estimates(
        g, s, batch_size=8, num_examples=500, sampling="shuffle"
    )
    return raw, corrected, truth


def test_shuffled_batches_at_fixed_weights_need_the_correction():
    raw, corrected, truth = shuffled_readings(rate=0.0, spread=3.0)
    truth = truth[0]
    # The mean of Ĝ is G - S / (n - 1), that of Ŝ is S n / (n - 1).
    expected = truth * 500 / 499 / (1 - truth * 8 / 499)
    assert expected > 1.1 * truth
    # A run of 620 pairs knows G to about 15%, 300 of them to 1%.
    assert abs(ratio_of_means(raw) / expected - 1) < 0.03
    assert abs(ratio_of_means(corrected) / truth - 1) < 0.03
    assert coverage(corrected, truth) >= 0.93
    assert coverage(raw, truth) < coverage(corrected, truth)
    assert all(run.noise_scale_warning for run in raw)
