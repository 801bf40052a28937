"""Does SGD follow noisy gradient descent? Runs of both."""

import dataclasses
import math

from experiments.report import sections, seeds
from experiments.report.figures import save_curves
from experiments.report.seeds import Comparison, comparisons
from keras_svag.noise.ratio import student_t_quantile
from keras_svag.reporting.blocks import Headline, Line, Table
from keras_svag.scaling.closeness import Closeness

NGD, SGD = "NGD", "SGD"

# Keys that only some optimizers have.
_OF_OPTIMIZER = {"ell", "pairing", "sampling", "measure_noise"}


def ngd_comparisons(runs):
    """Comparisons of NGD with SGD, where they have the rest in common."""

    def optimizer(run):
        name = run.config.get("optimizer")
        if name in ("sgd", "svag") and run.config.get("ell", 1) == 1:
            return SGD
        return NGD if name == "ngd" else None

    return comparisons(runs, optimizer, {"optimizer"} | _OF_OPTIMIZER)


@dataclasses.dataclass(frozen=True)
class NGDStudy:
    """NGD beside SGD.

    Attributes:
        comparison: The runs, by "NGD" and "SGD"; diverged ones left out.
        final: `{"NGD" or "SGD": {quantity: SeedMean}}`, with the names of
            `final_means` and `equilibrium_means`.
        difference: `{"accuracy" or "loss": (value, low, high)}`, NGD less
            SGD with its 95% interval, infinite with one seed.
        closeness: `Closeness` of SGD to NGD, None if NGD's G and N are not
            measured.
    """

    comparison: Comparison
    final: dict[str, dict[str, seeds.SeedMean]]
    difference: dict[str, tuple[float, float, float]]
    closeness: Closeness | None


def ngd_study(comparison):
    """Evaluates runs of NGD and of SGD.

    Args:
        comparison: `Comparison` of "NGD" and "SGD", without diverged runs.

    Returns:
        An `NGDStudy`.
    """
    final = {
        name: seeds.final_means(runs)
        | seeds.equilibrium_means([run.final_window for run in runs])
        for name, runs in comparison.groups.items()
    }
    difference = {
        quantity: welch_difference(final[NGD][quantity], final[SGD][quantity])
        for quantity in ("accuracy", "loss")
    }
    closeness = seeds.closeness_over_seeds(final[SGD], final[NGD])
    return NGDStudy(comparison, final, difference, closeness)


def welch_difference(first, second, level=0.95):
    """`(difference, low, high)` of two means of unequal variance.

    Welch's interval; the degrees of freedom are rounded down. Infinite if
    either has no error, because there was one seed.

    Args:
        first, second: `SeedMean`s.
        level: Level of the interval.
    """
    value = first.value - second.value
    parts = [
        (mean.standard_error**2, mean.count - 1) for mean in (first, second)
    ]
    variance = sum(square for square, _ in parts)
    if math.isnan(variance):
        return value, -math.inf, math.inf
    if variance == 0:
        return value, value, value
    dof = variance**2 / sum(square**2 / dof for square, dof in parts)
    reach = student_t_quantile(level, max(int(dof), 1)) * math.sqrt(variance)
    return value, value - reach, value + reach


def ngd_section(study):
    """`Section` of an `NGDStudy`."""
    rows = tuple(
        (name, *sections.accuracy_and_loss(m))
        for name, m in study.final.items()
    )
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
            f"SGD is C-close to NGD for {sections.closeness_text(study)}.",
            sections.ratios_text(study, NGD, SGD),
            *sections.off_equilibrium(study.comparison),
        ]
    differing = [
        key
        for key in study.comparison.differing
        if key not in ("optimizer", "seed")
    ]
    also = []
    if differing:
        keys = ", ".join(differing)
        also = [f"Besides the optimizer the runs differ in {keys}."]
    return sections.Section(
        "NGD and SGD",
        (
            Headline(
                f"{NGD}'s test accuracy less {SGD}'s: {100 * value:+.2f} "
                f"percentage points ({told})."
            ),
            Table("At the end", ("", "test accuracy", "training loss"), rows),
            Line(
                f"{sections.seeds(study.comparison)} The interval is Welch's."
            ),
            *map(Line, closeness + also),
            *map(Line, sections.one_seed(study.comparison)),
        ),
        {
            "curves": sections.Figure(
                "Test accuracy and training loss of NGD and SGD against SGD "
                f"epochs. {sections.bands(study.comparison)}",
                lambda path: save_curves(path, study.comparison, "{}"),
            )
        },
        sections.setting(study.comparison),
    )


NGD_AND_SGD = sections.StudyKind(
    "ngd",
    "being NGD or SGD",
    ngd_comparisons,
    lambda comparison: ngd_section(ngd_study(comparison)),
)
