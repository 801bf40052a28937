"""README's first example prints what is shown, to what a processor rounds.

Other last bits lead a training elsewhere: to other numbers within the error,
and to other verdicts on what is near a bound.
"""

import re

import numpy as np

from tests.helpers.paths import ROOT

BLOCK = re.compile(r"^```(python)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
VERDICT = re.compile(r"undetermined|not ruled out|ruled out")


def test_the_first_example_prints_what_is_shown(capsys):
    (language, code), (_, shown) = BLOCK.findall(
        (ROOT / "README.md").read_text()
    )[:2]
    assert language == "python"
    exec(code, {})
    printed = capsys.readouterr().out
    assert words(printed) == words(shown)
    ours, theirs = map(bounds, (printed, shown))
    np.testing.assert_allclose(np.log(ours / theirs), 0, atol=np.log(3))


def words(text):
    """Those behind the sentence at the top, which may name a smallest batch."""
    sentence, rest = text.split("\n  Batch ", 1)
    assert sentence.startswith("The linear rule is not ruled out ")
    return VERDICT.sub("verdict", NUMBER.sub("#", rest)).split()


def bounds(text):
    """The largest batches of that sentence, and their factors."""
    sentence, _ = text.split("\n  Batch ", 1)
    return np.array([float(n) for n in NUMBER.findall(sentence)[-4:]])
