"""Does SGD follow noisy gradient descent? Runs of both."""

import dataclasses
import math

from experiments.report.comparison import Comparison
from experiments.report.sections import (
    Section,
    bands,
    closeness_text,
    off_equilibrium,
    one_seed,
    ratios_text,
    seeds,
    setting,
)
from experiments.report.seeds import SeedMean, equilibrium_over_seeds, seed_mean
from keras_svag.callbacks.markdown import (
    escaped,
    percent_with_error,
    table,
    with_error,
)
from keras_svag.noise.intervals import student_t_quantile
from keras_svag.scaling.closeness import Closeness, c_closeness

NGD, SGD = "NGD", "SGD"


@dataclasses.dataclass(frozen=True)
class NGDStudy:
    """NGD beside SGD.

    Attributes:
        comparison: The runs, by "NGD" and "SGD"; diverged ones left out.
        final: `{"NGD" or "SGD": {"accuracy" or "loss": SeedMean}}`, of the
            test accuracy and the training loss at the end.
        difference: `{"accuracy" or "loss": (value, low, high)}`, NGD less
            SGD with its 95% interval, infinite with one seed.
        closeness: `Closeness` of SGD to NGD, None if NGD's G and N are not
            measured.
    """

    comparison: Comparison
    final: dict[str, dict[str, SeedMean]]
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
        name: {
            "accuracy": seed_mean([run.accuracy for run in runs]),
            "loss": seed_mean([run.curve("loss")[-1] for run in runs]),
        }
        for name, runs in comparison.groups.items()
    }
    difference = {
        quantity: welch_difference(final[NGD][quantity], final[SGD][quantity])
        for quantity in ("accuracy", "loss")
    }
    return NGDStudy(comparison, final, difference, _closeness(comparison))


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


def _closeness(comparison):
    statistics = [
        equilibrium_over_seeds([run.final_window for run in runs])
        for runs in (comparison.groups[SGD], comparison.groups[NGD])
    ]
    if None in statistics:
        return None
    try:
        return c_closeness(*statistics)
    except ValueError:
        # R or N is not above 0: there is no ratio.
        return None


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
            f"SGD is C-close to NGD for {closeness_text(study)}.",
            ratios_text(study, NGD, SGD),
            *off_equilibrium(study.comparison),
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
