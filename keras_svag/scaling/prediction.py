"""Where linear scaling leaves C, predicted from SVAG at one batch size.

Along linear scaling the noise scale Ση is fixed, and SGD at (κB, κη), SVAG
with ell at (B, η) and their SDE are one family in the step h = κη, η/ell, 0.
So how R, G and N change with 1/ell tells, to first order in h, how they change
with κ (derived, THEORY.md section 5; simulated, not in a paper).
"""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import special

from keras_svag import arguments
from keras_svag.scaling.bounds import FloatOrArray, checked_closeness
from keras_svag.scaling.closeness import STATISTICS, EquilibriumStatistics

# Farther, the first order is seen to overshoot.
FIRST_ORDER_REACHES = 2.0


@dataclasses.dataclass(frozen=True)
class ClosenessPrediction:
    """How R, G and N move along linear scaling, to first order.

    Good until C is about 2; beyond, it overshoots. A prediction, unlike the
    bounds: it can be wrong on both sides.

    Attributes:
        slopes: `{statistic: d ln S / dκ}`, of R, G and N, at the batch size
            measured: from κ to κ' the statistic changes by the factor
            exp(slope (κ' - κ)).
        speed: `(value, low, high)` of the largest of their sizes, with its
            confidence interval; `high` is infinite without errors.
    """

    slopes: dict[str, float]
    speed: tuple[float, float, float]

    def closeness(
        self, kappa: FloatOrArray, reference: float = 1.0
    ) -> tuple[FloatOrArray, FloatOrArray, FloatOrArray]:
        """C of SGD at κB, κη to SGD at the reference.

        Args:
            kappa: κ, at least 0 (the SDE), a number or array.
            reference: κ of the run compared with, at least 0.

        Returns:
            `(value, low, high)`, each like `kappa`.
        """
        steps = np.abs(np.asarray(kappa, np.float64) - reference)
        with np.errstate(over="ignore", invalid="ignore"):
            # Without an upper end C at the reference itself is still 1.
            ends = (
                np.where(steps == 0, 1.0, np.exp(speed * steps))
                for speed in self.speed
            )
            like_kappa: tuple[Any, ...] = tuple(
                float(end) if np.ndim(kappa) == 0 else end for end in ends
            )
        return like_kappa

    def max_batch_multiplier(
        self, closeness: float, reference: float = 1.0
    ) -> tuple[float, float, float]:
        """The κ at which linear scaling leaves C.

        Args:
            closeness: C, above 1.
            reference: As for `closeness`.

        Returns:
            `(value, low, high)`, infinite where nothing moves.
        """
        reach = math.log(checked_closeness(closeness))
        value, slow, fast = self.speed
        most, low, high = (
            reference + (reach / speed if speed else math.inf)
            for speed in (value, fast, slow)
        )
        return most, low, high


def predict_closeness(
    statistics: dict[int, EquilibriumStatistics], level: float = 0.95
) -> ClosenessPrediction:
    """Predicts how close SGD stays along linear scaling, from SVAG runs.

    The slope of ln S in 1/ell, S being each of R, G and N, is that of a line
    of least squares: `(ln S_1 - ln S_l) / (1 - 1/l)` for two ell.

    ```python
    prediction = predict_closeness({1: sgd, 2: svag})
    kappa, low, high = prediction.max_batch_multiplier(closeness=2**0.5)
    ```

    Args:
        statistics: `{ell: EquilibriumStatistics}` of runs of SVAG (ell 1 is
            SGD) at one batch size and learning rate, of at least two ell.
            Their errors, over seeds or blocks, give the interval; a NaN among
            them gives none.
        level: Level of the interval of the speed, Student's with the degrees
            of freedom of Welch and Satterthwaite. At its upper end only the
            statistic that moves most has to be covered, at its lower end all
            three (Bonferroni).

    Returns:
        A `ClosenessPrediction`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two ell, or one of R, G and N is
            not above 0.
    """
    remedy = "give runs of at least two ell, such as {1: ..., 2: ...}"
    if not isinstance(statistics, dict):
        raise TypeError(
            arguments.refusal("statistics", "a dict", statistics, remedy)
        )
    for ell in statistics:
        arguments.number("ell", ell, least=1)
    if len(statistics) < 2:
        raise ValueError(
            arguments.refusal(
                "statistics",
                "of two ell or more",
                f"those of {len(statistics)}",
                remedy,
            )
        )
    arguments.number("level", level, above=0, below=1)
    steps = np.array([1 / ell for ell in statistics])
    centred = steps - steps.mean()
    weights = centred / np.sum(centred**2)
    slopes, lows, highs = {}, [], []
    for name in STATISTICS:
        values = [getattr(of_ell, name) for of_ell in statistics.values()]
        for value in values:
            arguments.number(name, value, above=0)
        slopes[name] = float(weights @ np.log(values))
        # Of ln S, weighted.
        errors = [
            weight * getattr(of_ell, f"{name}_se") / value
            for weight, of_ell, value in zip(
                weights, statistics.values(), values, strict=True
            )
        ]
        variances = np.square(errors)
        dof = _degrees_of_freedom(variances, statistics.values())
        error = math.sqrt(variances.sum())
        inner = _reach(error, dof, (1 - level) / 6)
        outer = _reach(error, dof, (1 - level) / 2)
        lows.append(max(abs(slopes[name]) - inner, 0.0))
        highs.append(abs(slopes[name]) + outer)
    fastest = max(map(abs, slopes.values()))
    return ClosenessPrediction(slopes, (fastest, max(lows), max(highs)))


def _reach(error, dof, tail):
    """How far an interval reaches that errs on a side with `tail`."""
    if math.isnan(error):
        return math.inf
    if not error:
        return 0.0
    quantile = (
        special.ndtri(1 - tail)
        if math.isinf(dof)
        else special.stdtrit(dof, 1 - tail)
    )
    return float(quantile) * error


def _degrees_of_freedom(variances, statistics):
    """Welch's and Satterthwaite's; infinite if all errors are known."""
    estimated = sum(
        variance**2 / max(of_ell.count - 1, 1)
        for variance, of_ell in zip(variances, statistics, strict=True)
        if of_ell.count is not None
    )
    return sum(variances) ** 2 / estimated if estimated > 0 else math.inf
