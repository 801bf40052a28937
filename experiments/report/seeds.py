"""Runs that differ in one thing and in seed, and their means over seeds."""

import dataclasses
import math

import numpy as np

from experiments.optimizers import is_svag
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.closeness import EquilibriumStatistics, c_closeness
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.prediction import predict_closeness
from keras_svag.scaling.verdict import scaling_verdict

# What does not change how a run trains or what it measures.
_IRRELEVANT = {
    "version",
    "validate_every",
    "lsr.enabled",
    "lsr.kappas",
    "lsr.per_layer",
    "micro_batch_size",
    # The numbers that follow from these stand in the configuration too.
    "scale",
    "scale_lr",
}

# What an equilibrium is told by, and the theory's letters for it.
SYMBOLS = {"weight_sq_norm": "R", "grad_sq_norm": "G", "noise_trace": "N"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs that differ in one quantity, and in their seeds.

    Attributes:
        groups: `{value: runs}` by the value of the quantity, in its order.
        common: `{key: value}`, the configuration that they share.
        differing: Keys that differ besides, in order.
        beside: Another `Comparison`, which says more of one of these runs.
    """

    groups: dict
    common: dict
    differing: tuple[str, ...]
    beside: "Comparison | None" = None

    @property
    def runs(self):
        """All runs, in order."""
        return [run for runs in self.groups.values() for run in runs]

    @property
    def num_seeds(self):
        """Least number of runs at a value."""
        return min(map(len, self.groups.values()))


def without_repeated(runs):
    """Splits runs into those of their own and repetitions of them.

    A second run of the same configuration and seed is no second sample.

    Returns:
        `(runs, repeated)`, two lists of `Run`s.
    """
    first, repeated = {}, []
    for run in runs:
        setting = _setting(run, set()), repr(run.config.get("seed"))
        if first.setdefault(setting, run) is not run:
            repeated.append(run)
    return list(first.values()), repeated


def comparisons(runs, quantity, free, also_alike=lambda run: None):
    """The `Comparison`s that runs allow, in the order of their first runs.

    Args:
        runs: `Run`s.
        quantity: Function from a run to the value in which it is compared, or
            None if it takes no part.
        free: Keys of the configuration that need not be equal; the seed never
            has to be.
        also_alike: Function from a run to what has to be equal besides.
    """
    by_setting = {}
    for run in runs:
        value = quantity(run)
        if value is not None:
            setting = _setting(run, free), also_alike(run)
            groups = by_setting.setdefault(setting, {})
            groups.setdefault(value, []).append(run)
    return [
        _comparison(dict(sorted(groups.items())))
        for groups in by_setting.values()
        if len(groups) > 1
    ]


def differing_keys(runs):
    """Keys of the configuration in which runs differ, in order."""
    keys = sorted({key for run in runs for key in run.config} - _IRRELEVANT)
    # 1 and True are equal, but not the same setting.
    return [k for k in keys if len({repr(r.config.get(k)) for r in runs}) > 1]


def same_setting(first, second, free):
    """Whether two runs differ at most in their seeds and in free keys."""
    return _setting(first, free) == _setting(second, free)


def _setting(run, free):
    return tuple(
        (key, repr(value))
        for key, value in sorted(run.config.items())
        if value is not None and key not in _IRRELEVANT | {"seed"} | free
    )


def _comparison(groups):
    runs = [run for group in groups.values() for run in group]
    differing = differing_keys(runs)
    common = {
        key: value
        for key, value in runs[0].config.items()
        if key not in differing and key not in _IRRELEVANT
    }
    return Comparison(groups, common, tuple(differing))


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


def seed_mean(values):
    """`SeedMean` of one value a seed."""
    values = np.asarray(values, np.float64)
    error = math.nan
    if len(values) > 1:
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return SeedMean(float(np.mean(values)), error, len(values))


def seed_curves(runs, column):
    """A column of the histories of several seeds.

    Returns:
        `(epochs, values)`: the SGD epochs at which every seed has a finite
        value, and these, a row a seed.
    """
    count = min(len(run.epochs) for run in runs)
    values = np.array([run.curve(column)[:count] for run in runs])
    is_there = np.isfinite(values).all(axis=0)
    return runs[0].epochs[:count][is_there], values[:, is_there]


def final_means(runs):
    """`{"accuracy" or "loss": SeedMean}`: test accuracy and training loss.

    Of a run that diverged the accuracy is 0, and it has no loss.
    """
    losses = [run.curve("loss")[-1] for run in runs if not run.diverged]
    accuracies = [0.0 if run.diverged else run.accuracy for run in runs]
    return {
        "accuracy": seed_mean(accuracies),
        "loss": seed_mean(losses or [math.nan]),
    }


def equilibrium_means(windows):
    """`{name: SeedMean}` of R, G and N; NaN if a run has not measured them.

    Args:
        windows: `Window`s, a run each, or None where nothing was measured.
    """
    return {
        name: seed_mean(
            [
                getattr(window.statistics, name) if window else math.nan
                for window in windows or [None]
            ]
        )
        for name in SYMBOLS
    }


def pooled_noise(windows):
    """`NoiseEstimate` of all seeds together; None if one measured none."""
    if not windows or None in windows:
        return None
    return NoiseEstimate.over_runs([window.estimate for window in windows])


def reasons_of(windows):
    """Why the theory may not apply to some of the runs, a `Reason` each."""
    return tuple(
        dict.fromkeys(
            reason for window in windows if window for reason in window.reasons
        )
    )


def closeness_over_seeds(first, second, kappa=1.0):
    """`Closeness` of two settings, whose runs differ in their seeds.

    The errors are those of means over the seeds, and contain what differs from
    run to run; one seed has none, and counts as exact.

    Args:
        first, second: Their `equilibrium_means`, or None.
        kappa: As for `c_closeness`.

    Returns:
        A `Closeness`, or None if R, G and N were not measured in both, or one
        of R and N is not above 0.
    """
    statistics = [_statistics(means, 0.0) for means in (first, second)]
    if None in statistics:
        return None
    try:
        return c_closeness(*statistics, kappa)
    except ValueError:
        # R or N is not above 0: there is no ratio.
        return None


def _statistics(means, error_of_one):
    """`EquilibriumStatistics` of `equilibrium_means`; None without them."""
    means = means and [means[name] for name in SYMBOLS]
    if not means or not all(math.isfinite(mean.value) for mean in means):
        return None
    return EquilibriumStatistics(
        *(mean.value for mean in means),
        *(
            error_of_one
            if math.isnan(mean.standard_error)
            else mean.standard_error
            for mean in means
        ),
        min(mean.count for mean in means),
    )


def closeness_prediction(groups, window_of):
    """`ClosenessPrediction` of runs of SVAG with several ell.

    Errors are those of means over seeds. One seed has those between the
    epochs of its window, in which what varies from seed to seed is not.

    Args:
        groups: `{ell: runs}`, of one batch size and learning rate.
        window_of: Function from a run to its `Window`, or None.

    Returns:
        None if R, G and N were not measured above 0 in all.
    """
    statistics = {}
    for ell, runs in groups.items():
        windows = [window_of(run) for run in runs]
        means = equilibrium_means(windows)
        if len(runs) == 1 and windows[0]:
            means = _with_errors_between_epochs(means, runs[0], windows[0])
        statistics[ell] = _statistics(means, math.nan)
    if None in statistics.values():
        return None
    try:
        return predict_closeness(statistics)
    except ValueError:
        return None


def _with_errors_between_epochs(means, run, window):
    """The means of one run with errors from its epochs, where it has them."""
    inside = (run.epochs >= window.first_epoch) & (
        run.epochs <= window.last_epoch
    )
    result = {}
    for name, mean in means.items():
        values = run.curve(name)[inside]
        values = values[np.isfinite(values)]
        result[name] = mean
        if len(values) > 1:
            error = seed_mean(values).standard_error
            result[name] = SeedMean(mean.value, error, len(values))
    return result


def ratio_of(estimate):
    """`(low, point, high)` of N/G with its 95% interval.

    The point is NaN where G is not above 0.
    """
    low, high = estimate.interval()
    is_positive = estimate.grad_sq_norm > 0
    point = max(estimate.noise_to_signal, 0.0) if is_positive else math.nan
    return low, point, high


def ell_of(config):
    """The amplification of SVAG and its kin; 1 for any other optimizer."""
    return config.get("ell", 1) if is_svag(config.get("optimizer")) else 1


def noise_verdict(windows, config, closeness, kappas=()):
    """What the noise of runs says about the linear scaling rule and the SDE.

    Args:
        windows: `Window`s, a run each, or None where nothing was measured.
        config: Configuration of the runs.
        closeness: C.
        kappas: Factors on the batch size to judge.

    Returns:
        A `ScalingVerdict`, or None without noise, or if the weights of
        such runs diverge.
    """
    estimate = pooled_noise(windows)
    if estimate is None:
        return None
    is_off = any(window.at_equilibrium is False for window in windows)
    balances = [window.balance for window in windows]
    conditions = RunConditions(
        learning_rate=windows[0].learning_rate,
        weight_decay=config.get("weight_decay") or 0.0,
        ell=ell_of(config),
        balance=None
        if is_off or None in balances
        else float(np.mean(balances)),
    )
    if conditions.diverges:
        return None
    verdict = scaling_verdict(
        estimate, conditions, closeness=closeness, kappas=kappas
    )
    return dataclasses.replace(verdict, reasons=reasons_of(windows))
