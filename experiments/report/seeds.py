"""What runs that differ in their seeds alone say together."""

import dataclasses
import math

import numpy as np

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.ratio import student_t_quantile
from keras_svag.scaling.closeness import EquilibriumStatistics, c_closeness
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.prediction import predict_closeness
from keras_svag.scaling.verdict import ScalingVerdict

# Keys that do not change how a run trains or what it measures; the numbers
# that follow from the last two stand in the configuration too.
IRRELEVANT = {"version", "validate_every", "lsr.enabled", "lsr.kappas"}
IRRELEVANT |= {"lsr.per_layer", "micro_batch_size", "scale", "scale_lr"}

# What an equilibrium is told by, and the theory's letters for it.
SYMBOLS = {"weight_sq_norm": "R", "grad_sq_norm": "G", "noise_trace": "N"}


def setting(run, free=()):
    """What runs have in common that differ at most in seed and free keys."""
    free = IRRELEVANT.union(free, {"seed"})
    return tuple(
        (key, repr(value))
        for key, value in sorted(run.config.items())
        if value is not None and key not in free
    )


def first_of_each(runs, key):
    """The first run with each value of a function of runs."""
    first = {}
    for run in runs:
        first.setdefault(key(run), run)
    return [*first.values()]


def converged(runs):
    """Those that did not diverge."""
    return [run for run in runs if not run.diverged]


def differing_keys(runs):
    """Keys of the configuration in which runs differ, in order."""
    keys = sorted({key for run in runs for key in run.config} - IRRELEVANT)
    # 1 and True are equal, but not the same setting.
    return [k for k in keys if len({repr(r.config.get(k)) for r in runs}) > 1]


@dataclasses.dataclass(frozen=True)
class SeedMean:
    """A mean over seeds, and its standard error from their spread, or NaN."""

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
    R, G and N are those of the `ScalingReport` that `window_of(run)` returns.
    """
    finished = converged(runs)
    windows = [*map(window_of, finished)]
    noises = [window and window.estimate for window in windows]
    values = {
        "accuracy": [run.accuracy for run in runs],
        "loss": [run.curve("loss")[-1] for run in finished],
    }
    for name in SYMBOLS:
        measured = windows if name == "weight_sq_norm" else noises
        values[name] = [getattr(m, name, math.nan) for m in measured]
    return {name: seed_mean(v or [math.nan]) for name, v in values.items()}


def closeness_over_seeds(first, second, kappa=1.0):
    """`Closeness` of two settings, by their `means_over_seeds`, or None.

    One seed has no errors, and counts as exact. It is None if R, G and N were
    not measured in both, or one of R and N is not above 0.
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
