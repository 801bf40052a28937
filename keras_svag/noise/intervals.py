"""Confidence sets for the ratio of two correlated means."""

import math

from scipy import special

from keras_svag import arguments


def student_t_quantile(level, dof):
    """The t with P(|T| <= t) = level for Student's T.

    Args:
        level: Two-sided probability, strictly between 0 and 1.
        dof: Degrees of freedom, above 0.

    Returns:
        A float.

    Raises:
        TypeError: If `level` is no number.
        ValueError: If it is out of range.
    """
    arguments.number(
        "level", level, above=0, below=1, remedy="use 0.95 for a 95% interval"
    )
    return float(special.stdtrit(dof, (1 + level) / 2))


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
