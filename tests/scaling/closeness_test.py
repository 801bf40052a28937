import math

import pytest
from scipy import stats

from keras_svag.scaling.closeness import EquilibriumStatistics, c_closeness

LEVEL_OF_EACH = 1 - 0.05 / 3


def quantile_behind(first, second):
    """The quantile with which the interval of R's ratio was made."""
    _, low, _ = c_closeness(first, second).ratios["weight_sq_norm"]
    error = math.hypot(second.weight_sq_norm_se, low * first.weight_sq_norm_se)
    return (second.weight_sq_norm - low * first.weight_sq_norm) / error


def exact(value, error, count):
    return EquilibriumStatistics(value, 1.0, 1.0, error, 0.0, 0.0, count)


@pytest.mark.parametrize(
    ("first", "second", "dof"),
    [
        # Welch's, of the errors 1.5 * 0.01 and 0.02: 3.7, rounded down.
        (exact(2.0, 0.01, 3), exact(3.0, 0.02, 3), 3),
        # The smaller count stands for both.
        (exact(1.0, 0.01, 3), exact(1.0, 0.01, 9), 4),
        # A known error has no end of them.
        (exact(1.0, 0.0, None), exact(1.0, 0.01, 3), 2),
        (exact(1.0, 0.02, None), exact(1.0, 0.01, 3), 2 * 5**2),
    ],
)
def test_degrees_of_freedom_are_welchs(first, second, dof):
    expected = stats.t.ppf((1 + LEVEL_OF_EACH) / 2, dof)
    assert quantile_behind(first, second) == pytest.approx(expected)


def test_exact_values_have_an_interval_of_no_width():
    result = c_closeness(exact(2.0, 0.0, 3), exact(3.0, 0.0, 3))
    assert result.low == result.value == result.high == 1.5
    # The noise is compared at one batch size: that of κB times κ.
    first, second = (EquilibriumStatistics(2, 1, n) for n in (1, 0.5))
    assert c_closeness(first, second, kappa=8.0).value == 4
