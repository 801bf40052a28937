"""What the studies of a report and their sections have in common."""

import dataclasses
import math
from collections.abc import Callable

from experiments.report.runs import equilibrium_counts
from experiments.report.seeds import SYMBOLS
from keras_svag.noise.numerals import (
    interval,
    number,
    percent_with_error,
    with_error,
)
from keras_svag.reporting.blocks import Block, Headline, Line

_ONE_SEED = (
    "There is one seed only for some values: bands and standard errors over "
    "seeds are left out there."
)

# How a `ClosenessPrediction` gets from a slope to C.
SHAPES = (
    "Its point takes R, G and N, or their inverses, whichever grow, to be "
    "linear in κ, if they are told apart from no change; its 95% interval has "
    "the exponential in it too, for the shape is not known."
)


@dataclasses.dataclass(frozen=True)
class StudyKind:
    """A question that a report answers wherever runs allow it.

    Attributes:
        name: What the files of its figures begin with.
        differ_in: What its runs differ in, a phrase.
        comparisons: Function from runs to the `Comparison`s that can answer it.
        section: Function from one of them to its `Section`.
        counts_diverged: Whether runs that diverged count, with a test accuracy
            of 0; else they are left out of `comparisons`.
    """

    name: str
    differ_in: str
    comparisons: Callable
    section: Callable
    counts_diverged: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A study in a report.

    Attributes:
        title: Its heading.
        blocks: `Block`s above the figures, of which the first, a `Headline`,
            says what the study finds.
        figures: `{what it shows: (caption, save)}`, in order; `save` is a
            function that writes a PNG file to a path.
        details: Sentences below the figures.
    """

    title: str
    blocks: tuple[Block, ...]
    figures: dict[str, tuple[str, Callable]]
    details: tuple[str, ...] = ()


def section(title, comparison, headline, parts, figures):
    """The `Section` of a study.

    Args:
        title: Its heading.
        comparison: The `Comparison` that it is about.
        headline: What it finds, a sentence.
        parts: What follows, `Block`s and sentences; empty ones are left out.
        figures: As in a `Section`.
    """
    if comparison.num_seeds == 1:
        parts = [*parts, _ONE_SEED]
    shared = ", ".join(
        f"{key} = {value}"
        for key, value in sorted(comparison.common.items())
        if value is not None and key != "seed"
    )
    names = ", ".join(run.name for run in comparison.runs)
    return Section(
        title,
        (
            Headline(headline),
            *(Line(p) if isinstance(p, str) else p for p in parts if p),
        ),
        figures,
        (f"In common: {shared}.", f"Runs: {names}."),
    )


def closeness_text(study):
    found = f"C = {number(study.closeness.value)}"
    if study.comparison.num_seeds == 1:
        return f"{found} (no interval: one seed)"
    ends = interval(study.closeness.low, study.closeness.high)
    return f"{found}, 95% interval {ends}"


def closeness_details(study, second, first):
    """What C is made of, and whether it is that of equilibria: sentences."""
    is_one_seed = study.comparison.num_seeds == 1
    ratios = "; ".join(
        f"{SYMBOLS[name]} {number(ratio)}"
        + ("" if is_one_seed else f" {interval(low, high)}")
        for name, (ratio, low, high) in study.closeness.ratios.items()
    )
    held = "" if is_one_seed else ", with intervals that hold together at 95%"
    yield f"Ratios of {second} to {first}{held}: {ratios}."
    windows = [run.final_window for run in study.comparison.runs]
    at, off, unknown = equilibrium_counts(windows)
    if off + unknown:
        others = f", {off} not to have" if off else ""
        yield (
            f"{at} of {len(windows)} runs are known to have reached equilibrium"
            f"{others}: C compares the last epochs of the runs, not their "
            "equilibria."
        )


def leaves_text(batch_size, closeness, ends):
    """Where linear scaling is predicted to leave C, by `(value, low, high)`."""
    value, low, high = ends
    leaves = (
        f"linear scaling from B = {number(batch_size)} leaves C = "
        f"{number(closeness)}"
    )
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


def accuracy_and_loss(means):
    """Test accuracy and training loss for a table."""
    accuracy, loss = means["accuracy"], means["loss"]
    return [
        percent_with_error(accuracy.value, accuracy.standard_error),
        with_error(loss.value, loss.standard_error),
    ]


def seeds(comparison):
    """What the means of a table are over."""
    counts = sorted({len(runs) for runs in comparison.groups.values()})
    ends = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    found = "one seed" if ends == "1" else f"{ends} seeds"
    return f"Means over seeds ± standard error; {found}."


def bands(comparison):
    """What lines and bands of the curves are."""
    if comparison.num_seeds == 1:
        return "Lines are means; one seed has no band."
    return "Lines are means, bands the range of all seeds."
