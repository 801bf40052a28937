import pytest

from keras_svag.reporting.blocks import Headline, Line, Table


def test_terminal_shows_a_table_in_columns():
    table = Table("Runs", ("κ", "batch"), (("×2", "256"), ("×16", "2,048")))
    assert table.to_text().splitlines() == [
        "  Runs:",
        "      κ  batch",
        "     ×2    256",
        "    ×16  2,048",
    ]


def test_long_texts_are_wrapped_at_80_columns():
    long = "word " * 40
    for block in (Headline(long), Line(long), Line(long, (long,))):
        lines = block.to_text().splitlines()
        assert all(70 < len(line) <= 80 for line in (lines[0], lines[1]))
        assert " ".join(block.to_text().split()).count("word") % 40 == 0


@pytest.mark.parametrize(
    "phrase",
    ["1.5 [1.2, ∞)", "G × [0.3, 2]", "51 (×3.2)", "0.3 ± 0.1", "C = 1.41"],
)
def test_no_line_ends_within_a_number(phrase):
    for column in range(60, 80):
        text = f"{'x' * column} {phrase} y"
        for block in (Headline(text), Line(text), Line("of", (text,))):
            lines = block.to_text().splitlines()
            assert sum(phrase in line for line in lines) == 1
            assert max(map(len, lines)) <= 84 - 4 * isinstance(block, Headline)
