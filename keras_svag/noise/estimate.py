"""`NoiseEstimate`: gradient noise with error bars."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_svag import arguments
from keras_svag.noise import sentences
from keras_svag.noise.diagnostics import effective_sample_size, largest_share
from keras_svag.noise.plots import draw_layers
from keras_svag.noise.ratio import (
    MOST_BLOCKS,
    NOTHING_KNOWN,
    Interval,
    RunRatio,
    block_means,
    covariance_of_mean,
    distinct,
    probe_interval,
    satterthwaite,
    student_t_quantile,
)
from keras_svag.noise.saving import SavedFields, plain

SAMPLING = ("independent", "shuffle")


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseEstimate(SavedFields):
    """Squared gradient norm G and noise of one example S, with errors.

    G = |∇L|² (weight decay excluded) and S = Tr Σ¹ are averaged apart and then
    divided: never clamped, and no ratios are averaged, because a single
    step's estimate of G is often negative. A batch of B examples has the noise
    N = S / B. All are in squared gradient units.

    Attributes:
        grad_sq_norm, example_noise: G and S, corrected for sampling where that
            is possible.
        grad_sq_norm_se, example_noise_se: Standard errors of the two means;
            NaN for fewer than 2 observations.
        covariance: Covariance of the two means.
        count: Number of observations; of batches, for a probe.
        batch_size: Batch size B at which N is stated, or None.
        num_skipped: Observations that were not finite, left out of all else.
        degrees_of_freedom: Student's, of the errors; count - 1 if None.
        blocks: Means `(G, S)` of at most 32 equal blocks of the observations,
            in the order of time; empty if there is no such order.
        probe: Of a probe at fixed weights the estimates of V = ∇Lᵀ Σ ∇L and
            T = Tr Σ², with Σ the covariance of one of its batches; else None.
        effective_sample_size: Independent observations that would have the
            error of these: the variance of S - q G at the estimate q over the
            long-run variance of its mean, known to a third. None for a probe,
            and where it is not defined.
        largest_share: `(in G, in S)`, the share of the largest 1% of the
            observations, one at least, in the sum of all their sizes; of
            several runs their weighted mean. None as above.
        num_batches: How many different batches the observations are of, on
            which the errors rest, or None if not known.
        num_examples: Size n of the data set, or None if not known.
        sampling: `"independent"` batches, `"shuffle"` for those of an epoch's
            permutation, or None if not known.
        assumptions: Codes of what is assumed and may not hold:
            `"coupled_loss"`, `"masked_loss"`, `"batch_normalization"`,
            `"own_train_step"`, where the model may train by another loss; or
            `"loss_not_finite"`, where a loss was NaN or infinite.
        loss_difference: Relative difference of a whole batch's loss to the
            mean of its halves', or None.
        per_layer: The same by variable path, or None.
        probe_batch_size: Examples of a batch of the probe; `batch_size` if
            None.

    Raises:
        TypeError: If something is no number where one is wanted.
        ValueError: If a standard error or a count is out of range.
    """

    grad_sq_norm: float
    example_noise: float
    grad_sq_norm_se: float
    example_noise_se: float
    covariance: float
    count: int
    batch_size: int | None = None
    num_skipped: int = 0
    degrees_of_freedom: float | None = None
    blocks: tuple[tuple[float, float], ...] = dataclasses.field(
        default=(), repr=False
    )
    probe: tuple[float, float] | None = None
    effective_sample_size: float | None = None
    largest_share: tuple[float, float] | None = None
    num_batches: int | None = None
    num_examples: int | None = None
    sampling: str | None = None
    assumptions: tuple[str, ...] = ()
    loss_difference: float | None = None
    per_layer: "dict[str, NoiseEstimate] | None" = None
    probe_batch_size: float | None = None

    def __repr__(self):
        return (
            f"<{type(self).__name__}: {self.describe()}, "
            f"{self.count:,} observations>"
        )

    def __post_init__(self):
        for name in _MOMENTS:
            least = 0 if name.endswith("_se") else None
            value = float(arguments.array(name, getattr(self, name), least))
            value = value if math.isfinite(value) else math.nan
            object.__setattr__(self, name, value)
        for name in ("count", "num_skipped"):
            arguments.integer(name, getattr(self, name), least=0)
        for name in ("num_batches", "batch_size", "num_examples"):
            arguments.integer(name, getattr(self, name), optional=True)
        names = (
            "degrees_of_freedom",
            "probe_batch_size",
            "effective_sample_size",
        )
        for name in (*names, "loss_difference"):
            least = 0 if name in names else None
            value = getattr(self, name)
            arguments.number(name, value, least, optional=True, unknown=True)
        arguments.choice("sampling", self.sampling, SAMPLING, optional=True)

    @classmethod
    def from_observations(
        cls,
        grad_sq_norm: ArrayLike,
        example_noise: ArrayLike,
        batches: ArrayLike | None = None,
        **fields: Any,
    ) -> "NoiseEstimate":
        """The estimate that a series of observations gives.

        Observations may be correlated: the errors are those of the long-run
        covariance, and the interval is that of `keras_svag.noise.ratio`. Means
        of shuffled data of n examples are corrected: G + S / n and
        S (n - 1) / n (derived; exact at fixed weights).

        Args:
            grad_sq_norm, example_noise: The estimates of G and S of each pair,
                in the order of time. Pairs that are not finite are left out.
            batches: A number for each pair, which pairs of the same examples
                share; NaN for one that shares none. Such pairs are one draw,
                see `keras_svag.noise.ratio.distinct`. None: all are drawn anew.
            **fields: Other attributes, such as `batch_size`.
        """
        sampling, n = fields.get("sampling"), fields.get("num_examples")
        arguments.integer("num_examples", n, least=2, optional=True)
        g = arguments.array("grad_sq_norm", grad_sq_norm)
        s = arguments.array("example_noise", example_noise)
        batch = np.full(g.shape, math.nan)
        if batches is not None:
            batch = arguments.array("batches", batches)
        rows = np.stack([g.ravel(), s.ravel(), batch.ravel()], axis=1)
        z, batch = rows[:, :2], rows[:, 2]
        covariance, dof, blocks = np.full((2, 2), math.nan), None, []
        # Squares of the largest numbers overflow; there are no errors then.
        with np.errstate(over="ignore", invalid="ignore"):
            if sampling == "shuffle" and n is not None:
                z = z @ [[1.0, 0.0], [1.0 / n, (n - 1.0) / n]]
            finite = np.isfinite(z).all(axis=1)
            z, batch = z[finite], batch[finite]
            count, share = len(z), largest_share(z)
            means = z.mean(axis=0) if count else np.full(2, math.nan)
            z = distinct(z, batch)
            if len(z) > 1:
                covariance, dof = covariance_of_mean(z)
            if np.isfinite(covariance).all():
                blocks = block_means(z).tolist()
            size = effective_sample_size(z)
        return cls(
            **_moment_fields(means, covariance),
            count=count,
            num_batches=len(z) if np.isfinite(batch).any() else None,
            num_skipped=int(np.sum(~finite)),
            degrees_of_freedom=dof,
            blocks=tuple(map(tuple, blocks)),
            effective_sample_size=size,
            largest_share=share,
            **fields,
        )

    @classmethod
    def mean_of(cls, estimates: "Iterable[NoiseEstimate]") -> "NoiseEstimate":
        """The mean of several estimates, each of them one observation.

        The errors are those between the estimates, which may be correlated:
        probes at several weights of a run, in the order of time.

        Raises:
            ValueError: If their batch sizes differ.
        """
        estimates = list(estimates)
        mean = cls.from_observations(
            [e.grad_sq_norm for e in estimates],
            [e.example_noise for e in estimates],
            per_layer=_by_layer(cls.mean_of, estimates),
        )
        # They are corrected already.
        return dataclasses.replace(mean, **_common_fields(estimates))

    @classmethod
    def over_runs(cls, estimates: "Iterable[NoiseEstimate]") -> "NoiseEstimate":
        """The estimate that independent runs, such as seeds, give together.

        A run weighs as much as it has observations. The errors are those of
        the weighted mean, from each run's own covariance; what differs from
        run to run beyond them is not in them. Degrees of freedom are Welch's
        and Satterthwaite's, for S - q G at the estimate q. All blocks together
        are as many as those of one run, and a run has as many of them as it
        weighs.

        Raises:
            ValueError: If their batch sizes differ.
        """
        estimates = list(estimates)
        runs = [estimate for estimate in estimates if estimate.count]
        common = _common_fields(estimates)
        common["per_layer"] = _by_layer(cls.over_runs, estimates)
        if not runs:
            return dataclasses.replace(cls.from_observations([], []), **common)
        count = sum(run.count for run in runs)
        weights = np.array([run.count / count for run in runs])
        means = weights @ [(r.grad_sq_norm, r.example_noise) for r in runs]
        parts = np.array([run.covariance_matrix for run in runs])
        parts *= weights[:, None, None] ** 2
        direction = np.array([-means[1], means[0]])
        variances = direction @ parts @ direction
        sizes = [run.effective_sample_size for run in runs]
        size = None
        if None not in sizes and variances.max() > 0:
            # A run's variance of D itself is its size times that of its mean.
            parts_of = variances / variances.max()
            own = parts_of @ (np.array(sizes) / weights)
            size = float(own / parts_of.sum())
        shares = [run.largest_share for run in runs]
        share = None
        if None not in shares:
            share = tuple((weights @ shares).tolist())
        blocks = []
        if all(run.blocks for run in runs):
            counts = np.round(MOST_BLOCKS * weights).astype(int).clip(1)
            for run, number in zip(runs, counts, strict=True):
                blocks += block_means(run.blocks, number).tolist()
        return cls(
            **_moment_fields(means, parts.sum(axis=0)),
            **common,
            count=count,
            degrees_of_freedom=satterthwaite(variances, [r._dof for r in runs]),
            blocks=tuple(map(tuple, blocks)),
            effective_sample_size=size,
            largest_share=share,
        )

    def at(self, batch_size: int) -> "NoiseEstimate":
        """The same estimate, with N stated at another batch size."""
        arguments.integer("batch_size", batch_size)
        return dataclasses.replace(
            self,
            batch_size=batch_size,
            probe_batch_size=self.probe
            and (self.probe_batch_size or self.batch_size),
            per_layer=self.per_layer
            and {k: e.at(batch_size) for k, e in self.per_layer.items()},
        )

    @property
    def covariance_matrix(self) -> NDArray[np.float64]:
        """That of the two means, of shape (2, 2), in the order (G, S)."""
        g, s = self.grad_sq_norm_se, self.example_noise_se
        # Unlike a power, a product overflows without an error.
        return np.array([[g * g, self.covariance], [self.covariance, s * s]])

    @property
    def noise_trace(self) -> float:
        """N = S / B; NaN without a batch size."""
        return self.example_noise / (self.batch_size or math.nan)

    @property
    def noise_trace_se(self) -> float:
        """Standard error of N."""
        return self.example_noise_se / (self.batch_size or math.nan)

    @property
    def noise_scale(self) -> float:
        """Gradient noise scale S / G in examples [McC18].

        Negative if G is, NaN if both are 0.
        """
        if self.grad_sq_norm:
            return self.example_noise / self.grad_sq_norm
        return math.inf if self.example_noise > 0 else math.nan

    @property
    def noise_to_signal(self) -> float:
        """N / G at the batch size; NaN without one."""
        return self.noise_scale / (self.batch_size or math.nan)

    @property
    def noise_to_signal_se(self) -> float:
        """Delta-method standard error of N / G; NaN unless G is positive.

        For stopping rules and tables. Intervals never use it: with 20 pairs
        at N / G = 100 it covers the truth about half of the time.
        """
        if not (self.grad_sq_norm > 0 and self._has_errors):
            return math.nan
        gradient = np.array([-self.noise_scale, 1.0]) / self.grad_sq_norm
        variance = gradient @ self.covariance_matrix @ gradient
        root = math.sqrt(max(float(variance), 0.0))
        return root / (self.batch_size or math.nan)

    @property
    def corrected_for_sampling(self) -> bool:
        """Whether the way in which batches were drawn leaves no bias."""
        return self.sampling == "independent" or (
            self.sampling == "shuffle" and self.num_examples is not None
        )

    def interval(self, level: float = 0.95) -> Interval:
        """Confidence set for N / G: that of a run, or that of a probe.

        Args:
            level: Two-sided; each side errs with half of the rest, nominally.

        Returns:
            `Interval(low, high)`. `high` is infinite where G is not told apart
            from 0; `(0, inf)`, which says nothing, where N is not either,
            where G is significantly negative, with fewer than 2 observations
            (4 batches of a probe), or without a batch size.

        Raises:
            TypeError: If `level` is no number.
            ValueError: If it is not strictly between 0 and 1.
        """
        quantile = student_t_quantile(level, self._dof)
        if not (self._has_errors and self.batch_size):
            return NOTHING_KNOWN
        if self.probe:
            ends = probe_interval(
                self._means,
                self.covariance_matrix,
                self.probe,
                self.count,
                self.probe_batch_size or self.batch_size,
                quantile,
            )
        else:
            ends = self._ratio.interval(quantile)
        return Interval(*(end / self.batch_size for end in ends))

    def bands(
        self, level: float = 0.95
    ) -> dict[str, tuple[float, float, float]]:
        """`{name: (low, value, high)}` of G, N and N / G.

        The intervals of G and N are Student's. Where N / G has no point
        estimate, for G is not positive, it is NaN.
        """
        quantile = student_t_quantile(level, self._dof)
        bands = {}
        for name in ("grad_sq_norm", "noise_trace"):
            value = getattr(self, name)
            reach = quantile * getattr(self, f"{name}_se")
            bands[name] = value - reach, value, value + reach
        low, high = self.interval(level)
        ratio = self.noise_to_signal if self.grad_sq_norm > 0 else math.nan
        return bands | {"noise_to_signal": (low, ratio, high)}

    def grad_sq_norm_sign(
        self, level: float = 0.95
    ) -> Literal["positive", "not told apart from 0", "negative", "unknown"]:
        """What the observations say about the sign of G.

        Returns:
            `"positive"`, `"not told apart from 0"`, `"negative"` (which no
            true G is: the batches were not drawn independently), or
            `"unknown"` with too few observations.
        """
        quantile = student_t_quantile(level, self._dof)
        if not self._has_errors:
            return "unknown"
        return self._ratio.sign_of_g(quantile)

    @property
    def _means(self):
        return self.grad_sq_norm, self.example_noise

    @property
    def _dof(self):
        return self.degrees_of_freedom or max(self.count - 1, 1)

    @property
    def _ratio(self):
        return RunRatio(self._means, self.covariance_matrix, self.blocks)

    @property
    def _has_errors(self):
        return self.count > 1 and np.isfinite(self.covariance_matrix).all()

    def describe(self, level: float = 0.95) -> str:
        """N / G with its interval in words, such as `N/G = 41 [33, 55]`.

        Without a batch size it is S / G, the noise scale.
        """
        return sentences.describe(self, level)

    @property
    def noise_scale_warning(self) -> str | None:
        """A sentence where shuffling biases the reading, else None.

        When an epoch is a permutation, G at fixed weights reads low by a
        fraction `noise_scale / (n - 1)` (derived). The correction takes that
        away, but along a run, whose weights follow the epoch, it can
        overcorrect by about as much. Batches drawn independently, or a data
        set of unknown size, give no warning.
        """
        return sentences.noise_scale_warning(self)

    def summary(self, level: float = 0.95) -> list[tuple[str, str]]:
        """What is known, as rows of `(name, text)`."""
        return sentences.summary(self, level)

    @property
    def diagnostics(self) -> dict[str, float | None]:
        """How much is behind the numbers: a column of a frame each."""
        in_g, in_s = self.largest_share or (math.nan, math.nan)
        return {
            "count": self.count,
            "num_skipped": self.num_skipped,
            "effective_sample_size": self.effective_sample_size,
            "grad_sq_norm_largest_share": in_g,
            "example_noise_largest_share": in_s,
        }

    def plot_layers(self, ax: Any = None, *, level: float = 0.95) -> Any:
        """N / G of the sum, `"all"`, and of each layer: a forest plot.

        The layers are in the order of their noise, the largest first. It needs
        matplotlib.

        Args:
            ax: Matplotlib axes to draw into; None for a new figure.
            level: Level of the intervals.

        Returns:
            The axes.
        """
        estimates = {"all": self} | self.layers_by_noise()
        if ax is None:
            from matplotlib import pyplot

            height = 1.0 + 0.25 * len(estimates)
            _, ax = pyplot.subplots(figsize=(6.4, height), layout="constrained")
        draw_layers(estimates, ax, level)
        return ax

    def layers_by_noise(self) -> "dict[str, NoiseEstimate]":
        """`per_layer` in the order of N, the largest first."""

        def place(item):
            noise = item[1].example_noise
            return math.inf if math.isnan(noise) else -noise

        return dict(sorted((self.per_layer or {}).items(), key=place))

    def to_frame(self, level: float = 0.95) -> Any:
        """A pandas frame with a row for the sum, `"all"`, and each layer."""
        import pandas

        estimates = {"all": self} | (self.per_layer or {})
        rows = []
        for estimate in estimates.values():
            row = {name: getattr(estimate, name) for name in _MOMENTS}
            row |= estimate._ratios(level)
            row["batch_size"] = estimate.batch_size
            rows.append(row | estimate.diagnostics)
        return pandas.DataFrame(rows, index=list(estimates))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for strict JSON.

        The fields, and what follows from them: N, the ratio with its 95%
        interval, the noise scale, the warning. Numbers that are not finite
        become None: `noise_to_signal_high` is None where the interval is
        unbounded. `from_dict` is the way back.
        """
        return {
            **super().to_dict(),
            **plain(self._ratios(level=0.95)),
            "grad_sq_norm_sign": self.grad_sq_norm_sign(),
            "corrected_for_sampling": self.corrected_for_sampling,
            "warning": self.noise_scale_warning,
        }

    def _ratios(self, level):
        low, high = self.interval(level)
        return {
            "noise_trace": self.noise_trace,
            "noise_to_signal": self.noise_to_signal,
            "noise_to_signal_low": low,
            "noise_to_signal_high": high,
            "noise_scale": self.noise_scale,
        }


_MOMENTS = (
    "grad_sq_norm",
    "example_noise",
    "grad_sq_norm_se",
    "example_noise_se",
    "covariance",
)


def _moment_fields(means, covariance):
    values = (*means, *np.sqrt(np.diag(covariance)), covariance[0, 1])
    return dict(zip(_MOMENTS, values, strict=True))


def _common_fields(estimates):
    """What several estimates have in common, and what adds up."""
    names = "batch_size", "num_examples", "sampling"
    found = {name: {getattr(e, name) for e in estimates} for name in names}
    if len(found["batch_size"]) > 1:
        sizes = sorted(found["batch_size"], key=str)
        raise arguments.wrong("estimates", "of one batch size", sizes)
    codes = (code for e in estimates for code in e.assumptions)
    differences = (e.loss_difference for e in estimates)
    return {
        **{k: v.pop() if len(v) == 1 else None for k, v in found.items()},
        "num_skipped": sum(e.num_skipped for e in estimates),
        "assumptions": tuple(dict.fromkeys(codes)),
        "loss_difference": max(
            (d for d in differences if d is not None), key=abs, default=None
        ),
    }


def _by_layer(pool, estimates):
    layers = [estimate.per_layer for estimate in estimates]
    if not layers or not layers[0]:
        return None
    if any(not other or other.keys() != layers[0].keys() for other in layers):
        return None
    return {name: pool([of[name] for of in layers]) for name in layers[0]}
