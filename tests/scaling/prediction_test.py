import math

import numpy as np
import pytest
from scipy import stats

from keras_svag import scaling
from keras_svag.scaling import EquilibriumStatistics, predict_closeness

C = 2**0.5
KAPPAS = np.array([0.25, 1.0, 2.0, 5.0, 16.0])


OF_RUNS = pytest.mark.parametrize(
    ("ells", "reference"), [((1, 2), 1.0), ((2, 8), 0.0), ((1, 2, 4), 0.125)]
)


def linear(step, rises=(0.1, 0.05, 0.4)):
    """R that grows linearly with the step, G and N whose inverses do."""
    r, g, n = (1 + rise * step for rise in rises)
    return EquilibriumStatistics(9 * r, 2 / g, 5 / n)


def exponential(step, slopes=(0.1, -0.03, -0.4)):
    """R, G and N whose logarithms are linear in the step."""
    r, g, n = (math.exp(slope * step) for slope in slopes)
    return EquilibriumStatistics(9 * r, 2 * g, 5 * n)


def predicted(family, ells):
    return predict_closeness({ell: family(1 / ell) for ell in ells})


def actual(family, kappas, reference):
    # SGD at κB, κη has the step κ; N is stated at one batch size.
    runs = map(family, kappas)
    return [scaling.c_closeness(family(reference), run).value for run in runs]


@OF_RUNS
def test_points_are_exact_where_s_or_its_inverse_is_linear(ells, reference):
    value, low, high = predicted(linear, ells).closeness(KAPPAS, reference)
    np.testing.assert_allclose(value, actual(linear, KAPPAS, reference))
    assert np.all(low <= value) and np.all(value <= high)


@OF_RUNS
def test_intervals_end_where_s_is_exponential(ells, reference):
    # Without errors of the slopes the shape is all that is not known.
    truth = actual(exponential, KAPPAS, reference)
    prediction = predicted(exponential, ells)
    value, low, high = prediction.closeness(KAPPAS, reference)
    assert np.all(np.isclose([low, high], truth).any(axis=0))
    assert np.all(low < high * (1 + 1e-12))
    # Far beyond the runs the exponential is the higher one.
    assert high[-1] == pytest.approx(truth[-1])
    assert value[-1] == pytest.approx(low[-1]) and low[-1] < 0.1 * high[-1]


@pytest.mark.parametrize("family", [linear, exponential])
@pytest.mark.parametrize("reference", [0.125, 1.0])
def test_c_is_left_where_the_closeness_says(family, reference):
    prediction = predicted(family, (1, 2))
    value, low, high = prediction.max_batch_multiplier(C, reference)
    for kappa, end in ((value, 0), (high, 1), (low, 2)):
        assert kappa > reference
        assert prediction.closeness(kappa, reference)[end] == pytest.approx(C)
    assert low <= value <= high


def test_several_ell_give_the_line_of_least_squares():
    ells = np.array([1, 2, 3, 8])
    values = np.exp(np.random.default_rng(0).normal(size=(4, 3)))
    runs = [EquilibriumStatistics(*row) for row in values]
    prediction = predict_closeness(dict(zip(ells.tolist(), runs, strict=True)))
    lines = np.polyfit(1 / ells, np.log(values), 1)[0]
    assert list(prediction.slopes.values()) == pytest.approx(list(lines))
    sizes = [[size, size] for size in np.abs(lines)]
    np.testing.assert_allclose(list(prediction.sizes.values()), sizes)


def test_a_slope_that_is_not_told_apart_from_0_has_no_say():
    # G may move most, but what is known is that N moves.
    runs = {
        ell: EquilibriumStatistics(9.0, g, n, 0.01, 1.0, 0.01, 3)
        for ell, g, n in ((1, 2.0, 5.0), (2, 3.0, 5.5))
    }
    prediction = predict_closeness(runs)
    assert prediction.moving == ("noise_trace",)
    value, _, high = prediction.closeness(2.0)
    # 1 / N is linear: 1 at the step 1, 5 / 5.5 at 1/2.
    assert value == pytest.approx(1 + 2 * (1 - 5 / 5.5))
    assert high > 10


def test_ends_of_a_slope_are_student_s():
    level = 0.8
    # Welch's 4 degrees of freedom, for equal relative errors.
    runs = {
        ell: EquilibriumStatistics(10.0, 10.0, n, 0.1, 0.1, 0.01 * n, 3)
        for ell, n in ((1, 10.0), (2, 12.0))
    }
    low, high = predict_closeness(runs, level).sizes["noise_trace"]
    size, error = math.log(1.2) / 0.5, math.hypot(0.01, 0.01) / 0.5
    tail = (1 - level) / 2
    assert high == pytest.approx(size + stats.t.ppf(1 - tail, 4) * error)
    # All three have to be covered at the low end.
    assert low == pytest.approx(size - stats.t.ppf(1 - tail / 3, 4) * error)


def test_without_errors_there_is_no_interval():
    one_seed = EquilibriumStatistics(9.0, 2.0, 5.0, *(math.nan,) * 3, 1)
    prediction = predict_closeness({1: one_seed, 2: exponential(0.5)})
    value, low, high = prediction.closeness(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(value, [math.nan] * 2)
    np.testing.assert_array_equal(low, [1, 1])
    np.testing.assert_array_equal(high, [1, math.inf])
    leaves = prediction.max_batch_multiplier(C)
    np.testing.assert_array_equal(leaves, [math.nan, 1.0, math.inf])


def test_a_line_that_is_0_below_the_runs_has_no_upper_end_there():
    # 1 / N is h - 0.1, which the step 0 of the SDE is beyond.
    first, second = (EquilibriumStatistics(1.0, 1.0, 1 / x) for x in (0.9, 0.4))
    prediction = predict_closeness({1: first, 2: second})
    value, low, high = prediction.closeness(1.0, reference=0.0)
    assert value == high == math.inf
    # By the exponential, from 0.9 over 0.4 between the steps 1/2 and 1.
    assert low == pytest.approx((0.9 / 0.4) ** 2)
    assert prediction.closeness(0.02, reference=0.01)[2] == math.inf
    assert prediction.max_batch_multiplier(C, reference=0.0)[:2] == (0, 0)
