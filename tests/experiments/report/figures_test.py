import pytest
from matplotlib.figure import Figure

from experiments.report.study import COLOURS, make_logarithmic


@pytest.mark.parametrize("ends", [(0.07, 0.09), (0.3, 1.7), (1e-5, 2e3)])
def test_every_range_has_labelled_ticks(ends):
    axes = Figure().subplots()
    axes.plot([0, 1], ends)
    make_logarithmic(axes)
    low, high = axes.get_ylim()
    axes.figure.canvas.draw()
    shown = [
        label.get_text()
        for label in axes.get_yticklabels()
        if low <= label.get_position()[1] <= high
    ]
    assert len([text for text in shown if text]) >= 3
    assert not any("$" in text for text in shown)


def test_no_colour_is_too_faint_on_white():
    def lightness(colour):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255

    assert all(lightness(colour) < 0.72 for colour in COLOURS)
