"""How far does a scaling rule go? Runs that differ in batch size.

The linear rule is judged by R, G and N, that of Adam and its kin by N/G in the
norm of the optimizer.
"""

import dataclasses
import functools
import math

import numpy as np

from experiments.optimizers import optimizer_kind, square_root_scaled
from experiments.report import seeds
from experiments.report.seeds import comparisons, same_setting
from experiments.report.svag import svag_comparisons
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.bounds import max_batch_multiplier, min_noise_to_signal
from keras_svag.scaling.optimizers import rule_refusal

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


def linear_comparisons(runs):
    """Comparisons of batch size with the learning rate in proportion.

    `beside` is a comparison of ell at one of their learning rates per example,
    from which C is predicted.
    """
    converged = [run for run in runs if not run.diverged]
    # Pairs of halves and independent ones have the same mean and covariance.
    free = {"ell", "pairing"}
    return _comparisons(
        runs, _LINEAR, _rate_per_example, svag_comparisons, converged, free
    )


def square_root_comparisons(runs):
    """Comparisons of batch size with the rest scaled by the square-root rule.

    A number that a configuration leaves to the optimizer is its default.
    `beside` is a comparison of the linear rule from one of their runs.
    """
    return _comparisons(
        runs, _SQUARE_ROOT, _scaled_to_one, linear_comparisons, runs, set()
    )


def _comparisons(runs, scaled, family, find_others, others, free):
    """Comparisons in a family; beside each the first that has a like run."""
    families = {id(run): family(run) for run in runs}
    free_here = {"batch_size", *scaled}

    def batch_size(run):
        return run.config["batch_size"] if families[id(run)] else None

    def family_of(run):
        return families[id(run)]

    found = comparisons(runs, batch_size, free_here, family_of)
    others = find_others(others) if found else []

    def is_like(first, run):
        same = same_setting(first, run, free_here | free)
        return same and family_of(first) == family_of(run)

    return [
        dataclasses.replace(
            one,
            # Defaults left out and given are one configuration.
            groups={B: _of_each_seed(rs) for B, rs in one.groups.items()},
            beside=next(
                (
                    other
                    for other in others
                    if any(is_like(one.runs[0], run) for run in other.runs)
                ),
                None,
            ),
        )
        for one in found
    ]


def _rate_per_example(run):
    rate = run.config["learning_rate"] / run.config["batch_size"]
    # Rates are decimal fractions: products of them round.
    return f"{rate:.6g}"


def _scaled_to_one(run):
    """What the rule makes of a run at B = 1, to four digits; None without."""
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


class ScalingStudy:
    """What runs of several batch sizes say about a scaling rule.

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
        comparison: `Comparison`, runs that diverged included.
        rule: "linear" or "square_root".

    Attributes:
        target: C.
        batches: `BatchSize`s, increasing.
        refusal: Why the linear rule is none for the optimizer, or None.
    """

    def __init__(self, comparison, rule):
        self.comparison = comparison
        self.rule = rule
        self.is_linear = rule == "linear"
        config = comparison.runs[0].config
        self.target = config["lsr.closeness"]
        self.refusal = _refusal(config) if self.is_linear else None
        self.batches = [
            BatchSize(self, runs) for runs in comparison.groups.values()
        ]

    @property
    def threshold(self):
        """1 / (C² - 1), the N/G below which training leaves its SDE."""
        return min_noise_to_signal(self.target)

    @property
    def best(self):
        """The `BatchSize` of least test error."""
        return min(self.batches, key=lambda batch: batch.test_error)

    @property
    def error_grows_at(self):
        """The first batch size above the best's whose test error has grown.

        By more than `GROWN_ERROR`; or None. An observation: no theorem speaks
        of it.
        """
        best = self.best
        for batch in self.batches:
            has_grown = batch.test_error > GROWN_ERROR * best.test_error
            if has_grown and batch.batch_size > best.batch_size:
                return batch.batch_size
        return None

    @property
    def linear(self):
        """`{B: final}` of the runs of the linear rule beside others."""
        beside = None if self.is_linear else self.comparison.beside
        groups = beside.groups if beside else {}
        return {size: seeds.final_means(runs) for size, runs in groups.items()}

    @functools.cached_property
    def prediction(self):
        """`ClosenessPrediction` from runs of SVAG beside these, or None."""
        svag = self.comparison.beside
        if not self.is_linear or svag is None or self.refusal:
            return None
        return seeds.closeness_prediction(
            svag.groups, lambda run: run.window_before_decay
        )

    @property
    def unit(self):
        """The batch size at which κ of the prediction is 1."""
        # SVAG with ell at B is SGD at B / ell, on the line of equal noise.
        ell = seeds.ell_of(self.comparison.runs[0].config)
        return self.comparison.beside.runs[0].config["batch_size"] * ell

    @property
    def leaves_at(self):
        """`(value, low, high)`, the predicted batch size at which C is left.

        C is that to the smallest; None without a prediction.
        """
        if self.prediction is None:
            return None
        kappas = self.prediction.max_batch_multiplier(
            self.target, self.batches[0].batch_size / self.unit
        )
        return tuple(self.unit * kappa for kappa in kappas)


class BatchSize:
    """What the runs of one batch size of a study have shown.

    Args:
        study: The `ScalingStudy`.
        runs: The runs, of which some may have diverged.

    Attributes:
        batch_size: B.
        final: `{"accuracy" or "loss": SeedMean}`; of a run that diverged the
            accuracy is 0, and it has no loss.
        windows: `Window` before the decay of each run, or None.
        num_diverged: Runs that stopped at a loss that was not finite.
        test_error: Mean over the seeds; 1 for one that diverged.
        means: `equilibrium_means` of R, G and N.
        estimate: `NoiseEstimate` pooled over the seeds, or None: for the
            linear rule in the plain norm, else in that of the optimizer.
    """

    def __init__(self, study, runs):
        self._study = study
        self._config = runs[0].config
        self.batch_size = self._config["batch_size"]
        self.final = seeds.final_means(runs)
        self.test_error = 1 - self.final["accuracy"].value
        converged = [run for run in runs if not run.diverged]
        self.num_diverged = len(runs) - len(converged)
        self.windows = [run.window_before_decay for run in converged]
        self.means = seeds.equilibrium_means(self.windows)
        if study.is_linear:
            self.estimate = seeds.pooled_noise(self.windows)
        else:
            noises = [run.preconditioned_noise for run in converged]
            is_measured = noises and None not in noises
            self.estimate = (
                NoiseEstimate.over_runs(noises) if is_measured else None
            )

    @property
    def scaled(self):
        """`{key: value}` of what the rule scales."""
        if not self._study.is_linear:
            return square_root_scaled(self._config, 1)
        rate = self._config["learning_rate"]
        if self.estimate:
            rate = self.windows[0].learning_rate
        return {"learning_rate": rate}

    @property
    def ratio(self):
        """`(low, point, high)` of N/G, or of q_P = N_P/G_P; None without.

        With its 95% interval; NaN for a point without one.
        """
        return self.estimate and seeds.ratio_of(self.estimate)

    @functools.cached_property
    def bound(self):
        """`(low, point, high)` of the largest batch that is not ruled out.

        Seen from this one; NaN for a point without one. None without noise.
        """
        if self._study.is_linear:
            verdict = self._linear_verdict()
            if verdict is None:
                return None
            point = verdict.max_batch_size
            return (
                verdict.not_ruled_out_up_to,
                math.nan if point is None else point,
                verdict.ruled_out_beyond,
            )
        if self.ratio is None:
            return None
        # Both runs are SVAG's: the signal's share in v is 1/ell in both.
        q = np.multiply(seeds.ell_of(self._config), self.ratio)
        multipliers = max_batch_multiplier(q, self._study.target)
        return tuple(float(self.batch_size * m) for m in multipliers)

    @property
    def verdict(self):
        """ "ruled out", "not ruled out" or "undetermined", from the smallest.

        None of the smallest itself, and without its bound.
        """
        first = self._study.batches[0]
        if self is first or first.bound is None:
            return None
        low, _, high = first.bound
        if self.batch_size > high:
            return "ruled out"
        return "not ruled out" if self.batch_size <= low else "undetermined"

    @property
    def reasons(self):
        """Why the theorem may not apply, a `Reason` each."""
        return seeds.reasons_of(self.windows)

    @property
    def closeness(self):
        """`Closeness` to the smallest batch size; None of that, or without."""
        return self._study.batches[0].closeness_of(self)

    def closeness_of(self, other):
        """`Closeness` of another `BatchSize` to this one, or None."""
        if not self._study.is_linear or other is self:
            return None
        kappa = other.batch_size / self.batch_size
        return seeds.closeness_over_seeds(self.means, other.means, kappa)

    @property
    def min_closeness(self):
        """`(low, value, high)`, the least C that the smallest's N/G allows."""
        first = self._study.batches[0]
        kappa = self.batch_size / first.batch_size
        verdict = first._linear_verdict((kappa,)) if kappa > 1 else None
        return verdict and verdict.min_closeness[kappa]

    @property
    def predicted(self):
        """`(value, low, high)` of C to the smallest, from runs of SVAG."""
        study = self._study
        return study.prediction and study.prediction.closeness(
            self.batch_size / study.unit,
            study.batches[0].batch_size / study.unit,
        )

    @property
    def outcome(self):
        """Whether no batch size that is ruled out from here was C-close.

        "held", "failed", "undetermined" or "not tested"; None without a bound.
        """
        if self.bound is None:
            return None
        found, target = set(), self._study.target
        for other in self._study.batches:
            if other.batch_size <= self.bound[2]:
                continue
            closeness = self.closeness_of(other)
            if other.num_diverged:
                # What diverges has no equilibrium to be close at.
                found.add("held")
            elif closeness:
                is_far = closeness.low > target
                is_close = closeness.high <= target
                found.add(
                    "held"
                    if is_far
                    else "failed"
                    if is_close
                    else "undetermined"
                )
        order = ("failed", "undetermined", "held")
        return next((o for o in order if o in found), "not tested")

    def _linear_verdict(self, kappas=()):
        """`ScalingVerdict` on runs of the same process as these, or None.

        SVAG at η and ell has the identity of SGD at η / ell with G / ell, and
        so has the run at κη: the condition for SGD then speaks of both.
        """
        if not self._study.is_linear or self._study.refusal:
            return None
        ell = seeds.ell_of(self._config)
        windows = [
            window
            and dataclasses.replace(
                window,
                estimate=_with_signal_over(window.estimate, ell),
                learning_rate=window.learning_rate / ell,
            )
            for window in self.windows
        ]
        config = self._config | {"ell": 1}
        return seeds.noise_verdict(windows, config, self._study.target, kappas)


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
    refusal = rule_refusal(optimizer_kind(config["optimizer"]), "linear")
    return refusal and str(refusal)
