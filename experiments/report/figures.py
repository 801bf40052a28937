"""Figures of a report, legible at a width of 800 pixels.

Colours are those of Okabe and Ito, told apart by colour-blind readers; line
styles and markers tell them apart without colour.
"""

import contextlib
import math

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from experiments.report.seeds import SeedCurve, seed_curve

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

# Of a curve: as many as a figure has pixels, or more.
MOST_POINTS = 4000


ACCURACY = "test accuracy (%)"
LOSS = "training loss (nats)"


@contextlib.contextmanager
def saved_figure(path, height):
    """A `Figure` of our style, `height` inches high, saved at the end."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height))
        yield figure
        figure.savefig(path, dpi=_DPI)


def line_style(index):
    """Colour, line style and marker of the line with a number from 0."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": _LINES[index % len(_LINES)],
        "marker": _MARKERS[index % len(_MARKERS)],
    }


def save_curves(path, comparison, label):
    """Test accuracy and training loss against SGD epochs, with bands.

    The band is the range of all seeds.

    Args:
        path: PNG file.
        comparison: `Comparison`, without diverged runs.
        label: Format of a group's name, such as `"ell = {}"`.
    """
    with saved_figure(path, 7) as figure:
        panels = figure.subplots(2, 1, sharex=True)
        for axes, column, scale in zip(
            panels, ("val_accuracy", "loss"), (100, 1), strict=True
        ):
            for index, (value, runs) in enumerate(comparison.groups.items()):
                _draw_curve(
                    axes,
                    thinned(seed_curve(runs, column)),
                    scale,
                    index,
                    label.format(value),
                )
        panels[0].set_ylabel(ACCURACY)
        panels[1].set_ylabel(LOSS)
        panels[1].set_xlabel("SGD epochs")
        panels[1].xaxis.set_major_locator(
            MaxNLocator(integer=True, steps=[1, 2, 5, 10])
        )
        if _all_positive(panels[1]):
            make_logarithmic(panels[1])
        # Outside, lest it hide a band.
        figure.legend(
            *legend_of_most(panels),
            loc="outside upper center",
            ncols=min(len(comparison.groups), 5),
        )


def thinned(curve):
    """A curve that looks the same, with `MOST_POINTS` epochs at most.

    Neighbouring epochs are drawn at one place, from their least value to their
    largest.
    """
    count = len(curve.epochs)
    if count <= MOST_POINTS:
        return curve
    starts = np.arange(MOST_POINTS // 2) * count // (MOST_POINTS // 2)
    low, high = np.minimum.reduceat, np.maximum.reduceat
    return SeedCurve(
        np.repeat(curve.epochs[starts], 2),
        np.ravel([low(curve.mean, starts), high(curve.mean, starts)], "F"),
        np.repeat(low(curve.low, starts), 2),
        np.repeat(high(curve.high, starts), 2),
        curve.count,
    )


def _draw_curve(axes, curve, scale, index, label):
    if not len(curve.epochs):
        return
    style = line_style(index)
    axes.plot(
        curve.epochs,
        scale * curve.mean,
        **style,
        label=label,
        # Shifted from line to line, lest markers hide one another.
        markevery=(
            index * max(len(curve.epochs) // 40, 1) % len(curve.epochs),
            max(len(curve.epochs) // 8, 1),
        ),
        markersize=6,
    )
    if curve.count > 1:
        axes.fill_between(
            curve.epochs,
            scale * curve.low,
            scale * curve.high,
            color=style["color"],
            alpha=0.15,
            linewidth=0,
        )


def _all_positive(axes):
    return all(np.all(line.get_ydata() > 0) for line in axes.get_lines())


def legend_of_most(panels):
    """Handles and labels of the panel that shows the most."""
    legends = [axes.get_legend_handles_labels() for axes in panels]
    return max(legends, key=lambda legend: len(legend[0]))


def make_logarithmic(axes):
    """Gives axes a logarithmic ordinate with plain numbers at its ticks.

    It stays linear where what is drawn varies little.
    """
    low, high = axes.get_ylim()
    if low > 0 and high < 3 * low:
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    digits = (1, 2, 5) if 10 < high / low < 1000 else (1,)
    if high < 10 * low:
        digits = (1, 2, 3, 4, 5, 7)
    axes.yaxis.set_major_locator(LogLocator(subs=digits))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def error_bar(error):
    """Half the height of an error bar: none where there is no error."""
    return error if math.isfinite(error) else 0.0
