"""How far does a scaling rule go? Runs that differ in batch size.

The linear rule is judged by R, G and N, that of Adam and its kin by N/G in the
norm of the optimizer.
"""

import dataclasses
import functools
import math
import operator

from matplotlib.ticker import NullLocator

from experiments.report import seeds, study
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.numerals import number
from keras_svag.scaling.bounds import min_noise_to_signal

_BETAS = {"beta_1": "β₁", "beta_2": "β₂", "rho": "ρ"}


@dataclasses.dataclass
class BatchSize:
    """What the runs of one batch size of a study have shown.

    Attributes:
        size: B.
        runs: The runs that did not diverge.
        num_diverged: Runs that stopped at a loss that was not finite.
        means: `means_over_seeds` of all.
        estimate: `NoiseEstimate` pooled over the seeds, or None: for the
            linear rule in the plain norm, else in that of the optimizer.
        ratio: `(low, point, high)` of N/G, or of q_P = N_P/G_P, with its 95%
            interval; NaN for a point where G is not above 0. None without.
        bound: `(low, point, high)` of the largest batch that is not ruled out,
            seen from this one; NaN for a point without one. None without.
    """

    size: int
    runs: list
    num_diverged: int
    means: dict
    estimate: NoiseEstimate | None
    ratio: tuple | None = None
    bound: tuple | None = None

    @property
    def test_error(self):
        """Mean over the seeds; 1 for one that diverged."""
        return 1 - self.means["accuracy"].value


class ScalingStudy(study.Study):
    """What runs of several batch sizes say about a scaling rule.

    Batch size κB is ruled out, seen from B, if the necessary condition fails
    for every N/G in its interval, not ruled out if for none.

    A rule is a subclass with these class attributes, and

    - `noise_of(run)`, the `NoiseEstimate` that its condition asks for;
    - `scaled(runs)`, `{key: number}` of what it scales;
    - `bound_of(batch)`, as in a `BatchSize`;
    - `row(batch)` of the table, and `texts()` below it;
    - `panels`, three functions of axes.

    Attributes:
        rule: What the rule is called in a sentence.
        symbol, noise: What its condition asks for, and how that is called.
        drawn: What the panels show.
        axis: What is scaled with the batch size.
        beside: `Study` of which a `Comparison` may be beside one of these.
        also_free: Keys in which its runs may differ from these too.
        threshold: 1 / (C² - 1), the N/G below which training leaves its SDE.
        batches: `BatchSize`s, increasing.
        first: The smallest, from which the others are seen.
    """

    counts_diverged = True
    window_of = operator.attrgetter("window_before_decay")
    also_free = frozenset()
    axis = ""

    def __init__(self, comparison):
        super().__init__(comparison)
        self.threshold = min_noise_to_signal(self.target)
        self.batches = [self._batch(*group) for group in self.groups.items()]
        self.first = self.batches[0]

    def _batch(self, size, runs):
        converged = [run for run in runs if not run.diverged]
        noise = seeds.pooled_noise([*map(self.noise_of, converged)])
        num_diverged = len(runs) - len(converged)
        batch = BatchSize(
            size, converged, num_diverged, self.means[size], noise
        )
        if noise:
            low, high = noise.interval()
            point = math.nan
            if noise.grad_sq_norm > 0:
                point = max(noise.noise_to_signal, 0.0)
            batch.ratio = low, point, high
            batch.bound = self.bound_of(batch)
        return batch

    @staticmethod
    def value_of(run):
        return run.config["batch_size"]

    @classmethod
    def comparisons(cls, runs):
        """Comparisons of batch size, beside each the first with a like run."""
        found, others = super().comparisons(runs), {}

        def like(run):
            return seeds.setting(run, cls.free | cls.also_free), cls.alike(run)

        for other in cls.beside.comparisons(runs) if found else ():
            for run in other.runs:
                others.setdefault(like(run), other)
        for one in found:
            for size, group in one.groups.items():
                # Defaults left out and given are one configuration.
                own = {run.config["seed"]: run for run in reversed(group)}
                one.groups[size] = [run for run in group if run in own.values()]
            one.beside = others.get(like(one.runs[0]))
        return found

    @property
    def bound_text(self):
        """How far the rule may go, a clause."""
        if self.first.bound is None:
            return (
                f"No {self.noise} was measured at the smallest batch size: no "
                f"condition on {self.rule}"
            )
        low, point, high = self.first.bound
        beyond = f" and ruled out beyond {number(high)}"
        if math.isinf(high):
            beyond = ", and no larger batch size is ruled out"
        if not math.isnan(point):
            beyond += f" (point estimate B* = {number(point)})"
        return (
            f"Seen from B = {self.first.size:,}, {self.rule} is not ruled out "
            f"up to B = {number(low)}{beyond}"
        )

    @functools.cached_property
    def rows(self):
        """The rows of the table by batch size."""
        return {batch.size: self.row(batch) for batch in self.batches}

    def column(self, name):
        """What there is in a column, `{B: value}`."""
        rows = self.rows.items()
        return {B: row[name] for B, row in rows if row[name] is not None}

    def parts(self):
        yield study.table("By batch size", self.rows.values())
        yield from self.texts()

    def trained(self, batch):
        """What a batch size was trained with, and its outcome, for a row."""
        scaled = self.scaled(self.groups[batch.size])
        betas = sorted(scaled.keys() & _BETAS)
        return {
            "B": batch.size,
            "η": scaled["learning_rate"],
            **{_BETAS[key]: f"{scaled[key]:.6g}" for key in betas},
            **study.outcome(batch.means, batch.num_diverged),
        }

    def judged(self, batch):
        """Its noise and what follows from that, for a row."""
        verdict = None
        if self.first.bound and batch is not self.first:
            low, _, high = self.first.bound
            verdict = "undetermined" if batch.size > low else "not ruled out"
            verdict = "ruled out" if batch.size > high else verdict
        return {
            self.symbol: batch.ratio,
            "B*": batch.bound,
            f"from B = {self.first.size:,}": verdict,
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
            study.draw_intervals(axes, shown, 3, label=label)
        label = f"threshold 1/(C² − 1) = {self.threshold:.3g}"
        style = {"color": study.COLOURS[4], "linestyle": "--", "label": label}
        axes.axhline(self.threshold, **style)
        study.make_logarithmic(axes)
        axes.set_ylabel(f"{self.symbol} (dimensionless)")
        axes.legend()

    def outcomes(self):
        """`{label: {B: means}}` of what is drawn."""
        own = [batch for batch in self.batches if not batch.num_diverged]
        return {self.label: {batch.size: batch.means for batch in own}}

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
                study.draw_means(axes, points, index, scale, label=label)
        sizes = [batch.size for batch in self.batches if batch.num_diverged]
        if sizes:
            label = "diverged, at least one seed"
            style = {"color": study.COLOURS[0], "markersize": 9, "label": label}
            style["transform"] = axes.get_xaxis_transform()
            axes.plot(sizes, [0.03] * len(sizes), "X", **style)
        if self.first.bound:
            low, point, high = self.first.bound
            # An open end goes to the edge of the axis.
            high = min(high, 1e3 * self.batches[-1].size)
            label = f"B*, bound seen from B = {self.first.size:,}"
            style = {"color": study.COLOURS[5], "alpha": 0.3, "linewidth": 0}
            axes.axvspan(low, high, **style, label=label)
            if not math.isnan(point):
                axes.axvline(point, color=study.COLOURS[5], linestyle="-.")
