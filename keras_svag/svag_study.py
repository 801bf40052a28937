"""Does SGD follow its SDE? Runs that differ in SVAG's ell."""

import dataclasses
import math

from keras_svag.comparison import Comparison
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.pooling import pooled
from keras_svag.scaling.bounds import min_noise_to_signal
from keras_svag.scaling.closeness import (
    Closeness,
    EquilibriumStatistics,
    c_closeness,
)
from keras_svag.scaling.verdict import Verdict
from keras_svag.seed_statistics import (
    SeedMean,
    equilibrium_over_seeds,
    seed_mean,
)
from keras_svag.svag_verdict import svag_verdict

QUANTITIES = (
    "weight_sq_norm",
    "grad_sq_norm",
    "noise_trace",
    "accuracy",
    "loss",
)


@dataclasses.dataclass(frozen=True)
class NecessaryCondition:
    """What SGD's N/G says about its SDE ([L21], section 5).

    Attributes:
        estimate: `NoiseEstimate` of SGD, pooled over its seeds.
        threshold: The least N/G with which SGD can be C-close to its SDE.
        verdict: `Verdict` at the 95% interval of N/G.
        heuristic_reasons: Why the theorem may not apply, a phrase each.
    """

    estimate: NoiseEstimate
    threshold: float
    verdict: Verdict
    heuristic_reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SVAGStudy:
    """What runs of several ell say about the SDE approximation.

    Attributes:
        comparison: The runs, by ell; diverged ones left out.
        final: `{ell: {quantity: SeedMean}}`, with the names of `QUANTITIES`:
            R, G and N over the last window, test accuracy, training loss.
        limit: `{quantity: (value, standard error)}` at ell → ∞.
        target: C, how close SGD is asked to be.
        closeness: `Closeness` of SGD to SVAG with the largest ell, or None.
        limit_closeness: `Closeness` of SGD to the estimate at ell → ∞, None
            where there is none, or one seed.
        condition: `NecessaryCondition`, or None without a measured SGD run.
        verdict: "supported", "contradicted" or "undetermined".
        reason: Why, as a clause.
    """

    comparison: Comparison
    final: dict[int, dict[str, SeedMean]]
    limit: dict[str, tuple[float, float]]
    target: float
    closeness: Closeness | None
    limit_closeness: Closeness | None
    condition: NecessaryCondition | None
    verdict: str
    reason: str

    @property
    def largest_ell(self):
        """The ell that stands in for the SDE."""
        return max(self.comparison.groups)


def svag_study(comparison):
    """Evaluates runs that differ in ell.

    The verdict is that of an interval and of a necessary condition:
    *contradicted* if the 95% interval of SGD's C-closeness to SVAG with the
    largest ell lies above C, or if N/G is ruled out to be enough and no
    assumption of the theorem fails; *supported* if the interval lies at or
    below C, that of the estimate at ell → ∞ does not lie above it, and N/G is
    not ruled out; otherwise *undetermined*. One seed shows nothing of how runs
    vary, so then only N/G can decide.

    C-closeness is one of equilibria: runs that began alike are close before
    they get there. So where the balance tells that a run has not, the interval
    decides nothing; where no balance is defined, the reason says so.

    Args:
        comparison: `Comparison` of at least two ell, without diverged runs.

    Returns:
        An `SVAGStudy`.
    """
    groups = comparison.groups
    windows = {
        ell: [run.final_window for run in runs] for ell, runs in groups.items()
    }
    final = {ell: _final(groups[ell], windows[ell]) for ell in groups}
    target = groups[max(groups)][0].config.get("lsr.closeness", 2**0.5)
    limit = {name: _limit(final, name) for name in QUANTITIES}
    closeness = _closeness(windows)
    limit_closeness = None
    if comparison.num_seeds > 1:
        limit_closeness = _limit_closeness(
            windows, limit, closeness, comparison.num_seeds
        )
    condition = _necessary_condition(windows.get(1), comparison, target)
    verdict, reason = svag_verdict(
        closeness,
        limit_closeness,
        condition,
        target,
        windows,
        comparison.num_seeds,
    )
    return SVAGStudy(
        comparison,
        final,
        limit,
        target,
        closeness,
        limit_closeness,
        condition,
        verdict,
        reason,
    )


def _final(runs, windows):
    final = {
        "accuracy": seed_mean([run.accuracy for run in runs]),
        "loss": seed_mean([run.curve("loss")[-1] for run in runs]),
    }
    for name in QUANTITIES[:3]:
        final[name] = seed_mean(
            [getattr(w.statistics, name) if w else math.nan for w in windows]
        )
    return final


def _limit(final, name):
    """Richardson's estimate at ell → ∞ from the two largest ell.

    E(ell) = E + c / ell + O(1 / ell²), so (l2 E2 - l1 E1) / (l2 - l1), which
    is 2 E(2l) - E(l) for neighbours (derived). The two are independent.
    """
    l1, l2 = sorted(final)[-2:]
    first, second = final[l1][name], final[l2][name]
    value = (l2 * second.value - l1 * first.value) / (l2 - l1)
    error = math.hypot(l2 * second.standard_error, l1 * first.standard_error)
    return value, error / (l2 - l1)


def _closeness(windows):
    return _closeness_of_sgd(
        windows, equilibrium_over_seeds(windows[max(windows)])
    )


def _limit_closeness(windows, limit, closeness, num_seeds):
    first, second = sorted(windows)[-2:]
    if first > 1:
        fields = {}
        for name in QUANTITIES[:3]:
            fields[name], fields[f"{name}_se"] = limit[name]
        return _closeness_of_sgd(
            windows, EquilibriumStatistics(**fields, count=num_seeds)
        )
    if closeness is None:
        return None
    # SGD is in the limit: (l E(l) - E(1)) / (l - 1) over E(1) increases with
    # E(l) over E(1), whose interval is known.
    ratios = {
        name: tuple(
            max((second * ratio - 1) / (second - 1), 0.0) for ratio in ends
        )
        for name, ends in closeness.ratios.items()
    }
    values, lows, highs = zip(*map(_distance, ratios.values()), strict=True)
    return Closeness(max(values), max(lows), max(highs), ratios)


def _distance(ratio):
    """max(r, 1/r) of `(r, low, high)`, and the range of it."""
    value, low, high = ratio
    inverse, largest, least = (1 / e if e > 0 else math.inf for e in ratio)
    return (
        max(value, inverse) if value > 0 else math.inf,
        max(low, least, 1.0),
        max(high, largest),
    )


def _closeness_of_sgd(windows, reference):
    sgd = equilibrium_over_seeds(windows[1]) if 1 in windows else None
    if sgd is None or reference is None:
        return None
    try:
        return c_closeness(sgd, reference)
    except ValueError:
        # R or N is not above 0: there is no ratio.
        return None


def _necessary_condition(windows, comparison, target):
    if not windows or None in windows:
        return None
    estimate = pooled([window.estimate for window in windows])
    rate = windows[0].learning_rate
    decay = comparison.groups[1][0].config.get("weight_decay")
    if rate * (decay or 0.0) >= 2:
        return None
    threshold = min_noise_to_signal(target, rate, decay or 0.0)
    low, high = estimate.interval()
    verdict = Verdict.UNDETERMINED
    if high < threshold:
        verdict = Verdict.RULED_OUT
    elif low >= threshold:
        verdict = Verdict.NOT_RULED_OUT
    reasons = dict.fromkeys(
        reason for window in windows for reason in window.heuristic_reasons
    )
    return NecessaryCondition(estimate, threshold, verdict, tuple(reasons))
