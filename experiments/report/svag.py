"""Does SGD follow its SDE? Runs that differ in SVAG's ell."""

import dataclasses
import math

from experiments.report.comparison import Comparison
from experiments.report.figures import (
    ACCURACY,
    COLOURS,
    error_bar,
    legend_of_most,
    saved_figure,
)
from experiments.report.runs import equilibrium_counts
from experiments.report.sections import (
    NAMES,
    Section,
    bands,
    closeness_text,
    off_equilibrium,
    one_seed,
    ratios_text,
    reasons_text,
    seeds,
    setting,
)
from experiments.report.seeds import (
    SeedMean,
    equilibrium_over_seeds,
    seed_mean,
)
from keras_svag.callbacks.markdown import (
    interval,
    number,
    percent_with_error,
    table,
    with_error,
)
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.pooling import pooled
from keras_svag.scaling.bounds import min_noise_to_signal
from keras_svag.scaling.closeness import (
    Closeness,
    EquilibriumStatistics,
    c_closeness,
)
from keras_svag.scaling.verdict import Verdict

QUANTITIES = (
    "weight_sq_norm",
    "grad_sq_norm",
    "noise_trace",
    "accuracy",
    "loss",
)


@dataclasses.dataclass(frozen=True)
class NecessaryCondition:
    """What SGD's N/G says about its SDE ([L21], section 5).

    Attributes:
        estimate: `NoiseEstimate` of SGD, pooled over its seeds.
        threshold: The least N/G with which SGD can be C-close to its SDE.
        verdict: `Verdict` at the 95% interval of N/G.
        heuristic_reasons: Why the theorem may not apply, a phrase each.
    """

    estimate: NoiseEstimate
    threshold: float
    verdict: Verdict
    heuristic_reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SVAGStudy:
    """What runs of several ell say about the SDE approximation.

    Attributes:
        comparison: The runs, by ell; diverged ones left out.
        final: `{ell: {quantity: SeedMean}}`, with the names of `QUANTITIES`:
            R, G and N over the last window, test accuracy, training loss.
        limit: `{quantity: (value, standard error)}` at ell → ∞.
        target: C, how close SGD is asked to be.
        closeness: `Closeness` of SGD to SVAG with the largest ell, or None.
        limit_closeness: `Closeness` of SGD to the estimate at ell → ∞, None
            where there is none, or one seed.
        condition: `NecessaryCondition`, or None without a measured SGD run.
        verdict: "supported", "contradicted" or "undetermined".
        reason: Why, as a clause.
    """

    comparison: Comparison
    final: dict[int, dict[str, SeedMean]]
    limit: dict[str, tuple[float, float]]
    target: float
    closeness: Closeness | None
    limit_closeness: Closeness | None
    condition: NecessaryCondition | None
    verdict: str
    reason: str

    @property
    def largest_ell(self):
        """The ell that stands in for the SDE."""
        return max(self.comparison.groups)


def svag_study(comparison):
    """Evaluates runs that differ in ell.

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

    Returns:
        An `SVAGStudy`.
    """
    groups = comparison.groups
    windows = {
        ell: [run.final_window for run in runs] for ell, runs in groups.items()
    }
    final = {ell: _final(groups[ell], windows[ell]) for ell in groups}
    target = groups[max(groups)][0].config.get("lsr.closeness", 2**0.5)
    limit = {name: _limit(final, name) for name in QUANTITIES}
    closeness = _closeness(windows)
    limit_closeness = None
    if comparison.num_seeds > 1:
        limit_closeness = _limit_closeness(
            windows, limit, closeness, comparison.num_seeds
        )
    condition = _necessary_condition(windows.get(1), comparison, target)
    verdict, reason = svag_verdict(
        closeness,
        limit_closeness,
        condition,
        target,
        windows,
        comparison.num_seeds,
    )
    return SVAGStudy(
        comparison,
        final,
        limit,
        target,
        closeness,
        limit_closeness,
        condition,
        verdict,
        reason,
    )


def _final(runs, windows):
    final = {
        "accuracy": seed_mean([run.accuracy for run in runs]),
        "loss": seed_mean([run.curve("loss")[-1] for run in runs]),
    }
    for name in QUANTITIES[:3]:
        final[name] = seed_mean(
            [getattr(w.statistics, name) if w else math.nan for w in windows]
        )
    return final


def _limit(final, name):
    """Richardson's estimate at ell → ∞ from the two largest ell.

    E(ell) = E + c / ell + O(1 / ell²), so (l2 E2 - l1 E1) / (l2 - l1), which
    is 2 E(2l) - E(l) for neighbours (derived). The two are independent.
    """
    l1, l2 = sorted(final)[-2:]
    first, second = final[l1][name], final[l2][name]
    value = (l2 * second.value - l1 * first.value) / (l2 - l1)
    error = math.hypot(l2 * second.standard_error, l1 * first.standard_error)
    return value, error / (l2 - l1)


def _closeness(windows):
    return _closeness_of_sgd(
        windows, equilibrium_over_seeds(windows[max(windows)])
    )


def _limit_closeness(windows, limit, closeness, num_seeds):
    first, second = sorted(windows)[-2:]
    if first > 1:
        fields = {}
        for name in QUANTITIES[:3]:
            fields[name], fields[f"{name}_se"] = limit[name]
        return _closeness_of_sgd(
            windows, EquilibriumStatistics(**fields, count=num_seeds)
        )
    if closeness is None:
        return None
    # SGD is in the limit: (l E(l) - E(1)) / (l - 1) over E(1) increases with
    # E(l) over E(1), whose interval is known.
    ratios = {
        name: tuple(
            max((second * ratio - 1) / (second - 1), 0.0) for ratio in ends
        )
        for name, ends in closeness.ratios.items()
    }
    values, lows, highs = zip(*map(_distance, ratios.values()), strict=True)
    return Closeness(max(values), max(lows), max(highs), ratios)


def _distance(ratio):
    """max(r, 1/r) of `(r, low, high)`, and the range of it."""
    value, low, high = ratio
    inverse, largest, least = (1 / e if e > 0 else math.inf for e in ratio)
    return (
        max(value, inverse) if value > 0 else math.inf,
        max(low, least, 1.0),
        max(high, largest),
    )


def _closeness_of_sgd(windows, reference):
    sgd = equilibrium_over_seeds(windows[1]) if 1 in windows else None
    if sgd is None or reference is None:
        return None
    try:
        return c_closeness(sgd, reference)
    except ValueError:
        # R or N is not above 0: there is no ratio.
        return None


def _necessary_condition(windows, comparison, target):
    if not windows or None in windows:
        return None
    estimate = pooled([window.estimate for window in windows])
    rate = windows[0].learning_rate
    decay = comparison.groups[1][0].config.get("weight_decay")
    if rate * (decay or 0.0) >= 2:
        return None
    threshold = min_noise_to_signal(target, rate, decay or 0.0)
    low, high = estimate.interval()
    verdict = Verdict.UNDETERMINED
    if high < threshold:
        verdict = Verdict.RULED_OUT
    elif low >= threshold:
        verdict = Verdict.NOT_RULED_OUT
    reasons = dict.fromkeys(
        reason for window in windows for reason in window.heuristic_reasons
    )
    return NecessaryCondition(estimate, threshold, verdict, tuple(reasons))


def svag_verdict(
    closeness, limit_closeness, condition, target, windows, num_seeds
):
    """`(verdict, reason)`; see `svag_study` for what decides.

    Args:
        closeness: `Closeness` of SGD to SVAG with the largest ell, or None.
        limit_closeness: `Closeness` of SGD to the estimate at ell → ∞, or None.
        condition: `NecessaryCondition`, or None.
        target: C.
        windows: `{ell: list of Window or None}`, one a run.
        num_seeds: Least number of runs of an ell.

    Returns:
        "supported", "contradicted" or "undetermined", and a clause.
    """
    if condition and _is_ruled_out(condition):
        if not condition.heuristic_reasons:
            return "contradicted", "SGD's N/G is too small for its SDE"
    if 1 not in windows:
        return "undetermined", "there is no finished run with ell 1, SGD itself"
    if closeness is None:
        return "undetermined", "R, G and N were not measured above 0 in all"
    if num_seeds < 2:
        return "undetermined", "one seed shows nothing of how runs vary"
    if closeness.low <= target < closeness.high:
        return "undetermined", "the interval contains C: more seeds narrow it"
    counts = equilibrium_counts(sum(windows.values(), []))
    if closeness.low > target:
        return _of_equilibria(
            "contradicted", "the whole interval lies above C", counts
        )
    if condition and _is_ruled_out(condition):
        return (
            "undetermined",
            "the interval lies below C, but N/G is too small by a condition "
            "that here is only a heuristic",
        )
    if limit_closeness and limit_closeness.low > target:
        return (
            "undetermined",
            "the interval lies below C, but that of the estimate at ell → ∞ "
            "lies above it: larger ell would decide",
        )
    reason = "the whole interval lies at or below C"
    if limit_closeness and limit_closeness.high > target:
        reason += ", though that of the estimate at ell → ∞ contains it"
    return _of_equilibria("supported", reason, counts)


def _is_ruled_out(condition):
    return condition.verdict == Verdict.RULED_OUT


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


def svag_section(study, figures):
    """`Section` of an `SVAGStudy`.

    Args:
        study: The study.
        figures: File names of its curves and of its convergence.
    """
    paragraphs = [
        f"The SDE approximation is **{study.verdict}** at this setting: "
        f"{study.reason}.",
        f"{_sgd_closeness(study)} {_condition(study)}".strip(),
        "*Supported* means here that SGD is C-close to SVAG with the largest "
        "ell, which stands in for the SDE: the 95% interval of C lies at or "
        "below the C asked for, that of the estimate at ell → ∞ does not lie "
        "above it, and N/G is not ruled out. *Contradicted*: the interval lies "
        "above it, or N/G is ruled out and the theorem applies. Otherwise, or "
        "if the interval would decide but runs are known not to have reached "
        "equilibrium, *undetermined*.",
        _svag_table(study),
        f"Means over seeds ± standard error; {seeds(study.comparison)}. R, G "
        "and N are those of the last epochs of one learning rate; the "
        "estimate of ell → ∞ is Richardson's from the two largest ell, for "
        "neighbours 2 E(2 ell) − E(ell), and neglects terms in 1/ell².",
    ]
    if study.closeness:
        paragraphs.append(
            ratios_text(study, f"ell {study.largest_ell}", "ell 1")
        )
        paragraphs += off_equilibrium(study.comparison)
    return Section(
        "SVAG and SGD",
        (*paragraphs, *one_seed(study.comparison)),
        {
            figures[0]: "Test accuracy and training loss against SGD epochs. "
            + bands(study.comparison),
            figures[1]: "R, G, N and test accuracy against 1/ell, with the "
            "estimate at ell → ∞.",
        },
        setting(study.comparison),
    )


def _sgd_closeness(study):
    if study.closeness is None:
        return ""
    text = (
        f"SGD (ell 1) is C-close to SVAG with ell {study.largest_ell} for "
        f"{closeness_text(study)}; asked for is C = {number(study.target)}."
    )
    limit = study.limit_closeness
    if limit:
        text += (
            f" To the estimate at ell → ∞ it is for C = {number(limit.value)} "
            f"{interval(limit.low, limit.high)}."
        )
    return text


def _condition(study):
    condition = study.condition
    if condition is None:
        return ""
    text = (
        f"The necessary condition N/G ≥ {number(condition.threshold)} is "
        f"**{condition.verdict}**: {condition.estimate.describe()}."
    )
    if condition.verdict == Verdict.NOT_RULED_OUT:
        text = text.replace("is **not", "is met, so that the SDE is **not")
    if condition.heuristic_reasons:
        reasons = reasons_text(condition.heuristic_reasons)
        text += f" It is only a heuristic here: {reasons}."
    return text


def _svag_table(study):
    rows = [
        _svag_row(
            str(ell), {k: (m.value, m.standard_error) for k, m in f.items()}
        )
        for ell, f in study.final.items()
    ]
    return table(
        ["ell", "R", "G", "N", "test accuracy", "training loss"],
        [*rows, _svag_row("→ ∞ (estimate)", study.limit)],
    )


def _svag_row(name, values):
    return [
        name,
        *(with_error(*values[key]) for key in NAMES),
        percent_with_error(*values["accuracy"]),
        with_error(*values["loss"]),
    ]


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
            axes.set_xlabel("1/ell (1: SGD, 0: its SDE)")
        figure.legend(
            *legend_of_most(panels.flat),
            loc="outside lower center",
            ncols=3,
            fontsize=11,
        )


def _draw_convergence(axes, study, name):
    scale = 100 if name == "accuracy" else 1
    means = {ell: final[name] for ell, final in study.final.items()}
    if not all(math.isfinite(mean.value) for mean in means.values()):
        axes.text(
            0.5, 0.5, "not measured", ha="center", transform=axes.transAxes
        )
        return
    axes.errorbar(
        [1 / ell for ell in means],
        [scale * mean.value for mean in means.values()],
        [scale * error_bar(mean.standard_error) for mean in means.values()],
        fmt="o-",
        color=COLOURS[2],
        capsize=4,
        label="mean ± standard error",
    )
    value, error = study.limit[name]
    axes.errorbar(
        [0],
        [scale * value],
        [scale * error_bar(error)],
        fmt="D",
        color=COLOURS[4],
        capsize=4,
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
