"""Does SGD follow noisy gradient descent? Runs of both."""

import dataclasses
import math

from keras_svag.comparison import Comparison
from keras_svag.noise.intervals import student_t_quantile
from keras_svag.scaling.closeness import Closeness, c_closeness
from keras_svag.seed_statistics import (
    SeedMean,
    equilibrium_over_seeds,
    seed_mean,
)

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
