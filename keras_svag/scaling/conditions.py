"""What the scaling rules' assumptions need to know about a run."""

import dataclasses
import math

from keras_svag.noise.intervals import fieller_interval
from keras_svag.scaling.rules import square_root_scaling_rule

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
    "svagadam",
    "svagrmsprop",
)
# Those that keep a second moment of each entry, and that they step by.
_ELEMENTWISE = (
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "nadam",
    "rmsprop",
    "svagadam",
    "svagrmsprop",
)
_DERIVED_FOR = ("adam", "adamw", "rmsprop", "svagadam", "svagrmsprop")
# Of the mean of v / (√v + ε)², which is 1 without ε.
_SMALL_EPSILON = 0.9


@dataclasses.dataclass(frozen=True)
class RunConditions:
    """How a run was trained, as far as the theory asks.

    Attributes:
        optimizer: Name of the optimizer's class.
        learning_rate: η of the run; a report sets that of its window.
        weight_decay: λ of the optimizer.
        momentum: The optimizer's.
        ell: The amplification of SVAG or of its kin, 1 for any other.
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
        adaptive: `AdaptiveConditions` where the rule is the square-root rule;
            None where it is the linear one.
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
    adaptive: "AdaptiveConditions | None" = None

    @property
    def rule(self):
        """`"linear"` or `"square_root"`."""
        return "linear" if self.adaptive is None else "square_root"

    @property
    def effective_learning_rate(self):
        """η / (1 - β): for small η as SGD without momentum β behaves.

        References:
            Wang, Malladi, Wang, Lyu, Li, 2023, arXiv 2307.15196.
        """
        return self.learning_rate / (1 - min(self.momentum, 1 - 1e-9))

    @property
    def decay_per_step(self):
        """u = ηλ as far as the rule's bound asks for it."""
        if self.adaptive is not None:
            return 0.0
        return self.effective_learning_rate * self.weight_decay

    @property
    def diverges(self):
        """Whether decay alone drives the weights to infinity."""
        return self.decay_per_step >= 2

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
        reasons = (
            self._reasons_of_the_run()
            if self.adaptive is None
            else self.adaptive.reasons(self.optimizer, self.ell)
        )
        if estimate.grad_sq_norm_sign() == "negative":
            reasons = ("G is significantly below 0", *reasons)
        return (
            *reasons,
            *_reasons_of_sampling(estimate),
            *self._reasons_of_the_script(),
        )

    def _reasons_of_the_run(self):
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
            yield (
                f"momentum is {self.momentum:g}: the bound is that of SGD at "
                f"the effective rate {self.effective_learning_rate:g}, which "
                "it is like for small learning rates only (arXiv 2307.15196)"
            )

    def _reasons_of_the_script(self):
        if self.batch_norm_halves:
            yield "batch normalization saw halves of a batch apart"
        yield from self.other_reasons
        if not self.constant_rate:
            yield "the learning rate changes within the window"
        if self.adaptive is not None:
            return
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


@dataclasses.dataclass(frozen=True)
class AdaptiveConditions:
    """What the condition for the square-root rule asks of a run.

    It rests on the effective learning rates of the coordinates, where the
    second moment v follows the squared gradients (derived, THEORY.md section
    7): neither scale invariance nor equilibrium is needed.

    Attributes:
        hyperparameters: `beta_1`, `beta_2`, `rho`, `epsilon` of the optimizer,
            those that it has.
        weight_decay: Its decoupled λ, or None.
        epsilon_in_root: Whether it divides by √(v + ε), not by √v + ε.
        second_moment_steps: Steps that v had had when the measuring began, or
            None if that is not known.
        epsilon_ratio: Mean of v / (√v + ε)² over the entries; None: not known.
        other_reasons: Phrases on what else the derivation does not have.
    """

    hyperparameters: dict[str, float]
    weight_decay: float | None = None
    epsilon_in_root: bool = False
    second_moment_steps: int | None = None
    epsilon_ratio: float | None = None
    other_reasons: tuple[str, ...] = ()

    def reasons(self, optimizer, ell=1):
        """Assumptions that fail or are not known to hold, a phrase each."""
        if optimizer.lower() not in _DERIVED_FOR:
            yield f"the rule is derived for Adam and RMSprop, not {optimizer}"
        beta = self.hyperparameters.get("beta_2")
        beta = self.hyperparameters.get("rho", beta)
        if beta is None:
            yield f"the second moment of {optimizer} does not follow"
        elif self.second_moment_steps is None:
            yield "how many steps the second moment has had is not known"
        elif self.second_moment_steps * (1 - beta) < ell:
            yield (
                "the second moment had had "
                f"{self.second_moment_steps:,} steps when the measuring began, "
                f"and follows over {ell / (1 - beta):,.0f}"
            )
        ratio = self.epsilon_ratio
        if ratio is not None and ratio < _SMALL_EPSILON:
            yield (
                "epsilon is not small against √v (v/(√v + ε)² is "
                f"{ratio:.2g} in the mean)"
            )
        yield from self.other_reasons

    @property
    def defined_below(self):
        """The κ from which κ (1 - β) is not below 1, and the rule has no β."""
        return min((1 / rest for rest in self._rests), default=math.inf)

    @property
    def _rests(self):
        """1 - β of all that are averaged."""
        return [
            1 - beta
            for name, beta in self.hyperparameters.items()
            if name != "epsilon" and beta < 1
        ]

    def scaled(self, learning_rate, kappa):
        """What the square-root rule makes of the run's hyperparameters.

        Returns:
            A dict of arguments of the optimizer; None where the rule has none.
        """
        # As the rule itself asks: 1 / (1 - β) is rounded.
        if any(kappa * rest >= 1 for rest in self._rests):
            return None
        return square_root_scaling_rule(
            learning_rate,
            kappa,
            weight_decay=self.weight_decay,
            epsilon_in_root=self.epsilon_in_root,
            **self.hyperparameters,
        )


def rule_of(optimizer):
    """The scaling rule for an optimizer, by the name of its class."""
    is_adaptive = str(optimizer).lower() in _ADAPTIVE
    return "square_root" if is_adaptive else "linear"


def square_root_refusal(optimizer):
    """Why there is no verdict on the square-root rule; None where there is.

    Args:
        optimizer: Name of its class, such as `"Lion"`.
    """
    name = str(optimizer).lower()
    if name in _ELEMENTWISE:
        return None
    if name in _ADAPTIVE:
        return (
            f"{optimizer} keeps no second moment of each entry by which it "
            "steps, so the noise is not measured in its norm."
        )
    return (
        "The square-root scaling rule is a rule for Adam and its kin, not for "
        f"{optimizer}; rule='linear' is that for SGD."
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
        "Adam and RMSprop; keras_svag.ScalingRuleCheck judges it."
    )
