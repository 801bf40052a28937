"""README's first example prints what is shown, to other machines' digits."""

import re

import numpy as np

from tests.helpers.paths import ROOT

BLOCK = re.compile(r"^```(python)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def test_the_first_example_prints_what_is_shown(capsys):
    (language, code), (_, shown) = BLOCK.findall(
        (ROOT / "README.md").read_text()
    )[:2]
    assert language == "python"
    exec(code, {})
    printed = capsys.readouterr().out
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    np.testing.assert_allclose(
        numbers_of_the_first_line(printed),
        numbers_of_the_first_line(shown),
        rtol=0.15,
    )


def numbers_of_the_first_line(text):
    return [
        float(n.replace(",", "")) for n in NUMBER.findall(text.splitlines()[0])
    ]
