"""Does an optimizer follow its SDE? Runs that differ in SVAG's ell."""

import math

from experiments.optimizers import is_svag, optimizer_kind
from experiments.report import sections, seeds
from experiments.report.figures import (
    ACCURACY,
    COLOURS,
    draw_means,
    legend_outside,
    save_curves,
    saved_figure,
)
from experiments.report.runs import equilibrium_counts
from experiments.report.seeds import comparisons
from keras_svag.noise.numerals import interval, number, with_error
from keras_svag.reporting.blocks import Table
from keras_svag.scaling.closeness import Closeness
from keras_svag.scaling.verdict import Verdict


def svag_comparisons(runs):
    """Comparisons of ell: everything else but the seed is equal."""

    def ell(run):
        return run.config["ell"] if is_svag(run.config["optimizer"]) else None

    return comparisons(runs, ell, {"ell"})


class SVAGStudy:
    """What runs of several ell say about the SDE approximation.

    The verdict is that of an interval and of a necessary condition:
    *contradicted* if the 95% interval of SGD's C-closeness to SVAG with the
    largest ell lies above C, or if N/G is ruled out to be enough and no
    assumption of the theorem fails; *supported* if the interval lies at or
    below C, that of the estimate at ell → ∞ does not lie above it, and N/G is
    not ruled out; otherwise *undetermined*. One seed shows nothing of how runs
    vary, so then only N/G can decide.

    C-closeness is one of equilibria: runs that began alike are close before
    they get there. So where the balance tells that a run has not, the interval
    decides nothing; where no balance is defined, the reason says so.

    Args:
        comparison: `Comparison` of at least two ell, without diverged runs.

    Attributes:
        simulated: The optimizer whose SDE it is.
        largest_ell: The ell that stands in for the SDE.
        final: `{ell: {quantity: SeedMean}}`, with the names of
            `equilibrium_means`, over the last window, and of `final_means`.
        limit: The same at ell → ∞, `{quantity: SeedMean}`.
        target: C, how close SGD is asked to be.
        closeness: `Closeness` of SGD to SVAG with the largest ell, or None.
        limit_closeness: `Closeness` of SGD to the estimate at ell → ∞, None
            where there is none, or one seed.
        condition: `ScalingVerdict` on SGD, of which `sde_verdict` is the
            necessary condition ([L21], section 5); None if SGD's noise was not
            measured.
        prediction: `ClosenessPrediction` of all ell, or None.
        verdict: "supported", "contradicted" or "undetermined".
        reason: Why, as a clause.
    """

    def __init__(self, comparison):
        self.comparison = comparison
        groups, num_seeds = comparison.groups, comparison.num_seeds
        windows = {
            ell: [run.final_window for run in runs]
            for ell, runs in groups.items()
        }
        config = comparison.runs[0].config
        kind = optimizer_kind(config["optimizer"])
        self.simulated = kind.simulates
        self.largest_ell = max(groups)
        self.final = {
            ell: seeds.equilibrium_means(windows[ell]) | seeds.final_means(runs)
            for ell, runs in groups.items()
        }
        self.limit = _limit(self.final, num_seeds)
        self.target = config["lsr.closeness"]
        self.closeness = seeds.closeness_over_seeds(
            self.final.get(1), self.final[self.largest_ell]
        )
        self.limit_closeness = self.condition = self.prediction = None
        if num_seeds > 1:
            self.limit_closeness = _limit_closeness(
                self.final, self.limit, self.closeness
            )
        if kind.rule == "linear":
            # The theory of equilibria is that of SGD.
            self.condition = seeds.noise_verdict(
                windows.get(1), config, self.target
            )
            self.prediction = seeds.closeness_prediction(
                groups, lambda run: run.final_window
            )
        counts = equilibrium_counts(sum(windows.values(), []))
        self.verdict, self.reason = self._judged(num_seeds, counts)

    def _judged(self, num_seeds, counts):
        """`(verdict, reason)`."""
        closeness, target = self.closeness, self.target
        condition, limit = self.condition, self.limit_closeness
        is_ruled_out = condition and condition.sde_verdict == Verdict.RULED_OUT
        if is_ruled_out and not condition.heuristic:
            return "contradicted", "SGD's N/G is too small for its SDE"
        if 1 not in self.final:
            return "undetermined", "there is no finished run with ell 1"
        if closeness is None:
            return "undetermined", "R, G and N were not measured above 0 in all"
        if num_seeds < 2:
            return "undetermined", "one seed shows nothing of how runs vary"
        if closeness.low <= target < closeness.high:
            return (
                "undetermined",
                "the interval contains C: more seeds narrow it",
            )
        if closeness.low > target:
            return _of_equilibria(
                "contradicted", "the whole interval lies above C", counts
            )
        if is_ruled_out:
            return (
                "undetermined",
                "the interval lies below C, but N/G is too small by a "
                "condition that here is only a heuristic",
            )
        if limit and limit.low > target:
            return (
                "undetermined",
                "the interval lies below C, but that of the estimate at ell → "
                "∞ lies above it: larger ell would decide",
            )
        reason = "the whole interval lies at or below C"
        if limit and limit.high > target:
            reason += ", though that of the estimate at ell → ∞ contains it"
        return _of_equilibria("supported", reason, counts)


def _limit(final, num_seeds):
    """Richardson's estimate at ell → ∞ from the two largest ell.

    E(ell) = E + c / ell + O(1 / ell²), so (l2 E2 - l1 E1) / (l2 - l1), which
    is 2 E(2l) - E(l) for neighbours (derived). The two are independent.
    """
    l1, l2 = sorted(final)[-2:]
    limit = {}
    for name, first in final[l1].items():
        second = final[l2][name]
        limit[name] = seeds.SeedMean(
            (l2 * second.value - l1 * first.value) / (l2 - l1),
            math.hypot(l2 * second.standard_error, l1 * first.standard_error)
            / (l2 - l1),
            num_seeds,
        )
    return limit


def _limit_closeness(final, limit, closeness):
    first, second = sorted(final)[-2:]
    if first > 1:
        return seeds.closeness_over_seeds(final.get(1), limit)
    if closeness is None:
        return None
    # SGD is in the limit: (l E(l) - E(1)) / (l - 1) over E(1) increases with
    # E(l) over E(1), whose interval is known.
    return Closeness.from_ratios(
        {
            name: tuple(
                max((second * ratio - 1) / (second - 1), 0.0) for ratio in ends
            )
            for name, ends in closeness.ratios.items()
        }
    )


def _of_equilibria(verdict, reason, counts):
    """What a verdict on the last epochs says of the equilibria."""
    _, off, unknown = counts
    total = sum(counts)
    if off:
        return (
            "undetermined",
            f"{reason}, but {off} of {total} runs had not reached equilibrium, "
            "where C-closeness is defined: longer runs would decide",
        )
    if unknown:
        reason += (
            f", at the end of the runs: whether {unknown} of {total} runs had "
            "reached equilibrium is not known"
        )
    return verdict, reason


def svag_section(study):
    """`Section` of an `SVAGStudy`."""
    comparison = study.comparison
    closeness = []
    if study.closeness:
        closeness = sections.closeness_details(
            study, f"ell {study.largest_ell}", "ell 1"
        )
    return sections.section(
        f"SVAG and {study.simulated}",
        comparison,
        f"The SDE approximation is {study.verdict} at this setting: "
        f"{study.reason}.",
        [
            _svag_table(study),
            _sgd_closeness(study),
            _condition(study),
            _prediction(study),
            f"{sections.seeds(comparison)} R, G and N are those of the last "
            "epochs of one learning rate; the estimate of ell → ∞ is "
            "Richardson's from the two largest ell, for neighbours 2 E(2 ell) "
            "− E(ell), and neglects terms in 1/ell².",
            f"“Supported” means here that {study.simulated} is C-close to SVAG "
            "with the largest ell, which stands in for the SDE: the 95% "
            "interval of C lies at or below the C asked for, that of the "
            "estimate at ell → ∞ does not lie above it, and N/G is not ruled "
            "out. “Contradicted”: the interval lies above it, or N/G is ruled "
            "out and the theorem applies. Otherwise, or if the interval would "
            "decide but runs are known not to have reached equilibrium, "
            "“undetermined”.",
            *closeness,
        ],
        {
            "curves": (
                "Test accuracy and training loss against SGD epochs. "
                + sections.bands(comparison),
                lambda path: save_curves(path, comparison, "ell = {}"),
            ),
            "convergence": (
                "R, G, N and test accuracy against 1/ell, with the estimate at "
                "ell → ∞.",
                lambda path: save_convergence(path, study),
            ),
        },
    )


def _sgd_closeness(study):
    if study.closeness is None:
        return ""
    text = (
        f"{study.simulated} (ell 1) is C-close to SVAG with ell "
        f"{study.largest_ell} for {sections.closeness_text(study)}; asked for "
        f"is C = {number(study.target)}."
    )
    limit = study.limit_closeness
    if limit:
        text += (
            " To the estimate at ell → ∞ it is for C = "
            f"{number(limit.value)} {interval(limit.low, limit.high)}."
        )
    return text


def _condition(study):
    condition = study.condition
    if condition is None:
        return ""
    threshold = number(condition.min_noise_to_signal)
    met = ""
    if condition.sde_verdict == Verdict.NOT_RULED_OUT:
        met = "met, so that the SDE is "
    text = (
        f"The necessary condition N/G ≥ {threshold} is {met}"
        f"{condition.sde_verdict}: {condition.estimate.describe()}."
    )
    if condition.heuristic:
        reasons = sections.reasons_text(condition.reasons)
        text += f" It is only a heuristic here: {reasons}."
    return text


def _prediction(study):
    """Where linear scaling from here leaves C, and where it is ruled out."""
    if study.prediction is None:
        return ""
    size = study.comparison.runs[0].config["batch_size"]
    leaves = [
        size * kappa
        for kappa in study.prediction.max_batch_multiplier(study.target)
    ]
    ells = ", ".join(map(str, study.comparison.groups))
    text = (
        f"Predicted from ell = {ells}: "
        f"{sections.leaves_text(size, study.target, leaves)}"
    )
    condition = study.condition
    if condition and math.isfinite(condition.ruled_out_beyond):
        text += f"; beyond {number(condition.ruled_out_beyond)} it is ruled out"
    slopes = ", ".join(
        f"{seeds.SYMBOLS[name]} {slope:+.3f}"
        for name, slope in study.prediction.slopes.items()
    )
    errors = "over the seeds"
    if study.comparison.num_seeds == 1:
        errors = "between the epochs of single runs, which seeds vary more than"
    return (
        f"{text}. The prediction (derived, not the paper's) is of first order "
        "in the learning rate: SVAG with ell and SGD at κB, κη are one family, "
        "with steps η/ell and κη, and between these ell the logarithms of its "
        f"R, G and N change with κ at the rates {slopes}. {sections.SHAPES} "
        f"The errors of the rates are those {errors}. The bound says what is "
        "impossible, the prediction where it happens; both are to SGD at the "
        "batch size above."
    )


def _svag_table(study):
    named = {str(ell): means for ell, means in study.final.items()}
    named["→ ∞ (estimate)"] = study.limit
    rows = []
    for name, means in named.items():
        measured = [means[quantity] for quantity in seeds.SYMBOLS]
        rows.append(
            (
                name,
                *(with_error(m.value, m.standard_error) for m in measured),
                *sections.accuracy_and_loss(means),
            )
        )
    letters = seeds.SYMBOLS.values()
    header = ("ell", *letters, "test accuracy", "training loss")
    return Table("By ell", header, tuple(rows))


_QUANTITY_LABELS = {
    "weight_sq_norm": "R = |x|² (squared weight units)",
    "grad_sq_norm": "G = |∇L|² (squared gradient units)",
    "noise_trace": "N = Tr Σ (squared gradient units)",
    "accuracy": ACCURACY,
}


def save_convergence(path, study):
    """R, G, N and test accuracy against 1/ell, with the estimate at 0.

    Error bars are standard errors; the grey band is what is within C of the
    largest ell.

    Args:
        path: PNG file.
        study: `SVAGStudy`.
    """
    with saved_figure(path, 7) as figure:
        panels = figure.subplots(2, 2, sharex=True)
        for axes, (name, label) in zip(
            panels.flat, _QUANTITY_LABELS.items(), strict=True
        ):
            _draw_convergence(axes, study, name)
            axes.set_title(label, fontsize=12)
        for axes in panels[1]:
            axes.set_xlabel(f"1/ell (1: {study.simulated}, 0: its SDE)")
        legend_outside(figure, panels.flat, "lower", ncols=3, fontsize=11)


def _draw_convergence(axes, study, name):
    scale = 100 if name == "accuracy" else 1
    means = {ell: final[name] for ell, final in study.final.items()}
    if not all(math.isfinite(mean.value) for mean in means.values()):
        axes.text(
            0.5, 0.5, "not measured", ha="center", transform=axes.transAxes
        )
        return
    draw_means(
        axes,
        [1 / ell for ell in means],
        means.values(),
        scale,
        fmt="o-",
        color=COLOURS[2],
        label="mean ± standard error",
    )
    draw_means(
        axes,
        [0],
        [study.limit[name]],
        scale,
        fmt="D",
        color=COLOURS[4],
        label="estimate for ell → ∞",
    )
    if name != "accuracy":
        reference = means[study.largest_ell].value
        axes.axhspan(
            reference / study.target,
            reference * study.target,
            color="0.5",
            alpha=0.15,
            linewidth=0,
            label=f"within {study.target:.3g}× of ell = {study.largest_ell}",
        )


SVAG_AND_SGD = sections.StudyKind(
    "svag",
    "ell alone",
    svag_comparisons,
    lambda comparison: svag_section(SVAGStudy(comparison)),
)
