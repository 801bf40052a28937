"""What holds for every argument of the weights and the estimates."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_svag import NoiseEstimate, svag_weights
from keras_svag.noise.estimate import SAMPLING
from keras_svag.noise.ratio import (
    fieller_interval,
    halves,
    skewed_quantile,
    student_t_quantile,
)
from tests.helpers.generated import (
    anything,
    estimates,
    levels,
    magnitudes,
    observations,
)

EPS = np.finfo(float).eps


def estimate_of(values, **fields):
    return NoiseEstimate.from_observations(*values, batch_size=8, **fields)


def runs(least=2):
    """Estimates of observations; those of S are not negative."""
    return observations(least).map(
        lambda values: estimate_of([values[0], np.abs(values[1])])
    )


@given(
    st.integers(1, 10**6) | st.integers(1, 2**63 - 1),
    st.sampled_from([("independent", 1), ("halves", 2)]),
)
def test_weights_keep_the_mean_and_amplify_the_covariance(ell, kind):
    pairing, halves = kind
    w1, w2 = svag_weights(ell, pairing)
    assert w1 >= w2
    assert math.fsum((w1, w2, -1)) == pytest.approx(0, abs=2 * EPS * w1)
    # A sub-batch of B / 2 has twice the covariance of one of B.
    assert halves * (w1 / ell * w1 + w2 / ell * w2) == pytest.approx(1)
    assert svag_weights(1, pairing)[0] == (1 if halves == 1 else 0.5)


@given(observations(), st.integers(-60, 60))
def test_gradients_times_c_give_g_and_s_times_c_squared(values, power):
    # A power of two scales without rounding.
    square = 4.0**power
    ours, theirs = estimate_of(values), estimate_of(values * square)
    for name in (
        "grad_sq_norm",
        "example_noise",
        "grad_sq_norm_se",
        "example_noise_se",
    ):
        assert getattr(theirs, name) == getattr(ours, name) * square
    assert theirs.interval() == pytest.approx(ours.interval(), nan_ok=False)
    assert theirs.grad_sq_norm_sign() == ours.grad_sq_norm_sign()


@given(
    observations(values=anything),
    st.none() | st.sampled_from(SAMPLING),
    st.none() | st.just(100),
)
def test_no_observation_makes_an_estimate_fail(values, sampling, num_examples):
    estimate = estimate_of(values, sampling=sampling, num_examples=num_examples)
    check_estimate(estimate)
    assert estimate.count + estimate.num_skipped == values.shape[1]


def rounded_up(value):
    # The smallest floats have few digits, and so have the two ends where S is
    # proportional to G: they are then a double root.
    return value * (1 + 1e-7) + 1e-300


@given(estimates() | runs(), levels, levels)
def test_intervals_have_order_and_hold_the_estimate(estimate, level, other):
    low, high = estimate.interval(level)
    assert 0 <= low <= high
    if estimate.grad_sq_norm > 0 and not math.isinf(low):
        ratio = max(estimate.noise_to_signal, 0)
        assert low <= rounded_up(ratio) and ratio <= rounded_up(high)
    check_estimate(estimate)
    if estimate.grad_sq_norm >= 0:
        # Below 0 a low level calls G negative and says nothing.
        narrow, wide = sorted((level, other))
        (low, high), (lower, higher) = map(estimate.interval, (narrow, wide))
        assert lower <= rounded_up(low) and high <= rounded_up(higher)


@given(estimates() | runs(least=0))
def test_a_saved_estimate_comes_back(estimate):
    text = json.dumps(estimate.to_dict(), allow_nan=False)
    restored = NoiseEstimate.from_dict(json.loads(text))
    assert restored == estimate


@given(
    st.lists(estimates() | runs(), max_size=4),
    st.sampled_from([NoiseEstimate.mean_of, NoiseEstimate.over_runs]),
)
def test_pooling_fails_on_no_estimates(several, pool):
    several = [dataclasses.replace(e, batch_size=8) for e in several]
    result = pool(several)
    check_estimate(result)
    means = [e.grad_sq_norm for e in several if e.count]
    if means:
        slack = 1e-9 * max(map(abs, means))
        assert min(means) - slack <= result.grad_sq_norm <= max(means) + slack


def check_estimate(estimate):
    """What holds for every estimate: its ends, its words, its JSON."""
    low, high = estimate.interval()
    assert 0 <= low <= high
    assert "nan" not in estimate.describe()
    assert estimate.grad_sq_norm_sign() in (
        "positive",
        "negative",
        "not told apart from 0",
        "unknown",
    )
    assert not any(text.startswith("nan") for _, text in estimate.summary())
    json.dumps(estimate.to_dict(), allow_nan=False)


@given(
    magnitudes,
    magnitudes,
    st.floats(0, 1e15),
    st.floats(0, 1e15),
    st.floats(-1, 1),
    st.floats(0, 100) | st.just(math.inf),
)
def test_fieller_s_set_is_an_interval(above, below, a, b, correlation, t):
    low, high = fieller_interval(
        above, below, a * a, a * b * correlation, b * b, t
    )
    assert 0 <= low <= high


@given(levels, levels, st.integers(1, 10**6), st.integers(1, 10**6))
def test_student_s_quantile_is_monotone(level, other, dof, more):
    small, large = sorted((level, other))
    few, many = sorted((dof, more))
    assert student_t_quantile(small, few) <= student_t_quantile(large, few) * (
        1 + 1e-9
    )
    assert student_t_quantile(small, many) <= student_t_quantile(small, few) * (
        1 + 1e-9
    )


@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(-2, 2))
def test_skewed_quantiles_are_monotone_and_mirror_each_other(one, other, skew):
    small, large = sorted((one, other))
    assert skewed_quantile(small, skew) <= skewed_quantile(large, skew)
    mirrored = -skewed_quantile(-small, -skew)
    assert skewed_quantile(small, skew) == pytest.approx(mirrored)


@given(
    observations(least=0).map(np.ravel),
    st.floats(1.01, 100),
    st.floats(0.6, 0.999),
)
def test_halves_have_an_interval_and_an_answer(x, margin, level):
    answer, (low, high) = halves(x, margin, level)
    assert 0 <= low <= high
    assert (answer == "yes") == (1 / margin < low and high < margin)
    assert answer in ("yes", "no", None)
