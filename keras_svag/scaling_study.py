"""How far does linear scaling go? Runs that differ in batch size."""

import dataclasses
import math

from keras_svag.comparison import Comparison
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.pooling import pooled
from keras_svag.scaling.bounds import max_batch_multiplier, min_noise_to_signal
from keras_svag.scaling.closeness import Closeness, c_closeness
from keras_svag.scaling.verdict import linear_scaling_refusal
from keras_svag.seed_statistics import (
    SeedMean,
    equilibrium_over_seeds,
    seed_mean,
)

# The test error at which a batch size counts as too large, over the best.
BREAKING_FACTOR = 1.2


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """What the runs of one batch size have shown.

    Attributes:
        batch_size: B.
        learning_rate: η at B.
        test_error: `SeedMean`; a run that diverged counts as 1.
        num_diverged: Runs that stopped at a loss that was not finite.
        estimate: `NoiseEstimate` pooled over the seeds, or None.
        heuristic_reasons: Why the theorem may not apply, a phrase each.
        predicted: `(low, point, high)` of κ_max·B, seen from this batch size:
            its 95% interval, and None for a point without N/G; or None.
        closeness: `Closeness` to the smallest batch size, or None.
        held: "held", "failed", "broke earlier", "not tested", or None for a
            batch size from which there is no prediction to test.
    """

    batch_size: int
    learning_rate: float
    test_error: SeedMean
    num_diverged: int
    estimate: NoiseEstimate | None
    heuristic_reasons: tuple[str, ...]
    predicted: tuple[float, float | None, float] | None
    closeness: Closeness | None
    held: str | None = None


@dataclasses.dataclass(frozen=True)
class ScalingStudy:
    """What runs of several batch sizes say about the linear scaling rule.

    Attributes:
        comparison: The runs, by batch size.
        batches: `BatchSize`s, increasing.
        target: C.
        threshold: 1 / (C² - 1), the N/G below which SGD leaves its SDE.
        best: The `BatchSize` of least test error.
        last_good: The largest batch size before the break, an integer.
        breaks_at: The first one above the best's whose test error is more
            than `BREAKING_FACTOR` times the best, or None.
        refusal: Why the rule is not one for the optimizer, or None.
    """

    comparison: Comparison
    batches: tuple[BatchSize, ...]
    target: float
    threshold: float
    best: BatchSize
    last_good: int
    breaks_at: int | None
    refusal: str | None = None


def scaling_study(comparison):
    """Evaluates runs whose learning rate is in proportion to the batch size.

    A batch size predicts that the rule breaks at κ_max(q)·B or before, with
    the 95% interval of q = N/G there. The prediction

    - *failed* if a batch size above the interval still had a test error of at
      most `BREAKING_FACTOR` times the best;
    - is called *broke earlier* if the first with a larger one lies at or below
      the interval, which a necessary condition allows and does not foresee;
    - is *not tested* if no batch size lies above the interval;
    - *held* otherwise: the rule broke where the interval says.

    A batch size at or past the break predicts nothing.

    Args:
        comparison: `Comparison` of at least two batch sizes; runs that
            diverged included.

    Returns:
        A `ScalingStudy`.
    """
    groups = comparison.groups
    first_config = next(iter(groups.values()))[0].config
    target = first_config.get("lsr.closeness", 2**0.5)
    reference = _equilibrium(next(iter(groups.values())))
    smallest = next(iter(groups))
    batches = [
        _batch_size(size, runs, target, reference, size / smallest)
        for size, runs in groups.items()
    ]
    best = min(batches, key=lambda batch: batch.test_error.value)
    limit = BREAKING_FACTOR * best.test_error.value
    too_large = [
        batch.batch_size
        for batch in batches
        if batch.batch_size > best.batch_size and batch.test_error.value > limit
    ]
    breaks_at = too_large[0] if too_large else None
    last_good = max(
        batch.batch_size
        for batch in batches
        if breaks_at is None or batch.batch_size < breaks_at
    )
    return ScalingStudy(
        comparison,
        tuple(
            dataclasses.replace(
                batch,
                held=_held(batch, batches, limit, last_good, breaks_at),
            )
            for batch in batches
        ),
        target,
        min_noise_to_signal(target),
        best,
        last_good,
        breaks_at,
        linear_scaling_refusal(first_config["optimizer"]),
    )


def _batch_size(size, runs, target, reference, kappa):
    errors = [1.0 if run.diverged else 1 - run.accuracy for run in runs]
    windows = [run.window_before_decay for run in runs if not run.diverged]
    config = runs[0].config
    measured = bool(windows) and None not in windows
    estimate = pooled([w.estimate for w in windows]) if measured else None
    predicted = None
    if measured and not linear_scaling_refusal(config["optimizer"]):
        predicted = _predicted(
            estimate, windows[0].learning_rate, config, target
        )
    return BatchSize(
        size,
        windows[0].learning_rate if measured else config["learning_rate"],
        seed_mean(errors),
        sum(run.diverged for run in runs),
        estimate,
        tuple(
            dict.fromkeys(
                reason
                for window in windows
                if window
                for reason in window.heuristic_reasons
            )
        ),
        predicted,
        _closeness(reference, runs, kappa),
    )


def _predicted(estimate, learning_rate, config, target):
    decay = config.get("weight_decay") or 0.0
    if learning_rate * decay >= 2:
        return None
    low, high = estimate.interval()

    def largest(noise_to_signal):
        kappa = max_batch_multiplier(
            noise_to_signal, target, learning_rate, decay
        )
        return kappa * config["batch_size"]

    point = None
    if estimate.grad_sq_norm > 0:
        point = largest(estimate.noise_to_signal)
    return largest(low), point, largest(high)


def _equilibrium(runs):
    windows = [run.window_before_decay for run in runs if not run.diverged]
    return equilibrium_over_seeds(windows) if windows else None


def _closeness(reference, runs, kappa):
    statistics = _equilibrium(runs)
    if reference is None or statistics is None or kappa == 1:
        return None
    try:
        return c_closeness(reference, statistics, kappa)
    except ValueError:
        # R or N is not above 0: there is no ratio.
        return None


def _held(batch, batches, limit, last_good, breaks_at):
    if batch.predicted is None or batch.batch_size > last_good:
        return None
    low, _, high = batch.predicted
    beyond = [other for other in batches if other.batch_size > high]
    if any(other.test_error.value <= limit for other in beyond):
        return "failed"
    if breaks_at is not None and breaks_at <= low:
        return "broke earlier"
    return "held" if beyond else "not tested"


def share_of_noise(batch):
    """N/G of a `BatchSize` with its 95% interval; NaN where not measured."""
    if batch.estimate is None:
        return (math.nan,) * 3
    estimate = batch.estimate
    point = math.nan
    if estimate.grad_sq_norm > 0:
        point = estimate.noise_to_signal
    return point, *estimate.interval()
