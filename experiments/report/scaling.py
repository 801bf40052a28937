"""How far does a scaling rule go? Runs that differ in batch size.

The linear rule is judged by R, G and N, that of Adam and its kin by N/G in the
norm of the optimizer.
"""

import math
import operator

from matplotlib.ticker import NullLocator

from experiments.report import seeds, study
from keras_svag.noise.numerals import number
from keras_svag.scaling.bounds import min_noise_to_signal

BETAS = {"beta_1": "β₁", "beta_2": "β₂", "rho": "ρ"}


class ScalingStudy(study.Study):
    """What runs of several batch sizes say about a scaling rule.

    Batch size κB is ruled out, seen from B, if the necessary condition fails
    for every N/G in its interval, not ruled out if for none.

    A rule is a subclass that has `alike(run)`, what has to be equal in its
    runs besides, or None; `noise_of(run)`, the `NoiseEstimate` that its
    condition asks for, which is called `noise` and makes what is called
    `symbol`; `scaled(runs)`, `{key: number}` of what it scales; `row(size)` of
    the table, and `texts()` below it; and `panels`, three functions of axes.
    Runs of `kind_beside`, which may differ in keys that are `also_free`, can
    stand beside.

    Attributes:
        noises: `{B: NoiseEstimate}`, pooled over the seeds, or None.
        ratios: `{B: (low, point, high)}` of N/G, or of q_P = N_P/G_P, with its
            95% interval; NaN for a point where G is not above 0. Or None.
        bounds: `{B: (low, point, high)}` of the largest batch that is not
            ruled out, seen from B; NaN for a point without one. Or None.
        diverged: `{B: how many runs}`, where some did.
    """

    counts_diverged = True
    window_of = operator.attrgetter("window_before_decay")
    also_free = frozenset()
    axis = ""
    beside = None

    def __init__(self, groups):
        def seed(run):
            return run.config["seed"]

        # Defaults left out and given are one configuration.
        own = {B: seeds.first_of_each(g, seed) for B, g in groups.items()}
        super().__init__(own)

    @staticmethod
    def value_of(run):
        return run.config["batch_size"]

    @classmethod
    def setting(cls, run, free=frozenset()):
        alike = cls.alike(run)
        return alike and (alike, *seeds.setting(run, cls.free | free))

    @classmethod
    def studies(cls, runs):
        """As of any `Study`, beside each the first one with a like run."""
        found, others = super().studies(runs), {}
        for other in cls.kind_beside.studies(runs) if found else ():
            for run in other.runs:
                others.setdefault(cls.setting(run, cls.also_free), other)
        for one in found:
            one.beside = others.get(cls.setting(one.runs[0], cls.also_free))
        return found

    def measure(self):
        # The N/G below which training leaves its SDE.
        self.threshold = min_noise_to_signal(self.target)
        self.first = min(self.groups)
        self.diverged = {}
        self.noises, self.ratios, self.bounds = {}, {}, {}
        for size, runs in self.groups.items():
            finished = seeds.converged(runs)
            if len(finished) < len(runs):
                self.diverged[size] = len(runs) - len(finished)
            noises = [*map(self.noise_of, finished)]
            noise = self.noises[size] = seeds.pooled_noise(noises)
            self.ratios[size] = noise and _ratio(noise)
            self.bounds[size] = noise and self.bound_of(size)
        self.rows = {size: self.row(size) for size in self.groups}

    @property
    def bound_text(self):
        """How far the rule may go, a clause."""
        if self.bounds[self.first] is None:
            return (
                f"No {self.noise} was measured at the smallest batch size: no "
                f"condition on {self.rule}"
            )
        low, point, high = self.bounds[self.first]
        beyond = f" and ruled out beyond {number(high)}"
        if math.isinf(high):
            beyond = ", and no larger batch size is ruled out"
        if not math.isnan(point):
            beyond += f" (point estimate B* = {number(point)})"
        return (
            f"Seen from B = {self.first:,}, {self.rule} is not ruled out up to "
            f"B = {number(low)}{beyond}"
        )

    def column(self, name):
        """What there is in a column, `{B: value}`."""
        rows = self.rows.items()
        return {B: row[name] for B, row in rows if row[name] is not None}

    def parts(self):
        yield study.table("By batch size", [*self.rows.values()])
        yield from self.texts()

    def trained(self, size):
        """What a batch size was trained with, and its outcome, for a row."""
        scaled = self.scaled(self.groups[size])
        betas = sorted(scaled.keys() & BETAS)
        return {
            "B": size,
            "η": scaled["learning_rate"],
            **{BETAS[key]: f"{scaled[key]:.6g}" for key in betas},
            **study.outcome(self.means[size], self.diverged.get(size)),
        }

    def judged(self, size):
        """Its noise and what follows from that, for a row."""
        verdict, bound = None, self.bounds[self.first]
        if bound and size > self.first:
            low, _, high = bound
            verdict = "undetermined" if size > low else "not ruled out"
            verdict = "ruled out" if size > high else verdict
        return {
            self.symbol: self.ratios[size],
            "B*": self.bounds[size],
            f"from B = {self.first:,}": verdict,
        }

    def plots(self):
        caption = (
            f"{self.drawn} against the batch size; B* is that of the smallest "
            "batch size."
        )
        return {"batch-sizes": (caption, 10, self.draw_batch_sizes)}

    def draw_batch_sizes(self, figure):
        axes = figure.subplots(3, 1, sharex=True)
        axes[0].set_xscale("log")
        for panel, draw in zip(axes, self.panels, strict=True):
            draw(panel)
        # Error bars without an upper end would stretch the axis.
        self.finish_sizes(axes[2], 1.4, 1.4)
        title = "mean ± standard error over seeds"
        study.legend_outside(figure, axes[2:], "lower", title=title, ncols=2)

    def finish_sizes(self, axes, below, above):
        """Gives an axis of batch sizes its ticks, its ends and its label."""
        sizes = [*self.groups]
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(sizes[0] / below, sizes[-1] * above)
        axes.set_xlabel(f"batch size B (examples){self.axis}")

    def draw_ratio(self, axes):
        shown = {}
        for size, (low, point, high) in self.column(self.symbol).items():
            value = low if math.isnan(point) else point
            # Of an interval [0, ∞) there is nothing to show.
            if value > 0:
                # A lower end of 0 lies below any logarithmic axis.
                shown[size] = max(low, 0.1 * value), value, high
        if shown:
            label = f"{self.symbol} (95% interval; arrow: no upper end)"
            study.draw_points(axes, shown, 3, label=label)
        label = f"threshold 1/(C² − 1) = {self.threshold:.3g}"
        style = {"color": study.COLOURS[4], "linestyle": "--", "label": label}
        axes.axhline(self.threshold, **style)
        study.make_logarithmic(axes)
        axes.set_ylabel(f"{self.symbol} (dimensionless)")
        axes.legend()

    def outcomes(self):
        """`{label: {B: means}}` of what is drawn."""
        own = self.means.items()
        return {self.label: {B: m for B, m in own if B not in self.diverged}}

    def draw_accuracy(self, axes):
        self._draw_outcome(axes, "accuracy", 100)
        axes.set_ylabel(study.ACCURACY)

    def draw_loss(self, axes):
        self._draw_outcome(axes, "loss", 1)
        study.make_logarithmic(axes)
        axes.set_ylabel(study.LOSS)

    def _draw_outcome(self, axes, quantity, scale):
        """A quantity of `means_over_seeds`, and where B* is."""
        for index, (label, means) in enumerate(self.outcomes().items(), 1):
            points = {size: m[quantity] for size, m in means.items()}
            if points:
                study.draw_points(axes, points, index, scale, label=label)
        if self.diverged:
            label = "diverged, at least one seed"
            style = {"color": study.COLOURS[0], "markersize": 9, "label": label}
            style["transform"] = axes.get_xaxis_transform()
            sizes = [*self.diverged]
            axes.plot(sizes, [0.03] * len(sizes), "X", **style)
        if self.bounds[self.first]:
            low, point, high = self.bounds[self.first]
            # An open end goes to the edge of the axis.
            high = min(high, 1e3 * max(self.groups))
            label = f"B*, bound seen from B = {self.first:,}"
            blue = study.COLOURS[5]
            axes.axvspan(low, high, color=blue, alpha=0.3, label=label)
            if not math.isnan(point):
                axes.axvline(point, color=blue, linestyle="-.")


def _ratio(noise):
    low, high = noise.interval()
    point = max(noise.noise_to_signal, 0.0)
    return low, point if noise.grad_sq_norm > 0 else math.nan, high
