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
    was. Runs of SVAG `beside` predict where C to the smallest batch size is
    left, `leaves_at`. The test error, of which no theorem speaks, is least at B
    = `best`, and more than 20% higher first at `error_grows_at`, if at all.
    """

    name = "scaling"
    differ_in = "batch_size with learning_rate in proportion"
    free = {"batch_size", "learning_rate"}
    kind_beside = SVAGStudy
    # Pairs of halves and independent ones have the same mean and covariance.
    also_free = {"ell", "pairing"}
    title = "Linear scaling"
    rule = "linear scaling"
    label = "linear rule"
    symbol = noise = "N/G"
    drawn = "G, N, N/G and test accuracy"
    axis = ", learning rate in proportion"

    def measure(self):
        kind = optimizer_kind(self.config["optimizer"])
        self.refusal = rule_refusal(kind, "linear")
        self.prediction = self.leaves_at = None
        if self.beside and not self.refusal:
            self.prediction = seeds.closeness_prediction(
                self.beside.groups, self.window_of
            )
        if self.prediction:
            # SVAG with ell at B is SGD at B / ell, on the line of equal noise.
            self.unit = self.beside.config["batch_size"] * self.runs[0].ell
            first = min(self.groups) / self.unit
            ends = self.prediction.max_batch_multiplier(self.target, first)
            self.leaves_at = tuple(self.unit * kappa for kappa in ends)
        super().measure()
        # A run that diverged has an accuracy of 0.
        means = self.means.items()
        errors = {size: 1 - mean["accuracy"].value for size, mean in means}
        self.best = min(errors, key=errors.get)
        self.least_error = errors[self.best]
        self.grown_error = GROWN_ERROR * self.least_error
        grown = (B for B in errors if errors[B] > self.grown_error)
        self.error_grows_at = next((B for B in grown if B > self.best), None)

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

    def _verdict(self, size):
        """`ScalingVerdict` on runs of the same process as these, or None."""
        if self.refusal:
            return None
        runs = seeds.converged(self.groups[size])
        return seeds.noise_verdict(runs, self.window_of, self.target)

    def bound_of(self, size):
        verdict = self._verdict(size)
        if verdict is None:
            return None
        point = verdict.max_batch_size or math.nan
        return verdict.not_ruled_out_up_to, point, verdict.ruled_out_beyond

    def closeness(self, size, other):
        """`Closeness` of a batch size to another one, or None."""
        if size == other:
            return None
        means = self.means[other], self.means[size]
        return seeds.closeness_over_seeds(*means, size / other)

    def tested(self, size):
        """Whether no batch size that is ruled out from here was C-close.

        None without a bound. "failed" if the interval of C of one lies at or
        below the C asked for, else "undetermined" if one contains it, else
        "held" if one lies above, or a run diverged.
        """
        if self.bounds[size] is None:
            return None
        found = {"not tested"}
        for other in self.groups:
            if other <= self.bounds[size][2]:
                continue
            closeness = self.closeness(other, size)
            is_far = closeness and closeness.low > self.target
            # What diverges has no equilibrium to be close at.
            if is_far or other in self.diverged:
                found.add("held")
            elif closeness:
                is_close = closeness.high <= self.target
                found.add("failed" if is_close else "undetermined")
        return next(answer for answer in _FOUND if answer in found)

    def row(self, size):
        moments = {"G": None, "N": None}
        measured = least = predicted = None
        if noise := self.noises[size]:
            g = noise.grad_sq_norm, noise.grad_sq_norm_se
            n = noise.noise_trace, noise.noise_trace_se
            moments = {"G": seeds.SeedMean(*g, 1), "N": seeds.SeedMean(*n, 1)}
        if closeness := self.closeness(size, self.first):
            measured = closeness.low, closeness.value, closeness.high
            if len(self.groups[size]) == 1:
                measured = closeness.value
        verdict = self._verdict(self.first)
        if verdict and size > self.first:
            least = verdict.scaled_by(size / self.first).min_closeness
        if self.prediction:
            kappas = size / self.unit, self.first / self.unit
            value, *ends = self.prediction.closeness(*kappas)
            predicted = ends[0], value, ends[1]
        return {
            **self.trained(size),
            **moments,
            **self.judged(size),
            "no ruled-out batch is C-close": self.tested(size),
            "C": measured,
            "C at least": least,
            "C predicted": predicted,
        }

    @property
    def headline(self):
        if self.refusal:
            return str(self.refusal)
        found = ""
        if answer := self.tested(self.first):
            found = (
                ". No batch size that was ruled out was C-close in R, G and N: "
                f"{_FOUND[answer]}"
            )
        return f"{self.bound_text}{found}."

    def texts(self):
        target = number(self.target)
        if self.prediction:
            ells = ", ".join(map(str, self.beside.groups))
            size = self.beside.config["batch_size"]
            at = self.first, self.target, self.leaves_at
            yield (
                f"Predicted from ell = {ells} at B = {size:,}: "
                f"{study.leaves_text(*at)}. The prediction (derived) is of "
                f"first order in the learning rate. {study.SHAPES}"
            )
        elif not self.refusal:
            yield (
                "Where C is left can be predicted from runs of SVAG with "
                "several ell at one of these batch sizes (--sweep ell=1,2), "
                "which are not in this report."
            )
        yield (
            "Test error is another matter, of which the theorem says nothing. "
            f"The least, {number(self.least_error)}, is that of B = "
            f"{self.best:,}; {self._grown_text()}."
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
        if reasons := seeds.reasons_of(self.runs, self.window_of):
            found = study.reasons_text(reasons)
            yield f"The condition is only a heuristic: {found}."

    def _grown_text(self):
        grows_at, bound = self.error_grows_at, self.bounds[self.first]
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
        error = "(± standard error)"
        labels = {"G": f"G = |∇L|² {error}", "N": f"N = Tr Σ at B {error}"}
        for index, (name, label) in enumerate(labels.items(), 1):
            means = self.column(name).items()
            shown = {size: mean for size, mean in means if mean.value > 0}
            study.draw_points(axes, shown, index, label=label)
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
            low, values, high = np.reshape([*points.values()], (-1, 3)).T
            if points and None not in values:
                style = study.line_style(index)
                axes.plot([*points], values, **style, label=label)
                # An open end goes to the edge of the axis.
                ends = low, np.minimum(high, 1e6)
                band = {"color": style["color"], "alpha": 0.2}
                axes.fill_between([*points], *ends, **band)
        ends = {B: np.broadcast_to(c, 3) for B, c in self.column("C").items()}
        # It is infinite where a G is not above 0.
        ends = {B: c for B, c in ends.items() if math.isfinite(c[1])}
        top = 1.3 * max([self.target, *(c[1] for c in ends.values())])
        ends = {B: np.minimum(c, 10 * top) for B, c in ends.items()}
        label = "measured" + " (95% interval)" * (not self.has_one_seed)
        study.draw_points(axes, ends, 0, linestyle="", label=label)
        label = f"C = {self.target:.3g}, asked for"
        axes.axhline(self.target, color="0.4", linestyle=":", label=label)
        axes.set_ylim(0.98, top)
        study.make_logarithmic(axes)
        self.finish_sizes(axes, 1.1, 1.2)
        axes.set_ylabel(f"C to B = {self.first:,} (dimensionless)")
        study.legend_outside(figure, [axes], "lower", ncols=2, fontsize=11)
