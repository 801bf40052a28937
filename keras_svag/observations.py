"""From observations of the gradient noise to unbiased means.

An observation is a pair (G_hat, N_hat): an estimate of the squared gradient
norm G and one of the noise trace N at the simulated batch size.
"""

import dataclasses
import math

import numpy as np

# With fewer batches the excess is too uncertain: in simulation with skewed
# noise, 95% intervals covered 88% at 8 batches, 94% at 20.
_FEWEST_FOR_EXCESS = 20

SAMPLING_MODES = ("with_replacement", "without_replacement", "shuffle")


@dataclasses.dataclass(frozen=True)
class PairSums:
    """Sums of observations (G_hat, N_hat) over steps and replicas, in float64.

    Sums of several windows, epochs or replicas add up (`a + b`), and survive a
    restart through `to_dict` and `PairSums(**saved)`.
    """

    count: int = 0
    sum_g: float = 0.0
    sum_n: float = 0.0
    sum_gg: float = 0.0
    sum_gn: float = 0.0
    sum_nn: float = 0.0
    num_skipped: int = 0

    @classmethod
    def of(cls, grad_sq_norm, noise_trace):
        """Sums over arrays of observations; non-finite ones are counted apart.

        Args:
            grad_sq_norm: The G_hat of each observation, any shape.
            noise_trace: The N_hat of each, same shape.
        """
        g = np.ravel(np.asarray(grad_sq_norm, np.float64))
        n = np.ravel(np.asarray(noise_trace, np.float64))
        if g.shape != n.shape:
            raise ValueError(
                "grad_sq_norm and noise_trace must have one value each per "
                f"observation, got {g.size} and {n.size} values."
            )
        finite = np.isfinite(g) & np.isfinite(n)
        g, n = g[finite], n[finite]
        return cls(
            int(g.size),
            float(g.sum()),
            float(n.sum()),
            float(g @ g),
            float(g @ n),
            float(n @ n),
            int(np.sum(~finite)),
        )

    def __add__(self, other):
        if not isinstance(other, PairSums):
            return NotImplemented
        ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return PairSums(*(a + b for a, b in zip(ours, theirs, strict=True)))

    def to_dict(self):
        """Plain numbers for JSON; `PairSums(**dict)` is the way back."""
        return dataclasses.asdict(self)


def mean_and_covariance(sums):
    """Means of the observations, and the covariance matrix of these means.

    Args:
        sums: `PairSums` with a count of at least 1.

    Returns:
        `(means, covariance)` of shapes (2,) and (2, 2), in the order (G, N).
        With one observation the covariance is NaN. Variances that rounding
        made negative are 0.
    """
    count = sums.count
    means = np.array([sums.sum_g, sums.sum_n], np.float64) / count
    if count < 2:
        return means, np.full((2, 2), math.nan)
    seconds = np.array(
        [[sums.sum_gg, sums.sum_gn], [sums.sum_gn, sums.sum_nn]], np.float64
    )
    covariance = (seconds / count - np.outer(means, means)) / (count - 1)
    return means, _positive_semidefinite(covariance)


def _positive_semidefinite(covariance):
    g, n = np.maximum(np.diag(covariance), 0.0)
    bound = math.sqrt(g * n)
    cross = min(max(covariance[0, 1], -bound), bound)
    return np.array([[g, cross], [cross, n]])


def probe_mean_and_covariance(sq_norms, mean_dots, dot_sq_sum=None):
    """G and N from K gradients g_k of independent batches at fixed weights.

    G_hat is the mean of <g_j, g_k> over all pairs j != k, which is
    `(K |m|^2 - s) / (K - 1)` with m the mean gradient and s the mean of
    |g_k|^2; N_hat = s - G_hat. Both are U-statistics.

    Their covariance is the jackknife's over batches (derived): leaving out
    batch k turns the pair sum T into `T - 2 (K <g_k, m> - |g_k|^2)` and needs
    no other gradient. The jackknife counts the part of the variance that is
    quadratic in the noise, `2 Tr(Sigma^2) / (K (K - 1))`, twice: standard
    errors of G are up to sqrt(2) too large when noise dominates. With
    `dot_sq_sum` Tr(Sigma^2) is estimated and the excess taken off.

    Args:
        sq_norms: |g_k|^2, shape (K,), K >= 2.
        mean_dots: <g_k, m>, shape (K,).
        dot_sq_sum: Optional; the sum of <g_j, g_k>^2 over all ordered pairs
            j != k, used for K >= 20.

    Returns:
        `(means, covariance)` of shapes (2,) and (2, 2), in the order (G, N),
        N at the batch size of the gradients. The covariance is NaN for K = 2.

    Raises:
        ValueError: If there are fewer than 2 batches or the shapes differ.
    """
    sq_norms = np.asarray(sq_norms, np.float64)
    mean_dots = np.asarray(mean_dots, np.float64)
    if sq_norms.ndim != 1 or sq_norms.shape != mean_dots.shape:
        raise ValueError(
            "sq_norms and mean_dots must be vectors with one value per batch, "
            f"got shapes {sq_norms.shape} and {mean_dots.shape}."
        )
    k = sq_norms.size
    if k < 2:
        raise ValueError(
            f"the probe needs the gradients of at least 2 batches, got {k}."
        )
    rows = k * mean_dots - sq_norms
    total = rows.sum()
    grad_sq_norm = total / (k * (k - 1))
    mean_sq_norm = sq_norms.mean()
    means = np.array([grad_sq_norm, mean_sq_norm - grad_sq_norm])
    if k < 3:
        return means, np.full((2, 2), math.nan)

    left_out_g = (total - 2 * rows) / ((k - 1) * (k - 2))
    left_out_n = (k * mean_sq_norm - sq_norms) / (k - 1) - left_out_g
    deviations = np.stack(
        [left_out_g - left_out_g.mean(), left_out_n - left_out_n.mean()]
    )
    covariance = (k - 1) / k * deviations @ deviations.T
    if dot_sq_sum is not None and k >= _FEWEST_FOR_EXCESS:
        excess = _jackknife_excess(rows, float(dot_sq_sum))
        # All of the variance being quadratic is the most that can be excess.
        excess = min(max(excess, 0.0), covariance[0, 0] * k / (2 * (k - 1)))
        covariance -= excess * np.array([[1.0, -1.0], [-1.0, 1.0]])
    return means, _positive_semidefinite(covariance)


def _jackknife_excess(rows, dot_sq_sum):
    """Unbiased estimate of what the jackknife adds to G_hat's variance."""
    k, total = rows.size, rows.sum()
    row_sq_sum = np.sum(rows**2)
    same = dot_sq_sum / (k * (k - 1))
    one_shared = (row_sq_sum - dot_sq_sum) / (k * (k - 1) * (k - 2))
    none_shared = (total**2 - 4 * row_sq_sum + 2 * dot_sq_sum) / (
        k * (k - 1) * (k - 2) * (k - 3)
    )
    trace_of_square = same - 2 * one_shared + none_shared
    return trace_of_square * (4 / (k * (k - 2)) - 2 / (k * (k - 1)))


def sampling_correction(
    sampling, num_examples=None, batch_size=None, sub_batch_size=None
):
    """The linear map from (G_hat, N_hat) to unbiased (G, N).

    Exact at fixed weights (derived: distinct examples drawn without
    replacement have covariance -Sigma^1 / (n - 1)), where n is `num_examples`,
    B `batch_size` and b `sub_batch_size`:

    | sampling | G | N |
    |---|---|---|
    | `with_replacement` | G_hat | N_hat |
    | `without_replacement` | G_hat | N_hat (n - 1) / (n - b) |
    | `shuffle` | G_hat + (B / n) N_hat | N_hat (n - 1) / n |

    In `shuffle` the two sub-batches (or all batches of a probe) are disjoint;
    in `without_replacement` each is drawn without replacement, independently
    of the others. Along a shuffled *run* the weights depend on the epoch so
    far, so there the correction is not exact. Nothing is corrected, and the
    map is the identity, while a size that it needs is None.

    Args:
        sampling: One of `SAMPLING_MODES`.
        num_examples: Size of the data set; not needed with replacement.
        batch_size: B, at which N is stated; needed for `shuffle`.
        sub_batch_size: Examples behind each of the gradients compared (on one
            replica); needed for `without_replacement`.

    Returns:
        `((a11, a12), (a21, a22))`, floats.

    Raises:
        ValueError: If the mode is unknown, a size is no whole number of at
            least 1, or a batch does not fit into the data set.
    """
    if sampling not in SAMPLING_MODES:
        raise ValueError(
            f"sampling must be one of {', '.join(SAMPLING_MODES)}, "
            f"got {sampling!r}."
        )
    n = _checked_size("num_examples", num_examples)
    batch_size = _checked_size("batch_size", batch_size)
    sub_batch_size = _checked_size("sub_batch_size", sub_batch_size)
    identity = (1.0, 0.0), (0.0, 1.0)
    if sampling == "with_replacement" or n is None:
        return identity
    if n < 2:
        raise ValueError(
            f"num_examples must be at least 2, got {n}: the gradient of a "
            "single example has no noise."
        )
    if batch_size is not None and batch_size > n:
        raise ValueError(
            f"batch_size must be at most num_examples = {n} with sampling = "
            f"{sampling!r}, got {batch_size}."
        )
    if sampling == "shuffle":
        if batch_size is None:
            return identity
        return (1.0, batch_size / n), (0.0, (n - 1) / n)
    if sub_batch_size is None:
        return identity
    if sub_batch_size >= n:
        raise ValueError(
            f"sub_batch_size must be below num_examples = {n}, got "
            f"{sub_batch_size}: a whole data set drawn without replacement "
            "shows no noise."
        )
    return (1.0, 0.0), (0.0, (n - 1) / (n - sub_batch_size))


def _checked_size(name, value):
    if value is None:
        return None
    if isinstance(value, bool) or value != int(value) or value < 1:
        raise ValueError(
            f"{name} must be a whole number of at least 1 or None, "
            f"got {value!r}."
        )
    return int(value)
