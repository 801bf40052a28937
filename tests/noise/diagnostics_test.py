import math

import numpy as np
import pytest
from scipy import signal

from keras_svag.noise.diagnostics import (
    effective_sample_size,
    largest_share,
    sample_size_over_runs,
)


def autoregressive(rng, runs, length, correlation):
    """Stationary series of shape (runs, length)."""
    noise = rng.normal(size=(runs, length))
    noise[:, 0] /= (1 - correlation**2) ** 0.5
    return signal.lfilter([1], [1, -correlation], noise, axis=1)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.8])
def test_sample_size_is_that_of_independent_observations(correlation):
    runs, length = 400, 2000
    rng = np.random.default_rng(0)
    s = 10 + autoregressive(rng, runs, length, correlation)
    g = np.ones(length)
    # The variance of a mean is T / size times that of independent ones: by the
    # sum of the autocorrelations it is (1 + c) / (1 - c) times.
    inflations = [
        length / effective_sample_size(np.stack([g, run], axis=1)) for run in s
    ]
    expected = (1 + correlation) / (1 - correlation)
    # Each has an error of √(2 / 16), and 1% for what the highest of 16 cosines
    # misses of the lowest frequencies.
    error = math.sqrt(2 / 16 / runs) * expected
    assert abs(np.mean(inflations) - expected) < 3 * error + 0.01 * expected


def test_sample_size_is_that_of_the_difference():
    # S follows G, which wanders: what is left of S - q G is independent.
    rng = np.random.default_rng(1)
    runs, length, ratio = 200, 1000, 3.0
    g = 5 + autoregressive(rng, runs, length, 0.95)
    s = ratio * g + rng.normal(size=(runs, length))

    def inflation(g):
        sizes = [
            effective_sample_size(np.stack(run, axis=1))
            for run in zip(g, s, strict=True)
        ]
        return np.mean(length / np.array(sizes))

    assert abs(inflation(g) - 1) < 3 * math.sqrt(2 / 16 / runs) + 0.02
    # Where G is not above 0 it is that of G.
    assert inflation(-g) > 20


def test_there_is_none_of_what_does_not_vary():
    pair = np.ones((50, 2))
    with np.errstate(over="ignore", invalid="ignore"):
        for z in (pair[:0], pair[:1], pair, 0 * pair, 1e308 * pair[:9]):
            assert effective_sample_size(z) is None


@pytest.mark.parametrize("count, largest", [(2, 1), (100, 1), (101, 2)])
def test_share_is_that_of_the_largest_hundredth_part(count, largest):
    rng = np.random.default_rng(3)
    g, s = rng.normal(size=count), rng.exponential(size=count)
    shares = largest_share(np.stack([g, s], axis=1))
    for share, sizes in zip(shares, (np.abs(g), s), strict=True):
        sizes = sorted(sizes, reverse=True)
        assert share == pytest.approx(sum(sizes[:largest]) / sum(sizes))


def test_share_of_one_burst_is_all():
    z = np.full((50, 2), 1e-9)
    z[17] = 1e200, 1e-300
    assert largest_share(z)[0] == pytest.approx(1)
    assert largest_share(z[:1]) is None
    assert largest_share(z * [1, 0]) is None


def test_sizes_of_runs_are_those_of_their_weighted_mean():
    # Plain variances 2 and 8 of D, and sizes of 50 and 20: of a mean with the
    # weights 1/4 and 3/4 of them.
    weights, plain, sizes = np.array([0.25, 0.75]), np.array([2, 8]), (50, 20)
    parts = weights**2 * plain / sizes
    expected = weights @ plain / parts.sum()
    found = sample_size_over_runs(parts, weights, sizes)
    assert found == pytest.approx(expected)
    assert sample_size_over_runs(parts, weights, (50, None)) is None
    assert sample_size_over_runs(0 * parts, weights, sizes) is None
    nan = np.full(2, math.nan)
    assert sample_size_over_runs(nan, weights, sizes) is None
