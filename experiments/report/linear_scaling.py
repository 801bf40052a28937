"""How far does the linear rule go? Runs that differ in batch size."""

import math

import numpy as np

from experiments.optimizers import optimizer_kind
from experiments.report import scaling, seeds, study
from experiments.report.svag import SVAGStudy
from keras_svag.noise.numerals import number
from keras_svag.scaling.optimizers import rule_refusal

# The test error that is observed beside the theorem, over the best.
GROWN_ERROR = 1.2

# What the test of the condition has found, in the order in which it counts.
_FOUND = {
    "failed": "failed, one was",
    "undetermined": "undetermined, more seeds would tell",
    "held": "held",
    "not tested": "not tested, nothing was measured beyond",
}


class LinearScaling(scaling.ScalingStudy):
    """What runs of several batch sizes say about the linear rule.

    What is ruled out cannot be C-close in R, G and N: `tested` says whether it
    was.

    Attributes:
        refusal: Why the linear rule is none for the optimizer, or None.
        prediction: `ClosenessPrediction` from runs of SVAG beside, or None.
        unit: The batch size at which κ of the prediction is 1.
        leaves_at: `(value, low, high)`, the predicted batch size at which C to
            the smallest is left; None without a prediction.
        best: The `BatchSize` of least test error.
        error_grows_at: The first batch size above it whose test error is more
            than 20% above its; or None. No theorem speaks of it.
    """

    name = "scaling"
    differ_in = "batch_size with learning_rate in proportion"
    free = {"batch_size", "learning_rate"}
    beside = SVAGStudy
    # Pairs of halves and independent ones have the same mean and covariance.
    also_free = {"ell", "pairing"}
    title = "Linear scaling"
    rule = "linear scaling"
    label = "linear rule"
    symbol = noise = "N/G"
    drawn = "G, N, N/G and test accuracy"
    axis = ", learning rate in proportion"

    def __init__(self, comparison):
        run, svag = comparison.runs[0], comparison.beside
        kind = optimizer_kind(run.config["optimizer"])
        self.refusal = rule_refusal(kind, "linear")
        super().__init__(comparison)
        self.prediction = self.leaves_at = None
        if svag and not self.refusal:
            of_ell = svag.groups, self.window_of
            self.prediction = seeds.closeness_prediction(*of_ell)
        if self.prediction:
            # SVAG with ell at B is SGD at B / ell, on the line of equal noise.
            self.unit = svag.runs[0].config["batch_size"] * run.ell
            first = self.first.size / self.unit
            ends = self.prediction.max_batch_multiplier(self.target, first)
            self.leaves_at = tuple(self.unit * kappa for kappa in ends)
        self.best = min(self.batches, key=lambda batch: batch.test_error)
        self.grown_error = GROWN_ERROR * self.best.test_error
        larger = self.batches[self.batches.index(self.best) :]
        grown = (b.size for b in larger if b.test_error > self.grown_error)
        self.error_grows_at = next(grown, None)

    @staticmethod
    def alike(run):
        rate = run.config["learning_rate"] / run.config["batch_size"]
        # Rates are decimal fractions: products of them round.
        return f"{rate:.6g}"

    def noise_of(self, run):
        window = run.window_before_decay
        return window and window.estimate

    def scaled(self, runs):
        windows = filter(None, map(self.window_of, runs))
        rates = [window.verdict.learning_rate for window in windows]
        return {"learning_rate": [*rates, runs[0].config["learning_rate"]][0]}

    def _verdict(self, batch):
        """`ScalingVerdict` on runs of the same process as these, or None."""
        if self.refusal:
            return None
        return seeds.noise_verdict(batch.runs, self.window_of, self.target)

    def bound_of(self, batch):
        verdict = self._verdict(batch)
        if verdict is None:
            return None
        point = verdict.max_batch_size or math.nan
        return verdict.not_ruled_out_up_to, point, verdict.ruled_out_beyond

    def closeness(self, batch, other):
        """`Closeness` of a `BatchSize` to another one, or None."""
        if batch is other:
            return None
        kappa = batch.size / other.size
        return seeds.closeness_over_seeds(other.means, batch.means, kappa)

    def tested(self, batch):
        """Whether no batch size that is ruled out from here was C-close.

        None without a bound. "failed" if the interval of C of one lies at or
        below the C asked for, else "undetermined" if one contains it, else
        "held" if one lies above, or a run diverged.
        """
        if batch.bound is None:
            return None
        found = {"not tested"}
        for other in self.batches:
            if other.size <= batch.bound[2]:
                continue
            closeness = self.closeness(other, batch)
            # What diverges has no equilibrium to be close at.
            if other.num_diverged or closeness and closeness.low > self.target:
                found.add("held")
            elif closeness:
                is_close = closeness.high <= self.target
                found.add("failed" if is_close else "undetermined")
        return next(answer for answer in _FOUND if answer in found)

    def row(self, batch):
        measured = least = predicted = None
        closeness = self.closeness(batch, self.first)
        if closeness:
            measured = closeness.low, closeness.value, closeness.high
            if batch.means["accuracy"].count == 1:
                measured = closeness.value
        verdict = self._verdict(self.first)
        if verdict and batch is not self.first:
            kappa = batch.size / self.first.size
            least = verdict.scaled_by(kappa).min_closeness
        if self.prediction:
            kappas = batch.size / self.unit, self.first.size / self.unit
            value, *ends = self.prediction.closeness(*kappas)
            predicted = ends[0], value, ends[1]
        noise = batch.estimate
        return {
            **self.trained(batch),
            "G": noise and _moment(noise, "grad_sq_norm"),
            "N": noise and _moment(noise, "noise_trace"),
            **self.judged(batch),
            "no ruled-out batch is C-close": self.tested(batch),
            "C": measured,
            "C at least": least,
            "C predicted": predicted,
        }

    @property
    def headline(self):
        if self.refusal:
            return str(self.refusal)
        found = ""
        if self.first.bound:
            found = (
                ". No batch size that was ruled out was C-close in R, G and N: "
                f"{_FOUND[self.tested(self.first)]}"
            )
        return f"{self.bound_text}{found}."

    def texts(self):
        target = number(self.target)
        if self.prediction:
            svag = self.comparison.beside
            leaves = study.leaves_text(
                self.first.size, self.target, self.leaves_at
            )
            yield (
                f"Predicted from ell = {', '.join(map(str, svag.groups))} at B "
                f"= {svag.runs[0].config['batch_size']:,}: {leaves}. The "
                "prediction (derived) is of first order in the learning rate. "
                f"{study.SHAPES}"
            )
        elif not self.refusal:
            yield (
                "Where C is left can be predicted from runs of SVAG with "
                "several ell at one of these batch sizes (--sweep ell=1,2), "
                "which are not in this report."
            )
        yield (
            "Test error is another matter, of which the theorem says nothing. "
            f"The least, {number(self.best.test_error)}, is that of B = "
            f"{self.best.size:,}; {self._grown_text()}."
        )
        yield (
            "B* = κ_max·B is the largest batch size that the necessary "
            "condition does not rule out, seen from B, with the 95% interval "
            "that follows from N/G's (pooled over seeds) and from the balance. "
            f"Beyond it R, G and N cannot all be within a factor {target} of "
            "those at B: that no batch size beyond was C-close “held” or "
            "“failed”, by the 95% interval of C over seeds; “undetermined” if "
            f"one contains {target}; “not tested” if nothing was measured "
            "beyond. C is the C-closeness to the smallest batch size, "
            "measured; “at least” is what N/G there implies for it, "
            "“predicted” what SVAG does. A dash: not measured."
        )
        yield (
            "The threshold 1/(C² − 1) for SGD's own N/G is "
            f"{number(self.threshold)}."
        )
        reasons = seeds.reasons_of(self.comparison.runs, self.window_of)
        if reasons:
            found = study.reasons_text(reasons)
            yield f"The condition is only a heuristic: {found}."

    def _grown_text(self):
        grows_at, bound = self.error_grows_at, self.first.bound
        more = f"by more than {GROWN_ERROR - 1:.0%} of its value"
        if grows_at is None:
            return f"no larger batch size exceeds it {more}"
        text = f"B = {grows_at:,} is the first to exceed it {more}"
        if bound and not math.isnan(bound[1]):
            text += f", at {number(grows_at / bound[1])} times B*"
        if self.leaves_at and math.isfinite(self.leaves_at[0]):
            ratio = number(grows_at / self.leaves_at[0])
            text += f" and {ratio} times the batch at which C is left"
        return text

    @property
    def panels(self):
        return self.draw_moments, self.draw_ratio, self.draw_accuracy

    def plots(self):
        plots = super().plots()
        if self.column("C"):
            caption = (
                "C to the smallest batch size: measured, the least that the "
                "necessary condition allows, and predicted from SVAG."
            )
            plots["closeness"] = caption, 5.5, self.draw_closeness
        return plots

    def draw_moments(self, axes):
        labels = {"G": "G = |∇L|²", "N": "N = Tr Σ at B"}
        for index, (name, label) in enumerate(labels.items(), 1):
            means = self.column(name).items()
            shown = {size: mean for size, mean in means if mean.value > 0}
            label += " (± standard error)"
            study.draw_means(axes, shown, index, label=label)
        study.make_logarithmic(axes)
        axes.set_ylabel("squared gradient units")
        axes.legend()

    def draw_accuracy(self, axes):
        super().draw_accuracy(axes)
        label = "test error 20% above the best"
        style = {"color": study.COLOURS[0], "linestyle": ":", "label": label}
        axes.axhline(100 * (1 - self.grown_error), **style)

    def draw_closeness(self, figure):
        axes = figure.subplots()
        axes.set_xscale("log")
        for name, index, label in (
            ("C at least", 4, "at least, by the necessary condition"),
            ("C predicted", 2, "predicted from SVAG"),
        ):
            points = self.column(name)
            if points and None not in [
                value for _, value, _ in points.values()
            ]:
                low, values, high = np.transpose([*points.values()])
                style = study.line_style(index)
                axes.plot([*points], values, **style, label=label)
                # An open end goes to the edge of the axis.
                ends = low, np.minimum(high, 1e6)
                study.draw_band(axes, [*points], *ends, style["color"], 0.2)
        ends = {B: np.broadcast_to(c, 3) for B, c in self.column("C").items()}
        # It is infinite where a G is not above 0.
        ends = {B: c for B, c in ends.items() if math.isfinite(c[1])}
        top = 1.3 * max(
            [self.target, *(value for _, value, _ in ends.values())]
        )
        ends = {B: np.minimum(c, 10 * top) for B, c in ends.items()}
        label = "measured" + " (95% interval)" * (not self.has_one_seed)
        study.draw_intervals(axes, ends, 0, linestyle="", label=label)
        label = f"C = {self.target:.3g}, asked for"
        axes.axhline(self.target, color="0.4", linestyle=":", label=label)
        axes.set_ylim(0.98, top)
        study.make_logarithmic(axes)
        self.finish_sizes(axes, 1.1, 1.2)
        axes.set_ylabel(f"C to B = {self.first.size:,} (dimensionless)")
        study.legend_outside(figure, [axes], "lower", ncols=2, fontsize=11)


def _moment(estimate, name):
    """G or N with its error."""
    error = getattr(estimate, f"{name}_se")
    return seeds.SeedMean(getattr(estimate, name), error, 1)
