"""What a measured N / G says about a scaling rule."""

import dataclasses
import enum
import math
from typing import Any, Literal

from keras_svag import arguments
from keras_svag.noise.estimate import finite_or_none
from keras_svag.scaling.bounds import (
    forced_ratio,
    max_batch_multiplier,
    min_noise_to_signal,
)
from keras_svag.scaling.closeness import distance
from keras_svag.scaling.conditions import (
    is_at_rest,
    is_balanced,
    linear_scaling_refusal,
    rest_text,
    square_root_refusal,
)
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
    the square-root rule in the same way Adam or its kin. The
    conditions are necessary: "not ruled out" promises nothing. Each
    one-sided verdict errs with at most half of `1 - level`.

    Attributes:
        batch_size: B of the baseline.
        learning_rate, weight_decay: η and λ of the baseline.
        ell: SVAG's amplification in the baseline; 1 is SGD.
        closeness: C.
        level: Level of the interval.
        noise_to_signal: N / G, None if G is not positive.
        interval: `(low, high)` of N / G.
        noise_to_signal_text: N / G in words, with what is wrong with it.
        max_multiplier_low, max_multiplier, max_multiplier_high: κ_max at the
            low end, the point estimate (or None) and the high end. At
            equilibrium the point has the measured balance in it, and the ends
            hold with it and without.
        multiplier_verdicts: `{κ: Verdict}`.
        min_closeness: `{κ: (low, value, high)}`, the least C to which the two
            runs can be close, in the same way.
        sde_verdict: Whether the measured run may be C-close to its SDE.
        min_noise_to_signal: The least N / G with which it may.
        balance: Left over right side of the equilibrium identity, or None.
        drift: Phrases on those of G and N that move within the window; None
            if that was not looked at.
        heuristic_reasons: Assumptions of the theorem that fail or are not
            known to hold, a phrase each; if there are any, the numbers are
            only a heuristic.
        notes: Other things to know, a sentence each.
        refusal: Why there is no verdict at all, or None.
        rule: `"linear"` or `"square_root"`; N / G of the latter is that of the
            gradients as the optimizer scales them.
        optimizer: Name of the class of the optimizer.
        scaled: `{κ: dict}`, the hyperparameters at κ by the rule; None where
            it has none.
        rule_defined_below: The least κ at which the rule has none.
    """

    batch_size: int
    learning_rate: float
    weight_decay: float
    ell: int
    closeness: float
    level: float
    noise_to_signal: float | None
    interval: tuple[float, float]
    noise_to_signal_text: str
    max_multiplier_low: float
    max_multiplier: float | None
    max_multiplier_high: float
    multiplier_verdicts: dict[float, Verdict]
    min_closeness: dict[float, tuple[float, float | None, float]]
    sde_verdict: Verdict
    min_noise_to_signal: float
    balance: float | None = None
    drift: tuple[str, ...] | None = None
    heuristic_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str | None = None
    rule: Literal["linear", "square_root"] = "linear"
    optimizer: str = "SGD"
    scaled: dict[float, Hyperparameters | None] = dataclasses.field(
        default_factory=dict
    )
    rule_defined_below: float = math.inf

    @property
    def heuristic(self) -> bool:
        """Whether an assumption fails or is not known to hold."""
        return bool(self.heuristic_reasons)

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
    def at_equilibrium(self) -> bool | None:
        """Whether R, G and N are at rest; None where it is not known."""
        return is_at_rest(self.balance, self.drift)

    @property
    def process(self) -> str:
        """What the measured run is one of, such as `SVAG with ell 4`."""
        if self.ell > 1:
            name = self.optimizer if self.is_square_root else "SVAG"
            return f"{name} with ell {self.ell}"
        return self.optimizer if self.is_square_root else "SGD"

    @property
    def is_square_root(self) -> bool:
        """Whether the verdict is on the square-root rule."""
        return self.rule == "square_root"

    @property
    def rule_name(self) -> str:
        """Of the rule, as in `the square-root scaling rule`."""
        return {"linear": "linear", "square_root": "square-root"}[self.rule]

    @property
    def compared(self) -> str:
        """The two processes that the verdict compares, a phrase."""
        if self.is_square_root:
            # The optimizer that SVAG of its kind simulates.
            simulated = self.optimizer.removeprefix("SVAG")
            return (
                f"{simulated} at κB by the square-root rule against this run "
                f"of {self.process}, by a condition derived here, not in a "
                "paper"
            )
        return f"SGD at (κB, κη) against this run of {self.process}"

    def scaled_text(self, kappa: float) -> str:
        """The hyperparameters at κB, as arguments of the optimizer."""
        scaled = self.scaled[kappa]
        if scaled is None:
            return "no such run, for κ (1 - β) is not below 1"
        if not self.is_square_root:
            return f"{scaled['learning_rate']:g}"
        return ", ".join(f"{name}={v:.6g}" for name, v in scaled.items())

    @property
    def headline(self) -> str:
        """The verdict in one line; batch sizes to two digits."""
        head = (
            f"batch {self.batch_size:,}, learning rate "
            f"{self.learning_rate:g}: {self.noise_to_signal_text}"
        )
        if self.refusal:
            return f"{head}; no verdict. {self.refusal}"
        if self.is_square_root:
            return (
                f"{head}, in the norm of {self.process}; {self._range_text()}"
            )
        return f"{head}; {self._range_text()}; {self._equilibrium_text()}"

    @property
    def text(self) -> str:
        """The headline with the reasons and notes behind it."""
        parts = [self.headline]
        if self.heuristic and not self.refusal:
            reasons = "; ".join(self.heuristic_reasons)
            parts.append(f"Only a heuristic: {reasons}")
        if not self.refusal:
            parts += [note.rstrip(".") for note in self.notes]
        return ". ".join(parts)

    def __str__(self):
        return self.text

    def _range_text(self):
        text = (
            f"the {self.rule_name} scaling rule is not ruled out up to batch "
            f"{_batch(self.not_ruled_out_up_to)}, "
        )
        if self.ell > 1 and not self.is_square_root:
            text = f"{self.compared}: {text}"
        if math.isfinite(self.ruled_out_beyond):
            text += f"ruled out beyond {_batch(self.ruled_out_beyond)}"
        else:
            text += "and no larger batch is ruled out"
        if self.max_batch_size is not None:
            text += f" (point estimate {_batch(self.max_batch_size)})"
        end = self.rule_defined_below * self.batch_size
        if end < self.ruled_out_beyond:
            # Below the end by less than the batch is a whole number.
            text += f"; the rule itself ends below batch {end:,.6g}"
        return text

    def _equilibrium_text(self):
        if is_balanced(self.balance) is None:
            return "at equilibrium: not known"
        answers = {True: "yes", False: "no", None: "not known"}
        why = rest_text(self.balance, self.drift)
        if self.at_equilibrium is None:
            why += "; too short a window to see G and N move"
        return f"at equilibrium: {answers[self.at_equilibrium]} ({why})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON; None for what is not finite."""
        fields = dataclasses.asdict(self)
        low, high = fields.pop("interval")
        verdicts = fields.pop("multiplier_verdicts")
        closeness = fields.pop("min_closeness")
        scaled = fields.pop("scaled")
        fields |= {
            "noise_to_signal_low": low,
            "noise_to_signal_high": high,
            "not_ruled_out_up_to": self.not_ruled_out_up_to,
            "ruled_out_beyond": self.ruled_out_beyond,
            "max_batch_size": self.max_batch_size,
            "at_equilibrium": self.at_equilibrium,
            "compared": self.compared,
            "heuristic": self.heuristic,
            "text": self.text,
        }
        fields = {name: finite_or_none(value) for name, value in fields.items()}
        return fields | {
            "sde_verdict": str(self.sde_verdict),
            "heuristic_reasons": list(self.heuristic_reasons),
            "notes": list(self.notes),
            "drift": None if self.drift is None else list(self.drift),
            "min_closeness": {
                f"{kappa:g}": [finite_or_none(value) for value in ends]
                for kappa, ends in closeness.items()
            },
            "scaled": {
                f"{kappa:g}": values
                and {k: finite_or_none(v) for k, v in values.items()}
                for kappa, values in scaled.items()
            },
            "multiplier_verdicts": {
                f"{kappa:g}": str(verdict)
                for kappa, verdict in verdicts.items()
            },
        }


def _batch(size):
    """A batch size to two digits, or as a whole number below 1,000."""
    if size < 1000:
        return f"{math.floor(size)}"
    return f"{float(f'{size:.2g}'):,.0f}"


def scaling_verdict(
    estimate,
    conditions,
    *,
    batch_size=None,
    closeness=2**0.5,
    kappas=(2, 4, 8, 16),
    level=0.95,
):
    """Judges a scaling rule from a measured N / G.

    The rule is the square-root rule if `conditions.adaptive` are given, else
    the linear one. Both have the same condition, in which the N / G of the
    square-root rule is that in the optimizer's norm, and no decay is asked for.

    A κ above κ_max at the high end of the interval is ruled out, one at or
    below κ_max at the low end is not ruled out, between them it is
    undetermined.

    The balance of a run at equilibrium is not exactly 1. Whether R or G + N is
    off is not known: with the balance in the bound R is taken as measured,
    without it as it is at rest. So the ends are the outer ones of both.

    Args:
        estimate: `NoiseEstimate` of the baseline.
        conditions: `RunConditions` of the baseline. For an optimizer that the
            rule is not for there is no verdict, and none where the weights
            diverge: `refusal` says why.
        batch_size: B of the baseline; that of `estimate` if None.
        closeness: C, above 1.
        kappas: Factors on the batch size to judge, each at least 1.
        level: Level of the two-sided interval for N / G.

    Returns:
        A `ScalingVerdict`.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is out of range, no batch size is known, or
            `batch_size` is not that of `estimate`.
    """
    batch_size = _checked_batch_size(batch_size, estimate.batch_size)
    rate, decay = conditions.learning_rate, conditions.weight_decay
    # Where the weights diverge no bound is defined: there is no verdict.
    per_step = 0.0 if conditions.diverges else conditions.decay_per_step
    hyperparameters = (1.0, per_step)
    ell = conditions.ell
    threshold = min_noise_to_signal(closeness, *hyperparameters, ell)
    low, high = estimate.interval(level)
    # Above 0 N / G has a point estimate; a negative one is not clamped.
    point = estimate.noise_to_signal if estimate.grad_sq_norm > 0 else None
    # On the way to equilibrium the balance says nothing about where it is.
    balance = conditions.balance if conditions.at_equilibrium else 1.0

    def ends_and_point(bound):
        """A bound at the ends, with the balance or without, and the point."""
        at_ends = [bound(q, b) for q in (low, high) for b in (1.0, balance)]
        best = None if point is None else bound(point, balance)
        return min(at_ends), best, max(at_ends)

    smallest, best, largest = ends_and_point(
        lambda q, b: max_batch_multiplier(
            q, closeness, *hyperparameters, ell=ell, balance=b
        )
    )
    kappas = checked_kappas(kappas)
    refusal = _refusal(estimate, conditions)

    scaled = {kappa: _scaled(conditions, kappa) for kappa in kappas}

    def judge(surely_holds, surely_fails):
        if refusal or not (surely_holds or surely_fails):
            return Verdict.UNDETERMINED
        return Verdict.RULED_OUT if surely_fails else Verdict.NOT_RULED_OUT

    return ScalingVerdict(
        batch_size=batch_size,
        learning_rate=rate,
        weight_decay=decay,
        ell=ell,
        closeness=closeness,
        level=level,
        noise_to_signal=point,
        interval=(low, high),
        noise_to_signal_text=estimate.describe(level),
        max_multiplier_low=smallest,
        max_multiplier=best,
        max_multiplier_high=largest,
        multiplier_verdicts={
            kappa: Verdict.UNDETERMINED
            if scaled[kappa] is None
            else judge(kappa <= smallest, kappa > largest)
            for kappa in kappas
        },
        min_closeness={
            kappa: _distance_of(
                *ends_and_point(
                    lambda q, b, kappa=kappa: forced_ratio(
                        q, kappa, *hyperparameters, ell, b
                    )
                )
            )
            for kappa in kappas
        },
        sde_verdict=judge(low >= threshold, high < threshold),
        min_noise_to_signal=threshold,
        balance=conditions.balance,
        drift=conditions.drift,
        heuristic_reasons=conditions.heuristic_reasons(estimate),
        notes=tuple(_notes(estimate, conditions)),
        refusal=refusal,
        rule=conditions.rule,
        optimizer=conditions.optimizer,
        scaled=scaled,
        rule_defined_below=math.inf
        if conditions.adaptive is None
        else conditions.adaptive.defined_below,
    )


def _scaled(conditions, kappa):
    if conditions.adaptive is not None:
        return conditions.adaptive.scaled(conditions.learning_rate, kappa)
    return {"learning_rate": kappa * conditions.learning_rate}


def _distance_of(low, ratio, high):
    """max(r, 1/r) at its nearest, at `ratio` or None, and at its farthest."""
    value, nearest, farthest = distance(
        math.nan if ratio is None else ratio, low, high
    )
    return nearest, None if ratio is None else value, farthest


def checked_kappas(kappas):
    """Factors on the batch size as a tuple, if each is at least 1."""
    remedy = "factors by which the batch grows are a tuple, such as (2, 4)"
    if not isinstance(kappas, (tuple, list)):
        raise TypeError(
            arguments.refusal("kappas", "a tuple of numbers", kappas, remedy)
        )
    return tuple(
        arguments.number("kappas", kappa, least=1, remedy=remedy)
        for kappa in kappas
    )


def _checked_batch_size(batch_size, measured):
    if batch_size is None:
        batch_size = measured
    arguments.integer(
        "batch_size",
        batch_size,
        remedy="give the batch size of the baseline run",
    )
    if measured is not None and measured != batch_size:
        raise ValueError(
            arguments.refusal(
                "batch_size",
                f"that of the estimate, {measured}",
                batch_size,
                "N is stated at one batch size",
            )
        )
    return batch_size


def _refusal(estimate, conditions):
    if conditions.diverges:
        product = conditions.decay_per_step
        return (
            "The weights diverge: learning rate times weight decay is "
            f"{product:.3g}, not below 2."
        )
    refused = (
        linear_scaling_refusal
        if conditions.adaptive is None
        else square_root_refusal
    )
    refusal = refused(conditions.optimizer)
    if refusal is None and not (estimate.grad_sq_norm or estimate.noise_trace):
        return "Gradients that are exactly zero have no noise to measure."
    return refusal


def _notes(estimate, conditions):
    if estimate.num_skipped:
        yield (
            f"{estimate.num_skipped:,} observations were not finite and left "
            "out"
        )
    if estimate.noise_scale_warning:
        yield estimate.noise_scale_warning
    product = conditions.decay_per_step
    if conditions.at_equilibrium is False and product:
        yield (
            "The squared weight norm settles over some multiples of 1/(2ηλ) = "
            f"{1 / (2 * product):,.0f} SGD steps"
        )
