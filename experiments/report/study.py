"""What the studies of a report have in common: runs, cells, sentences, figures.

Figures are legible at a width of 800 pixels. Colours are those of Okabe and
Ito, told apart by colour-blind readers; line styles and markers tell them apart
without colour.
"""

import functools
import io
import math
import operator

import numpy as np
from matplotlib import rc_context, ticker
from matplotlib.figure import Figure

from experiments.report import seeds
from keras_svag.noise import numerals
from keras_svag.noise.numerals import interval, number
from keras_svag.reporting.blocks import Headline, Line, Table

# Their yellow is left out: on white it is too faint.
COLOURS = "#000000 #E69F00 #0072B2 #009E73 #D55E00 #56B4E9 #CC79A7".split()
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvPX*"
_STYLE = {
    "font.size": 12,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2,
    "patch.linewidth": 0,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "figure.constrained_layout.use": True,
    # Within a pixel: a curve of a million epochs takes a fifth of the time.
    "path.simplify_threshold": 1.0,
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

    A subclass has the class attributes `name`, with which its figures begin,
    `title`, `differ_in`, what its runs differ in, and `free`, the keys of the
    configuration in which they may; `value_of(run)`, in what runs are compared,
    or None if one takes no part; the `headline`, what is found; `parts()`, the
    tables and sentences below that; and `plots()`, `{what is shown: (caption,
    height, function of a figure)}`. They are asked for after `measure()`.

    Attributes:
        groups: `{value: runs}`, in the order of the values.
        target: C, the closeness asked for.
    """

    counts_diverged = False
    # The `ScalingReport` that has the noise of a run, or None.
    window_of = operator.attrgetter("final_window")

    def __init__(self, groups):
        self.groups = groups
        self.runs = [run for runs in groups.values() for run in runs]
        self.differing = seeds.differing_keys(self.runs)
        self.config = self.runs[0].config
        other = seeds.IRRELEVANT.union(self.differing, {"seed"})
        keys = sorted(self.config.keys() - other)
        self.common = {key: self.config[key] for key in keys}
        self.target = self.config["lsr.closeness"]
        self.num_seeds = min(map(len, groups.values()))
        self.has_one_seed = self.num_seeds == 1

    @classmethod
    def studies(cls, runs):
        """Those that runs allow, in the order of their first runs."""
        by_setting = {}
        for run in runs:
            value, setting = cls.value_of(run), cls.setting(run)
            counts = cls.counts_diverged or not run.diverged
            if counts and None not in (value, setting):
                groups = by_setting.setdefault(setting, {})
                groups.setdefault(value, []).append(run)
        found = [groups for groups in by_setting.values() if len(groups) > 1]
        return [cls(dict(sorted(groups.items()))) for groups in found]

    @classmethod
    def setting(cls, run):
        """What is equal in runs that are compared, or None: it takes no part"""
        return seeds.setting(run, cls.free)

    @functools.cached_property
    def means(self):
        """`{value: means_over_seeds}`."""
        return {
            value: seeds.means_over_seeds(runs, self.window_of)
            for value, runs in self.groups.items()
        }

    def make(self, varied, figures_name=None):
        """Measures, and makes heading, blocks, details and pictures.

        The keys `varied` tell studies of a kind apart. Without a
        `figures_name`, with which their files begin, there are no pictures.
        """
        self.measure()
        own = [f"{k} = {self.common[k]}" for k in varied if k in self.common]
        self.heading = self.title + ": " * bool(own) + ", ".join(own)
        parts = [*self.parts()]
        if self.has_one_seed:
            parts.append(
                "There is one seed only for some values: bands and standard "
                "errors over seeds are left out there."
            )
        lines = (Line(p) if isinstance(p, str) else p for p in parts)
        self.blocks = Headline(self.headline), *lines
        common = self.common.items()
        shared = [
            f"{key} = {value}" for key, value in common if value is not None
        ]
        self.details = (
            f"In common: {', '.join(shared)}.",
            f"Runs: {', '.join(run.name for run in self.runs)}.",
        )
        self.pictures = {
            f"{figures_name}-{what}": (caption, _picture(height, draw))
            for what, (caption, height, draw) in self.plots().items()
            if figures_name
        }

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
        windows = map(self.window_of, self.runs)
        known = [window and window.verdict.at_equilibrium for window in windows]
        return [known.count(answer) for answer in (True, False, None)]

    def curves(self, what=""):
        """Of `plots`, that of accuracy and loss."""
        bands = "Lines are means, bands the range of all seeds."
        if self.has_one_seed:
            bands = "Lines are means; one seed has no band."
        caption = (
            f"Test accuracy and training loss{what} against SGD epochs. {bands}"
        )
        return {"curves": (caption, 7, self.draw_curves)}

    def draw_curves(self, figure):
        panels = figure.subplots(2, 1, sharex=True)
        columns = ("val_accuracy", ACCURACY, 100), ("loss", LOSS, 1)
        for axes, (column, label, scale) in zip(panels, columns, strict=True):
            axes.set_ylabel(label)
            for index, (value, runs) in enumerate(self.groups.items()):
                curves = scale * np.array([run.curve(column) for run in runs])
                epochs = np.flatnonzero(np.isfinite(curves).all(axis=0))
                curves, count = curves[:, epochs], len(epochs)
                if not count:
                    continue
                style = line_style(index)
                # Shifted from line to line, lest markers hide one another.
                first = index * max(count // 40, 1) % count
                axes.plot(
                    epochs + 1,
                    curves.mean(axis=0),
                    **style,
                    label=self.label.format(value),
                    markevery=(first, max(count // 8, 1)),
                    markersize=6,
                )
                if len(curves) > 1:
                    ends = curves.min(axis=0), curves.max(axis=0)
                    band = {"color": style["color"], "alpha": 0.15}
                    axes.fill_between(epochs + 1, *ends, **band)
        axes.set_xlabel("SGD epochs")
        steps = ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(steps)
        if all(np.all(line.get_ydata() > 0) for line in axes.get_lines()):
            make_logarithmic(axes)
        ncols = min(len(self.groups), 5)
        legend_outside(figure, panels, "upper", ncols=ncols)


def table(title, rows):
    """`Table` of `{column: value}`, a row each."""
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


def outcome(means, num_diverged=None):
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
    if math.isnan(value):
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


def _picture(height, draw):
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


def draw_points(axes, points, index, scale=1, **style):
    """Draws `{position: value}`, with errors; an arrow where one has no end.

    A value is a `SeedMean`, `(low, value, high)` or a number.
    """
    ends = [scale * _ends(value) for value in points.values()]
    low, values, high = np.reshape(ends, (-1, 3)).T
    is_open = np.isinf(high)
    errors = values - low, np.where(is_open, values, high - values)
    style = {**line_style(index), "capsize": 4, "lolims": is_open, **style}
    axes.errorbar([*points], values, errors, **style)


def _ends(value):
    if isinstance(value, seeds.SeedMean):
        error = np.nan_to_num(value.standard_error)
        return value.value + error * np.array([-1, 0, 1])
    return np.broadcast_to(value, 3)


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
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=digits))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
