"""What is known about a run and the linear scaling rule, and its words."""

import dataclasses
import enum
import math

from keras_svag.noise.estimate import finite_or_none

# How far from 1 the balance may be at what counts as equilibrium.
BALANCE_TOLERANCE = 0.1


class Verdict(enum.StrEnum):
    """What a necessary condition says, given an interval for N / G."""

    RULED_OUT = "ruled out"
    NOT_RULED_OUT = "not ruled out"
    UNDETERMINED = "undetermined"


@dataclasses.dataclass(frozen=True)
class LinearScalingVerdict:
    """How far the linear scaling rule can carry a run, as far as is known.

    The conditions are necessary: "not ruled out" promises nothing. Each
    one-sided verdict errs with at most half of `1 - level`.

    Attributes:
        batch_size: B of the baseline.
        learning_rate, weight_decay: η and λ of the baseline.
        closeness: C.
        level: Level of the interval.
        noise_to_signal: N / G, None if G is not positive.
        interval: `(low, high)` of N / G.
        noise_to_signal_text: N / G in words, with what is wrong with it.
        max_multiplier_low, max_multiplier, max_multiplier_high: κ_max at the
            low end, the point estimate (or None) and the high end.
        multiplier_verdicts: `{κ: Verdict}`.
        sde_verdict: Whether SGD may be C-close to its SDE.
        min_noise_to_signal: The least N / G with which it may.
        balance: Left over right side of the equilibrium identity, or None.
        heuristic_reasons: Assumptions of the theorem that fail or are not
            known to hold, a phrase each; if there are any, the numbers are
            only a heuristic.
        notes: Other things to know, a sentence each.
        refusal: Why there is no verdict at all, or None.
    """

    batch_size: int
    learning_rate: float
    weight_decay: float
    closeness: float
    level: float
    noise_to_signal: float | None
    interval: tuple[float, float]
    noise_to_signal_text: str
    max_multiplier_low: float
    max_multiplier: float | None
    max_multiplier_high: float
    multiplier_verdicts: dict[float, Verdict]
    sde_verdict: Verdict
    min_noise_to_signal: float
    balance: float | None = None
    heuristic_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def heuristic(self):
        """Whether an assumption fails or is not known to hold."""
        return bool(self.heuristic_reasons)

    @property
    def not_ruled_out_up_to(self):
        """Largest batch size that the interval does not rule out."""
        return self.max_multiplier_low * self.batch_size

    @property
    def ruled_out_beyond(self):
        """Batch sizes above this are ruled out; may be infinite."""
        return self.max_multiplier_high * self.batch_size

    @property
    def max_batch_size(self):
        """κ_max · B at the point estimate, or None."""
        if self.max_multiplier is None:
            return None
        return self.max_multiplier * self.batch_size

    @property
    def at_equilibrium(self):
        """Whether the balance is near 1; None where it is not defined."""
        if self.balance is None or not math.isfinite(self.balance):
            return None
        return abs(self.balance - 1) <= BALANCE_TOLERANCE

    @property
    def text(self):
        """The verdict in one line; batch sizes to two digits."""
        head = (
            f"batch {self.batch_size:,}, learning rate "
            f"{self.learning_rate:g}: {self.noise_to_signal_text}"
        )
        if self.refusal:
            return f"{head}; no verdict. {self.refusal}"
        lines = [f"{head}; {self._range_text()}; {self._equilibrium_text()}"]
        if self.heuristic:
            lines.append(
                "Only a heuristic: " + "; ".join(self.heuristic_reasons)
            )
        return ". ".join([*lines, *(note.rstrip(".") for note in self.notes)])

    def __str__(self):
        return self.text

    def _range_text(self):
        text = (
            "the linear scaling rule is not ruled out up to batch "
            f"{_batch(self.not_ruled_out_up_to)}, "
        )
        if math.isfinite(self.ruled_out_beyond):
            text += f"ruled out beyond {_batch(self.ruled_out_beyond)}"
        else:
            text += "and no larger batch is ruled out"
        if self.max_batch_size is not None:
            text += f" (point estimate {_batch(self.max_batch_size)})"
        return text

    def _equilibrium_text(self):
        if self.at_equilibrium is None:
            return "at equilibrium: not known"
        answer = "yes" if self.at_equilibrium else "no"
        return f"at equilibrium: {answer} (balance {self.balance:.2f})"

    def to_dict(self):
        """Plain values for strict JSON; None for what is not finite."""
        fields = dataclasses.asdict(self)
        low, high = fields.pop("interval")
        verdicts = fields.pop("multiplier_verdicts")
        fields |= {
            "noise_to_signal_low": low,
            "noise_to_signal_high": high,
            "not_ruled_out_up_to": self.not_ruled_out_up_to,
            "ruled_out_beyond": self.ruled_out_beyond,
            "max_batch_size": self.max_batch_size,
            "at_equilibrium": self.at_equilibrium,
            "heuristic": self.heuristic,
            "text": self.text,
        }
        fields = {name: finite_or_none(value) for name, value in fields.items()}
        return fields | {
            "sde_verdict": str(self.sde_verdict),
            "heuristic_reasons": list(self.heuristic_reasons),
            "notes": list(self.notes),
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
