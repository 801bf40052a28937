"""C-closeness of two runs at equilibrium, with an interval."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_svag import arguments
from keras_svag.noise.ratio import (
    fieller_interval,
    satterthwaite,
    student_t_quantile,
)
from keras_svag.noise.saving import SavedFields

STATISTICS = ("weight_sq_norm", "grad_sq_norm", "noise_trace")


@dataclasses.dataclass(frozen=True, eq=False)
class EquilibriumStatistics(SavedFields):
    """Averages of R, G and N over a window at equilibrium.

    Attributes:
        weight_sq_norm, grad_sq_norm, noise_trace: R, G, and N at the run's own
            batch size.
        weight_sq_norm_se, grad_sq_norm_se, noise_trace_se: Their standard
            errors; 0 for exact values.
        count: Independent observations, such as seeds, behind the errors; None
            takes the errors as known.

    What is not known is NaN.

    Raises:
        TypeError: If one is no number.
        ValueError: If one is not finite, or an error or `count` is out of
            range.
    """

    weight_sq_norm: float
    grad_sq_norm: float
    noise_trace: float
    weight_sq_norm_se: float = 0.0
    grad_sq_norm_se: float = 0.0
    noise_trace_se: float = 0.0
    count: int | None = None

    def __post_init__(self):
        for name in STATISTICS:
            arguments.number(name, getattr(self, name), unknown=True)
            error = f"{name}_se"
            arguments.number(error, getattr(self, error), 0, unknown=True)
        arguments.integer("count", self.count, optional=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Closeness(SavedFields):
    """How close two runs are: C, its interval, and the ratios behind it.

    Attributes:
        value: The least C for which the runs are C-close, at least 1.
        low, high: Confidence interval of `value`.
        ratios: `{statistic: (ratio, low, high)}`, second run over first.
    """

    value: float
    low: float
    high: float
    ratios: dict[str, tuple[float, float, float]]

    @classmethod
    def from_ratios(
        cls, ratios: dict[str, tuple[float, float, float]]
    ) -> "Closeness":
        """The closeness that ratios and their intervals give."""
        distances = [distance(*ratio) for ratio in ratios.values()]
        values, lows, highs = zip(*distances, strict=True)
        return cls(max(values), max(lows), max(highs), ratios)

    @classmethod
    @arguments.reader
    def from_dict(cls, saved: Mapping[str, Any]) -> "Closeness":
        """The closeness that `to_dict` was called on, from its ratios."""
        return cls.from_ratios(super().from_dict(saved).ratios)


def c_closeness(
    first: EquilibriumStatistics,
    second: EquilibriumStatistics,
    kappa: float = 1.0,
    level: float = 0.95,
) -> Closeness:
    """The least C for which two equilibria are C-close ([L21], section 5).

    Args:
        first: `EquilibriumStatistics` of the baseline, at B and η.
        second: Those of the other run, at κB and κη. Its N is multiplied by κ
            to state both at the same batch size.
        kappa: κ, above 0; 1 compares N as given.
        level: Level of the interval. Each of the three ratios gets a third of
            the remaining error (Bonferroni).

    The two runs are taken to be independent, and each ratio has Fieller's
    interval with the degrees of freedom of Welch and Satterthwaite at the
    point estimate. It keeps to the safe side: the degrees of freedom are
    rounded down, and the smaller `count` stands for both. With three seeds a
    side benchmarks/closeness_coverage.py measures at least `level`, for normal
    and for log-normal seeds.

    Returns:
        A `Closeness`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `kappa` or `level` is out of range, or R or N of a run
            is not positive.

    References:
        B. L. Welch, The generalization of Student's problem when several
        different population variances are involved, Biometrika 34 (1947).
        A. C. Tamhane and B. R. Logan, Finding the maximum safe dose level for
        heteroscedastic data, J. Biopharm. Stat. 14 (2004): those degrees of
        freedom for a ratio.
    """
    for run, values in (("first", first), ("second", second)):
        arguments.instance(
            run, values, EquilibriumStatistics, "EquilibriumStatistics"
        )
        for name in ("weight_sq_norm", "noise_trace"):
            arguments.number(f"{run}.{name}", getattr(values, name), above=0)
    arguments.number("kappa", kappa, above=0)
    arguments.number("level", level, above=0, below=1)
    counts = first.count, second.count
    dofs = np.array([math.inf if n is None else max(n - 1, 1) for n in counts])
    dofs[np.isfinite(dofs)] = dofs.min()
    ratios = {}
    for name in STATISTICS:
        scale = kappa if name == "noise_trace" else 1.0
        ours, theirs = getattr(first, name), scale * getattr(second, name)
        our_variance = getattr(first, f"{name}_se") ** 2
        their_variance = (scale * getattr(second, f"{name}_se")) ** 2
        ratio = theirs / ours if ours > 0 and theirs > 0 else math.nan
        # Of `theirs - ratio * ours`, whose distance from 0 is what is judged.
        parts = ratio * ratio * our_variance, their_variance
        # Rounding must not cost a degree of freedom.
        dof = np.floor(satterthwaite(parts, dofs) * (1 + 1e-9))
        covariance = np.diag([our_variance, their_variance])
        quantile = student_t_quantile(1 - (1 - level) / 3, dof)
        ends = fieller_interval((ours, theirs), covariance, quantile)
        ratios[name] = ratio, *ends
    return Closeness.from_ratios(ratios)


def distance(ratio, low, high):
    """max(r, 1/r), and the ends of it over low <= r <= high."""
    # A G that is not positive leaves nothing to be close to.
    value = max(ratio, 1 / ratio) if ratio > 0 else math.inf
    farthest = max(high, 1 / low if low > 0 else math.inf)
    nearest = max(low, 1 / high if high > 0 else math.inf, 1.0)
    return value, nearest, farthest
