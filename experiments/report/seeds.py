"""Runs that differ in one thing and in their seeds, and their means."""

import dataclasses
import functools
import math

import numpy as np

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.ratio import student_t_quantile
from keras_svag.scaling.closeness import EquilibriumStatistics, c_closeness
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.prediction import predict_closeness
from keras_svag.scaling.verdict import ScalingVerdict

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


@dataclasses.dataclass
class Comparison:
    """Runs that differ in one quantity, and in their seeds.

    Attributes:
        groups: `{value: runs}` by the value of the quantity, in its order.
        beside: Another `Comparison`, which says more of one of these runs.
    """

    groups: dict
    beside: "Comparison | None" = None

    @property
    def runs(self):
        """All runs, in order."""
        return [run for runs in self.groups.values() for run in runs]

    @property
    def num_seeds(self):
        """Least number of runs at a value."""
        return min(map(len, self.groups.values()))

    @functools.cached_property
    def differing(self):
        """Keys of the configuration in which the runs differ, in order."""
        return differing_keys(self.runs)

    @functools.cached_property
    def common(self):
        """`{key: value}`, the configuration that they share, in order."""
        config, other = self.runs[0].config, _IRRELEVANT.union(self.differing)
        return {key: config[key] for key in sorted(config.keys() - other)}


def comparisons(runs, value_of, free, alike):
    """The `Comparison`s that runs allow, in the order of their first runs.

    Args:
        runs: `Run`s.
        value_of: Function from a run to the value in which it is compared, or
            None if it takes no part.
        free: Keys of the configuration that need not be equal; the seed never
            has to be.
        alike: Function from a run to what has to be equal besides, or None if
            it takes no part.
    """
    by_setting = {}
    for run in runs:
        value, other = value_of(run), alike(run)
        if value is not None and other is not None:
            groups = by_setting.setdefault((setting(run, free), other), {})
            groups.setdefault(value, []).append(run)
    return [
        Comparison(dict(sorted(groups.items())))
        for groups in by_setting.values()
        if len(groups) > 1
    ]


def setting(run, free=()):
    """What runs have in common that differ at most in seed and free keys."""
    free = _IRRELEVANT.union(free, {"seed"})
    return tuple(
        (key, repr(value))
        for key, value in sorted(run.config.items())
        if value is not None and key not in free
    )


def without_repeated(runs):
    """Splits runs into those of their own and repetitions of them.

    A second run of the same configuration and seed is no second sample.

    Returns:
        `(runs, repeated)`, two lists of `Run`s.
    """
    first = {}
    for run in runs:
        first.setdefault((setting(run), run.config["seed"]), run)
    own = [*first.values()]
    return own, [run for run in runs if run not in own]


def differing_keys(runs):
    """Keys of the configuration in which runs differ, in order."""
    keys = sorted({key for run in runs for key in run.config} - _IRRELEVANT)
    # 1 and True are equal, but not the same setting.
    return [k for k in keys if len({repr(r.config.get(k)) for r in runs}) > 1]


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

    def interval(self, level=0.95):
        """`(low, high)`, Student's; infinite for one seed."""
        if self.count == 1:
            return -math.inf, math.inf
        reach = self.standard_error * student_t_quantile(level, self.count - 1)
        return self.value - reach, self.value + reach


def seed_mean(values):
    """`SeedMean` of one value a seed."""
    values = np.asarray(values, np.float64)
    error = math.nan
    if len(values) > 1:
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return SeedMean(float(np.mean(values)), error, len(values))


def means_over_seeds(runs, window_of):
    """`{quantity: SeedMean}`: test accuracy, training loss, R, G and N.

    Of a run that diverged the accuracy is 0, and it has none of the others.

    Args:
        runs: `Run`s.
        window_of: Function from a run to the `ScalingReport` that has its R, G
            and N, or None if they were not measured.
    """
    converged = [run for run in runs if not run.diverged]
    windows = [*map(window_of, converged)] or [None]

    def measured(value):
        return seed_mean([value(w) if w else math.nan for w in windows])

    losses = [run.curve("loss")[-1] for run in converged]
    return {
        "accuracy": seed_mean([run.accuracy for run in runs] or [math.nan]),
        "loss": seed_mean(losses or [math.nan]),
        "weight_sq_norm": measured(lambda w: w.weight_sq_norm),
        "grad_sq_norm": measured(lambda w: w.estimate.grad_sq_norm),
        "noise_trace": measured(lambda w: w.estimate.noise_trace),
    }


def closeness_over_seeds(first, second, kappa=1.0):
    """`Closeness` of two settings, by their `means_over_seeds`, or None.

    The errors are those of means over the seeds, and contain what differs from
    run to run; one seed has none, and counts as exact. It is None if R, G and
    N were not measured in both, or one of R and N is not above 0.
    """
    try:
        statistics = [_statistics(means, 0.0) for means in (first, second)]
        return c_closeness(*statistics, kappa)
    except ValueError:
        return None


def _statistics(means, error_of_one=math.nan):
    means = [means[name] for name in SYMBOLS]
    return EquilibriumStatistics(
        *(mean.value for mean in means),
        *(m.standard_error if m.count > 1 else error_of_one for m in means),
        min(mean.count for mean in means),
    )


def closeness_prediction(groups, window_of):
    """`ClosenessPrediction` of runs of SVAG, `{ell: runs}`, or None.

    Errors are those of means over seeds. One seed has those between the
    epochs of its window, in which what varies from seed to seed is not. It is
    None if R, G and N were not measured above 0 in all.
    """
    statistics = {}
    try:
        for ell, runs in groups.items():
            means = means_over_seeds(runs, window_of)
            if len(runs) == 1 and (window := window_of(*runs)):
                epochs = slice(window.first_epoch - 1, window.last_epoch)
                for name in SYMBOLS:
                    values = runs[0].curve(name)[epochs]
                    values = values[np.isfinite(values)]
                    if len(values) > 1:
                        value, between = means[name].value, seed_mean(values)
                        means[name] = dataclasses.replace(between, value=value)
            statistics[ell] = _statistics(means)
        return predict_closeness(statistics)
    except ValueError:
        return None


def pooled_noise(estimates):
    """`NoiseEstimate` of all seeds together; None if one measured none."""
    if not estimates or None in estimates:
        return None
    return NoiseEstimate.over_runs(estimates)


def reasons_of(runs, window_of):
    """Why the theory may not apply to some of the runs, a `Reason` each."""
    windows = filter(None, map(window_of, runs))
    return tuple(dict.fromkeys(r for w in windows for r in w.verdict.reasons))


def noise_verdict(runs, window_of, closeness):
    """`ScalingVerdict` on runs of one setting, by the linear rule, or None.

    SVAG at η and ell has the identity of SGD at η / ell with G / ell, and so
    has the run at κη: the condition for SGD then speaks of both. It is None
    without noise, or if the weights of such runs diverge.
    """
    windows = [*map(window_of, runs)]
    noise = pooled_noise([window and window.estimate for window in windows])
    if noise is None:
        return None
    ell, verdicts = runs[0].ell, [window.verdict for window in windows]
    balances = [verdict.balance for verdict in verdicts]
    is_off = False in [verdict.at_equilibrium for verdict in verdicts]
    has_balance = not is_off and None not in balances
    conditions = RunConditions(
        learning_rate=verdicts[0].learning_rate / ell,
        weight_decay=runs[0].config["weight_decay"] or 0.0,
        balance=float(np.mean(balances)) if has_balance else None,
    )
    if conditions.diverges:
        return None
    noise = dataclasses.replace(
        noise,
        grad_sq_norm=noise.grad_sq_norm / ell,
        grad_sq_norm_se=noise.grad_sq_norm_se / ell,
        covariance=noise.covariance / ell,
        blocks=tuple((g / ell, s) for g, s in noise.blocks),
    )
    reasons = reasons_of(runs, window_of)
    return ScalingVerdict(noise, conditions, closeness, reasons=reasons)
