"""Where linear scaling leaves C, predicted from SVAG at one batch size.

Along linear scaling the noise scale Ση is fixed, and SGD at (κB, κη), SVAG
with ell at (B, η) and their SDE are one family in the step h = κη, η/ell, 0.
So how R, G and N change with 1/ell tells, to first order in h, how they change
with κ (derived, section 5 of docs/theory.md; simulated, not in a paper).
"""

import dataclasses
import math

import numpy as np
from scipy import optimize

from keras_svag import arguments
from keras_svag.noise.ratio import satterthwaite, student_t_quantile
from keras_svag.noise.saving import SavedFields
from keras_svag.scaling.bounds import FloatOrArray, checked_closeness, like
from keras_svag.scaling.closeness import STATISTICS, EquilibriumStatistics


@dataclasses.dataclass(frozen=True, eq=False)
class ClosenessPrediction(SavedFields):
    """How R, G and N move along linear scaling, to first order.

    A prediction, unlike the bounds: it can be wrong on both sides. The shape of
    a statistic S in κ is not known. The point takes S or 1/S, whichever grows,
    to be linear; the interval goes from the lower one of this and the
    exponential, at the low end of the slope, to the higher one at its high end.

    Only a slope that is told apart from 0 counts for the point. Where none is,
    nothing is predicted: the point is NaN, and the interval is all there is.

    Attributes:
        ells: SVAG's amplifications in the runs.
        slopes: `{statistic: d ln S / dκ}` of R, G and N between these ell, by
            least squares of ln S on 1/ell.
        sizes: `{statistic: (low, high)}`, the confidence interval of the size
            of a slope; `low` is 0 where it is not told apart from 0, `high`
            is infinite without errors.
    """

    ells: tuple[float, ...]
    slopes: dict[str, float]
    sizes: dict[str, tuple[float, float]]

    @property
    def moving(self) -> tuple[str, ...]:
        """The statistics that are told apart from no change."""
        return tuple(name for name, (low, _) in self.sizes.items() if low > 0)

    def closeness(
        self, kappa: FloatOrArray, reference: float = 1.0
    ) -> tuple[FloatOrArray, FloatOrArray, FloatOrArray]:
        """C of SGD at κB, κη to SGD at the reference.

        Args:
            kappa: κ, at least 0 (the SDE), a number or array.
            reference: κ of the run compared with, at least 0.

        Returns:
            `(value, low, high)`, each like `kappa`; `value` is NaN where
            nothing is told apart from no change.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If κ or the reference is negative or not finite.
        """
        for one in np.ravel(np.asarray(kappa, object)):
            arguments.number("kappa", one, least=0)
        arguments.number("reference", reference, least=0)
        near, far = np.sort(np.broadcast_arrays(kappa, reference), axis=0)

        def factors(shapes):
            return np.array([shape.factor(near, far) for shape in shapes])

        points, slow, fast = self._shapes()
        value = np.full(np.shape(kappa), math.nan)
        if points:
            value = factors(points).max(axis=0)
        low = np.max([factors(pair).min(axis=0) for pair in slow], axis=0)
        high = np.max([factors(pair).max(axis=0) for pair in fast], axis=0)
        return like(kappa, value), like(kappa, low), like(kappa, high)

    def max_batch_multiplier(
        self, closeness: float, reference: float = 1.0
    ) -> tuple[float, float, float]:
        """The κ at which linear scaling leaves C.

        Args:
            closeness: C, above 1.
            reference: As for `closeness`.

        Returns:
            `(value, low, high)`: the κ above the reference at which `value`,
            `high` and `low` of `closeness` reach C. They are infinite where it
            is not reached; `value` is NaN where nothing is told apart from no
            change.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If C is not above 1, or the reference is negative, or
                one of the two not finite.
        """
        checked_closeness(closeness)
        arguments.number("reference", reference, least=0)

        def ends(shapes):
            return [shape.reaches(closeness, reference) for shape in shapes]

        points, slow, fast = self._shapes()
        value = min(ends(points), default=math.nan)
        low = min(min(ends(pair)) for pair in fast)
        high = min(max(ends(pair)) for pair in slow)
        return value, low, high

    def _shapes(self):
        """Lines of what moves; both shapes at the low and at the high ends."""
        points = [_Linear(self.slopes[name], self.ells) for name in self.moving]
        slow, fast = (
            [(_Linear(end, self.ells), _Exponential(end)) for end in ends]
            for ends in zip(*self.sizes.values(), strict=True)
        )
        return points, slow, fast


class _Exponential:
    """exp(s h) for steps h, in units of η."""

    def __init__(self, slope):
        self.slope = abs(slope)

    def factor(self, near, far):
        """How much it grows from one step to another."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(far > near, np.exp(self.slope * (far - near)), 1.0)

    def reaches(self, factor, near):
        """The step to which it grows by a factor."""
        return near + _ratio(math.log(factor), self.slope)


class _Linear:
    """1 + r (h - h0), with the r of a line of least squares of its logarithm.

    h0 is the largest step of the runs.
    """

    def __init__(self, slope, ells):
        steps = 1 / np.array(ells)
        self.origin = steps.max()
        below = steps - self.origin
        weights = _weights(steps)

        def excess(rise):
            return weights @ np.log1p(rise * below) - abs(slope)

        # With more it would not be above 0 at all the steps of the runs.
        self.rise = -(1 - 1e-12) / below.min()
        if excess(self.rise) > 0:
            self.rise = optimize.brentq(excess, 0.0, self.rise)

    def _at(self, step):
        return np.maximum(1 + self.rise * (step - self.origin), 0.0)

    def factor(self, near, far):
        """How much it grows from one step to another."""
        start = self._at(near)
        with np.errstate(divide="ignore", invalid="ignore"):
            grown = np.where(start > 0, self._at(far) / start, math.inf)
        return np.where(far > near, grown, 1.0)

    def reaches(self, factor, near):
        """The step to which it grows by a factor."""
        return near + _ratio((factor - 1) * self._at(near), self.rise)


def _ratio(distance, speed):
    return float(distance / speed) if speed else math.inf


def _weights(steps):
    """Those of the slope of a line of least squares."""
    centred = steps - steps.mean()
    return centred / np.sum(centred**2)


def predict_closeness(
    statistics: dict[int, EquilibriumStatistics], level: float = 0.95
) -> ClosenessPrediction:
    """Predicts how close SGD stays along linear scaling, from SVAG runs.

    ```python
    prediction = predict_closeness({1: sgd, 2: svag})
    kappa, low, high = prediction.max_batch_multiplier(closeness=2**0.5)
    ```

    Args:
        statistics: `{ell: EquilibriumStatistics}` of runs of SVAG (ell 1 is
            SGD) at one batch size and learning rate, of at least two ell.
            Their errors, over seeds or blocks, give the interval; a NaN among
            them gives none.
        level: Level of the intervals, Student's with the degrees of freedom
            of Welch and Satterthwaite. At the upper end only the statistic
            that moves most has to be covered, at the lower end all three
            (Bonferroni); a slope is told apart from 0 by the latter.

    Returns:
        A `ClosenessPrediction`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two ell, or one of R, G and N is
            not above 0.
    """
    arguments.instance("statistics", statistics, dict, "a dict")
    for ell, run in statistics.items():
        key = f"statistics[{ell!r}]"
        arguments.number(key, ell, least=1)
        arguments.instance(
            key, run, EquilibriumStatistics, "EquilibriumStatistics"
        )
        for name in STATISTICS:
            arguments.number(f"{key}.{name}", getattr(run, name), above=0)
    if len(statistics) < 2:
        raise arguments.wrong(
            "statistics",
            "of two ell or more",
            f"those of {len(statistics)}",
            "give runs of at least two ell, such as {1: ..., 2: ...}",
        )
    arguments.number("level", level, above=0, below=1)
    runs = statistics.values()
    weights = _weights(1 / np.array([*statistics]))
    dofs = [
        math.inf if run.count is None else max(run.count - 1, 1) for run in runs
    ]
    slopes, sizes = {}, {}
    for name in STATISTICS:
        values = [getattr(run, name) for run in runs]
        slopes[name] = float(weights @ np.log(values))
        # Of ln S.
        errors = [getattr(run, f"{name}_se") for run in runs]
        variances = np.square(weights * errors / values)
        error, dof = math.sqrt(variances.sum()), satterthwaite(variances, dofs)
        inner, outer = (
            student_t_quantile(two_sided, dof) * error
            if math.isfinite(error)
            else math.inf
            for two_sided in (1 - (1 - level) / len(STATISTICS), level)
        )
        size = abs(slopes[name])
        sizes[name] = max(size - inner, 0.0), size + outer
    return ClosenessPrediction(tuple(statistics), slopes, sizes)
