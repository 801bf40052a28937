"""What a measured N / G says about a scaling rule."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import keras

from keras_svag import arguments
from keras_svag.noise.estimate import NoiseEstimate, finite_or_none
from keras_svag.noise.ratio import Interval
from keras_svag.scaling import sentences
from keras_svag.scaling.bounds import (
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


class Verdict(str, enum.Enum):
    """What a necessary condition says, given an interval for N / G."""

    RULED_OUT = "ruled out"
    NOT_RULED_OUT = "not ruled out"
    UNDETERMINED = "undetermined"

    # As in `enum.StrEnum`, which Python 3.10 does not have.
    __str__ = str.__str__


@dataclasses.dataclass(frozen=True)
class ScalingVerdict:
    """How far a scaling rule can carry a run, as far as is known.

    It compares SGD at (κB, κη) with the measured run at (B, η), which is one
    of SGD, or of SVAG with `ell`, and its N / G that of the measured one; by
    the square-root rule in the same way Adam or its kin. The conditions are
    necessary: "not ruled out" promises nothing. Each one-sided verdict errs
    with at most half of `1 - level`.

    Attributes:
        estimate: `NoiseEstimate` of the baseline, at its batch size B.
        conditions: `RunConditions` of the baseline.
        closeness: C.
        level: Level of the interval.
        max_multiplier_low, max_multiplier, max_multiplier_high: κ_max at the
            low end, the point estimate (or None) and the high end. Unless the
            run is seen not to be at equilibrium, the point has the measured
            balance in it, and the ends hold with it and without.
        multiplier_verdicts: `{κ: Verdict}`.
        min_closeness: `{κ: (low, value, high)}`, the least C to which the two
            runs can be close, in the same way.
        sde_verdict: Whether the measured run may be C-close to its SDE.
        min_noise_to_signal: The least N / G with which it may.
        reasons: Assumptions of the theorem that fail or are not known to hold,
            a `Reason` each; if there are any, the numbers are only a
            heuristic.
        refusal: `Reason` why there is no verdict at all, or None.
        scaled: `{κ: dict}`, the hyperparameters at κ by the rule; None where
            it has none.
    """

    estimate: NoiseEstimate
    conditions: RunConditions
    closeness: float
    level: float
    max_multiplier_low: float
    max_multiplier: float | None
    max_multiplier_high: float
    multiplier_verdicts: dict[float, Verdict]
    min_closeness: dict[float, tuple[float, float | None, float]]
    sde_verdict: Verdict
    min_noise_to_signal: float
    reasons: tuple[Reason, ...] = ()
    refusal: Reason | None = None
    scaled: dict[float, Hyperparameters | None] = dataclasses.field(
        default_factory=dict
    )

    @property
    def batch_size(self) -> int:
        """B of the baseline."""
        return self.estimate.batch_size  # type: ignore[return-value]

    @property
    def learning_rate(self) -> float:
        """η of the baseline."""
        return self.conditions.learning_rate

    @property
    def weight_decay(self) -> float:
        """λ of the baseline."""
        return self.conditions.weight_decay

    @property
    def ell(self) -> int:
        """SVAG's amplification in the baseline; 1 is SGD."""
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

    @property
    def interval(self) -> Interval:
        """`(low, high)` of N / G."""
        return self.estimate.interval(self.level)

    @property
    def noise_to_signal(self) -> float | None:
        """N / G, None if G is not positive."""
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
    def heuristic_reasons(self) -> tuple[str, ...]:
        """The reasons, a phrase each."""
        return tuple(map(str, self.reasons))

    @property
    def notes(self) -> tuple[str, ...]:
        """Other things to know, a sentence each."""
        return tuple(sentences.notes(self))

    @property
    def compared(self) -> str:
        """The two processes that the verdict compares, a phrase."""
        return sentences.compared(self)

    @property
    def process(self) -> str:
        """What the measured run is one of, such as `SVAG with ell 4`."""
        return sentences.process(self)

    def scaled_text(self, kappa: float) -> str:
        """The hyperparameters at κB, as arguments of the optimizer."""
        return sentences.scaled(self, kappa)

    @property
    def headline(self) -> str:
        """The verdict in one line; batch sizes to two digits."""
        return sentences.headline(self)

    @property
    def text(self) -> str:
        """The headline with the reasons and notes behind it."""
        return sentences.text(self)

    def __str__(self):
        return self.text

    def at(self, batch_size: int) -> "ScalingVerdict":
        """The verdict on the same run if its batch size were another one."""
        return scaling_verdict(
            self.estimate,
            self.conditions,
            batch_size=batch_size,
            closeness=self.closeness,
            kappas=tuple(self.multiplier_verdicts),
            level=self.level,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON; None for what is not finite."""
        low, high = self.interval
        numbers = {
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
            "not_ruled_out_up_to": self.not_ruled_out_up_to,
            "ruled_out_beyond": self.ruled_out_beyond,
            "max_batch_size": self.max_batch_size,
            "min_noise_to_signal": self.min_noise_to_signal,
            "balance": self.balance,
            "rule_defined_below": self.rule_defined_below,
        }
        return {
            **{name: finite_or_none(value) for name, value in numbers.items()},
            "rule": self.rule,
            "optimizer": self.optimizer,
            "at_equilibrium": self.at_equilibrium,
            "heuristic": self.heuristic,
            "reasons": [reason.code for reason in self.reasons],
            "heuristic_reasons": list(self.heuristic_reasons),
            "refusal": None if self.refusal is None else str(self.refusal),
            "notes": list(self.notes),
            "compared": self.compared,
            "text": self.text,
            "sde_verdict": str(self.sde_verdict),
            "multiplier_verdicts": {
                f"{kappa:g}": str(verdict)
                for kappa, verdict in self.multiplier_verdicts.items()
            },
            "min_closeness": {
                f"{kappa:g}": [finite_or_none(value) for value in ends]
                for kappa, ends in self.min_closeness.items()
            },
            "scaled": {
                f"{kappa:g}": values for kappa, values in self.scaled.items()
            },
            "kappas": list(self.multiplier_verdicts),
            "gradient_noise": self.estimate.to_dict(),
            "conditions": self.conditions.to_dict(),
        }

    @classmethod
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
    kappas: tuple[float, ...] | list[float] = (0.25, 0.5, 2, 4, 8, 16),
    level: float = 0.95,
) -> ScalingVerdict:
    """Judges a scaling rule from a measured N / G.

    The rule is the square-root rule if `conditions.adaptive` are given, else
    the linear one. Both have the same condition, in which the N / G of the
    square-root rule is that in the optimizer's norm, and no decay is asked for.

    A κ is ruled out if it is above κ_max or below κ_min whatever N / G the
    interval holds, it is not ruled out if it is between them whatever N / G
    the interval holds, and else it is undetermined.

    The balance of a run at equilibrium is not exactly 1. Whether R or G + N is
    off is not known: with the balance in the bound R is taken as measured,
    without it as it is at rest. So the ends are the outer ones of both.

    Args:
        estimate: `NoiseEstimate` of the baseline.
        conditions: `RunConditions` of the baseline, or its optimizer, from
            whose hyperparameters they are made. For an optimizer that the rule
            is not for there is no verdict, and none where the weights diverge:
            `refusal` says why.
        batch_size: B of the baseline; that of `estimate` if None.
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
    kappas = checked_kappas(kappas)
    # Where the weights diverge no bound is defined: there is no verdict.
    per_step = 0.0 if conditions.diverges else conditions.decay_per_step
    # η and λ count by their product alone.
    run: dict[str, Any] = {
        "learning_rate": 1.0,
        "weight_decay": per_step,
        "ell": conditions.ell,
    }
    threshold = min_noise_to_signal(closeness, **run)
    low, high = estimate.interval(level)
    # Above 0 N / G has a point estimate; a negative one is not clamped.
    point = estimate.noise_to_signal if estimate.grad_sq_norm > 0 else None
    balance = _balance_in_bound(conditions, closeness)

    def ends_and_point(bound):
        """A bound at the ends, with the balance or without, and the point."""
        at_ends = [bound(q, b) for q in (low, high) for b in (1.0, balance)]
        best = None if point is None else bound(point, balance)
        return min(at_ends), best, max(at_ends)

    smallest, best, largest = ends_and_point(
        lambda q, b: max_batch_multiplier(q, closeness, **run, balance=b)
    )
    lowest, _, highest = ends_and_point(
        lambda q, b: min_batch_multiplier(q, closeness, **run, balance=b)
    )
    refusal = conditions.refusal
    if refusal is None and not (
        estimate.grad_sq_norm or estimate.example_noise
    ):
        refusal = Reason("zero_gradients")
    scaled = {kappa: conditions.scaled(kappa) for kappa in kappas}

    def judge(surely_holds, surely_fails):
        if refusal or not (surely_holds or surely_fails):
            return Verdict.UNDETERMINED
        return Verdict.RULED_OUT if surely_fails else Verdict.NOT_RULED_OUT

    return ScalingVerdict(
        estimate=estimate,
        conditions=conditions,
        closeness=closeness,
        level=level,
        max_multiplier_low=smallest,
        max_multiplier=best,
        max_multiplier_high=largest,
        multiplier_verdicts={
            kappa: Verdict.UNDETERMINED
            if scaled[kappa] is None
            else judge(
                highest <= kappa <= smallest, kappa > largest or kappa < lowest
            )
            for kappa in kappas
        },
        min_closeness={
            kappa: _distance_of(
                *ends_and_point(
                    lambda q, b, kappa=kappa: forced_ratio(
                        q, kappa, **run, balance=b
                    )
                )
            )
            for kappa in kappas
        },
        sde_verdict=judge(low >= threshold, high < threshold),
        min_noise_to_signal=threshold,
        reasons=conditions.reasons(estimate),
        refusal=refusal,
        scaled=scaled,
    )


def _balance_in_bound(conditions, closeness):
    """The balance of a run that may be at equilibrium, 1 for any other."""
    balance = conditions.balance
    # On the way to equilibrium the balance says nothing about where it is.
    if conditions.rest is False or balance is None:
        return 1.0
    return balance if 1 / closeness <= balance <= closeness else 1.0


def _distance_of(low, ratio, high):
    """max(r, 1/r) at its nearest, at `ratio` or None, and at its farthest."""
    value, nearest, farthest = distance(
        math.nan if ratio is None else ratio, low, high
    )
    return nearest, None if ratio is None else value, farthest


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
