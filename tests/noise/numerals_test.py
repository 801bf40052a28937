import math

import pytest

from keras_svag.noise.numerals import (
    exact,
    interval,
    number,
    percent_with_error,
    whole,
    with_error,
    within,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0012345, "0.00123"),
        (12.345, "12.3"),
        (999.4, "999"),
        (999.999, "1,000"),
        (12345.0, "12,300"),
        (999.9999, "1,000"),
        (math.nan, "–"),
        (None, "–"),
        (math.inf, "∞"),
    ],
)
def test_a_number_has_three_digits(value, text):
    assert number(value) == text


def test_values_have_the_places_of_their_errors():
    assert with_error(20.346, 0.123) == "20.35 ± 0.12"
    assert with_error(1234.5, 56.7) == "1,234 ± 57"
    assert with_error(20.346, math.nan) == "20.3"
    assert percent_with_error(0.9123, 0.0012) == "91.23% ± 0.12%"
    assert percent_with_error(0.9123, math.nan) == "91.23%"


def test_a_value_has_its_interval_behind_it():
    assert within(1.0, 1.5, 2.0) == "1.5 [1, 2]"
    assert within(1.0, None, math.inf) == "– [1, ∞)"


def test_settings_and_batch_sizes_are_not_rounded():
    assert exact(0.000123456) == "0.000123456"
    assert whole(12345.0) == "12,345"


def test_an_interval_without_an_end_is_open_there():
    assert interval(1.0, math.inf) == "[1, ∞)"
    assert interval(1.0, 2.0) == "[1, 2]"
