"""Does an optimizer follow its SDE? Runs that differ in SVAG's ell."""

import math

from experiments.optimizers import optimizer_kind
from experiments.report import seeds, study
from keras_svag.noise.numerals import number, within
from keras_svag.scaling.closeness import Closeness
from keras_svag.scaling.verdict import Verdict


class SVAGStudy(study.Study):
    """What runs of several ell say about the SDE approximation.

    What its `verdict` means is said in the report, at the end of `parts`; the
    `reason` is a clause. One seed shows nothing of how runs vary, so then only
    N/G can decide: by the `condition`, a `ScalingVerdict` on SGD, of which
    `sde_verdict` is the necessary condition ([L21], section 5).

    C-closeness is one of equilibria: runs that began alike are close before
    they get there. So where the balance tells that a run has not, the interval
    decides nothing; where no balance is defined, the reason says so.
    """

    name = "svag"
    differ_in = "ell alone"
    free = {"ell"}
    label = "ell = {}"

    @staticmethod
    def value_of(run):
        return run.ell

    def measure(self):
        kind = optimizer_kind(self.config["optimizer"])
        self.simulated = kind.simulates
        self.title = f"SVAG and {self.simulated}"
        # The ell that stands in for the SDE.
        self.largest = max(self.means)
        self.limit = _limit(self.means, self.num_seeds)
        self.closeness = self.limit_closeness = None
        if sgd := self.means.get(1):
            closest = self.means[self.largest]
            self.closeness = seeds.closeness_over_seeds(sgd, closest)
            if not self.has_one_seed:
                self.limit_closeness = self._closeness_to_limit(sgd)
        self.condition = self.prediction = None
        if kind.rule == "linear":
            # The theory of equilibria is that of SGD.
            self.condition = seeds.noise_verdict(
                self.groups.get(1, []), self.window_of, self.target
            )
            self.prediction = seeds.closeness_prediction(
                self.groups, self.window_of
            )
        self.verdict, self.reason = self._judged()

    def _closeness_to_limit(self, sgd):
        first, second = sorted(self.means)[-2:]
        if first > 1:
            return seeds.closeness_over_seeds(sgd, self.limit)
        if self.closeness is None:
            return None

        # SGD is in the limit: (l E(l) - E(1)) / (l - 1) over E(1) increases
        # with E(l) over E(1), whose interval is known.
        def at_limit(ratio):
            return max((second * ratio - 1) / (second - 1), 0.0)

        ratios = self.closeness.ratios.items()
        return Closeness.from_ratios(
            {name: tuple(map(at_limit, ends)) for name, ends in ratios}
        )

    def _judged(self):
        """`(verdict, reason)`: supported, contradicted or undetermined."""
        closeness, target = self.closeness, self.target
        condition, limit = self.condition, self.limit_closeness
        is_ruled_out = condition and condition.sde_verdict == Verdict.RULED_OUT
        if is_ruled_out and not condition.heuristic:
            return "contradicted", "SGD's N/G is too small for its SDE"
        if 1 not in self.means:
            return "undetermined", "there is no finished run with ell 1"
        if closeness is None:
            reason = "R, G and N were not measured above 0 in all"
            return "undetermined", reason
        if self.has_one_seed:
            return "undetermined", "one seed shows nothing of how runs vary"
        verdict, reason = "supported", "the whole interval lies at or below C"
        if closeness.low > target:
            verdict, reason = "contradicted", "the whole interval lies above C"
        elif closeness.high > target:
            reason = "the interval contains C: more seeds narrow it"
            return "undetermined", reason
        elif is_ruled_out:
            return "undetermined", (
                "the interval lies below C, but N/G is too small by a "
                "condition that here is only a heuristic"
            )
        elif limit and limit.low > target:
            return "undetermined", (
                "the interval lies below C, but that of the estimate at ell → "
                "∞ lies above it: larger ell would decide"
            )
        elif limit and limit.high > target:
            reason += ", though that of the estimate at ell → ∞ contains it"
        at, off, unknown = self.equilibrium_counts
        total = at + off + unknown
        if off:
            return "undetermined", (
                f"{reason}, but {off} of {total} runs had not reached "
                "equilibrium, where C-closeness is defined: longer runs would "
                "decide"
            )
        if unknown:
            reason += (
                f", at the end of the runs: whether {unknown} of {total} runs "
                "had reached equilibrium is not known"
            )
        return verdict, reason

    @property
    def headline(self):
        found = f"{self.verdict} at this setting: {self.reason}"
        return f"The SDE approximation is {found}."

    def parts(self):
        rows = []
        for ell, means in [*self.means.items(), ("→ ∞ (estimate)", self.limit)]:
            moments = {s: means[q] for q, s in seeds.SYMBOLS.items()}
            rows.append({"ell": ell, **moments, **study.outcome(means)})
        yield study.table("By ell", rows)
        if self.closeness:
            yield self._closeness_text()
        if self.condition:
            yield self._condition_text()
        if self.prediction:
            yield self._prediction_text()
        yield (
            f"{self.seeds_text} R, G and N are those of the last epochs of one "
            "learning rate; the estimate of ell → ∞ is Richardson's from the "
            "two largest ell, for neighbours 2 E(2 ell) − E(ell), and neglects "
            "terms in 1/ell²."
        )
        yield (
            f"“Supported” means here that {self.simulated} is C-close to SVAG "
            "with the largest ell, which stands in for the SDE: the 95% "
            "interval of C lies at or below the C asked for, that of the "
            "estimate at ell → ∞ does not lie above it, and N/G is not ruled "
            "out. “Contradicted”: the interval lies above it, or N/G is ruled "
            "out and the theorem applies. Otherwise, or if the interval would "
            "decide but runs are known not to have reached equilibrium, "
            "“undetermined”."
        )
        if self.closeness:
            largest = f"ell {self.largest}"
            yield from self.closeness_details(self.closeness, largest, "ell 1")

    def _closeness_text(self):
        text = (
            f"{self.simulated} (ell 1) is C-close to SVAG with ell "
            f"{self.largest} for {self.closeness_text(self.closeness)}; asked "
            f"for is C = {number(self.target)}."
        )
        if limit := self.limit_closeness:
            found = within(limit.low, limit.value, limit.high)
            text += f" To the estimate at ell → ∞ it is for C = {found}."
        return text

    def _condition_text(self):
        condition = self.condition
        is_met = condition.sde_verdict == Verdict.NOT_RULED_OUT
        text = (
            f"The necessary condition N/G ≥ "
            f"{number(condition.min_noise_to_signal)} is "
            f"{'met, so that the SDE is ' * is_met}{condition.sde_verdict}: "
            f"{condition.estimate.describe()}."
        )
        if condition.heuristic:
            reasons = study.reasons_text(condition.reasons)
            text += f" It is only a heuristic here: {reasons}."
        return text

    def _prediction_text(self):
        """Where linear scaling from here leaves C, and is ruled out."""
        size = self.config["batch_size"]
        kappas = self.prediction.max_batch_multiplier(self.target)
        leaves = [size * kappa for kappa in kappas]
        text = (
            f"Predicted from ell = {', '.join(map(str, self.means))}: "
            f"{study.leaves_text(size, self.target, leaves)}"
        )
        if self.condition and math.isfinite(self.condition.ruled_out_beyond):
            beyond = number(self.condition.ruled_out_beyond)
            text += f"; beyond {beyond} it is ruled out"
        slopes = ", ".join(
            f"{seeds.SYMBOLS[name]} {slope:+.3f}"
            for name, slope in self.prediction.slopes.items()
        )
        errors = "over the seeds"
        if self.has_one_seed:
            errors = "between the epochs of single runs, which seeds vary more"
            errors += " than"
        return (
            f"{text}. The prediction (derived, not the paper's) is of first "
            "order in the learning rate: SVAG with ell and SGD at κB, κη are "
            "one family, with steps η/ell and κη, and between these ell the "
            "logarithms of its R, G and N change with κ at the rates "
            f"{slopes}. {study.SHAPES} The errors of the rates are those "
            f"{errors}. The bound says what is impossible, the prediction "
            "where it happens; both are to SGD at the batch size above."
        )

    def plots(self):
        caption = (
            "R, G, N and test accuracy against 1/ell, with the estimate at "
            "ell → ∞."
        )
        convergence = caption, 7, self.draw_convergence
        return self.curves() | {"convergence": convergence}

    def draw_convergence(self, figure):
        """Error bars are standard errors, the grey band what is within C."""
        panels = figure.subplots(2, 2, sharex=True)
        for axes in panels[1]:
            axes.set_xlabel(f"1/ell (1: {self.simulated}, 0: its SDE)")
        quantities = {
            "weight_sq_norm": "R = |x|² (squared weight units)",
            "grad_sq_norm": "G = |∇L|² (squared gradient units)",
            "noise_trace": "N = Tr Σ (squared gradient units)",
            "accuracy": study.ACCURACY,
        }
        for axes, name in zip(panels.flat, quantities, strict=True):
            scale = 100 if name == "accuracy" else 1
            axes.set_title(quantities[name], fontsize=12)
            means = {1 / ell: m[name] for ell, m in self.means.items()}
            if not all(math.isfinite(mean.value) for mean in means.values()):
                style = {"ha": "center", "transform": axes.transAxes}
                axes.text(0.5, 0.5, "not measured", **style)
                continue
            style = {"marker": "o", "linestyle": "-"}
            style["label"] = "mean ± standard error"
            study.draw_points(axes, means, 2, scale, **style)
            style = {"marker": "D", "linestyle": ""}
            style["label"] = "estimate for ell → ∞"
            limit = {0: self.limit[name]}
            study.draw_points(axes, limit, 4, scale, **style)
            if name != "accuracy":
                value = means[1 / self.largest].value
                ends = value / self.target, value * self.target
                label = f"within {self.target:.3g}× of ell = {self.largest}"
                axes.axhspan(*ends, color="0.5", alpha=0.15, label=label)
        options = {"ncols": 3, "fontsize": 11}
        study.legend_outside(figure, panels.flat, "lower", **options)


def _limit(means, num_seeds):
    """Richardson's estimate at ell → ∞ from the two largest ell.

    E(ell) = E + c / ell + O(1 / ell²), so (l2 E2 - l1 E1) / (l2 - l1), which
    is 2 E(2l) - E(l) for neighbours (derived). The two are independent.
    """
    l1, l2 = sorted(means)[-2:]
    limit = {}
    for name, one in means[l1].items():
        two = means[l2][name]
        value = l2 * two.value - l1 * one.value
        error = math.hypot(l2 * two.standard_error, l1 * one.standard_error)
        ends = value / (l2 - l1), error / (l2 - l1)
        limit[name] = seeds.SeedMean(*ends, num_seeds)
    return limit
