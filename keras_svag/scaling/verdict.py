"""What a measured N / G says about the linear scaling rule."""

import dataclasses
import enum
import math

from keras_svag.arguments import checked_kappas, checked_nonnegative, is_number
from keras_svag.noise.estimate import finite_or_none
from keras_svag.scaling.bounds import max_batch_multiplier, min_noise_to_signal

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


_SGD = ("sgd", "svag")
_ADAPTIVE = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "ftrl",
    "lamb",
    "lion",
    "muon",
    "nadam",
    "rmsprop",
)


def linear_scaling_refusal(optimizer):
    """Why there is no verdict for an optimizer, by name; None for others.

    Args:
        optimizer: Name of its class, such as `"Adam"`.
    """
    if str(optimizer).lower() not in _ADAPTIVE:
        return None
    return (
        f"The linear scaling rule is a rule for SGD, not for {optimizer}: for "
        "adaptive optimizers use the square-root scaling rule "
        "(keras_svag.scaling.square_root_scaling_rule), which is derived for "
        "Adam and RMSprop."
    )


def linear_scaling_verdict(
    estimate,
    learning_rate,
    weight_decay=0.0,
    *,
    batch_size=None,
    closeness=2**0.5,
    kappas=(2, 4, 8, 16),
    level=0.95,
    balance=None,
    scale_invariant=None,
    momentum=0.0,
    ell=1,
    optimizer="SGD",
    batch_norm_halves=False,
):
    """Judges the linear scaling rule from a measured N / G.

    A κ above κ_max at the high end of the interval is ruled out, one at or
    below κ_max at the low end is not ruled out, between them it is
    undetermined.

    Args:
        estimate: `NoiseEstimate` of the baseline.
        learning_rate, weight_decay: η and λ of the baseline.
        batch_size: B of the baseline; that of `estimate` if None.
        closeness: C, above 1.
        kappas: Factors on the batch size to judge, each at least 1.
        level: Level of the two-sided interval for N / G.
        balance: From `keras_svag.scaling.balance`, or None if not defined.
        scale_invariant: Whether the loss is, None if not known.
        momentum: The optimizer's.
        ell: Amplification of the run that was measured.
        optimizer: Name of the optimizer's class; adaptive ones are refused a
            verdict, in `refusal`.
        batch_norm_halves: Whether halves of a batch were normalized apart.

    Returns:
        A `LinearScalingVerdict`.

    Raises:
        ValueError: If an argument is out of range, no batch size is known, or
            `batch_size` is not that of `estimate`.
    """
    batch_size = _checked_batch_size(batch_size, estimate.batch_size)
    kappas = checked_kappas(kappas)
    checked_nonnegative("learning_rate", learning_rate)
    threshold = min_noise_to_signal(closeness, learning_rate, weight_decay)
    low, high = estimate.interval(level)
    # Above 0 N / G has a point estimate; a negative one is not clamped.
    point = estimate.noise_to_signal if estimate.grad_sq_norm > 0 else None

    def multiplier(noise_to_signal):
        return max_batch_multiplier(
            noise_to_signal, closeness, learning_rate, weight_decay
        )

    smallest, largest = multiplier(low), multiplier(high)
    refusal = linear_scaling_refusal(optimizer)
    if refusal is None and not (estimate.grad_sq_norm or estimate.noise_trace):
        refusal = "Gradients that are exactly zero have no noise to measure."

    def judge(surely_holds, surely_fails):
        if refusal or not (surely_holds or surely_fails):
            return Verdict.UNDETERMINED
        return Verdict.RULED_OUT if surely_fails else Verdict.NOT_RULED_OUT

    skipped = (
        f"{estimate.num_skipped:,} observations were not finite and left out"
        if estimate.num_skipped
        else None
    )
    return LinearScalingVerdict(
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        closeness=closeness,
        level=level,
        noise_to_signal=point,
        interval=(low, high),
        noise_to_signal_text=estimate.describe(level),
        max_multiplier_low=smallest,
        max_multiplier=None if point is None else multiplier(point),
        max_multiplier_high=largest,
        multiplier_verdicts={
            kappa: judge(kappa <= smallest, kappa > largest) for kappa in kappas
        },
        sde_verdict=judge(low >= threshold, high < threshold),
        min_noise_to_signal=threshold,
        balance=balance,
        heuristic_reasons=tuple(
            _heuristic_reasons(
                estimate,
                weight_decay,
                balance,
                scale_invariant,
                momentum,
                ell,
                optimizer,
                batch_norm_halves,
            )
        ),
        notes=tuple(filter(None, (skipped, estimate.noise_scale_warning))),
        refusal=refusal,
    )


def _checked_batch_size(batch_size, measured):
    if batch_size is None:
        batch_size = measured
    if not (is_number(batch_size) and 1 <= batch_size < math.inf):
        raise ValueError(
            f"`batch_size` must be at least 1, got {batch_size!r}: give the "
            "batch size of the baseline run."
        )
    if measured is not None and measured != batch_size:
        raise ValueError(
            f"`batch_size` must be that of the estimate, {measured}, got "
            f"{batch_size}: N is stated at one batch size."
        )
    return batch_size


def _heuristic_reasons(
    estimate,
    weight_decay,
    balance,
    scale_invariant,
    momentum,
    ell,
    optimizer,
    batch_norm_halves,
):
    if estimate.grad_sq_norm_sign() == "negative":
        yield "G is significantly below 0"
    if str(optimizer).lower() not in _SGD:
        yield f"the theory is about SGD, not {optimizer}"
    if scale_invariant is None:
        yield "the loss is not known to be scale-invariant"
    elif not scale_invariant:
        yield "the loss is not scale-invariant"
    if not weight_decay:
        yield "there is no weight decay, hence no equilibrium"
    elif balance is None or not math.isfinite(balance):
        yield "the run is not known to be at equilibrium"
    elif abs(balance - 1) > BALANCE_TOLERANCE:
        yield f"the run is not at equilibrium (balance {balance:.2f})"
    if momentum:
        yield f"momentum is {momentum:g}, not 0"
    if ell != 1:
        yield f"N/G is that of SVAG with ell {ell}, which stands in for the SDE"
    if estimate.sampling is None:
        yield "how the batches were drawn is not known"
    elif estimate.sampling == "shuffle":
        if not estimate.corrected_for_sampling:
            yield "the data are shuffled and their number is not known"
        elif estimate.noise_scale_warning:
            yield "the noise scale is not small against the shuffled data"
    elif (
        estimate.sampling == "without_replacement"
        and not estimate.corrected_for_sampling
    ):
        yield "drawing without replacement is not corrected for"
    if batch_norm_halves:
        yield "batch normalization saw halves of a batch apart"
