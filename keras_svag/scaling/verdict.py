"""What a measured N / G says about a scaling rule."""

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from keras_svag import arguments
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.ratio import Interval, checked_level
from keras_svag.noise.saving import plain
from keras_svag.scaling import sentences
from keras_svag.scaling.bounds import (
    checked_closeness,
    forced_ratio,
    max_batch_multiplier,
    min_batch_multiplier,
    min_noise_to_signal,
)
from keras_svag.scaling.closeness import distance
from keras_svag.scaling.conditions import RunConditions, conditions_of
from keras_svag.scaling.optimizers import Rule
from keras_svag.scaling.reasons import Reason
from keras_svag.scaling.rules import Hyperparameters

KAPPAS = (0.25, 0.5, 2.0, 4.0, 8.0, 16.0)


class Verdict(str, enum.Enum):
    """What a necessary condition says, given an interval for N / G."""

    RULED_OUT = "ruled out"
    NOT_RULED_OUT = "not ruled out"
    UNDETERMINED = "undetermined"

    # As in `enum.StrEnum`, which Python 3.10 does not have.
    __str__ = str.__str__


class Bound(NamedTuple):
    """A bound at the point estimate of N / G, or None, and its interval."""

    low: float
    value: float | None
    high: float


@dataclasses.dataclass(frozen=True)
class ScaledRun:
    """What a verdict says of the same training at another batch size.

    Its `str` is one sentence. `ScalingVerdict.at` makes it.

    Attributes:
        kappa: κ, its batch size over that of the measured run; fewer examples
            a batch are a κ below 1.
        verdict: `Verdict` on it.
        min_closeness: `Bound`: the least C to which it can be close to the
            measured run, whatever else happens.
        hyperparameters: Those that the rule changes, as arguments of the
            optimizer; None where the rule has none.
        baseline: `ScalingVerdict` on the measured run.
    """

    kappa: float
    verdict: Verdict
    min_closeness: Bound
    hyperparameters: Hyperparameters | None
    baseline: "ScalingVerdict" = dataclasses.field(repr=False)

    @property
    def batch_size(self) -> float:
        """κB in examples."""
        return self.kappa * self.baseline.batch_size

    @property
    def allowed(self) -> bool | None:
        """True: not ruled out, False: ruled out, None: undetermined."""
        if self.verdict == Verdict.UNDETERMINED:
            return None
        return self.verdict == Verdict.NOT_RULED_OUT

    def __str__(self):
        return sentences.scaled_run(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON; None for what is not finite.

        `from_dict` is the way back.
        """
        return plain({**self._columns(), "baseline": self.baseline})

    @classmethod
    @arguments.reader
    def from_dict(cls, saved: Mapping[str, Any]) -> "ScaledRun":
        """The run that `to_dict` was called on, judged anew."""
        baseline = ScalingVerdict.from_dict(saved["baseline"])
        return baseline.scaled_by(saved["kappa"])

    def _columns(self) -> dict[str, Any]:
        """What `to_dict` has of this run alone."""
        low, value, high = self.min_closeness
        return {
            "kappa": self.kappa,
            "batch_size": self.batch_size,
            "verdict": str(self.verdict),
            "min_closeness_low": low,
            "min_closeness": value,
            "min_closeness_high": high,
            "hyperparameters": self.hyperparameters,
            "text": str(self),
        }


@dataclasses.dataclass(frozen=True)
class ScalingVerdict:
    """How far a scaling rule can carry a run, as far as is known.

    It compares SGD at (κB, κη) with the measured run at (B, η), which is one
    of SGD, or of SVAG with `ell`, and its N / G that of the measured one; by
    the square-root rule in the same way Adam or its kin. The conditions are
    necessary: "not ruled out" promises nothing. Where their assumptions hold,
    each one-sided verdict errs as often as that end of the interval of N / G,
    nominally in half of `1 - level`.

    `scaling_verdict` makes it, and all is computed from the attributes.

    Attributes:
        estimate: `NoiseEstimate` of the measured run, at its batch size B.
        conditions: `RunConditions` of it.
        closeness: C.
        level: Level of the interval.
        kappas: The factors on the batch size that a report lists.
        reasons: Assumptions that fail or are not known to hold, a `Reason`
            each; if there are any, the numbers are only a heuristic.
    """

    estimate: NoiseEstimate
    conditions: RunConditions
    closeness: float = 2**0.5
    level: float = 0.95
    kappas: tuple[float, ...] = KAPPAS
    reasons: tuple[Reason, ...] = ()

    def __post_init__(self):
        checked_closeness(self.closeness)
        checked_level(self.level)

    @property
    def batch_size(self) -> int:
        """B of the measured run."""
        return self.estimate.batch_size  # type: ignore[return-value]

    @property
    def learning_rate(self) -> float:
        """η of the measured run."""
        return self.conditions.learning_rate

    @property
    def weight_decay(self) -> float:
        """λ of the measured run."""
        return self.conditions.weight_decay

    @property
    def ell(self) -> int:
        """SVAG's amplification in the measured run; 1 is SGD."""
        return self.conditions.ell

    @property
    def rule(self) -> Rule:
        """`"linear"` or `"square_root"`, which has N / G in another norm."""
        return self.conditions.rule

    @property
    def is_square_root(self) -> bool:
        """Whether the verdict is on the square-root rule."""
        return self.rule == "square_root"

    @property
    def optimizer(self) -> str:
        """Name of the class of the optimizer."""
        return self.conditions.optimizer.name

    @functools.cached_property
    def interval(self) -> Interval:
        """`(low, high)` of N / G."""
        return self.estimate.interval(self.level)

    @property
    def noise_to_signal(self) -> float | None:
        """N / G, None if G is not positive: it is not clamped."""
        if not self.estimate.grad_sq_norm > 0:
            return None
        return self.estimate.noise_to_signal

    @property
    def balance(self) -> float | None:
        """Left over right side of the equilibrium identity, or None."""
        return self.conditions.balance

    @property
    def drift(self) -> dict[str, Interval] | None:
        """Factors by which G and N change within the window, or None."""
        return self.conditions.drift

    @property
    def at_equilibrium(self) -> bool | None:
        """Whether R, G and N are at rest; None where it is not known."""
        return self.conditions.rest

    @property
    def rule_defined_below(self) -> float:
        """The least κ at which the rule has no hyperparameters."""
        return self.conditions.rule_defined_below

    @property
    def heuristic(self) -> bool:
        """Whether an assumption fails or is not known to hold."""
        return bool(self.reasons)

    @property
    def refusal(self) -> Reason | None:
        """`Reason` why there is no verdict at all, or None."""
        estimate, refusal = self.estimate, self.conditions.refusal
        if refusal or estimate.grad_sq_norm or estimate.example_noise:
            return refusal
        return Reason("zero_gradients")

    @property
    def _identity(self) -> dict[str, Any]:
        """The run as the bounds ask for it."""
        # Where the weights diverge no bound is defined: there is no verdict.
        decay = self.conditions.decay_per_step
        decay = 0.0 if self.conditions.diverges else decay
        # η and λ count by their product alone.
        return {"learning_rate": 1.0, "weight_decay": decay, "ell": self.ell}

    @property
    def _balance_in_bound(self) -> float:
        """The balance of a run that may be at equilibrium, 1 for any other."""
        # On the way to equilibrium the balance says nothing about where it is.
        if self.at_equilibrium is False or self.balance is None:
            return 1.0
        is_close = 1 / self.closeness <= self.balance <= self.closeness
        return self.balance if is_close else 1.0

    def _bound(self, function, **asked):
        """A bound, for what is asked, at the ends of N / G and at its point.

        The balance of a run at equilibrium is not exactly 1. Whether R or
        G + N is off is not known: with the balance in the bound R is taken as
        measured, without it as it is at rest. So the ends are the outer ones
        of both.
        """
        asked |= self._identity
        balance = self._balance_in_bound
        ends = [
            function(q, **asked, balance=b)
            for q in self.interval
            for b in (1.0, balance)
        ]
        value, point = None, self.noise_to_signal
        if point is not None:
            value = function(point, **asked, balance=balance)
        return Bound(min(ends), value, max(ends))

    @functools.cached_property
    def _largest(self) -> Bound:
        """κ_max."""
        return self._bound(max_batch_multiplier, closeness=self.closeness)

    @functools.cached_property
    def _smallest(self) -> Bound:
        """κ_min."""
        return self._bound(min_batch_multiplier, closeness=self.closeness)

    @property
    def max_multiplier_low(self) -> float:
        """κ_max at the low end of N / G: larger κ are not known to be allowed.

        Unless the run is seen not to be at equilibrium, the ends hold with the
        measured balance in them and without, and the point has it.
        """
        return self._largest.low

    @property
    def max_multiplier(self) -> float | None:
        """κ_max at the point estimate, or None."""
        return self._largest.value

    @property
    def max_multiplier_high(self) -> float:
        """κ_max at the high end of N / G: larger κ are ruled out."""
        return self._largest.high

    @property
    def min_multiplier_low(self) -> float:
        """κ_min at the high end of N / G: smaller κ are ruled out."""
        return self._smallest.low

    @property
    def min_multiplier_high(self) -> float:
        """κ_min at the low end: smaller κ are not known to be allowed."""
        return self._smallest.high

    @property
    def not_ruled_out_up_to(self) -> float:
        """Largest batch size that the interval does not rule out."""
        return self.max_multiplier_low * self.batch_size

    @property
    def ruled_out_beyond(self) -> float:
        """Batch sizes above this are ruled out; may be infinite."""
        return self.max_multiplier_high * self.batch_size

    @property
    def max_batch_size(self) -> float | None:
        """κ_max · B at the point estimate, or None."""
        if self.max_multiplier is None:
            return None
        return self.max_multiplier * self.batch_size

    @property
    def min_noise_to_signal(self) -> float:
        """The least N / G with which the run may be C-close to its SDE."""
        return min_noise_to_signal(self.closeness, **self._identity)

    @property
    def sde_verdict(self) -> Verdict:
        """Whether the measured run may be C-close to its SDE."""
        low, high = self.interval
        least = self.min_noise_to_signal
        return self._judged(low >= least, high < least)

    def _judged(self, surely_holds, surely_fails):
        if self.refusal or not (surely_holds or surely_fails):
            return Verdict.UNDETERMINED
        return Verdict.RULED_OUT if surely_fails else Verdict.NOT_RULED_OUT

    def at(
        self,
        batch_size: int,
        *,
        level: float | None = None,
        closeness: float | None = None,
    ) -> ScaledRun:
        """What is known of the same training at another batch size.

        ```python
        print(verdict.at(256))
        keras.optimizers.SGD(**verdict.at(256).hyperparameters)
        ```

        Args:
            batch_size: Examples a batch, more than in the measured run or
                fewer.
            level, closeness: Other ones than the verdict's. Whether the run is
                at rest stays judged by the verdict's own.

        Returns:
            A `ScaledRun`.

        Raises:
            TypeError: If an argument is no number.
            ValueError: If one is out of range.
        """
        arguments.integer("batch_size", batch_size)
        asked = dataclasses.replace(
            self,
            level=self.level if level is None else level,
            closeness=self.closeness if closeness is None else closeness,
        )
        return asked.scaled_by(batch_size / self.batch_size)

    def allows(self, batch_size: int) -> bool | None:
        """Whether a batch size is allowed: see `ScaledRun.allowed`."""
        return self.at(batch_size).allowed

    def scaled_by(self, kappa: float) -> ScaledRun:
        """What is known of the run at κ times the batch size."""
        scaled = self.conditions.scaled(kappa)
        verdict = Verdict.UNDETERMINED
        if scaled is not None:
            verdict = self._judged(
                self.min_multiplier_high <= kappa <= self.max_multiplier_low,
                kappa < self.min_multiplier_low
                or kappa > self.max_multiplier_high,
            )
        low, ratio, high = self._bound(forced_ratio, kappa=kappa)
        point = math.nan if ratio is None else ratio
        value, nearest, farthest = distance(point, low, high)
        value = None if ratio is None else value
        return ScaledRun(
            kappa=kappa,
            verdict=verdict,
            min_closeness=Bound(nearest, value, farthest),
            hyperparameters=scaled,
            baseline=self,
        )

    @functools.cached_property
    def runs(self) -> dict[float, ScaledRun]:
        """`{κ: ScaledRun}` of all `kappas`."""
        return {kappa: self.scaled_by(kappa) for kappa in self.kappas}

    @property
    def multiplier_verdicts(self) -> dict[float, Verdict]:
        """`{κ: Verdict}`."""
        return {kappa: run.verdict for kappa, run in self.runs.items()}

    @property
    def min_closeness(self) -> dict[float, Bound]:
        """`{κ: (low, value, high)}`, the least C of the two runs."""
        return {kappa: run.min_closeness for kappa, run in self.runs.items()}

    @property
    def scaled(self) -> dict[float, Hyperparameters | None]:
        """`{κ: dict}`, the hyperparameters by the rule; None: it has none."""
        return {kappa: run.hyperparameters for kappa, run in self.runs.items()}

    @property
    def heuristic_reasons(self) -> tuple[str, ...]:
        """The reasons, a phrase each."""
        return tuple(map(str, self.reasons))

    @property
    def headline(self) -> str:
        """The answer in one sentence: how far the rule may go."""
        return sentences.headline(self)

    @property
    def text(self) -> str:
        """The answer and what is behind it, a sentence a line."""
        return "\n".join(map(arguments.printable, sentences.lines(self)))

    def __str__(self):
        return self.text

    def __repr__(self):
        return f"<{type(self).__name__}: {self.headline}>"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON; None for what is not finite."""
        low, high = self.interval
        values = {
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "ell": self.ell,
            "closeness": self.closeness,
            "level": self.level,
            "noise_to_signal": self.noise_to_signal,
            "noise_to_signal_low": low,
            "noise_to_signal_high": high,
            "max_multiplier_low": self.max_multiplier_low,
            "max_multiplier": self.max_multiplier,
            "max_multiplier_high": self.max_multiplier_high,
            "min_multiplier_low": self.min_multiplier_low,
            "min_multiplier_high": self.min_multiplier_high,
            "not_ruled_out_up_to": self.not_ruled_out_up_to,
            "ruled_out_beyond": self.ruled_out_beyond,
            "max_batch_size": self.max_batch_size,
            "min_noise_to_signal": self.min_noise_to_signal,
            "balance": self.balance,
            "rule_defined_below": self.rule_defined_below,
            "rule": self.rule,
            "optimizer": self.optimizer,
            "at_equilibrium": self.at_equilibrium,
            "reasons": [reason.code for reason in self.reasons],
            "heuristic_reasons": self.heuristic_reasons,
            "refusal": self.refusal and str(self.refusal),
            "text": self.text,
            "sde_verdict": str(self.sde_verdict),
            "kappas": self.kappas,
            "runs": [run._columns() for run in self.runs.values()],
            "gradient_noise": self.estimate,
            "conditions": self.conditions,
        }
        return plain(values)

    @classmethod
    @arguments.reader
    def from_dict(cls, saved: Mapping[str, Any]) -> "ScalingVerdict":
        """The verdict of which `to_dict` is the dictionary.

        It is made anew from the estimate and the conditions in there.
        """
        return scaling_verdict(
            NoiseEstimate.from_dict(saved["gradient_noise"]),
            RunConditions.from_dict(saved["conditions"]),
            closeness=saved["closeness"],
            kappas=saved["kappas"],
            level=saved["level"],
        )


def scaling_verdict(
    estimate: NoiseEstimate,
    conditions: RunConditions | keras.optimizers.Optimizer,
    *,
    batch_size: int | None = None,
    closeness: float = 2**0.5,
    kappas: tuple[float, ...] | list[float] = KAPPAS,
    level: float = 0.95,
) -> ScalingVerdict:
    """Judges a scaling rule from a measured N / G.

    The rule is the square-root rule if `conditions.adaptive` are given, else
    the linear one. Both have the same condition, in which the N / G of the
    square-root rule is that in the optimizer's norm, and no decay is asked for.

    A κ is ruled out if it is above κ_max or below κ_min whatever N / G the
    interval holds, it is not ruled out if it is between them whatever N / G
    the interval holds, and else it is undetermined.

    Args:
        estimate: `NoiseEstimate` of the measured run.
        conditions: `RunConditions` of the measured run, or its optimizer, from
            whose hyperparameters they are made. For an optimizer that the rule
            is not for there is no verdict, and none where the weights diverge:
            `refusal` says why.
        batch_size: B of the measured run; that of `estimate` if None.
        closeness: C, above 1.
        kappas: Factors on the batch size to judge, each above 0.
        level: Level of the two-sided interval for N / G.

    Returns:
        A `ScalingVerdict`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If one is out of range, or no batch size is known.
    """
    if isinstance(conditions, keras.optimizers.Optimizer):
        conditions = conditions_of(conditions)
    arguments.instance(
        "conditions",
        conditions,
        RunConditions,
        "RunConditions or a Keras optimizer",
    )
    arguments.instance("estimate", estimate, NoiseEstimate, "a NoiseEstimate")
    batch_size = arguments.integer(
        "batch_size",
        estimate.batch_size if batch_size is None else batch_size,
        remedy="give the batch size of the baseline run",
    )
    estimate = estimate.at(batch_size)
    return ScalingVerdict(
        estimate=estimate,
        conditions=conditions,
        closeness=closeness,
        level=level,
        kappas=checked_kappas(kappas),
        reasons=conditions.reasons(estimate),
    )


def checked_kappas(kappas):
    """Factors on the batch size as a tuple, if each is above 0."""
    remedy = "factors by which the batch grows are a tuple, such as (0.5, 2, 4)"
    if not isinstance(kappas, (tuple, list)):
        raise TypeError(
            arguments.refusal("kappas", "a tuple of numbers", kappas, remedy)
        )
    return tuple(
        arguments.number("kappas", kappa, above=0, remedy=remedy)
        for kappa in kappas
    )
