import html
import math
import re

import pytest

from keras_svag.reporting.markdown import (
    escaped,
    interval,
    number,
    percent_with_error,
    with_error,
)


@pytest.mark.parametrize(
    "text",
    [
        "a_b*c*|d",
        "<script>alert(1)</script>",
        "[link](javascript:x)",
        "`code` ~strike~ # head \\ $x$",
        "&lt; stays",
    ],
)
def test_markup_is_shown_and_not_obeyed(text):
    shown = escaped(text)
    assert not re.search(r"(?<!\\)[`*_\[\]|~#$<>]", shown)
    # A reader of Markdown takes the backslashes and the entities away.
    assert html.unescape(re.sub(r"\\([^a-z\s])", r"\1", shown)) == text


def test_text_stays_on_one_line_and_an_address_is_no_link():
    assert escaped("a\nb\n\n# c") == "a b \\# c"
    assert escaped("http://x") == "http\\://x"


def test_numbers_that_need_no_escape_have_none():
    assert escaped("ell=1,seed=0") == "ell=1,seed=0"
    assert escaped(0.05) == "0.05"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0012345, "0.00123"),
        (12.345, "12.3"),
        (12345.0, "12,300"),
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


def test_an_interval_without_an_end_is_open_there():
    assert interval(1.0, math.inf) == "[1, ∞)"
    assert interval(1.0, 2.0) == "[1, 2]"
