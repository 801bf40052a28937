"""Confidence sets for the ratio of two correlated means."""

import functools
import math
import statistics

import numpy as np

from keras_svag.arguments import checked_level, is_number

# Above this the finite sum is replaced by an expansion in 1 / dof, whose error
# is below 1e-9 there.
_LARGEST_SUMMED_DOF = 1000


def _probability_within(angle, dof):
    """P(|T| <= sqrt(dof) tan(angle)), a finite sum for a whole dof.

    Reference: Abramowitz and Stegun, formulas 26.7.3 and 26.7.4.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    first = 2 + dof % 2
    steps = np.arange(first, dof, 2)
    total = 1 + np.sum(np.cumprod((steps - 1) / steps * cosine**2))
    if dof % 2 == 0:
        return sine * total
    if dof == 1:
        return 2 * angle / math.pi
    return 2 * (angle + sine * cosine * total) / math.pi


def student_t_quantile(level, dof):
    """The t with P(|T| <= t) = level for Student's T.

    Args:
        level: Two-sided probability, strictly between 0 and 1.
        dof: Degrees of freedom, a whole number of at least 1.

    Returns:
        A float, right to a relative 1e-9 for levels of at most 0.999.

    Raises:
        ValueError: If `level` or `dof` is out of range.
    """
    checked_level(level)
    if not (is_number(dof) and 1 <= dof < math.inf) or dof != int(dof):
        raise ValueError(
            f"`dof` must be a whole number of at least 1, got {dof!r}."
        )
    return _student_t_quantile(float(level), int(dof))


@functools.lru_cache(maxsize=1024)
def _student_t_quantile(level, dof):
    if dof > _LARGEST_SUMMED_DOF:
        z = statistics.NormalDist().inv_cdf((1 + level) / 2)
        first = (z**3 + z) / 4
        second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + first / dof + second / dof**2 + third / dof**3
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _probability_within(middle, dof) < level:
            low = middle
        else:
            high = middle
    return math.sqrt(dof) * math.tan((low + high) / 2)


def fieller_interval(
    numerator,
    denominator,
    numerator_variance,
    covariance,
    denominator_variance,
    quantile,
):
    """Fieller's confidence set for a ratio that cannot be negative.

    The set of all q >= 0 with
    `(numerator - q denominator)^2 <= quantile^2 Var(numerator - q
    denominator)`, the variances being those of the means. Unlike the delta
    method it keeps its level when the denominator is near 0.

    Args:
        numerator, denominator: The two means.
        numerator_variance, covariance, denominator_variance: Squared standard
            errors and covariance *of the means*.
        quantile: Student's or the normal quantile of the level asked for.

    Returns:
        `(low, high)`:
        - denominator significantly positive: both finite;
        - not told apart from 0: `high` is infinite;
        - numerator not told apart from 0 either, or one of the two
          significantly negative: `(0, inf)`, which says nothing.

    References:
        E. C. Fieller, Some problems in interval estimation, JRSS B 16 (1954).
    """
    # Powers of two, by which nothing is rounded, keep the squares in range.
    numerator_scale = _power_of_two(numerator, numerator_variance)
    denominator_scale = _power_of_two(denominator, denominator_variance)
    numerator, denominator = (
        numerator / numerator_scale,
        denominator / denominator_scale,
    )
    # Divided twice, since a square of a scale can itself be out of range.
    numerator_variance = numerator_variance / numerator_scale / numerator_scale
    denominator_variance = (
        denominator_variance / denominator_scale / denominator_scale
    )
    covariance = covariance / numerator_scale / denominator_scale
    square = quantile**2
    a = denominator**2 - square * denominator_variance
    b = numerator * denominator - square * covariance
    c = numerator**2 - square * numerator_variance
    if a > 0 and denominator < 0:
        return 0.0, math.inf
    # Rounding can push the discriminant of equal roots below 0.
    outer = b + math.sqrt(max(b**2 - a * c, 0.0))
    if c > 0 and outer <= 0:
        # No finite ratio; an infinite one if the denominator is exactly 0.
        return (math.inf if numerator > 0 else 0.0), math.inf
    high = outer / a if a > 0 else math.inf
    # c / outer is the root (b - sqrt) / a without its cancellation; with
    # a = 0 it is the solution of the linear inequality. Equal roots may round
    # to the wrong order.
    low = min(c / outer, high) if c > 0 else 0.0
    high = max(high, 0.0)
    return tuple(
        end * numerator_scale / denominator_scale for end in (low, high)
    )


def _power_of_two(mean, variance):
    size = max(abs(mean), math.sqrt(variance))
    return math.ldexp(0.5, math.frexp(size)[1]) if size else 1.0
