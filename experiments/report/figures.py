"""Figures of a report, legible at a width of 800 pixels.

Colours are those of Okabe and Ito, told apart by colour-blind readers; line
styles and markers tell them apart without colour.
"""

import io
import math

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Their yellow is left out: on white it is too faint.
COLOURS = (
    "#000000",
    "#E69F00",
    "#0072B2",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
)
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE = {
    "font.size": 12,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "figure.constrained_layout.use": True,
}
_WIDTH, _DPI = 8, 150

ACCURACY = "test accuracy (%)"
LOSS = "training loss (nats)"


def picture(height, draw):
    """Bytes of a PNG file, inches high, of what draws into a `Figure`."""
    file = io.BytesIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height))
        draw(figure)
        figure.savefig(file, dpi=_DPI)
    return file.getvalue()


def line_style(index):
    """Colour, line style and marker of the line with a number from 0."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": _LINES[index % len(_LINES)],
        "marker": _MARKERS[index % len(_MARKERS)],
    }


def legend_outside(figure, panels, where, **options):
    """The legend of the panel that shows the most, lest it hide something."""
    legends = [axes.get_legend_handles_labels() for axes in panels]
    handles, labels = max(legends, key=lambda legend: len(legend[0]))
    figure.legend(handles, labels, loc=f"outside {where} center", **options)


def draw_intervals(axes, points, index, **style):
    """Draws values with their intervals; an arrow where one has no end.

    Args:
        axes: Of matplotlib.
        points: `{position: (low, value, high)}`.
        index: As for `line_style`.
        **style: What `axes.errorbar` takes instead, or besides.
    """
    low, values, high = np.reshape([*points.values()], (-1, 3)).T
    is_open = np.isinf(high)
    errors = values - low, np.where(is_open, values, high - values)
    style = {**line_style(index), "capsize": 4, "lolims": is_open, **style}
    axes.errorbar([*points], values, errors, **style)


def draw_means(axes, points, index, scale=1, **style):
    """Draws `{position: SeedMean}` with standard errors, if there are some."""
    steps = np.array([-1, 0, 1])
    ends = {
        x: scale * (mean.value + steps * np.nan_to_num(mean.standard_error))
        for x, mean in points.items()
    }
    draw_intervals(axes, ends, index, **style)


def draw_band(axes, positions, low, high, color, alpha=0.15):
    """Fills what lies between two curves."""
    style = {"color": color, "alpha": alpha, "linewidth": 0}
    axes.fill_between(positions, low, high, **style)


def make_logarithmic(axes):
    """Gives axes a logarithmic ordinate with plain numbers at its ticks.

    It stays linear where what is drawn varies little, or is not above 0.
    """
    low, high = axes.get_ylim()
    if math.isinf(axes.dataLim.minposy) or (low > 0 and high < 3 * low):
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    digits = (1, 2, 5) if 10 < high / low < 1000 else (1,)
    if high < 10 * low:
        digits = (1, 2, 3, 4, 5, 7)
    axes.yaxis.set_major_locator(LogLocator(subs=digits))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
