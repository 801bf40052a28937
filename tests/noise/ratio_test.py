"""The confidence sets, each against the tests that it inverts."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import optimize, stats

from keras_svag import NoiseEstimate

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
    ("g", "n", "cross", "degrees", "bounded"),
    [
        (1.0, 5.0, -0.05, {"count": 200}, True),
        (1.0, 5.0, 0.09, {"count": 10}, True),
        (1.0, 0.5, -0.05, {"count": 200}, True),
        (1.0, 5.0, 0.0, {"count": 200, "degrees_of_freedom": 4}, True),
        (0.3, 5.0, -0.05, {"count": 200}, False),
        (-0.3, 5.0, 0.09, {"count": 200}, False),
        (0.3, 5.0, 0.0, {"count": 200}, False),
    ],
)
def test_set_without_blocks_inverts_the_test_of_every_ratio(
    g, n, cross, degrees, bounded
):
    one = NoiseEstimate(g, n, 0.2, 0.5, cross, batch_size=1, **degrees)
    low, high = one.interval(0.9)
    assert math.isfinite(high) == bounded
    dof = degrees.get("degrees_of_freedom", degrees["count"] - 1)
    square = stats.t.ppf(0.95, dof) ** 2
    own = variance([[0.2**2, cross], [cross, 0.5**2]])
    check_ends((n - RATIOS * g) ** 2 <= square * own, low, high)
    # The bands of G and of N are Student's.
    bands = one.bands(0.9)
    for name, value, error in (
        ("grad_sq_norm", g, 0.2),
        ("noise_trace", n, 0.5),
    ):
        ends = value - square**0.5 * error, value, value + square**0.5 * error
        assert bands[name] == pytest.approx(ends)


@pytest.mark.parametrize(
    ("g", "n", "ends"),
    [
        (2.0, 6.0, (3.0, 3.0)),
        # Noise without any signal.
        (0.0, 6.0, (math.inf, math.inf)),
        # A G that is below 0 says nothing, though the ratio is positive.
        (-2.0, -6.0, (0.0, math.inf)),
    ],
)
def test_set_of_exact_means_is_their_ratio(g, n, ends):
    exact = NoiseEstimate(g, n, 0.0, 0.0, 0.0, count=10, batch_size=1)
    assert exact.interval() == ends
    # Blocks that differ by rounding alone have no skewness.
    alike = NoiseEstimate.from_observations([g] * 99, [n] * 99, batch_size=1)
    assert alike.interval() == pytest.approx(ends)


def skewed_run(bursts_of, length=300):
    """G and S of a run, one of which comes in bursts."""
    rng = np.random.default_rng(11)
    z = np.array([1.0, 5.0]) + rng.normal(size=(length, 2))
    z[:, bursts_of] += rng.exponential(8, length) * (rng.random(length) < 0.03)
    return z, NoiseEstimate.from_observations(*z.T, batch_size=1)


def johnson(t, skewness):
    """Student's t in place of the t of a mean that has this skewness."""
    a = 2 / 3 * skewness
    return np.expm1(a * t) / a + skewness / 6


@pytest.mark.parametrize("bursts_of", [0, 1])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_each_end_of_a_run_s_set_inverts_its_own_skewed_test(bursts_of, level):
    z, one = skewed_run(bursts_of)
    blocks = np.array([part.mean(0) for part in np.array_split(z, 32)])
    g, s = mean = z.mean(0)
    t = stats.t.ppf((1 + level) / 2, 16)

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
    error = np.sqrt(variance(one.covariance_matrix))
    above_low = johnson(with_worst_twice @ DIRECTIONS / error, threat) <= t
    below_high = johnson(mean @ DIRECTIONS / error, skewness) >= -t
    ends = one.interval(level)
    assert 0 < ends.low < s / g < ends.high < 200
    check_ends(above_low & below_high, *ends)


def test_g_is_negative_beyond_the_quantile_of_its_own_skewness():
    _, one = skewed_run(bursts_of=0)
    skewness = stats.skew(np.array(one.blocks)[:, 0]) / 32**0.5
    t = stats.t.ppf(0.975, 16)
    edge = optimize.brentq(lambda x: johnson(x, skewness) + t, -50, 0)
    for factor, sign in ((0.99, "not told apart from 0"), (1.01, "negative")):
        g = factor * edge * one.grad_sq_norm_se
        moved = dataclasses.replace(one, grad_sq_norm=g)
        assert moved.grad_sq_norm_sign() == sign


@pytest.mark.parametrize(
    ("v", "rho"),
    [
        (0.9, 0.9),  # V / G
        (0.1, 0.5),  # at least T / N
        (5.0, 8.0**0.5),  # at most the root of T
    ],
)
def test_low_end_of_a_probe_has_the_variance_of_the_ratio_under_test(v, rho):
    g, n, t, size, count, dof = 1.0, 16.0, 8.0, 4, 50, 16
    covariance = np.array([[0.02, -0.01], [-0.01, 0.4]])
    # Var of N - q G, and with that of G where G is N / q.
    own = variance(covariance)
    of_g = 4 * rho * n / (RATIOS * count) + 2 * t / (count * (count - 1))
    under = own + RATIOS**2 * (of_g - covariance[0, 0])
    square = (n - RATIOS * g) ** 2 / stats.t.ppf(0.975, dof) ** 2
    lows = [RATIOS[square <= v].min() for v in (under, own)]
    assert lows[1] > lows[0] + 0.1

    probe = NoiseEstimate(
        *(g, size * n, 0.02**0.5, size * 0.4**0.5, size * -0.01, count, size),
        degrees_of_freedom=dof,
        probe=(v, t),
    )
    expected = lows[0], RATIOS[square <= own].max()
    assert probe.interval() == pytest.approx(expected, abs=2e-3)
    # Stated at another size, it is still of batches of its own.
    quarter = [end / 4 for end in probe.interval()]
    assert probe.at(4 * size).interval() == pytest.approx(quarter)
