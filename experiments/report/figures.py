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

from experiments.report.seeds import seed_curves

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
                epochs, values = seed_curves(runs, column)
                _draw_curve(
                    axes, epochs, scale * values, index, label.format(value)
                )
        panels[0].set_ylabel(ACCURACY)
        panels[1].set_ylabel(LOSS)
        panels[1].set_xlabel("SGD epochs")
        panels[1].xaxis.set_major_locator(
            MaxNLocator(integer=True, steps=[1, 2, 5, 10])
        )
        losses = [line.get_ydata() for line in panels[1].get_lines()]
        if all(np.all(loss > 0) for loss in losses):
            make_logarithmic(panels[1])
        ncols = min(len(comparison.groups), 5)
        legend_outside(figure, panels, "upper", ncols=ncols)


def _draw_curve(axes, epochs, values, index, label):
    if not len(epochs):
        return
    style = line_style(index)
    axes.plot(
        epochs,
        values.mean(axis=0),
        **style,
        label=label,
        # Shifted from line to line, lest markers hide one another.
        markevery=(
            index * max(len(epochs) // 40, 1) % len(epochs),
            max(len(epochs) // 8, 1),
        ),
        markersize=6,
    )
    if len(values) > 1:
        ends = values.min(axis=0), values.max(axis=0)
        draw_band(axes, epochs, *ends, style["color"])


def legend_outside(figure, panels, where, **options):
    """The legend of the panel that shows the most, lest it hide something."""
    legends = [axes.get_legend_handles_labels() for axes in panels]
    figure.legend(
        *max(legends, key=lambda legend: len(legend[0])),
        loc=f"outside {where} center",
        **options,
    )


def draw_means(axes, positions, means, scale=1, **style):
    """Draws `SeedMean`s with their standard errors, where they have some."""
    errors = [mean.standard_error for mean in means]
    axes.errorbar(
        [*positions],
        [scale * mean.value for mean in means],
        [scale * e if math.isfinite(e) else 0.0 for e in errors],
        capsize=4,
        **style,
    )


def draw_band(axes, positions, low, high, color, alpha=0.15):
    """Fills what lies between two curves."""
    axes.fill_between(
        positions, low, high, color=color, alpha=alpha, linewidth=0
    )


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
