"""Means over runs that differ in their seed alone."""

import dataclasses
import math

import numpy as np

from keras_svag.scaling.closeness import EquilibriumStatistics


@dataclasses.dataclass(frozen=True)
class SeedMean:
    """A mean over seeds.

    Attributes:
        value: The mean; NaN if a seed has no value.
        standard_error: Of the mean, from the seeds' spread; NaN for one seed.
        count: Number of seeds.
    """

    value: float
    standard_error: float
    count: int


@dataclasses.dataclass(frozen=True)
class SeedCurve:
    """A quantity against SGD epochs, over seeds.

    Attributes:
        epochs: SGD epochs at which every seed has a finite value.
        mean, low, high: Mean, least and largest value over the seeds.
        count: Number of seeds.
    """

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: int


def seed_mean(values):
    """`SeedMean` of one value a seed."""
    values = np.asarray(values, np.float64)
    error = math.nan
    if len(values) > 1:
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return SeedMean(float(np.mean(values)), error, len(values))


def seed_curve(runs, column):
    """`SeedCurve` of a column of the runs' histories."""
    curves = [
        {
            epoch: value
            for epoch, value in zip(run.epochs, run.curve(column), strict=True)
            if math.isfinite(value)
        }
        for run in runs
    ]
    epochs = sorted(set.intersection(*map(set, curves)))
    values = np.array([[curve[e] for e in epochs] for curve in curves])
    return SeedCurve(
        np.array(epochs),
        values.mean(axis=0),
        values.min(axis=0),
        values.max(axis=0),
        len(runs),
    )


def equilibrium_over_seeds(windows):
    """`EquilibriumStatistics` of several runs' windows, or None.

    The errors are those of means over the seeds, and contain what differs from
    run to run; one seed has none, and counts as exact.

    Args:
        windows: `Window`s, a run each, or None where nothing was measured.
    """
    if None in windows:
        return None
    fields = {}
    for name in ("weight_sq_norm", "grad_sq_norm", "noise_trace"):
        mean = seed_mean([getattr(w.statistics, name) for w in windows])
        if not math.isfinite(mean.value):
            return None
        error = mean.standard_error if mean.count > 1 else 0.0
        fields |= {name: mean.value, f"{name}_se": error}
    return EquilibriumStatistics(**fields, count=len(windows))
