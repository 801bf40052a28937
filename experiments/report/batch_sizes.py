"""How far does a scaling rule go? Runs that differ in batch size.

The linear rule is judged by R, G and N, that of Adam and its kin by N/G in the
norm of the optimizer.
"""

import dataclasses
import math

import numpy as np

from experiments.optimizers import optimizer_kind, square_root_scaled
from experiments.report import seeds
from experiments.report.seeds import (
    Comparison,
    comparisons,
    has_numbers,
    same_setting,
)
from experiments.report.svag import svag_comparisons
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.bounds import max_batch_multiplier, min_noise_to_signal
from keras_svag.scaling.closeness import Closeness
from keras_svag.scaling.optimizers import rule_refusal
from keras_svag.scaling.reasons import Reason

# The test error that is observed beside the theorem, over the best.
GROWN_ERROR = 1.2

# What the rules scale beside the batch size.
_LINEAR = ("learning_rate",)
_SQUARE_ROOT = (
    "learning_rate",
    "beta_1",
    "beta_2",
    "rho",
    "epsilon",
    "weight_decay",
)


@dataclasses.dataclass(frozen=True)
class BatchSizes(Comparison):
    """Runs of several batch sizes.

    Attributes:
        rule: "linear" or "square_root".
        beside: Of the linear rule, `Comparison` of ell at one of these
            learning rates per example, from which C is predicted; of the
            square-root rule, `BatchSizes` of the linear rule from one of these
            runs. None if there are no such runs.
    """

    rule: str = "linear"
    beside: Comparison | None = None

    @property
    def is_linear(self):
        """Whether the learning rate alone is scaled."""
        return self.rule == "linear"


def linear_comparisons(runs):
    """Comparisons of batch size with the learning rate in proportion."""
    found = _comparisons(runs, "linear", _LINEAR, _rate_per_example)
    svag = []
    if found:
        svag = svag_comparisons([run for run in runs if not run.diverged])
    # Pairs of halves and independent ones have the same mean and covariance.
    free = {"batch_size", "learning_rate", "ell", "pairing"}
    return _beside(found, svag, free, _rate_per_example)


def square_root_comparisons(runs):
    """Comparisons of batch size with the rest scaled by the square-root rule.

    A number that a configuration leaves to the optimizer is its default.
    """
    found = _comparisons(runs, "square_root", _SQUARE_ROOT, _scaled_to_one)
    linear = linear_comparisons(runs) if found else []
    free = {"batch_size", *_SQUARE_ROOT}
    return _beside(found, linear, free, _scaled_to_one)


def _comparisons(runs, rule, scaled, family):
    families = {id(run): family(run) for run in runs}

    def batch_size(run):
        return run.config["batch_size"] if families[id(run)] else None

    return [
        BatchSizes(
            # Defaults left out and given are one configuration.
            {B: _of_each_seed(rs) for B, rs in comparison.groups.items()},
            comparison.common,
            comparison.differing,
            rule,
        )
        for comparison in comparisons(
            runs,
            batch_size,
            {"batch_size", *scaled},
            lambda run: families[id(run)],
        )
    ]


def _beside(found, others, free, family):
    """Gives each comparison the first of the others that has a like run."""

    def is_like(first, run):
        same = same_setting(first, run, free)
        return same and family(first) == family(run)

    return [
        dataclasses.replace(
            one,
            beside=next(
                (
                    o
                    for o in others
                    if any(is_like(one.runs[0], r) for r in o.runs)
                ),
                None,
            ),
        )
        for one in found
    ]


def _rate_per_example(run):
    if not has_numbers(run, "batch_size", "learning_rate"):
        return None
    rate = run.config["learning_rate"] / run.config["batch_size"]
    # Rates are decimal fractions: products of them round.
    return f"{rate:.6g}"


def _scaled_to_one(run):
    """What the rule makes of a run at B = 1, to four digits; None without."""
    if not has_numbers(run, "batch_size", "learning_rate"):
        return None
    try:
        scaled = square_root_scaled(run.config, 1 / run.config["batch_size"])
    except (TypeError, ValueError):
        return None
    for beta in ("beta_1", "beta_2", "rho"):
        if beta in scaled:
            scaled[beta] = 1 - scaled[beta]
    # Of the logarithm: decimal fractions lie on no edge of it.
    return tuple(
        (key, value and round(1e4 * math.log(value)))
        for key, value in scaled.items()
    )


def _of_each_seed(runs):
    first = {}
    for run in runs:
        first.setdefault(repr(run.config.get("seed")), run)
    return list(first.values())


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """What the runs of one batch size have shown.

    Attributes:
        batch_size: B.
        scaled: `{key: value}` of what the rule scales.
        final: `{"accuracy" or "loss": SeedMean}`; of a run that diverged the
            accuracy is 0, and it has no loss.
        num_diverged: Runs that stopped at a loss that was not finite.
        ratio: `(low, point, high)` of N/G, or of q_P = N_P/G_P, with its 95%
            interval, NaN for a point without one; None if not measured.
        bound: `(low, point, high)` of the largest batch size that is not ruled
            out, seen from this one, NaN for a point without one; or None.
        verdict: "ruled out", "not ruled out" or "undetermined", seen from the
            smallest batch size; None there, and without its bound.

    Of the linear rule, else None or empty:

    Attributes:
        estimate: `NoiseEstimate` pooled over the seeds.
        reasons: Why the theorem may not apply, a `Reason` each.
        means: `equilibrium_means` of R, G and N.
        closeness: `Closeness` to the smallest batch size.
        min_closeness: `(low, value, high)`, the least C that N/G of the
            smallest batch size allows here.
        predicted: `(value, low, high)` of C to the smallest batch size, from
            runs of SVAG.
        outcome: Whether no batch size that is ruled out from here was C-close:
            "held", "failed", "undetermined" or "not tested".
    """

    batch_size: int
    scaled: dict[str, float]
    final: dict[str, seeds.SeedMean]
    num_diverged: int
    ratio: tuple[float, float, float] | None
    bound: tuple[float, float, float] | None
    verdict: str | None = None
    estimate: NoiseEstimate | None = None
    reasons: tuple[Reason, ...] = ()
    means: dict[str, seeds.SeedMean] | None = None
    closeness: Closeness | None = None
    min_closeness: tuple[float, float | None, float] | None = None
    predicted: tuple[float, float, float] | None = None
    outcome: str | None = None

    @property
    def test_error(self):
        """Mean over the seeds; 1 for one that diverged."""
        return 1 - self.final["accuracy"].value


@dataclasses.dataclass(frozen=True)
class ScalingStudy:
    """What runs of several batch sizes say about a scaling rule.

    Attributes:
        comparison: `BatchSizes`, runs that diverged included.
        batches: `BatchSize`s, increasing.
        target: C.
        best: The `BatchSize` of least test error.
        error_grows_at: The first batch size above the best's whose test error
            is more than `GROWN_ERROR` times the best, or None. An observation:
            no theorem speaks of it.
        leaves_at: `(value, low, high)`, the predicted batch size at which C to
            the smallest is left, or None.
        linear: `{B: final}` of the runs of the linear rule beside those of the
            square-root rule, perhaps empty.
        refusal: Why the rule is not one for the optimizer, or None.
    """

    comparison: BatchSizes
    batches: tuple[BatchSize, ...]
    target: float
    best: BatchSize
    error_grows_at: int | None
    leaves_at: tuple[float, float, float] | None = None
    linear: dict[int, dict[str, seeds.SeedMean]] = dataclasses.field(
        default_factory=dict
    )
    refusal: str | None = None

    @property
    def threshold(self):
        """1 / (C² - 1), the N/G below which training leaves its SDE."""
        return min_noise_to_signal(self.target)


def scaling_study(comparison):
    """Evaluates runs whose hyperparameters follow the batch size by a rule.

    Batch size κB is ruled out, seen from B, if the necessary condition fails
    for every N/G in its interval, not ruled out if for none. By the linear rule
    what is ruled out cannot be C-close in R, G and N. That the condition

    - *failed* is said if one of them was measured to be: the 95% interval of
      its C, over seeds, lies at or below the C asked for;
    - *held* if each was measured not to be: the interval lies above, or a run
      diverged;
    - is *undetermined* if an interval contains C;
    - is *not tested* if none was measured.

    By the square-root rule some coordinate cannot keep its effective learning
    rate within C: κ > C² + (C² - 1) q_P (derived, section 7 of
    docs/theory.md).

    Args:
        comparison: `BatchSizes`, runs that diverged included.

    Returns:
        A `ScalingStudy`.
    """
    groups = list(comparison.groups.values())
    config = groups[0][0].config
    target = config.get("lsr.closeness", 2**0.5)
    of_runs = _by_linear if comparison.is_linear else _by_square_root
    batches = [of_runs(runs, target) for runs in groups]
    first = batches[0]
    batches[1:] = [
        dataclasses.replace(b, verdict=_verdict(first.bound, b.batch_size))
        for b in batches[1:]
    ]
    best = min(batches, key=lambda batch: batch.test_error)
    study = ScalingStudy(
        comparison,
        tuple(batches),
        target,
        best,
        next(
            (
                b.batch_size
                for b in batches
                if b.batch_size > best.batch_size
                and b.test_error > GROWN_ERROR * best.test_error
            ),
            None,
        ),
        refusal=_refusal(config) if comparison.is_linear else None,
    )
    if comparison.is_linear:
        return _with_closeness(study, groups[0])
    beside = comparison.beside.groups if comparison.beside else {}
    return dataclasses.replace(
        study, linear={B: _final(runs) for B, runs in beside.items()}
    )


def _with_closeness(study, smallest):
    """The study with what the linear rule says of R, G and N."""
    batches, prediction, unit = study.batches, None, 1
    svag = study.comparison.beside
    if svag and not study.refusal:
        prediction = seeds.closeness_prediction(
            svag.groups, lambda run: run.window_before_decay
        )
        # SVAG with ell at B is SGD at B / ell, on the line of equal noise.
        unit = svag.runs[0].config["batch_size"] * seeds.ell_of(
            smallest[0].config
        )
    first = batches[0].batch_size
    leaves_at = prediction and prediction.max_batch_multiplier(
        study.target, first / unit
    )
    return dataclasses.replace(
        study,
        batches=tuple(
            dataclasses.replace(
                batch,
                outcome=_outcome(batch, batches, study.target),
                closeness=_closeness(batches[0], batch),
                min_closeness=_min_closeness(smallest, batch, study.target),
                predicted=prediction
                and prediction.closeness(batch.batch_size / unit, first / unit),
            )
            for batch in batches
        ),
        leaves_at=leaves_at and tuple(unit * kappa for kappa in leaves_at),
    )


def _by_linear(runs, target):
    config = runs[0].config
    windows = _windows(runs)
    estimate = seeds.pooled_noise(windows)
    verdict = _scaling_verdict(runs, target)
    bound = verdict and (
        verdict.not_ruled_out_up_to,
        _or_nan(verdict.max_batch_size),
        verdict.ruled_out_beyond,
    )
    rate = windows[0].learning_rate if estimate else config["learning_rate"]
    return BatchSize(
        config["batch_size"],
        {"learning_rate": rate},
        _final(runs),
        sum(run.diverged for run in runs),
        estimate and seeds.ratio_of(estimate),
        bound,
        estimate=estimate,
        reasons=seeds.reasons_of(windows),
        means=seeds.equilibrium_means(windows),
    )


def _by_square_root(runs, target):
    config = runs[0].config
    scaled = square_root_scaled(config, 1)
    noises = [run.preconditioned_noise for run in runs if not run.diverged]
    ratio = bound = None
    if noises and None not in noises:
        ratio = seeds.ratio_of(NoiseEstimate.over_runs(noises))
        # Both runs are SVAG's: the signal's share in v is 1/ell in both.
        q = np.multiply(seeds.ell_of(config), ratio)
        multipliers = max_batch_multiplier(q, target)
        bound = tuple(float(config["batch_size"] * m) for m in multipliers)
    return BatchSize(
        config["batch_size"],
        {key: scaled[key] for key in _SQUARE_ROOT if key in scaled},
        _final(runs),
        sum(run.diverged for run in runs),
        ratio,
        bound,
    )


def _or_nan(value):
    return math.nan if value is None else value


def _final(runs):
    losses = [run.curve("loss")[-1] for run in runs if not run.diverged]
    accuracies = [0.0 if run.diverged else run.accuracy for run in runs]
    return {
        "accuracy": seeds.seed_mean(accuracies),
        "loss": seeds.seed_mean(losses or [math.nan]),
    }


def _verdict(bound, batch_size):
    if bound is None:
        return None
    low, _, high = bound
    if batch_size > high:
        return "ruled out"
    return "not ruled out" if batch_size <= low else "undetermined"


def _scaling_verdict(runs, target, kappas=()):
    """`ScalingVerdict` on runs of the same process as these, or None.

    SVAG at η and ell has the identity of SGD at η / ell with G / ell, and so
    has the run at κη: the condition for SGD then speaks of both.
    """
    config = runs[0].config
    if _refusal(config):
        return None
    ell = seeds.ell_of(config)
    windows = [
        window
        and dataclasses.replace(
            window,
            estimate=_with_signal_over(window.estimate, ell),
            learning_rate=window.learning_rate / ell,
        )
        for window in _windows(runs)
    ]
    return seeds.noise_verdict(windows, config | {"ell": 1}, target, kappas)


def _with_signal_over(estimate, ell):
    """The estimate with G / ell in place of G."""
    return dataclasses.replace(
        estimate,
        grad_sq_norm=estimate.grad_sq_norm / ell,
        grad_sq_norm_se=estimate.grad_sq_norm_se / ell,
        covariance=estimate.covariance / ell,
        blocks=tuple((g / ell, s) for g, s in estimate.blocks),
    )


def _refusal(config):
    """A sentence why the linear rule is none for the optimizer, or None."""
    refusal = rule_refusal(optimizer_kind(config.get("optimizer")), "linear")
    return refusal and str(refusal)


def _windows(runs):
    return [run.window_before_decay for run in runs if not run.diverged]


def _closeness(first, second):
    if first.batch_size == second.batch_size:
        return None
    kappa = second.batch_size / first.batch_size
    return seeds.closeness_over_seeds(first.means, second.means, kappa)


def _min_closeness(smallest, batch, target):
    kappa = batch.batch_size / smallest[0].config["batch_size"]
    if kappa == 1:
        return None
    verdict = _scaling_verdict(smallest, target, (kappa,))
    return verdict and verdict.min_closeness[kappa]


def _outcome(batch, batches, target):
    if batch.bound is None:
        return None
    found = set()
    for other in batches:
        if other.batch_size <= batch.bound[2]:
            continue
        closeness = _closeness(batch, other)
        if other.num_diverged:
            # What diverges has no equilibrium to be close at.
            found.add("held")
        elif closeness:
            is_far = closeness.low > target
            is_close = closeness.high <= target
            found.add(
                "held" if is_far else "failed" if is_close else "undetermined"
            )
    order = ("failed", "undetermined", "held")
    return next((o for o in order if o in found), "not tested")
