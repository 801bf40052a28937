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
    ("words", "values", "text"),
    [
        # Three digits.
        (number, [0.0012345], "0.00123"),
        (number, [12.345], "12.3"),
        (number, [999.999], "1,000"),
        (number, [12345.0], "12,300"),
        (number, [math.nan], "–"),
        (number, [None], "–"),
        (number, [math.inf], "∞"),
        # The places of the error.
        (with_error, [20.346, 0.123], "20.35 ± 0.12"),
        (with_error, [1234.5, 56.7], "1,234 ± 57"),
        (with_error, [20.346, math.nan], "20.3"),
        (percent_with_error, [0.9123, 0.0012], "91.23% ± 0.12%"),
        (percent_with_error, [0.9123, math.nan], "91.23%"),
        (within, [1.0, 1.5, 2.0], "1.5 [1, 2]"),
        (within, [1.0, None, math.inf], "– [1, ∞)"),
        (interval, [1.0, 2.0], "[1, 2]"),
        # Settings and batch sizes are not rounded.
        (exact, [0.000123456], "0.000123456"),
        (whole, [12345.0], "12,345"),
    ],
)
def test_a_number_is_written_for_a_reader(words, values, text):
    assert words(*values) == text
