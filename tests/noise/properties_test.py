"""What holds for every argument of the weights and the estimates."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_svag import NoiseEstimate, svag_weights
from keras_svag.noise.estimate import PairSums
from keras_svag.noise.intervals import fieller_interval, student_t_quantile
from keras_svag.noise.pooling import pooled
from keras_svag.noise.sampling import SAMPLING_MODES, sampling_correction
from tests.helpers.generated import (
    anything,
    estimates,
    levels,
    magnitudes,
    observations,
)

EPS = np.finfo(float).eps


def estimate_of(values, **fields):
    sums = PairSums.of(*values).to_dict()
    return NoiseEstimate.from_sums(**sums, batch_size=8, **fields)


@given(
    st.integers(1, 10**6) | st.integers(1, 10**307),
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


@given(observations(), st.randoms())
def test_order_of_observations_does_not_matter(values, random):
    order = list(range(values.shape[1]))
    random.shuffle(order)
    ours, theirs = estimate_of(values), estimate_of(values[:, order])
    scale = np.abs(values).max() + 1
    for name in ("grad_sq_norm", "noise_trace"):
        assert getattr(ours, name) == pytest.approx(
            getattr(theirs, name), rel=1e-9, abs=1e-12 * scale
        )
        # The standard error is the root of a difference that may cancel.
        assert getattr(ours, f"{name}_se") == pytest.approx(
            getattr(theirs, f"{name}_se"), rel=1e-6, abs=1e-6 * scale
        )


@given(observations(), observations())
def test_sums_add_up(first, second):
    merged = PairSums.of(*np.hstack([first, second]))
    added = PairSums.of(*first) + PairSums.of(*second)
    bound = np.abs(np.hstack([first, second])).max() ** 2 + 1
    for ours, theirs in zip(
        dataclasses.astuple(added), dataclasses.astuple(merged), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-12 * bound)
    both = pooled([estimate_of(first), estimate_of(second)])
    whole = estimate_of(np.hstack([first, second]))
    assert both.count == whole.count
    assert both.grad_sq_norm == pytest.approx(
        whole.grad_sq_norm, abs=1e-9 * bound**0.5
    )


@given(observations(), st.integers(-60, 60))
def test_gradients_times_c_give_g_and_n_times_c_squared(values, power):
    # A power of two scales without rounding.
    square = 4.0**power
    ours, theirs = estimate_of(values), estimate_of(values * square)
    for name in (
        "grad_sq_norm",
        "noise_trace",
        "grad_sq_norm_se",
        "noise_trace_se",
    ):
        assert getattr(theirs, name) == getattr(ours, name) * square
    assert theirs.interval() == pytest.approx(ours.interval(), nan_ok=False)
    assert theirs.grad_sq_norm_sign() == ours.grad_sq_norm_sign()


@given(observations(values=anything), st.sampled_from(SAMPLING_MODES))
def test_no_observation_makes_an_estimate_fail(values, sampling):
    estimate = estimate_of(values, sampling=sampling, num_examples=100)
    corrected = estimate.corrected(sampling_correction(sampling, 100, 8, 4))
    for one in (estimate, corrected):
        check_estimate(one)
    assert estimate.count + estimate.num_skipped == values.shape[1]


def rounded_up(value):
    # The smallest floats have few digits.
    return value * (1 + 1e-9) + 1e-300


@given(estimates(), levels, levels)
def test_intervals_have_order_and_hold_the_estimate(estimate, level, other):
    low, high = estimate.interval(level)
    assert 0 <= low <= high
    if estimate.grad_sq_norm > 0 and not math.isinf(low):
        ratio = estimate.noise_to_signal
        assert low <= rounded_up(ratio) and ratio <= rounded_up(high)
    check_estimate(estimate)
    if estimate.grad_sq_norm >= 0:
        # Below 0 a low level calls G negative and says nothing.
        narrow, wide = sorted((level, other))
        (low, high), (lower, higher) = map(estimate.interval, (narrow, wide))
        assert lower <= rounded_up(low) and high <= rounded_up(higher)


@given(estimates())
def test_a_saved_estimate_comes_back(estimate):
    text = json.dumps(estimate.to_dict(), allow_nan=False)
    restored = NoiseEstimate.from_dict(json.loads(text))
    np.testing.assert_equal(
        dataclasses.asdict(restored), dataclasses.asdict(estimate)
    )


@given(st.lists(estimates(), min_size=1, max_size=4))
def test_pooling_fails_on_no_estimates(several):
    several = [dataclasses.replace(e, batch_size=8) for e in several]
    result = pooled(several)
    check_estimate(result)
    assert result.num_skipped == sum(e.num_skipped for e in several)
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
    json.dumps(estimate.to_dict(), allow_nan=False)


@given(
    st.sampled_from(SAMPLING_MODES),
    st.integers(2, 10**9),
    st.integers(1, 10**9),
    st.integers(1, 10**9),
)
def test_corrections_undo_the_bias_of_sampling(sampling, n, batch, sub_batch):
    assume(batch <= n and sub_batch < n)
    correction = sampling_correction(sampling, n, batch, sub_batch)
    # Expected (G_hat, N_hat) at G = 3 and N = 5: the covariance of distinct
    # examples is -Σ¹ / (n - 1), and N = Tr Σ¹ / B.
    g, noise = 3.0, 5.0
    expected = {
        "with_replacement": (g, noise),
        "without_replacement": (g, noise * (n - sub_batch) / (n - 1)),
        "shuffle": (g - noise * batch / (n - 1), noise * n / (n - 1)),
    }[sampling]
    np.testing.assert_allclose(
        np.array(correction) @ expected, (g, noise), rtol=1e-9, atol=1e-9
    )


@given(
    magnitudes,
    magnitudes,
    st.floats(0, 1e15),
    st.floats(0, 1e15),
    st.floats(-1, 1),
    st.floats(0, 100),
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
