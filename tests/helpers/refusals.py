"""What every refusal of a bad argument has in common."""

import re


def check_sentence(sentence, *fragments):
    """Asserts that it is one sentence, and that it has the fragments."""
    assert "\n" not in sentence
    assert re.search(r"[.)]$", sentence), sentence
    assert len(sentence) < 600, sentence
    for fragment in fragments:
        assert fragment in sentence, (fragment, sentence)
