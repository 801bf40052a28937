import math

import numpy as np
import pytest
from scipy import signal

from keras_svag.noise.diagnostics import (
    effective_sample_size,
    largest_share,
    sample_size_over_runs,
)

RUNS = 400


def autoregressive(rng, length, correlation):
    """Stationary series of shape (RUNS, length)."""
    noise = rng.normal(size=(RUNS, length))
    noise[:, 0] /= (1 - correlation**2) ** 0.5
    return signal.lfilter([1], [1, -correlation], noise, axis=1)


def check_inflation(g, s, expected):
    """The variance of a mean, T / size times that of independent ones."""
    length = s.shape[1]
    g = np.broadcast_to(g, s.shape)
    sizes = [effective_sample_size(z) for z in np.stack([g, s], axis=2)]
    # Each has an error of √(2 / 16), and 1% for what the highest of 16 cosines
    # misses of the lowest frequencies.
    error = 3 * math.sqrt(2 / 16 / RUNS) + 0.01
    mean = np.mean(length / np.array(sizes))
    assert mean == pytest.approx(expected, rel=error)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.8])
def test_sample_size_is_that_of_independent_observations(correlation):
    rng = np.random.default_rng(0)
    s = 10 + autoregressive(rng, 1000, correlation)
    # By the sum of the autocorrelations.
    check_inflation(1, s, (1 + correlation) / (1 - correlation))


def test_sample_size_is_that_of_the_difference():
    # S follows G, which wanders: what is left of S - q G is independent.
    rng = np.random.default_rng(1)
    g = 5 + autoregressive(rng, 1000, 0.95)
    s = 3 * g + rng.normal(size=g.shape)
    check_inflation(g, s, 1)
    # Where G is not above 0 it is that of G.
    size = effective_sample_size(np.stack([-g[0], s[0]], axis=1))
    assert size < 1000 / 10


def test_there_is_none_of_what_does_not_vary():
    pair = np.ones((50, 2))
    with np.errstate(over="ignore", invalid="ignore"):
        for z in (pair[:0], pair[:1], pair, 0 * pair, 1e308 * pair[:9]):
            assert effective_sample_size(z) is None


def test_share_is_that_of_the_largest_hundredth_part():
    z = np.random.default_rng(3).normal(size=(101, 2))
    for count, largest in ((2, 1), (100, 1), (101, 2)):
        sizes = np.sort(np.abs(z[:count]), axis=0)
        expected = sizes[-largest:].sum(0) / sizes.sum(0)
        assert largest_share(z[:count]) == pytest.approx(tuple(expected))
    # That of one burst is all, however small the others.
    z = np.full((50, 2), 1e-9)
    z[17] = 1e200, 1e-300
    assert largest_share(z)[0] == pytest.approx(1)
    assert largest_share(z[:1]) is largest_share(z * [1, 0]) is None


def test_sizes_of_runs_are_those_of_their_weighted_mean():
    # Plain variances 2 and 8 of D, and sizes of 50 and 20: of a mean with the
    # weights 1/4 and 3/4 of them.
    weights, plain, sizes = np.array([0.25, 0.75]), np.array([2, 8]), (50, 20)
    parts = weights**2 * plain / sizes
    expected = weights @ plain / parts.sum()
    found = sample_size_over_runs(parts, weights, sizes)
    assert found == pytest.approx(expected)
    assert sample_size_over_runs(parts, weights, (50, None)) is None
    for unknown in (0 * parts, math.nan * parts):
        assert sample_size_over_runs(unknown, weights, sizes) is None
