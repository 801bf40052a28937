import dataclasses
import math

import pytest
from scipy import stats

from keras_svag.scaling.closeness import EquilibriumStatistics, c_closeness

LEVEL_OF_EACH = 1 - 0.05 / 3


def quantile_behind(first, second):
    """The quantile with which the interval of R's ratio was made."""
    _, low, _ = c_closeness(first, second).ratios["weight_sq_norm"]
    variance = (
        second.weight_sq_norm_se**2 + (low * first.weight_sq_norm_se) ** 2
    )
    distance = second.weight_sq_norm - low * first.weight_sq_norm
    return distance / math.sqrt(variance)


def exact(value, error, count):
    return EquilibriumStatistics(value, 1.0, 1.0, error, 0.0, 0.0, count)


def test_degrees_of_freedom_are_welchs_at_the_ratio_rounded_down():
    first, second = exact(2.0, 0.01, 3), exact(3.0, 0.02, 3)
    a, b = (1.5 * 0.01) ** 2, 0.02**2
    dof = (a + b) ** 2 / (a**2 / 2 + b**2 / 2)
    assert 3 < dof < 4
    expected = stats.t.ppf((1 + LEVEL_OF_EACH) / 2, 3)
    assert quantile_behind(first, second) == pytest.approx(expected)


def test_the_smaller_count_stands_for_both():
    first, second = exact(1.0, 0.01, 3), exact(1.0, 0.01, 9)
    expected = stats.t.ppf((1 + LEVEL_OF_EACH) / 2, 4)
    assert quantile_behind(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(("known", "dof"), [(0.0, 2), (0.02, 2 * 5**2)])
def test_a_known_error_has_no_end_of_degrees_of_freedom(known, dof):
    first, second = exact(1.0, known, None), exact(1.0, 0.01, 3)
    expected = stats.t.ppf((1 + LEVEL_OF_EACH) / 2, dof)
    assert quantile_behind(first, second) == pytest.approx(expected)


def test_exact_values_have_an_interval_of_no_width():
    first = exact(2.0, 0.0, 3)
    result = c_closeness(first, dataclasses.replace(first, weight_sq_norm=3.0))
    assert result.low == result.value == result.high == 1.5
