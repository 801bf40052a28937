"""Does SGD follow noisy gradient descent? Runs of both."""

import math

import numpy as np

from experiments.report import sections, seeds
from experiments.report.figures import save_curves
from experiments.report.seeds import comparisons
from keras_svag.noise.ratio import satterthwaite, student_t_quantile
from keras_svag.reporting.blocks import Table

NGD, SGD = "NGD", "SGD"

# Keys that only some optimizers have.
_OF_OPTIMIZER = {"ell", "pairing", "sampling", "measure_noise"}


def ngd_comparisons(runs):
    """Comparisons of NGD with SGD, where they have the rest in common."""

    def optimizer(run):
        name = run.config["optimizer"]
        if name in ("sgd", "svag") and run.config["ell"] == 1:
            return SGD
        return NGD if name == "ngd" else None

    return comparisons(runs, optimizer, {"optimizer"} | _OF_OPTIMIZER)


class NGDStudy:
    """NGD beside SGD.

    Args:
        comparison: `Comparison` of "NGD" and "SGD", without diverged runs.

    Attributes:
        final: `{"NGD" or "SGD": {quantity: SeedMean}}`, with the names of
            `final_means` and `equilibrium_means`.
        difference: `{"accuracy" or "loss": (value, low, high)}`, NGD less
            SGD with its 95% interval, infinite with one seed.
        closeness: `Closeness` of SGD to NGD, None if NGD's G and N are not
            measured.
    """

    def __init__(self, comparison):
        self.comparison = comparison
        self.final = final = {
            name: seeds.final_means(runs)
            | seeds.equilibrium_means([run.final_window for run in runs])
            for name, runs in comparison.groups.items()
        }
        self.difference = {
            quantity: welch_difference(
                final[NGD][quantity], final[SGD][quantity]
            )
            for quantity in ("accuracy", "loss")
        }
        self.closeness = seeds.closeness_over_seeds(final[SGD], final[NGD])


def welch_difference(first, second, level=0.95):
    """`(difference, low, high)` of two means of unequal variance.

    Welch's interval; the degrees of freedom are rounded down. Infinite if
    either has no error, because there was one seed.

    Args:
        first, second: `SeedMean`s.
        level: Level of the interval.
    """
    value = first.value - second.value
    reach = math.inf
    if min(first.count, second.count) > 1:
        errors = np.array([first.standard_error, second.standard_error])
        dof = satterthwaite(errors**2, [first.count - 1, second.count - 1])
        reach = student_t_quantile(level, int(dof)) * math.hypot(*errors)
    return value, value - reach, value + reach


def ngd_section(study):
    """`Section` of an `NGDStudy`."""
    comparison = study.comparison
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
            *sections.closeness_details(study, NGD, SGD),
        ]
    also = ", ".join(
        key for key in comparison.differing if key not in ("optimizer", "seed")
    )
    return sections.section(
        "NGD and SGD",
        comparison,
        f"{NGD}'s test accuracy less {SGD}'s: {100 * value:+.2f} percentage "
        f"points ({told}).",
        [
            Table("At the end", ("", "test accuracy", "training loss"), rows),
            f"{sections.seeds(comparison)} The interval is Welch's.",
            *closeness,
            also and f"Besides the optimizer the runs differ in {also}.",
        ],
        {
            "curves": (
                "Test accuracy and training loss of NGD and SGD against SGD "
                f"epochs. {sections.bands(comparison)}",
                lambda path: save_curves(path, comparison, "{}"),
            )
        },
    )


NGD_AND_SGD = sections.StudyKind(
    "ngd",
    "being NGD or SGD",
    ngd_comparisons,
    lambda comparison: ngd_section(NGDStudy(comparison)),
)
