"""What holds for all arguments of estimates, bounds and verdicts."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_svag import NoiseEstimate, scaling
from keras_svag.noise.estimate import SAMPLING
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.verdict import ScalingVerdict, Verdict, scaling_verdict

closenesses = st.floats(1 + 1e-6, 1e6)
kappas = st.floats(1, 1e9)
levels = st.floats(0.01, 0.999)
magnitudes = st.floats(-1e30, 1e30)
anything = st.floats()
ordinary = st.floats(-1e6, 1e6, width=32)


@st.composite
def observations(draw, least=2, values=ordinary):
    """Observations of (G, S): an array of shape (2, count)."""
    count = draw(st.integers(least, 30))
    return draw(arrays.arrays(np.float64, (2, count), elements=values))


@st.composite
def estimates(draw, values=magnitudes):
    """A `NoiseEstimate` of any numbers that some observations could give."""
    count = draw(st.integers(0, 10**9))
    # The squares of errors that are not 0 are none either.
    errors = st.just(0.0) | st.floats(1e-100, 1e30)
    if count < 2:
        errors = st.just(math.nan)
    g_se, s_se = draw(errors), draw(errors)
    correlation = draw(st.floats(-1, 1))
    return NoiseEstimate(
        draw(values) if count else math.nan,
        abs(draw(values)) if count else math.nan,
        g_se,
        s_se,
        g_se * s_se * correlation,
        count,
        batch_size=draw(st.integers(1, 10**6)),
        num_skipped=draw(st.integers(0, 10**6)),
        sampling=draw(st.none() | st.sampled_from(SAMPLING)),
        num_examples=draw(st.none() | st.integers(10**6, 10**9)),
    )


@st.composite
def equilibria(draw):
    """`EquilibriumStatistics`, with exact errors or without."""
    numbers, errors = st.floats(1e-12, 1e12), st.floats(0, 1e12)
    # G may be 0, below it, or so small that a ratio of two overflows.
    gradients = numbers | st.floats(-1e12, 0) | st.floats(0, 1e-300)
    values = draw(st.tuples(numbers, gradients, numbers, *[errors] * 3))
    count = draw(st.none() | st.integers(1, 100))
    return scaling.EquilibriumStatistics(*values, count)


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


@given(
    estimates(),
    st.floats(0, 1e3),
    st.floats(0, 1e-3),
    closenesses,
    st.lists(kappas, max_size=6),
    levels,
    st.none() | anything,
)
def test_verdicts_follow_the_bounds_on_kappa(
    estimate, rate, decay, closeness, factors, level, balance
):
    conditions = RunConditions(
        learning_rate=rate, weight_decay=decay, balance=balance
    )
    asked = {"closeness": closeness, "level": level}
    bare = scaling_verdict(estimate, conditions, kappas=(1,), **asked)
    low, high = bare.max_multiplier_low, bare.max_multiplier_high
    lower, least = bare.min_multiplier_low, bare.min_multiplier_high
    assert lower <= least <= 1 <= low <= high * (1 + 1e-12)
    ends = [lower, least, least / 2, low, (low + high) / 2, high]
    ends = [end for end in ends if 1e-100 <= end <= 1e100]
    kappas = tuple(sorted({1, *ends, *factors}))
    verdict = scaling_verdict(estimate, conditions, kappas=kappas, **asked)
    for kappa, answer in verdict.multiplier_verdicts.items():
        if verdict.refusal:
            assert answer == Verdict.UNDETERMINED
        elif kappa < lower or kappa > high:
            assert answer == Verdict.RULED_OUT
        else:
            is_allowed = least <= kappa <= low
            assert (answer == Verdict.NOT_RULED_OUT) == is_allowed
    # The run itself is as close to itself as can be asked for.
    assert verdict.multiplier_verdicts[1] != Verdict.RULED_OUT
    if verdict.sde_verdict == Verdict.RULED_OUT:
        assert estimate.interval(level)[1] < verdict.min_noise_to_signal
    saved = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    if balance is None or math.isfinite(balance):
        assert ScalingVerdict.from_dict(saved).to_dict() == verdict.to_dict()
    assert "nan" not in verdict.text


@given(equilibria(), equilibria(), st.floats(1e-6, 1e6), levels)
def test_closeness_is_at_least_1_within_its_interval(a, b, kappa, level):
    result = scaling.c_closeness(a, b, kappa, level)
    assert 1 <= result.low <= result.high
    if math.isfinite(result.value):
        assert result.low <= result.value * (1 + 1e-6)
        assert result.value * (1 - 1e-6) <= result.high
    swapped = scaling.c_closeness(b, a, 1 / kappa, level)
    assert swapped.value == pytest.approx(result.value, rel=1e-6)
