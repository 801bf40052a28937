"""What the studies of a report have in common: form, cells, sentences, figures.

Figures are legible at a width of 800 pixels. Colours are those of Okabe and
Ito, told apart by colour-blind readers; line styles and markers tell them apart
without colour.
"""

import functools
import io
import math
import operator

import numpy as np
import pandas
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from experiments.report import seeds
from keras_svag.noise import numerals
from keras_svag.noise.numerals import interval, number
from keras_svag.reporting.blocks import Headline, Line, Table

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

# How a `ClosenessPrediction` gets from a slope to C.
SHAPES = (
    "Its point takes R, G and N, or their inverses, whichever grow, to be "
    "linear in κ, if they are told apart from no change; its 95% interval has "
    "the exponential in it too, for the shape is not known."
)


class Study:
    """A question that a report answers wherever runs allow it.

    A subclass has these class attributes, and

    - `value_of(run)`, in what it is compared, or None if it takes no part;
    - `headline`, a property: what is found;
    - `parts()`, the tables and sentences below that;
    - `plots()`, `{what it shows: (caption, height, function of a figure)}`.

    Args:
        comparison: One of its `Comparison`s.

    Attributes:
        name: What the files of its figures begin with.
        differ_in: What its runs differ in, a phrase.
        free: Keys of the configuration in which they may.
        counts_diverged: Whether runs that diverged count.
        window_of: Function from a run to the `ScalingReport` that has its
            noise, or None.
        title: Its heading.
        label: Format of a value in a legend.
        heading: The title, with what tells it from others of its kind.
        blocks, pictures, details: Below it: `Block`s, the headline first,
            `{name: (caption, bytes of a PNG file)}`, and sentences.
        groups: `{value: runs}`.
        means: `{value: means_over_seeds}`.
        target: C, the closeness asked for.
    """

    counts_diverged = False
    window_of = operator.attrgetter("final_window")

    def __init__(self, comparison):
        self.comparison, self.groups = comparison, comparison.groups
        self.config = comparison.runs[0].config
        self.target = self.config["lsr.closeness"]
        self.has_one_seed = comparison.num_seeds == 1
        self.means = {
            value: seeds.means_over_seeds(runs, self.window_of)
            for value, runs in self.groups.items()
        }

    @classmethod
    def comparisons(cls, runs):
        """The `Comparison`s of runs that can answer it."""
        counted = [r for r in runs if cls.counts_diverged or not r.diverged]
        return seeds.comparisons(counted, cls.value_of, cls.free, cls.alike)

    @staticmethod
    def alike(run):
        """What has to be equal besides, or None if a run takes no part."""
        return ()

    @functools.cached_property
    def blocks(self):
        parts = [*self.parts()]
        if self.has_one_seed:
            parts.append(
                "There is one seed only for some values: bands and standard "
                "errors over seeds are left out there."
            )
        lines = (Line(p) if isinstance(p, str) else p for p in parts)
        return Headline(self.headline), *lines

    @property
    def details(self):
        shared = ", ".join(
            f"{key} = {value}"
            for key, value in self.comparison.common.items()
            if value is not None and key != "seed"
        )
        names = ", ".join(run.name for run in self.comparison.runs)
        return f"In common: {shared}.", f"Runs: {names}."

    def make(self, name, varied, has_figures):
        """Makes heading, blocks and pictures.

        Args:
            name: What the files of its figures begin with.
            varied: Keys that tell studies of a kind apart.
            has_figures: Whether it gets any.
        """
        common = self.comparison.common
        own = [k for k in varied if k in common and k != "seed"]
        values = ", ".join(f"{key} = {common[key]}" for key in own)
        self.heading = f"{self.title}: {values}" if own else self.title
        self.pictures = {
            f"{name}-{what}": (caption, picture(height, draw))
            for what, (caption, height, draw) in self.plots().items()
            if has_figures
        }
        _ = self.blocks

    @property
    def seeds_text(self):
        """What the means of a table are over."""
        counts = {len(runs) for runs in self.groups.values()}
        ends = " to ".join(map(str, sorted({min(counts), max(counts)})))
        found = "one seed" if ends == "1" else f"{ends} seeds"
        return f"Means over seeds ± standard error; {found}."

    def closeness_text(self, closeness):
        """C with its interval."""
        found = f"C = {number(closeness.value)}"
        if self.has_one_seed:
            return f"{found} (no interval: one seed)"
        ends = interval(closeness.low, closeness.high)
        return f"{found}, 95% interval {ends}"

    def closeness_details(self, closeness, second, first):
        """What C is made of, and whether it is that of equilibria."""
        has_ends = not self.has_one_seed
        ratios = "; ".join(
            f"{seeds.SYMBOLS[name]} {number(ratio)}"
            + f" {interval(low, high)}" * has_ends
            for name, (ratio, low, high) in closeness.ratios.items()
        )
        held = ", with intervals that hold together at 95%" * has_ends
        yield f"Ratios of {second} to {first}{held}: {ratios}."
        at, off, unknown = self.equilibrium_counts
        if off + unknown:
            others = f", {off} not to have" if off else ""
            yield (
                f"{at} of {at + off + unknown} runs are known to have reached "
                f"equilibrium{others}: C compares the last epochs of the runs, "
                "not their equilibria."
            )

    @property
    def equilibrium_counts(self):
        """How many runs have reached it, have not, and are not known to."""
        windows = map(self.window_of, self.comparison.runs)
        known = [window and window.verdict.at_equilibrium for window in windows]
        return [known.count(answer) for answer in (True, False, None)]

    def curves(self, what=""):
        """Of `plots`, that of accuracy and loss."""
        bands = "Lines are means, bands the range of all seeds."
        if self.has_one_seed:
            bands = "Lines are means; one seed has no band."
        measured = f"Test accuracy and training loss{what}"
        caption = f"{measured} against SGD epochs. {bands}"
        return {"curves": (caption, 7, self.draw_curves)}

    def draw_curves(self, figure):
        panels = figure.subplots(2, 1, sharex=True)
        columns = {"val_accuracy": (ACCURACY, 100), "loss": (LOSS, 1)}
        for axes, name in zip(panels, columns, strict=True):
            label, scale = columns[name]
            axes.set_ylabel(label)
            for index, (value, runs) in enumerate(self.groups.items()):
                epochs, values = seed_curves(runs, name)
                count, style = len(epochs), line_style(index)
                if not count:
                    continue
                # Shifted from line to line, lest markers hide one another.
                first = index * max(count // 40, 1) % count
                axes.plot(
                    epochs,
                    scale * values.mean(0),
                    **style,
                    label=self.label.format(value),
                    markevery=(first, max(count // 8, 1)),
                    markersize=6,
                )
                if len(values) > 1:
                    ends = scale * np.array([values.min(0), values.max(0)])
                    draw_band(axes, epochs, *ends, style["color"])
        axes.set_xlabel("SGD epochs")
        steps = MaxNLocator(integer=True, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(steps)
        if all(np.all(line.get_ydata() > 0) for line in axes.get_lines()):
            make_logarithmic(axes)
        ncols = min(len(self.groups), 5)
        legend_outside(figure, panels, "upper", ncols=ncols)


def seed_curves(runs, column):
    """A column of the histories of several seeds.

    Returns:
        `(epochs, values)`: the SGD epochs at which every seed has a finite
        value, and these, a row a seed.
    """
    curves = pandas.DataFrame([pandas.Series(r.curve(column)) for r in runs])
    curves = curves.loc[:, np.isfinite(curves).all()]
    return curves.columns + 1, curves.to_numpy()


def table(title, rows):
    """`Table` of `{column: value}`, a row each."""
    rows = [*rows]
    cells = (tuple(map(_cell, row.values())) for row in rows)
    return Table(title, tuple(rows[0]), tuple(cells))


def _cell(value):
    """A `SeedMean`, `(low, value, high)`, number or text; a dash for none."""
    if isinstance(value, seeds.SeedMean):
        return numerals.with_error(value.value, value.standard_error)
    if isinstance(value, tuple):
        return numerals.within(*value)
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else value or "–"


def outcome(means, num_diverged=0):
    """Test accuracy and training loss, for a row of a table."""
    mean = means["accuracy"]
    accuracy = numerals.percent_with_error(mean.value, mean.standard_error)
    accuracy += f" ({num_diverged} diverged)" * bool(num_diverged)
    return {"test accuracy": accuracy, "training loss": means["loss"]}


def leaves_text(batch_size, closeness, ends):
    """Where linear scaling is predicted to leave C, by `(value, low, high)`."""
    value, low, high = ends
    size, target = number(batch_size), number(closeness)
    leaves = f"linear scaling from B = {size} leaves C = {target}"
    if value != value:
        return (
            "R, G and N are not told apart from no change, so there is no "
            f"point, and the interval alone says that {leaves} within "
            f"{interval(low, high)}"
        )
    return f"{leaves} at about B = {number(value)} {interval(low, high)}"


def reasons_text(reasons):
    """`Reason`s of several runs; of those with one code the first is given."""
    by_code = {}
    for reason in reasons:
        by_code.setdefault(reason.code, {})[str(reason)] = reason
    return "; ".join(
        phrase + ", in other runs with other numbers" * bool(others)
        for phrase, *others in by_code.values()
    )


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
