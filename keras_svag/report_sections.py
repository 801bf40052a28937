"""The text of a report: a section for each study."""

import dataclasses
import math

from keras_svag.callbacks.markdown import (
    escaped,
    interval,
    number,
    percent_with_error,
    table,
    with_error,
)
from keras_svag.ngd_study import NGD, SGD
from keras_svag.scaling.verdict import Verdict
from keras_svag.svag_verdict import equilibrium_counts

_NAMES = {"weight_sq_norm": "R", "grad_sq_norm": "G", "noise_trace": "N"}

_ONE_SEED = (
    "There is one seed only for some values: bands and standard errors over "
    "seeds are left out there."
)


@dataclasses.dataclass(frozen=True)
class Section:
    """A study in a report.

    Attributes:
        title: Its heading.
        paragraphs: Markdown, above the figures.
        figures: `{file name: caption}`, in order.
        details: Markdown, below the figures.
    """

    title: str
    paragraphs: tuple[str, ...]
    figures: dict[str, str]
    details: tuple[str, ...] = ()


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
        paragraphs.append(_ratios(study, f"ell {study.largest_ell}", "ell 1"))
        paragraphs += _off_equilibrium(study.comparison)
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
        f"{_closeness(study)}; asked for is C = {number(study.target)}."
    )
    limit = study.limit_closeness
    if limit:
        text += (
            f" To the estimate at ell → ∞ it is for C = {number(limit.value)} "
            f"{interval(limit.low, limit.high)}."
        )
    return text


def _closeness(study):
    found = f"C = {number(study.closeness.value)}"
    if study.comparison.num_seeds == 1:
        return f"{found} (no interval: one seed)"
    ends = interval(study.closeness.low, study.closeness.high)
    return f"{found}, 95% interval {ends}"


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
        *(with_error(*values[key]) for key in _NAMES),
        percent_with_error(*values["accuracy"]),
        with_error(*values["loss"]),
    ]


def _off_equilibrium(comparison):
    windows = [run.final_window for run in comparison.runs]
    at, off, unknown = equilibrium_counts(windows)
    if not off + unknown:
        return []
    others = f", {off} not to have" if off else ""
    return [
        f"{at} of {len(windows)} runs are known to have reached equilibrium"
        f"{others}: C compares the last epochs of the runs, not their "
        "equilibria."
    ]


def _ratios(study, second, first):
    is_one_seed = study.comparison.num_seeds == 1
    ratios = "; ".join(
        f"{_NAMES[name]} {number(ratio)}"
        + ("" if is_one_seed else f" {interval(low, high)}")
        for name, (ratio, low, high) in study.closeness.ratios.items()
    )
    held = ", with intervals that hold together at 95%"
    return (
        f"Ratios of {second} to {first}{'' if is_one_seed else held}: {ratios}."
    )


def ngd_section(study, figures):
    """`Section` of an `NGDStudy`.

    Args:
        study: The study.
        figures: File name of its curves.
    """
    rows = [
        [
            name,
            percent_with_error(
                means["accuracy"].value, means["accuracy"].standard_error
            ),
            with_error(means["loss"].value, means["loss"].standard_error),
        ]
        for name, means in study.final.items()
    ]
    value, low, high = study.difference["accuracy"]
    if math.isinf(low):
        told = "one seed gives no interval: undetermined"
    else:
        told = f"95% interval [{100 * low:+.2f}, {100 * high:+.2f}]: " + (
            "not told apart" if low <= 0 <= high else "told apart"
        )
    closeness = ["NGD's G and N are not measured: there is no C-closeness."]
    if study.closeness:
        closeness = [
            f"SGD is C-close to NGD for {_closeness(study)}.",
            _ratios(study, NGD, SGD),
            *_off_equilibrium(study.comparison),
        ]
    differing = [
        key
        for key in study.comparison.differing
        if key not in ("optimizer", "seed")
    ]
    also = []
    if differing:
        keys = ", ".join(map(escaped, differing))
        also = [f"Besides the optimizer the runs differ in {keys}."]
    return Section(
        "NGD and SGD",
        (
            f"{NGD}'s test accuracy less {SGD}'s: {100 * value:+.2f} "
            f"percentage points ({told}).",
            table(["", "test accuracy", "training loss"], rows),
            f"Means over seeds ± standard error; {seeds(study.comparison)}. "
            "The interval is Welch's.",
            *closeness,
            *also,
            *one_seed(study.comparison),
        ),
        {
            figures[0]: "Test accuracy and training loss of NGD and SGD "
            f"against SGD epochs. {bands(study.comparison)}"
        },
        setting(study.comparison),
    )


def reasons_text(reasons):
    """Reasons of several runs; those that differ in a number alone are one."""
    merged = {}
    for reason in reasons:
        phrase, _, number_of_a_run = reason.partition(" (")
        merged.setdefault(phrase, set()).add(number_of_a_run and reason)
    return "; ".join(
        escaped(phrase if len(full) > 1 else min(full) or phrase)
        for phrase, full in merged.items()
    )


def seeds(comparison):
    """How many seeds there are, in words."""
    counts = {len(runs) for runs in comparison.groups.values()}
    ends = sorted({min(counts), max(counts)})
    return f"{' to '.join(map(str, ends))} seeds" if ends != [1] else "one seed"


def bands(comparison):
    """What lines and bands of the curves are."""
    if comparison.num_seeds == 1:
        return "Lines are means; one seed has no band."
    return "Lines are means, bands the range of all seeds."


def one_seed(comparison):
    """Paragraphs that say what one seed lacks, if there is one only."""
    return [_ONE_SEED] if comparison.num_seeds == 1 else []


def setting(comparison):
    """Paragraphs on what the runs are and have in common."""
    shared = ", ".join(
        f"{escaped(key)} = {escaped(value)}"
        for key, value in sorted(comparison.common.items())
        if value is not None and key != "seed"
    )
    names = ", ".join(escaped(run.name) for run in comparison.runs)
    return (f"In common: {shared}.", f"Runs: {names}.")
