"""What holds for every argument of the weights and the estimates."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_svag import NoiseEstimate
from keras_svag.noise.estimate import SAMPLING
from tests.helpers.generated import anything, estimates, levels, observations


def estimate_of(values, **fields):
    return NoiseEstimate.from_observations(*values, batch_size=8, **fields)


def runs(least=2):
    """Estimates of observations; those of S are not negative."""
    return observations(least).map(
        lambda values: estimate_of([values[0], np.abs(values[1])])
    )


@given(observations(), st.integers(-60, 60))
def test_gradients_times_c_give_g_and_s_times_c_squared(values, power):
    # A power of two scales without rounding.
    square = 4.0**power
    ours, theirs = estimate_of(values), estimate_of(values * square)
    for name in ("grad_sq_norm", "example_noise"):
        for field in (name, f"{name}_se"):
            assert getattr(theirs, field) == getattr(ours, field) * square
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
    is_positive = estimate.grad_sq_norm_sign(level) == "positive"
    if estimate.noise_to_signal < 1e250:
        assert is_positive == math.isfinite(high)
    if estimate.grad_sq_norm > 0 and not math.isinf(low):
        ratio = max(estimate.noise_to_signal, 0)
        assert low <= rounded_up(ratio) and ratio <= rounded_up(high)
    check_estimate(estimate)
    if estimate.grad_sq_norm >= 0:
        # Below 0 a low level calls G negative and says nothing.
        narrow, wide = sorted((level, other))
        (low, high), (lower, higher) = map(estimate.interval, (narrow, wide))
        assert lower <= rounded_up(low) and high <= rounded_up(higher)


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
    assert not any(text.startswith("nan") for _, text in estimate.summary())
    json.dumps(estimate.to_dict(), allow_nan=False)
