"""`NoiseEstimate`: gradient noise with error bars."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_svag.noise.intervals import fieller_interval, student_t_quantile

# Below 0.06 n both readings of shuffled data, as they are and corrected, cover
# in every run of benchmarks/shuffled.py; above, in some runs one of them fails.
_SMALL_NOISE_SCALE = 0.05

# Student's t is then above 3, half as much again as of many.
_FEW_DEGREES_OF_FREEDOM = 3.5


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
    def of(cls, grad_sq_norm: ArrayLike, noise_trace: ArrayLike) -> "PairSums":
        """Sums over arrays of observations; non-finite ones are counted apart.

        Args:
            grad_sq_norm: The G_hat of each observation, any shape.
            noise_trace: The N_hat of each, same shape.
        """
        g = np.ravel(np.asarray(grad_sq_norm, np.float64))
        n = np.ravel(np.asarray(noise_trace, np.float64))
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

    def __add__(self, other: "PairSums") -> "PairSums":
        if not isinstance(other, PairSums):
            return NotImplemented
        ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return PairSums(*(a + b for a, b in zip(ours, theirs, strict=True)))

    def __sub__(self, other: "PairSums") -> "PairSums":
        """Sums of the observations that came after those of `other`."""
        if not isinstance(other, PairSums):
            return NotImplemented
        ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return PairSums(*(a - b for a, b in zip(ours, theirs, strict=True)))

    def to_dict(self) -> dict[str, Any]:
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


@dataclasses.dataclass(frozen=True)
class NoiseEstimate:
    """Squared gradient norm G and noise trace N, with standard errors.

    G = |∇L|² (weight decay excluded) and N = Tr Σ at `batch_size` are averaged
    apart and then divided: never clamped, and no ratios are averaged, because
    a single step's estimate of G is often negative.

    The errors of an estimate from sums take different observations as
    uncorrelated, and their sums as Gaussian. Along a run neither holds: the
    errors of an estimate that was pooled are those between blocks of time.

    Attributes:
        grad_sq_norm: G, squared gradient units.
        noise_trace: N at `batch_size`, squared gradient units.
        grad_sq_norm_se, noise_trace_se: Standard errors of the two means, NaN
            for fewer than 2 observations.
        covariance: Covariance of the two means.
        count: Number of observations behind the means.
        batch_size: Batch size B at which N is stated.
        num_skipped: Non-finite observations, left out of everything else.
        per_layer: The same by variable name, or None.
        sampling: How batches were drawn, one of `SAMPLING_MODES`, or None.
        num_examples: Size n of the data set, or None.
        corrected_for_sampling: Whether the bias of `sampling` is removed.
        num_examples_used: Examples that a probe drew, or None.
        degrees_of_freedom: Student's, of the errors; count - 1 if None.
        blocks: `(count, sum of G, sum of N)` of equally long blocks of the
            observations, in the order of time; empty if they were not kept.
    """

    grad_sq_norm: float
    noise_trace: float
    grad_sq_norm_se: float
    noise_trace_se: float
    covariance: float
    count: int
    batch_size: int | None = None
    num_skipped: int = 0
    per_layer: "dict[str, NoiseEstimate] | None" = None
    sampling: str | None = None
    num_examples: int | None = None
    corrected_for_sampling: bool = False
    num_examples_used: int | None = None
    degrees_of_freedom: float | None = None
    blocks: tuple[tuple[float, float, float], ...] = dataclasses.field(
        default=(), repr=False
    )

    @classmethod
    def from_sums(
        cls,
        count: float,
        sum_g: float,
        sum_n: float,
        sum_gg: float,
        sum_gn: float,
        sum_nn: float,
        num_skipped: float = 0,
        **fields: Any,
    ) -> "NoiseEstimate":
        """Builds the estimate from float64 sums over steps and replicas.

        Nothing is corrected for sampling yet: `corrected` does that.
        `from_sums(**sums.to_dict(), ...)` takes a `PairSums`.

        Args:
            count: Number of (finite) observations.
            sum_g, sum_n, sum_gg, sum_gn, sum_nn: Sums of G_hat, N_hat (at
                `batch_size`) and of their products.
            num_skipped: Non-finite observations.
            **fields: `batch_size`, `sampling`, `num_examples`, `per_layer`.
        """
        if count:
            sums = PairSums(int(count), sum_g, sum_n, sum_gg, sum_gn, sum_nn)
            moments = mean_and_covariance(sums)
        else:
            moments = np.full(2, math.nan), np.full((2, 2), math.nan)
        return cls(
            **moment_fields(*moments),
            count=int(count),
            num_skipped=int(num_skipped),
            **fields,
        )

    def corrected(self, matrix: ArrayLike) -> "NoiseEstimate":
        """The estimate after a linear map of (G, N), layers included.

        Layers that are corrected already are left as they are.

        Args:
            matrix: What `sampling_correction` returns.
        """
        matrix = np.asarray(matrix, np.float64)
        means = matrix @ [self.grad_sq_norm, self.noise_trace]
        covariance = matrix @ self.covariance_matrix @ matrix.T
        # A shuffled data set of unknown size cannot be corrected.
        sizes_known = None not in (
            self.sampling,
            self.num_examples,
            self.batch_size,
        )
        return dataclasses.replace(
            self,
            **moment_fields(means, covariance),
            blocks=tuple(
                (count, *map(float, matrix @ sums))  # type: ignore[misc]
                for count, *sums in self.blocks
            ),
            per_layer=self.per_layer
            and {
                name: layer
                if layer.corrected_for_sampling
                else layer.corrected(matrix)
                for name, layer in self.per_layer.items()
            },
            corrected_for_sampling=sizes_known
            or self.sampling == "with_replacement",
        )

    @property
    def covariance_matrix(self) -> NDArray[np.float64]:
        """That of the two means, of shape (2, 2), in the order (G, N)."""
        g, n = self.grad_sq_norm_se, self.noise_trace_se
        # Unlike a power, a product overflows without an error.
        return np.array([[g * g, self.covariance], [self.covariance, n * n]])

    @property
    def noise_to_signal(self) -> float:
        """N / G, a ratio of averages; negative if G is, NaN if both are 0."""
        if self.grad_sq_norm:
            return self.noise_trace / self.grad_sq_norm
        return math.inf if self.noise_trace > 0 else math.nan

    @property
    def noise_to_signal_se(self) -> float:
        """Delta-method standard error of N / G; NaN unless G is positive.

        For stopping rules and tables. Intervals never use it: with 20 pairs
        at N / G = 100 it covers the truth about half of the time.
        """
        if not (self.grad_sq_norm > 0 and self._has_errors):
            return math.nan
        gradient = np.array([-self.noise_to_signal, 1.0]) / self.grad_sq_norm
        variance = gradient @ self.covariance_matrix @ gradient
        return math.sqrt(max(float(variance), 0.0))

    @property
    def noise_scale(self) -> float | None:
        """Gradient noise scale B N / G in examples [McC18]; None without B."""
        if self.batch_size is None:
            return None
        return self.batch_size * self.noise_to_signal

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence set for N / G by Fieller's method with Student's t.

        Args:
            level: Two-sided level; each side errs with half of the rest.

        Returns:
            `(low, high)`. `high` is infinite where G is not told apart from
            0; `(0, inf)`, which says nothing, where N is not either, where G
            is significantly negative, or with fewer than 2 observations (3
            batches of a probe).

        Raises:
            TypeError: If `level` is no number.
            ValueError: If it is not strictly between 0 and 1.
        """
        quantile = self.student_t(level)
        if not self._has_errors:
            return 0.0, math.inf
        return fieller_interval(
            self.noise_trace,
            self.grad_sq_norm,
            self.noise_trace_se**2,
            self.covariance,
            self.grad_sq_norm_se**2,
            quantile,
        )

    def student_t(self, level: float = 0.95) -> float:
        """How many standard errors reach to each side at a two-sided level."""
        dof = self.degrees_of_freedom or max(self.count - 1, 1)
        return student_t_quantile(level, dof)

    def grad_sq_norm_sign(
        self, level: float = 0.95
    ) -> Literal["positive", "not told apart from 0", "negative", "unknown"]:
        """What the observations say about the sign of G.

        Returns:
            `"positive"`, `"not told apart from 0"`, `"negative"` (which no
            true G is: the batches were not drawn independently), or
            `"unknown"` with too few observations.
        """
        quantile = self.student_t(level)
        if not self._has_errors:
            return "unknown"
        if abs(self.grad_sq_norm) <= quantile * self.grad_sq_norm_se:
            return "not told apart from 0"
        return "positive" if self.grad_sq_norm > 0 else "negative"

    @property
    def has_few_effective_observations(self) -> bool:
        """Whether a handful of blocks, or of bursts in them, carries the sums.

        The interval is then wide, for what was not seen may matter more.
        """
        return (
            bool(self.blocks)
            and self.degrees_of_freedom is not None
            and (self.degrees_of_freedom < _FEW_DEGREES_OF_FREEDOM)
        )

    @property
    def _has_errors(self):
        # Squares of the largest observations overflow.
        return self.count > 1 and np.isfinite(self.covariance_matrix).all()

    def describe(self, level: float = 0.95) -> str:
        """N / G with its interval in words, such as `N/G = 41 [33, 55]`."""
        if self.count == 0:
            text = "N/G is not measured: there were no observations"
            if self.num_skipped:
                text += f" ({self.num_skipped:,} were not finite and left out)"
            return text
        if self.grad_sq_norm == 0 and self.noise_trace == 0:
            return "N/G is undefined: every gradient was exactly zero"
        if math.isnan(self.noise_to_signal):
            return (
                "N/G is not measured: the gradients are too large to be summed"
            )
        low, high = map(_ratio_text, self.interval(level))
        sign = self.grad_sq_norm_sign(level)
        if sign == "not told apart from 0":
            return (
                f"N/G is at least {low} with no upper bound: G is not told "
                "apart from 0"
            )
        if sign == "negative":
            return (
                "N/G is not measured: G is significantly below 0, so the "
                "batches were not drawn independently"
            )
        point = f"N/G = {_ratio_text(self.noise_to_signal)}"
        if sign == "unknown":
            return f"{point}, from too few observations for an interval"
        return f"{point} [{low}, {high}]"

    @property
    def noise_scale_warning(self) -> str | None:
        """A sentence where shuffling biases the reading, else None.

        When an epoch is a permutation, G at fixed weights reads low by a
        fraction `noise_scale / (n - 1)` (derived). The correction takes that
        away, but along a run, whose weights follow the epoch, it can
        overcorrect by about as much. Batches drawn independently, or a data
        set of unknown size, give no warning.
        """
        n, scale = self.num_examples, self.noise_scale
        if self.sampling in ("with_replacement", "without_replacement"):
            return None
        if n is None or scale is None or math.isnan(scale):
            return None
        if 0 <= scale <= _SMALL_NOISE_SCALE * n:
            return None
        size = "cannot be told, because G is not measured above 0, for a set"
        if 0 < scale < math.inf:
            size = f"is {scale:,.0f} examples, {scale / n:.2g} of the data set"
        state = "this reading of N/G is not corrected and can be too high"
        if self.corrected_for_sampling:
            state = (
                "this reading is corrected, which is exact only at fixed "
                "weights"
            )
        return (
            f"The noise scale {size} of {n:,} examples: gradients of disjoint "
            f"batches are then correlated, and {state}; draw batches with "
            "replacement, or measure with measure_gradient_noise."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for strict JSON.

        The fields, and what follows from them: the ratio with its 95%
        interval, the noise scale, the warning. Numbers that are not finite
        become None: `noise_to_signal_high` is None where the interval is
        unbounded. `from_dict` is the way back.
        """
        low, high = self.interval()
        values = {name: getattr(self, name) for name in _FIELDS}
        values |= {
            "noise_to_signal": self.noise_to_signal,
            "noise_to_signal_se": self.noise_to_signal_se,
            "noise_to_signal_low": low,
            "noise_to_signal_high": high,
            "noise_scale": self.noise_scale,
            "grad_sq_norm_sign": self.grad_sq_norm_sign(),
            "warning": self.noise_scale_warning,
            "blocks": [
                [finite_or_none(total) for total in block]
                for block in self.blocks
            ],
            "per_layer": {
                name: e.to_dict() for name, e in self.per_layer.items()
            }
            if self.per_layer
            else self.per_layer,
        }
        return {name: finite_or_none(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NoiseEstimate":
        """The estimate that `to_dict` was called on.

        Raises:
            AttributeError, LookupError, TypeError, ValueError: If `values`
                are not of that form.
        """
        fields = {name: values[name] for name in _FIELDS if name in values}
        for name in MOMENTS:
            fields[name] = _number_or_nan(fields[name])
        layers = values.get("per_layer")
        fields["per_layer"] = layers and {
            name: cls.from_dict(layer) for name, layer in layers.items()
        }
        # States of older versions have no blocks.
        fields["blocks"] = tuple(
            tuple(map(_number_or_nan, block))
            for block in fields.get("blocks", ())
        )
        return cls(**fields | {"count": int(fields["count"])})


MOMENTS = (
    "grad_sq_norm",
    "noise_trace",
    "grad_sq_norm_se",
    "noise_trace_se",
    "covariance",
)
_FIELDS = tuple(field.name for field in dataclasses.fields(NoiseEstimate))


def moment_fields(means, covariance):
    # A linear map can round a variance of 0 to just below it; NaN stays NaN.
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return {
        "grad_sq_norm": float(means[0]),
        "noise_trace": float(means[1]),
        "grad_sq_norm_se": float(errors[0]),
        "noise_trace_se": float(errors[1]),
        "covariance": float(covariance[0, 1]),
    }


def _number_or_nan(value):
    return math.nan if value is None else float(value)


def finite_or_none(value):
    """`value`, or None for a float that strict JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _ratio_text(value):
    """A ratio for people: three digits below 10, whole numbers above."""
    return f"{value:.3g}" if abs(value) < 9.995 else f"{value:,.0f}"
