"""The confidence sets, each against the tests that it inverts."""

import itertools
import math

import numpy as np
import pytest
from scipy import fft, optimize, special, stats

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
    student_t_quantile,
)

RATIOS = np.linspace(0, 200, 200_001)


def test_student_t_is_within_its_quantile_with_the_level_s_probability():
    for level, dof in itertools.product((0.5, 0.95, 0.999), (1, 5, 10**7)):
        t = student_t_quantile(level, dof)
        # Abramowitz and Stegun 26.7.1, by the incomplete beta function.
        outside = special.betainc(dof / 2, 0.5, dof / (dof + t**2))
        assert outside == pytest.approx(1 - level, rel=1e-9)


def check_ends(accepted, low, high):
    """Asserts that the accepted of `RATIOS` are those from low to high."""
    near_an_end = (np.abs(RATIOS - low) < 2e-3) | (np.abs(RATIOS - high) < 2e-3)
    inside = (low <= RATIOS) & (RATIOS <= high)
    np.testing.assert_array_equal(accepted[~near_an_end], inside[~near_an_end])


@pytest.mark.parametrize(
    "g, n, g_se, n_se, cross, bounded",
    [
        (1.0, 5.0, 0.2, 0.5, -0.05, True),
        (1.0, 5.0, 0.2, 0.5, 0.09, True),
        (1.0, 0.5, 0.2, 0.5, -0.05, True),
        (0.3, 5.0, 0.2, 0.5, -0.05, False),
        (-0.1, 5.0, 0.2, 0.5, -0.05, False),
        (-0.3, 5.0, 0.2, 0.5, 0.09, False),
        (0.4, 5.0, 0.2, 0.5, 0.0, False),
    ],
)
def test_fieller_interval_inverts_the_test_of_every_ratio(
    g, n, g_se, n_se, cross, bounded
):
    quantile = 2.0
    covariance = [[g_se**2, cross], [cross, n_se**2]]
    low, high = fieller_interval((g, n), covariance, quantile)
    assert math.isfinite(high) == bounded
    variance = n_se**2 - 2 * RATIOS * cross + RATIOS**2 * g_se**2
    check_ends((n - RATIOS * g) ** 2 <= quantile**2 * variance, low, high)
    if bounded:
        assert low <= n / g <= high


def test_fieller_interval_of_exact_means_is_their_ratio():
    exact = np.zeros((2, 2))
    assert fieller_interval((2.0, 6.0), exact, 2.0) == (3.0, 3.0)
    # Noise without any signal.
    infinite = (math.inf, math.inf)
    assert fieller_interval((0.0, 6.0), exact, 2.0) == infinite


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
    unknown = np.full(60, np.nan)
    for once in (np.arange(60.0), unknown):
        assert distinct(z, once) is z
    # Later epochs that say the same add nothing.
    again = distinct(np.tile(z, (5, 1)), np.tile(np.arange(60.0)[::-1], 5))
    np.testing.assert_allclose(again, z, atol=1e-12)
    # However often each comes: the mean is kept, and the sum of squares is
    # that of clusters.
    ids = np.random.default_rng(1).integers(0, 9, 60) / 2
    rows, deviations = distinct(z, ids), z - z.mean(0)
    np.testing.assert_allclose(rows.mean(0), z.mean(0), atol=1e-15)
    clusters = deviations.T @ (ids[:, None] == ids) @ deviations / 60**2
    spread = (rows - z.mean(0)).T @ (rows - z.mean(0)) / len(rows) ** 2
    np.testing.assert_allclose(spread, clusters, rtol=1e-12)
    order = ids[np.sort(np.unique(ids, return_index=True)[1])]
    sums = [deviations[ids == number].sum(0) for number in order]
    np.testing.assert_allclose(
        (rows - z.mean(0)) * 60 / len(rows), sums, atol=1e-12
    )


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
    # A mean that is skewed to the right seldom has a large t: its error is
    # then large too.
    assert (skewed_quantile(1.0, skewness) < 1.0) == (skewness > 0.01)


def test_no_t_is_large_enough_for_some_quantiles():
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
    g, s = z.mean(0)
    assert g > 0
    t = stats.t.ppf((1 + level) / 2, dof)

    d = (blocks - blocks.mean(0)) @ [-s / g, 1]
    worst, cube = d.argmin(), np.sum(d**2) ** 1.5
    threat = min(
        (np.sum(d**3) + d[worst] ** 3) / cube,
        stats.skew(-blocks[:, 0]) / 32**0.5,
    )
    # Both are far from 0, and of a sign that moves the ends.
    assert abs(threat) > 0.1 and abs(np.sum(d**3) / cube) > 0.1

    def t_of(means):
        difference = means @ [-RATIOS, np.ones_like(RATIOS)]
        direction = np.stack([-RATIOS, np.ones_like(RATIOS)])
        variance = np.sum(direction * (covariance @ direction), 0)
        return difference / np.sqrt(variance)

    with_worst_twice = (z.mean(0) * 33 + blocks[worst] - z.mean(0)) / 33
    above_low = t_of(with_worst_twice) <= skewed_quantile(t, threat)
    below_high = t_of(z.mean(0)) >= skewed_quantile(-t, np.sum(d**3) / cube)
    ends = RunRatio(z.mean(0), covariance, blocks).interval(t)
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


def test_a_run_without_blocks_has_fieller_s_set():
    covariance = np.array([[0.04, 0.02], [0.02, 0.25]])
    ends = RunRatio((1.0, 5.0), covariance, ()).interval(2.0)
    assert ends == fieller_interval((1.0, 5.0), covariance, 2.0)


@pytest.mark.parametrize(
    "v, t, rho",
    [
        (0.9, 8.0, 0.9),  # V / G
        (0.1, 8.0, 0.5),  # at least T / N
        (5.0, 8.0, 8.0**0.5),  # at most the root of T
    ],
)
def test_low_end_of_a_probe_has_the_variance_of_the_ratio_under_test(v, t, rho):
    g, n, batch_size, count, quantile = 1.0, 16.0, 4, 50, 2.1
    covariance = np.array([[0.02, -0.01], [-0.01, 0.4]])
    # Var of N - q G, and with that of G where G is N / q.
    ratios = RATIOS[1:]
    own = np.sum(
        np.stack([-ratios, np.ones_like(ratios)])
        * (covariance @ np.stack([-ratios, np.ones_like(ratios)])),
        axis=0,
    )
    of_g = 4 * rho * n / (ratios * count) + 2 * t / (count * (count - 1))
    under = own + ratios**2 * (of_g - covariance[0, 0])
    square = (n - ratios * g) ** 2 / quantile**2
    expected_low = min(ratios[square <= v].min() for v in (own, under))
    expected_high = ratios[square <= own].max()

    unit = np.array([1, batch_size])
    low, high = probe_interval(
        unit * (g, n),
        covariance * np.outer(unit, unit),
        (v, t),
        count,
        batch_size,
        quantile,
    )
    assert low / batch_size == pytest.approx(expected_low, abs=2e-3)
    assert high / batch_size == pytest.approx(expected_high, abs=2e-3)
    assert ratios[square <= own].min() > expected_low + 0.1


def test_halves_say_yes_no_or_that_it_is_not_known():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    still, moved = 10 + noise, 10 + noise + 30 * (np.arange(400) >= 200)
    answer, interval = halves(still, margin=1.5)
    assert answer == "yes"
    assert 1 / 1.5 < interval.low < 1 < interval.high < 1.5
    answer, interval = halves(moved, margin=1.5)
    assert answer == "no"
    # The second over the first.
    assert interval.low < 4 < interval.high
    assert interval.low > 1.5
    assert halves(moved[::-1], margin=1.5)[0] == "no"
    assert halves(still + 100 * noise, margin=1.5)[0] is None


def test_halves_interval_is_that_of_two_one_sided_tests():
    x = 10 + np.random.default_rng(1).normal(size=300)
    variance = np.mean(
        [covariance_of_mean(h[:, None], 8)[0] for h in (x[:150], x[150:])]
    )
    expected = fieller_interval(
        (x[:150].mean(), x[150:].mean()),
        variance * np.eye(2),
        stats.t.ppf(0.9, 16),
    )
    assert halves(x, 2.0, level=0.9)[1] == pytest.approx(expected)


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


def test_halves_leave_out_what_is_not_finite():
    x = 10 + np.random.default_rng(0).normal(size=100)
    with_gaps = np.insert(x, [3, 60, 61], [math.nan, math.inf, math.nan])
    assert halves(with_gaps, 1.5) == halves(x, 1.5)
    assert halves([1.0, 2.0, 3.0], 1.5) == (None, (0.0, math.inf))
