"""Confidence sets for the ratio of two correlated means, S / G.

Everything is a test of one mean, that of `S - q G`, which is 0 at the true q.
Means, covariances and blocks are in the order (G, S). The rules were composed
from published parts and measured: docs/theory.md, section 4.

References:
    E. C. Fieller, JRSS B 16 (1954): the set of a ratio.
    U. K. Müller, J. Econometrics 141 (2007), and E. Lazarus, D. Lewis,
    J. Stock, M. Watson, J. Bus. Econ. Stat. 36 (2018): cosines.
    N. J. Johnson, JASA 73 (1978), P. Hall, JRSS B 54 (1992), X.-H. Zhou and
    P. Dinh, Biostatistics 6 (2005): the skewness of Student's t.
    I. J. Good, Biometrika 40 (1953): what was seen once may come again.
    D. J. Schuirmann, J. Pharmacokin. Biopharm. 15 (1987): equivalence.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from keras_svag import arguments

_MOST_COSINES = 16
MOST_BLOCKS = 32


class Interval(NamedTuple):
    """A confidence set: everything from `low` to `high`."""

    low: float
    high: float


NOTHING_KNOWN = Interval(0.0, math.inf)


def student_t_quantile(level, dof):
    """The t with P(|T| <= t) = level for Student's T, dof above 0."""
    return float(special.stdtrit(dof, (1 + checked_level(level)) / 2))


def checked_level(level):
    """A level, if it is strictly between 0 and 1."""
    return arguments.number(
        "level", level, above=0, below=1, remedy="use 0.95 for a 95% interval"
    )


def satterthwaite(variances, degrees_of_freedom):
    """Degrees of freedom of a sum of estimated variances, from those of each.

    A variance that is known has infinite ones. Where no variance is above 0,
    or one is not known or infinite, they are the least of those given.

    References:
        B. L. Welch, Biometrika 34 (1947). F. E. Satterthwaite, Biometrics
        Bulletin 2 (1946).
    """
    variances, dof = np.asarray(variances), np.asarray(degrees_of_freedom)
    largest = variances.max()
    if not 0 < largest < math.inf:
        return float(dof.min())
    shares = variances / largest
    estimated = np.sum(shares**2 / dof)
    return float(shares.sum() ** 2 / estimated) if estimated else math.inf


def fieller_interval(means, covariance, quantile):
    """Fieller's confidence set for S / G, which cannot be negative.

    The set of all q >= 0 with `(S - q G)^2 <= quantile^2 Var(S - q G)`, the
    variance being that of the means. Unlike the delta method it keeps its level
    when G is near 0.

    Args:
        means: (G, S), or any other two means: denominator and numerator.
        covariance: Of the two *means*, of shape (2, 2); NaN for a variance
            that is not known.
        quantile: Student's or the normal quantile of the level asked for;
            infinite where no ratio is to be rejected.

    Returns:
        `Interval` with two finite ends where G is significantly positive; one
        without an upper end where it is not told apart from 0; `(0, inf)`,
        which says nothing, where S is not either, one of the two is
        significantly negative, or a variance is not known.
    """
    means, covariance = np.asarray(means, float), np.asarray(covariance, float)
    variances = covariance.diagonal()
    if np.isnan(variances).any() or math.isinf(quantile):
        return NOTHING_KNOWN
    # Powers of two, by which nothing is rounded, keep the squares in range.
    sizes = np.maximum(np.abs(means), np.sqrt(variances))
    units = np.ldexp(0.5, np.frexp(sizes)[1])
    g, s = (means / units).tolist()
    # Divided twice, since a square of a unit can itself be out of range.
    (g_variance, cross), (_, s_variance) = (
        covariance / units / units[:, None]
    ).tolist()
    square = quantile**2
    a = g**2 - square * g_variance
    b = s * g - square * cross
    c = s**2 - square * s_variance
    if a > 0 and g < 0:
        return NOTHING_KNOWN
    # Rounding can push the discriminant of equal roots below 0.
    outer = b + math.sqrt(max(b**2 - a * c, 0.0))
    if c > 0 and outer <= 0:
        # No finite ratio; an infinite one if G is exactly 0.
        return Interval(math.inf if s > 0 == g else 0.0, math.inf)
    high = outer / a if a > 0 else math.inf
    # c / outer is the root (b - sqrt) / a without its cancellation; with
    # a = 0 it is the solution of the linear inequality. Equal roots may round
    # to the wrong order.
    low = min(c / outer, high) if c > 0 else 0.0
    high = max(high, 0.0)
    g_unit, s_unit = units.tolist()
    return Interval(*(end * s_unit / g_unit for end in (low, high)))


def covariance_of_mean(observations, cosines=_MOST_COSINES):
    """Long-run covariance of the mean of correlated observations.

    Args:
        observations: Array of shape (T, k), T >= 2, in the order of time.
        cosines: How many at most; a third of T is never exceeded.

    Returns:
        The covariance, of shape (k, k), and its degrees of freedom, the number
        of cosines.
    """
    length = len(observations)
    count = max(min(cosines, length // 3), 1)
    middles = (np.arange(length) + 0.5) / length
    waves = np.cos(np.pi * np.outer(np.arange(1, count + 1), middles))
    weights = math.sqrt(2) / length * waves @ observations
    return weights.T @ weights / count, count


def distinct(observations, batches):
    """One row for each batch, which together have the mean of all.

    A batch that comes again finds the weights not far from where they were,
    and says the same again: what its observations differ from the mean is
    added up (a cluster; derived for a series). Batches that come once are left
    as they are.

    Args:
        observations: Array of shape (T, k), in the order of time.
        batches: Array of shape (T,): equal for the same batch, NaN for one
            that does not come again. Rows are in the order of their first time.

    References:
        K.-Y. Liang, S. L. Zeger, Biometrika 73 (1986): clusters.
    """
    _, first, index = np.unique(
        batches, return_index=True, return_inverse=True, equal_nan=False
    )
    if len(first) == len(observations):
        return observations
    mean = observations.mean(axis=0)
    sums = np.zeros((len(first), *mean.shape))
    np.add.at(sums, index, observations - mean)
    return mean + sums[np.argsort(first)] * (len(first) / len(observations))


def differences(means, values):
    """D = S - q G of values (G, S) at the point estimate q, but for a factor.

    Where the mean of G is not above 0, q is infinite, and D is -G. Values have
    shape (T, 2).
    """
    # The factor is free, and so are the units of G and S.
    units = np.max(np.abs(values), axis=0)
    units = np.where(units > 0, units, 1.0)
    (g, s), scaled = means / units, values / units
    if g > 0:
        return g * scaled[:, 1] - max(s, 0.0) * scaled[:, 0]
    return -scaled[:, 0]


def block_means(observations, most=MOST_BLOCKS):
    """Means of at most so many equal blocks, in the order of time."""
    parts = np.array_split(observations, min(most, len(observations)))
    return np.array([part.mean(axis=0) for part in parts])


def skewness_of_mean(blocks, twice=None):
    """The skewness of the mean of independent blocks, given their means.

    The block of index `twice` counts twice in the third moment.
    """
    deviations = blocks - blocks.mean()
    size = np.max(np.abs(deviations))
    if not size > 1e-12 * np.max(np.abs(blocks)):
        return 0.0  # blocks that differ by rounding
    deviations /= size
    cubes = np.sum(deviations**3)
    if twice is not None:
        cubes += deviations[twice] ** 3
    return float(cubes / np.sum(deviations**2) ** 1.5)


def skewed_quantile(quantile, skewness):
    """How far above 0 the t of a mean of this skewness may be, 0 at least.

    It is the inverse of `(exp(a t) - 1) / a + skewness / 6`, a = 2/3 skewness,
    at Student's `quantile`, and infinite where that is not reached. How far t
    may be below 0 is that of the opposite skewness.
    """
    a = 2 / 3 * skewness
    if abs(a) < 1e-9:
        return quantile
    x = a * (quantile - skewness / 6)
    return max(math.log1p(x) / a, 0.0) if x > -1 else math.inf


class RunRatio:
    """The confidence set for S / G along a run, each end by itself.

    1. The covariance is the long-run one, see `covariance_of_mean`.
    2. Student's quantiles are corrected for the skewness of D = S - q G, which
       the blocks show, at the point estimate; of -G where G is not above 0.
    3. At the low end, the dangerous one, the block with the smallest D counts
       twice, in the mean and in the third moment: a burst that was seen once
       could as well have come twice. There the skewness is the lower one of
       this and of -G's.

    Without blocks nothing is corrected.
    """

    def __init__(self, means, covariance, blocks):
        self.means = self.threatened = np.asarray(means, float)
        self.covariance = covariance
        self.skewness = self.threat = 0.0
        blocks = np.asarray(blocks, float).reshape(-1, 2)
        if not len(blocks):
            return
        d = differences(self.means, blocks)
        worst = d.argmin()
        self.skewness = skewness_of_mean(d)
        self.threat = min(
            skewness_of_mean(d, twice=worst), skewness_of_mean(-blocks[:, 0])
        )
        step = (blocks[worst] - self.means) / (len(blocks) + 1)
        self.threatened = self.means + step

    def interval(self, quantile):
        """`Interval` of S / G at Student's quantile."""
        above = skewed_quantile(quantile, self.threat)
        below = skewed_quantile(quantile, -self.skewness)
        low = fieller_interval(self.threatened, self.covariance, above).low
        high = fieller_interval(self.means, self.covariance, below).high
        g, s = map(float, self.means)
        if g > 0:
            low = min(low, max(s, 0.0) / g)
        return Interval(min(low, high), high)

    def sign_of_g(self, quantile):
        """`"positive"` or `"negative"` where G is told apart from 0.

        It is positive exactly where the interval has a finite end.
        """
        g, error = self.means[0], math.sqrt(self.covariance[0, 0])
        if g > skewed_quantile(quantile, -self.skewness) * error:
            return "positive"
        if -g > skewed_quantile(quantile, self.skewness) * error:
            return "negative"
        return "not told apart from 0"


def probe_interval(means, covariance, spread, count, batch_size, quantile):
    """The confidence set for S / G of one probe at fixed weights.

    The estimate of Var Ĝ = 4 V / K + 2 T / (K (K - 1)) falls together with Ĝ.
    Under a hypothesised q it is 4 ρ S / (q K) + 2 T / (K (K - 1)), with ρ the
    variance of the gradients along their mean, so that the set stays that of
    a quadratic. The low end is the lower one of this and of the estimate's
    own, the high end the estimate's own.

    Args:
        means, covariance, quantile: As for `fieller_interval`.
        spread: Estimates of V = ∇Lᵀ Σ ∇L and of T = Tr Σ², with Σ that of a
            batch.
        count: K, the number of batches, each of `batch_size` examples.
    """
    (g, s), (v, t) = means, spread
    # At least the average eigenvalue of Σ, at most the root of Tr Σ².
    rho = math.sqrt(max(t, 0.0))
    if g > 0 and s > 0:
        rho = min(max(v / g, t / (s / batch_size)), rho)
    under = np.array(covariance, float)
    under[0, 0] = 2 * t / (count * (count - 1))
    under[0, 1] = under[1, 0] = covariance[0, 1] - 2 * rho * s / count
    low, high = fieller_interval(means, covariance, quantile)
    low = min(low, fieller_interval(means, under, quantile).low)
    return Interval(low, high)


def halves(x, margin, level=0.95, cosines=8, num_series=1):
    """Whether the mean of a series is the same in both of its halves.

    Args:
        x: Observations in the order of time; those that are not finite are
            left out.
        margin: C > 1; means whose ratio is within [1 / C, C] count as equal.
        level: Of each one-sided test for "yes", and of the answer "no".
        cosines: Of the long-run variance of each half, at most.
        num_series: How many series are judged together: "no" holds of all of
            them at `level` (Bonferroni). "yes" of each is "yes" of all.

    Returns:
        "yes" if two one-sided tests show the ratio to be within the margin,
        "no" if it is shown to be outside, None if neither; and the `Interval`
        of second half / first half of the two tests.
    """
    x = np.asarray(x, np.float64)
    x = x[np.isfinite(x)]
    half = len(x) // 2
    if half < 2:
        return None, NOTHING_KNOWN
    parts = x[:half, None], x[half : 2 * half, None]
    variances, counts = zip(
        *(covariance_of_mean(part, cosines) for part in parts), strict=True
    )
    means = [part.mean() for part in parts]
    covariance = np.eye(2) * np.mean(variances)

    def ratio(two_sided_level):
        quantile = student_t_quantile(two_sided_level, sum(counts))
        return fieller_interval(means, covariance, quantile)

    interval = ratio(2 * level - 1)
    outer = ratio(1 - (1 - level) / num_series)
    answer = None
    if 1 / margin < interval.low and interval.high < margin:
        answer = "yes"
    elif outer.low > margin or outer.high < 1 / margin:
        answer = "no"
    return answer, interval
