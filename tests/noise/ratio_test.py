"""The confidence sets, each against the tests that it inverts."""

import math

import numpy as np
import pytest
from scipy import fft, optimize, stats

from keras_svag.noise.ratio import (
    RunRatio,
    block_means,
    covariance_of_mean,
    distinct,
    fieller_interval,
    halves,
    probe_interval,
    skewed_quantile,
    skewness_of_mean,
)

RATIOS = np.linspace(0, 200, 200_001)[1:]
DIRECTIONS = np.stack([-RATIOS, np.ones_like(RATIOS)])


def variance(covariance):
    """Var(N - q G) of every ratio q."""
    return np.sum(DIRECTIONS * (np.asarray(covariance) @ DIRECTIONS), axis=0)


def check_ends(accepted, low, high):
    """Asserts that the accepted of `RATIOS` are those from low to high."""
    near_an_end = (np.abs(RATIOS - low) < 2e-3) | (np.abs(RATIOS - high) < 2e-3)
    inside = (low <= RATIOS) & (RATIOS <= high)
    np.testing.assert_array_equal(accepted[~near_an_end], inside[~near_an_end])


@pytest.mark.parametrize(
    "g, n, cross, bounded",
    [
        (1.0, 5.0, -0.05, True),
        (1.0, 5.0, 0.09, True),
        (1.0, 0.5, -0.05, True),
        (0.3, 5.0, -0.05, False),
        (-0.3, 5.0, 0.09, False),
        (0.4, 5.0, 0.0, False),
    ],
)
def test_fieller_interval_inverts_the_test_of_every_ratio(g, n, cross, bounded):
    covariance = [[0.2**2, cross], [cross, 0.5**2]]
    low, high = fieller_interval((g, n), covariance, 2.0)
    assert math.isfinite(high) == bounded
    accepted = (n - RATIOS * g) ** 2 <= 2.0**2 * variance(covariance)
    check_ends(accepted, low, high)
    # Without blocks that of a run is the same.
    assert RunRatio((g, n), np.array(covariance), ()).interval(2.0) == (
        low,
        high,
    )


def test_fieller_interval_of_exact_means_is_their_ratio():
    exact = np.zeros((2, 2))
    assert fieller_interval((2.0, 6.0), exact, 2.0) == (3.0, 3.0)
    # Noise without any signal.
    infinite = (math.inf, math.inf)
    assert fieller_interval((0.0, 6.0), exact, 2.0) == infinite
    # A G that is below 0 says nothing, though the ratio is positive.
    assert fieller_interval((-2.0, -6.0), exact, 2.0) == (0.0, math.inf)


@pytest.mark.parametrize("length, cosines", [(400, 16), (47, 15), (2, 1)])
def test_long_run_covariance_is_that_of_the_first_cosines(length, cosines):
    z = np.random.default_rng(0).normal(size=(length, 2)).cumsum(axis=0)
    covariance, dof = covariance_of_mean(z)
    assert dof == cosines
    # Of the second kind: cosines of (t + 1/2) / T.
    waves = fft.dct(z, type=2, axis=0)[1 : cosines + 1] / math.sqrt(2) / length
    np.testing.assert_allclose(covariance, waves.T @ waves / cosines)


def test_batches_that_come_again_are_rows_of_one():
    z = np.random.default_rng(0).normal(size=(60, 2))
    for once in (np.arange(60.0), np.full(60, np.nan)):
        assert distinct(z, once) is z
    # Later epochs that say the same add nothing.
    again = distinct(np.tile(z, (5, 1)), np.tile(np.arange(60.0)[::-1], 5))
    np.testing.assert_allclose(again, z, atol=1e-12)
    # However often each comes: the mean is kept, and the deviations of a
    # batch add up.
    ids = np.random.default_rng(1).integers(0, 9, 60) / 2
    order = ids[np.sort(np.unique(ids, return_index=True)[1])]
    sums = [(z - z.mean(0))[ids == number].sum(0) for number in order]
    rows = z.mean(0) + np.array(sums) * len(order) / 60
    np.testing.assert_allclose(distinct(z, ids), rows, atol=1e-12)


def test_blocks_are_equal_and_in_order():
    z = np.arange(64.0).reshape(32, 2)
    np.testing.assert_array_equal(block_means(z), z)
    np.testing.assert_array_equal(block_means(z, 2), [[15, 16], [47, 48]])


def test_skewness_is_that_of_the_blocks_over_the_root_of_their_number():
    blocks = np.random.default_rng(0).exponential(size=32)
    skewness = stats.skew(blocks)
    assert skewness_of_mean(blocks) == pytest.approx(skewness / math.sqrt(32))
    assert skewness_of_mean(np.full(7, 0.1)) == 0
    # A third moment in which one block is there twice.
    twice = stats.moment(blocks, 3) * 32 + (blocks[4] - blocks.mean()) ** 3
    assert skewness_of_mean(blocks, twice=4) == pytest.approx(
        twice / (np.var(blocks) * 32) ** 1.5
    )


@pytest.mark.parametrize("skewness", [-0.8, -0.1, 1e-12, 0.1, 0.8])
def test_skewed_quantile_is_where_johnson_s_transform_has_the_quantile(
    skewness,
):
    a = 2 / 3 * skewness

    def distance(t, quantile):
        return np.expm1(a * t) / a + skewness / 6 - quantile

    for quantile in (-1.5, -0.5, 0.5, 1.0):
        root = optimize.brentq(distance, -50, 50, args=(quantile,))
        assert skewed_quantile(quantile, skewness) == pytest.approx(root)
    # No t is large enough for some.
    assert skewed_quantile(5.0, -0.8) == math.inf
    assert skewed_quantile(-5.0, 0.8) == -math.inf


def skewed_run(bursts_of, length=300):
    """G and S of a run, one of which comes in bursts."""
    rng = np.random.default_rng(11)
    z = np.array([1.0, 5.0]) + rng.normal(size=(length, 2))
    z[:, bursts_of] += rng.exponential(8, length) * (rng.random(length) < 0.03)
    return z


@pytest.mark.parametrize("bursts_of", [0, 1])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_each_end_of_a_run_s_set_inverts_its_own_skewed_test(bursts_of, level):
    z = skewed_run(bursts_of)
    blocks = np.array([part.mean(0) for part in np.array_split(z, 32)])
    covariance, dof = covariance_of_mean(z)
    g, s = mean = z.mean(0)
    t = stats.t.ppf((1 + level) / 2, dof)

    d = (blocks - blocks.mean(0)) @ [-s / g, 1]
    worst, cube = d.argmin(), np.sum(d**2) ** 1.5
    skewness = np.sum(d**3) / cube
    threat = min(
        (np.sum(d**3) + d[worst] ** 3) / cube,
        stats.skew(-blocks[:, 0]) / 32**0.5,
    )
    # Both are far from 0, and of a sign that moves the ends.
    assert abs(threat) > 0.1 and abs(skewness) > 0.1

    with_worst_twice = (mean * 33 + blocks[worst] - mean) / 33
    error = np.sqrt(variance(covariance))
    above_low = (
        with_worst_twice @ DIRECTIONS <= skewed_quantile(t, threat) * error
    )
    below_high = mean @ DIRECTIONS >= skewed_quantile(-t, skewness) * error
    ends = RunRatio(mean, covariance, blocks).interval(t)
    assert 0 < ends.low < s / g < ends.high < 200
    check_ends(above_low & below_high, *ends)


def test_g_is_negative_beyond_the_quantile_of_its_own_skewness():
    z = skewed_run(bursts_of=0)
    blocks, (covariance, _) = block_means(z), covariance_of_mean(z)
    skewness = skewness_of_mean(-blocks[:, 0])
    edge = skewed_quantile(2.0, skewness) * math.sqrt(covariance[0, 0])
    for g, sign in (
        (-0.99 * edge, "not told apart from 0"),
        (-1.01 * edge, "negative"),
    ):
        assert RunRatio((g, 5.0), covariance, blocks).sign_of_g(2.0) == sign


@pytest.mark.parametrize(
    "v, rho",
    [
        (0.9, 0.9),  # V / G
        (0.1, 0.5),  # at least T / N
        (5.0, 8.0**0.5),  # at most the root of T
    ],
)
def test_low_end_of_a_probe_has_the_variance_of_the_ratio_under_test(v, rho):
    g, n, t, batch_size, count, quantile = 1.0, 16.0, 8.0, 4, 50, 2.1
    covariance = np.array([[0.02, -0.01], [-0.01, 0.4]])
    # Var of N - q G, and with that of G where G is N / q.
    own = variance(covariance)
    of_g = 4 * rho * n / (RATIOS * count) + 2 * t / (count * (count - 1))
    under = own + RATIOS**2 * (of_g - covariance[0, 0])
    square = (n - RATIOS * g) ** 2 / quantile**2
    lows = [RATIOS[square <= v].min() for v in (under, own)]
    assert lows[1] > lows[0] + 0.1

    unit = np.array([1, batch_size])
    ends = probe_interval(
        unit * (g, n),
        covariance * np.outer(unit, unit),
        (v, t),
        count,
        batch_size,
        quantile,
    )
    expected = lows[0], RATIOS[square <= own].max()
    assert np.divide(ends, batch_size) == pytest.approx(expected, abs=2e-3)


def test_halves_say_yes_no_or_that_it_is_not_known():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    still, moved = 10 + noise, 10 + noise + 30 * (np.arange(400) >= 200)
    gaps = np.insert(still, [3, 60, 61], [math.nan, math.inf, math.nan])
    for x, answer in (
        (still, "yes"),
        (gaps, "yes"),
        (moved, "no"),
        (moved[::-1], "no"),
        (still + 100 * noise, None),
    ):
        assert halves(x, 1.5)[0] == answer
    assert halves(gaps, 1.5) == halves(still, 1.5)
    assert halves([1.0, 2.0, 3.0], 1.5) == (None, (0.0, math.inf))
    # The second over the first, by two one-sided tests.
    parts = moved[:200, None], moved[200:, None]
    variances = [covariance_of_mean(part, 8)[0] for part in parts]
    expected = fieller_interval(
        [part.mean() for part in parts],
        np.mean(variances) * np.eye(2),
        stats.t.ppf(0.9, 16),
    )
    assert halves(moved, 2.0, level=0.9)[1] == pytest.approx(expected)


def test_no_of_two_series_asks_for_more():
    # The means differ by just the margin, and its other end is far.
    rng = np.random.default_rng(0)
    runs = 10 + rng.normal(0, 3, size=(1000, 100))
    runs[:, 50:] *= 1.5

    def rates(num_series):
        answers = [halves(x, 1.5, num_series=num_series)[0] for x in runs]
        return [answers.count(answer) / len(runs) for answer in ("yes", "no")]

    (yes, no), (yes_of_each, no_of_each) = rates(1), rates(2)
    for rate, level in ((yes, 0.05), (no, 0.025), (no_of_each, 0.0125)):
        assert abs(rate - level) < 3 * np.sqrt(level / len(runs))
    assert no_of_each < 0.75 * no
    assert yes_of_each == yes
