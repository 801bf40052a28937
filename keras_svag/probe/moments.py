"""G, N and their errors from gradients that were seen once, in a row.

Nothing here needs two gradients at a time: each batch leaves three numbers.
"""

import math

import numpy as np

# With fewer batches one of the two parts of the variance cannot be told.
FEWEST_FOR_ERRORS = 4


def probe_degrees_of_freedom(count):
    """Student's degrees of freedom behind the errors of `count` batches.

    The variance is extrapolated, not read off independent observations, and
    scatters as if there were about a third as many (found by simulation:
    benchmarks/coverage.py).
    """
    return max(count // 3, 1)


def sequential_moments(mean_dots, deviations, alternating_dots):
    """Unbiased G and N, their covariance, and what it is made of.

    For independent gradients g_1 … g_K at fixed weights, let m_i and d_i be
    the mean and the alternating sum g_1 - g_2 + g_3 … of the first i of them.

    1. x_i = <g_{i+1}, m_i> has mean G, and the mean of the x_i weighted by i
       is exactly the mean of <g_j, g_k> over all pairs j != k; the deviations
       |g_{i+1} - m_i|² i / (i + 1) have mean N, and their average is exactly
       the sample variance, summed over the coordinates.
    2. With V = ∇Lᵀ Σ ∇L and T = Tr Σ², Var x_i = V (i + 1) / i + T / i, and
       Var Ĝ = 4 V / K + 2 T / (K (K - 1)) is also the covariance of every x_i
       with Ĝ: so E (x_i - Ĝ)² = Var x_i - Var Ĝ, whatever the distribution.
    3. <g_{i+1}, d_i> has variance V (i + i % 2) + T i. Two averages of squares
       thus give two linear equations for V and T, and these give Var Ĝ and
       Cov(Ĝ, N̂); N̂'s variance is read off the deviations.

    (Derived: expand with g_k = ∇L + e_k, in which products with different
    e's are uncorrelated.)

    Args:
        mean_dots: x_i for i = 1 … K - 1, shape `(K - 1,)`.
        deviations: |g_{i+1} - m_i|² i / (i + 1), same shape.
        alternating_dots: <g_{i+1}, d_i>, same shape.

    Returns:
        `(means, covariance, parts)`: of shapes (2,) and (2, 2) in the order
        (G, N), N at the batch size of the gradients, and the estimates of
        (V, T), neither of them negative. Covariance and parts are NaN for
        fewer than `FEWEST_FOR_ERRORS` batches.
    """
    x, n, y = (
        np.asarray(values, np.float64)
        for values in (mean_dots, deviations, alternating_dots)
    )
    i = np.arange(1.0, x.size + 1)
    k = x.size + 1
    g_hat = i @ x / i.sum()
    means = np.array([g_hat, n.mean()])
    if k < FEWEST_FOR_ERRORS:
        return means, np.full((2, 2), math.nan), (math.nan, math.nan)

    # Where noise dominates, x_i has a variance near T / i: these weights are
    # then the inverse variances of the squares.
    weights = i**2 / np.sum(i**2)
    past = weights @ (1 / i)
    v, t = _parts_of_variance(x - g_hat, y - i % 2 * g_hat, i, k, weights)
    g_variance = 4 * v / k + 2 * t / (k * (k - 1))
    n_variance = _deviation_variance(n, t, i, k)
    # By how much skewed noise correlates |mean gradient|² with N̂, 0 for a
    # Gaussian: x_i itself has covariance -2 T / i with its deviation.
    skewness = weights @ ((x - g_hat) * (n - n.mean())) + 2 * t * past
    covariance = 2 * skewness / k - 2 * t / (k * (k - 1))
    bound = math.sqrt(g_variance * n_variance)
    covariance = min(max(covariance, -bound), bound)
    errors = np.array([[g_variance, covariance], [covariance, n_variance]])
    return means, errors, (v, t)


def _parts_of_variance(x, y, i, k, weights):
    """Estimates V = ∇Lᵀ Σ ∇L and T = Tr Σ² from residuals x and y."""
    past = weights @ (1 / i)
    equations = np.array(
        [
            [1 + past - 4 / k, past - 2 / (k * (k - 1))],
            [1 + np.mean(i[1:] % 2 / i[1:]), 1.0],
        ]
    )
    squares = np.array([weights @ x**2, np.mean(y[1:] ** 2 / i[1:])])
    v = max(float(np.linalg.solve(equations, squares)[0]), 0.0)
    return v, max(float(squares[1] - equations[1, 0] * v), 0.0)


def _deviation_variance(n, t, i, k):
    """Variance of the average of the deviations.

    It is κ / K + 2 T / (K - 1), with κ the fourth cumulant of |e|². Of κ the
    deviations show less, early ones above all: `shown` is how much of it
    their sample variance has on average.
    """
    variances = (i**3 + 1) / (i * (i + 1) ** 2)
    covariances = 2 * np.sum((i - 1) / (i * (i + 1))) / ((k - 1) * (k - 2))
    shown = variances.mean() - covariances
    sample_variance = n.var(ddof=1)
    cumulant = max(sample_variance - 2 * t, 0.0) / shown
    gaussian = sample_variance - shown * cumulant
    return cumulant / k + gaussian / (k - 1)
