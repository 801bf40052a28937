"""From observations of the gradient noise to unbiased means.

An observation is a pair (G_hat, N_hat): an estimate of the squared gradient
norm G and one of the noise trace N at the simulated batch size.
"""

import dataclasses
import math

import numpy as np

from keras_svag.arguments import is_number

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
                "`grad_sq_norm` and `noise_trace` must have one value each per "
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
            f"`sampling` must be one of {', '.join(SAMPLING_MODES)}, "
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
            f"`num_examples` must be at least 2, got {n}: the gradient of a "
            "single example has no noise."
        )
    if batch_size is not None and batch_size > n:
        raise ValueError(
            f"`batch_size` must be at most num_examples = {n} with sampling = "
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
            f"`sub_batch_size` must be below num_examples = {n}, got "
            f"{sub_batch_size}: a whole data set drawn without replacement "
            "shows no noise."
        )
    return (1.0, 0.0), (0.0, (n - 1) / (n - sub_batch_size))


def _checked_size(name, value):
    if value is None:
        return None
    if not (is_number(value) and 1 <= value < math.inf) or value != int(value):
        raise ValueError(
            f"`{name}` must be a whole number of at least 1 or None, "
            f"got {value!r}."
        )
    return int(value)
