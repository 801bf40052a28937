import html
import re

import pytest

from keras_svag.reporting.markdown import escaped


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
