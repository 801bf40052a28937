"""What the theorem's assumptions need to know about a run."""

import dataclasses
import math

from keras_svag.noise.intervals import fieller_interval

# How far from 1 the balance may be at what counts as equilibrium.
BALANCE_TOLERANCE = 0.1

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


@dataclasses.dataclass(frozen=True)
class RunConditions:
    """How a run was trained, as far as the theory asks.

    Attributes:
        optimizer: Name of the optimizer's class.
        learning_rate: η of the run; a report sets that of its window.
        weight_decay: λ of the optimizer.
        momentum: The optimizer's.
        ell: SVAG's amplification, 1 for any other optimizer.
        all_weights_decayed: Whether λ acts on every trainable weight.
        scale_invariant: Whether the loss is; None if not known.
        batch_norm_halves: Whether halves of a batch were normalized apart.
        constant_rate: Whether η was the same in all the steps.
        balance: Left over right side of the equilibrium identity, or None
            where none is defined. Of an SGD run it tests R alone: over a
            window it differs from 1 by what R has changed.
        drift: What else says whether the run is at rest: phrases on those of
            G and N that move within the window, empty if none is seen to;
            None if it was not looked at.
        other_reasons: Phrases why the theorem does not apply.
    """

    optimizer: str = "SGD"
    learning_rate: float = 0.0
    weight_decay: float = 0.0
    momentum: float = 0.0
    ell: int = 1
    all_weights_decayed: bool = True
    scale_invariant: bool | None = None
    batch_norm_halves: bool = False
    constant_rate: bool = True
    balance: float | None = None
    drift: tuple[str, ...] | None = None
    other_reasons: tuple[str, ...] = ()

    @property
    def diverges(self):
        """Whether decay alone drives the weights to infinity."""
        return self.learning_rate * self.weight_decay >= 2

    @property
    def balance_is_defined(self):
        """Whether an equilibrium identity holds for the run."""
        return (
            self.optimizer in ("SGD", "SVAG")
            and bool(self.scale_invariant)
            and self.learning_rate > 0
            and self.weight_decay > 0
            and self.all_weights_decayed
            and self.constant_rate
            and not self.momentum
            and not self.other_reasons
            and not self.diverges
        )

    @property
    def at_equilibrium(self):
        """Whether R, G and N are at rest; None where it is not known."""
        return is_at_rest(self.balance, self.drift)

    def heuristic_reasons(self, estimate):
        """Assumptions that fail or are not known to hold, a phrase each.

        Args:
            estimate: The run's `NoiseEstimate`.
        """
        return (
            *self._reasons_of_the_run(estimate),
            *_reasons_of_sampling(estimate),
            *self._reasons_of_the_script(),
        )

    def _reasons_of_the_run(self, estimate):
        if estimate.grad_sq_norm_sign() == "negative":
            yield "G is significantly below 0"
        if self.optimizer.lower() not in ("sgd", "svag"):
            yield f"the theory is about SGD, not {self.optimizer}"
        if self.scale_invariant is None:
            yield "the loss is not known to be scale-invariant"
        elif not self.scale_invariant:
            yield "the loss is not scale-invariant"
        if not self.weight_decay:
            yield "there is no weight decay, hence no equilibrium"
        elif self.at_equilibrium is None:
            yield "the run is not known to be at equilibrium"
        elif not self.at_equilibrium:
            why = rest_text(self.balance, self.drift)
            yield f"the run is not at equilibrium ({why})"
        if self.momentum:
            yield f"momentum is {self.momentum:g}, not 0"

    def _reasons_of_the_script(self):
        if self.batch_norm_halves:
            yield "batch normalization saw halves of a batch apart"
        yield from self.other_reasons
        if not self.constant_rate:
            yield "the learning rate changes within the window"
        if self.weight_decay and not self.all_weights_decayed:
            yield "some trainable weights are not decayed"


def _reasons_of_sampling(estimate):
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


def is_balanced(balance):
    """Whether a balance is near 1; None where it is not known."""
    if balance is None or not math.isfinite(balance):
        return None
    return abs(balance - 1) <= BALANCE_TOLERANCE


def is_at_rest(balance, drift):
    """Whether R, by its balance, and G and N, by their drift, are at rest.

    Args:
        balance, drift: As in `RunConditions`.

    Returns:
        A bool, or None where it is not known.
    """
    balanced = is_balanced(balance)
    if balanced and drift:
        return False
    return None if balanced and drift is None else balanced


def rest_text(balance, drift):
    """What is known of a run's rest, such as `balance 1.02; G moves ...`."""
    return "; ".join((f"balance {balance:.2f}", *(drift or ())))


def drift_within(first, second, level=0.95):
    """Which of G and N move from one half of a window to the other.

    One moves if the interval of the ratio of its two means lies outside the
    tolerance of the balance.

    Args:
        first, second: `NoiseEstimate`s of the two halves.
        level: Level at which both intervals hold together.

    Returns:
        A phrase for each that moves.
    """
    halves = first, second
    moves = []
    for letter, name in (("G", "grad_sq_norm"), ("N", "noise_trace")):
        earlier, later = (getattr(half, name) for half in halves)
        # Unlike powers, products overflow without an error.
        variances = [
            getattr(half, f"{name}_se") * getattr(half, f"{name}_se")
            for half in halves
        ]
        values = earlier, later, *variances
        if not earlier or not all(map(math.isfinite, values)):
            continue
        quantile = max(half.student_t((1 + level) / 2) for half in halves)
        low, high = fieller_interval(
            later, earlier, variances[1], 0.0, variances[0], quantile
        )
        if low > 1 + BALANCE_TOLERANCE or high < 1 / (1 + BALANCE_TOLERANCE):
            moves.append(
                f"{letter} moves by the factor {later / earlier:.2f} from "
                "the first half of the window to the second"
            )
    return tuple(moves)


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
