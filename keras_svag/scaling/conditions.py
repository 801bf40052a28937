"""What the scaling rules' assumptions need to know about a run."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_svag import arguments
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.ratio import Interval, halves
from keras_svag.noise.saving import SavedFields
from keras_svag.scaling.bounds import checked_closeness, equilibrium_balance
from keras_svag.scaling.optimizers import (
    OptimizerKind,
    Rule,
    kind_of,
    rule_refusal,
    without_loss_scale,
)
from keras_svag.scaling.reasons import Reason, equilibrium_text
from keras_svag.scaling.rules import (
    Hyperparameters,
    can_average,
    square_root_scaling_rule,
)

_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
# Of the mean of v / (√v + ε)², which is 1 without ε.
_SMALL_EPSILON = 0.9


@dataclasses.dataclass(frozen=True)
class AdaptiveConditions(SavedFields):
    """What the condition for the square-root rule asks of a run besides.

    It rests on the effective learning rates of the coordinates, where the
    second moment v follows the squared gradients (derived, section 7 of
    docs/theory.md): neither scale invariance nor equilibrium is needed.

    Attributes:
        hyperparameters: Those of the optimizer that the rule changes, of
            `beta_1`, `beta_2`, `rho` and `epsilon`.
        second_moment_steps: Steps that v had had when the measuring began, or
            None if that is not known.
        window_steps: Steps from the first observation to the last, or None.
        epsilon_ratio: Mean of v / (√v + ε)² over the entries; None: not known.
    """

    hyperparameters: dict[str, float]
    second_moment_steps: int | None = None
    window_steps: int | None = None
    epsilon_ratio: float | None = None

    @property
    def averaging_rates(self) -> list[float]:
        """1 - β of all that the optimizer averages."""
        return [
            1 - beta
            for name, beta in self.hyperparameters.items()
            if name != "epsilon" and beta < 1
        ]

    def reasons(self, kind: OptimizerKind, ell: int) -> Iterator[Reason]:
        """Assumptions that fail or are not known to hold."""
        if not kind.is_derived:
            yield Reason("not_adam", (kind.name,))
        beta = self.hyperparameters.get("beta_2")
        beta = self.hyperparameters.get("rho", beta)
        if beta is None:
            yield Reason("second_moment_does_not_follow", (kind.name,))
        elif self.second_moment_steps is None:
            yield Reason("second_moment_steps_unknown")
        elif self.second_moment_steps * (1 - beta) < ell:
            steps = self.second_moment_steps, ell / (1 - beta)
            yield Reason("second_moment_is_young", steps)
        elif (
            self.window_steps is not None
            and self.window_steps * (1 - beta) < ell
        ):
            steps = self.window_steps, ell / (1 - beta)
            yield Reason("one_stretch", steps)
        ratio = self.epsilon_ratio
        if ratio is not None and ratio < _SMALL_EPSILON:
            yield Reason("large_epsilon", (ratio,))


@dataclasses.dataclass(frozen=True)
class RunConditions(SavedFields):
    """How a run was trained, as far as the theory asks.

    Attributes:
        optimizer: The `OptimizerKind` of the run's optimizer.
        learning_rate: η of the run; a report sets that of its window.
        weight_decay: λ of the optimizer.
        momentum: The optimizer's.
        ell: The amplification of SVAG or of its kin, 1 for any other.
        all_weights_decayed: Whether λ acts on every trainable weight.
        scale_invariant: Whether the loss is; None if not known.
        constant_rate: Whether η was the same in all the steps.
        balance: Left over right side of the equilibrium identity, or None
            where none is defined. Of an SGD run it tests R alone: over a
            window it differs from 1 by what R has changed.
        rest: Whether R, G and N are at rest; None where it is not known.
        drift: `{"G": (low, high), "N": (low, high)}`, intervals of the factors
            by which G and N change from one half of the window to the other;
            None if they were not looked at.
        other_reasons: Codes of `Reason`s, without values, why the theory does
            not apply, such as `"regularizer"`.
        adaptive: `AdaptiveConditions` where the rule is the square-root rule;
            None where it is the linear one.
    """

    optimizer: OptimizerKind = kind_of(keras.optimizers.SGD)
    learning_rate: float = 0.0
    weight_decay: float = 0.0
    momentum: float = 0.0
    ell: int = 1
    all_weights_decayed: bool = True
    scale_invariant: bool | None = None
    constant_rate: bool = True
    balance: float | None = None
    rest: bool | None = None
    drift: dict[str, Interval] | None = None
    other_reasons: tuple[str, ...] = ()
    adaptive: AdaptiveConditions | None = None

    @property
    def rule(self) -> Rule:
        """`"linear"` or `"square_root"`."""
        return "linear" if self.adaptive is None else "square_root"

    @property
    def effective_learning_rate(self) -> float:
        """η / (1 - β): for small η as SGD without momentum β behaves.

        References:
            Wang, Malladi, Wang, Lyu, Li, 2023, arXiv 2307.15196.
        """
        return self.learning_rate / (1 - min(self.momentum, 1 - 1e-9))

    @property
    def decay_per_step(self) -> float:
        """u = ηλ as far as the rule's bound asks for it."""
        if self.adaptive is not None:
            return 0.0
        return self.effective_learning_rate * self.weight_decay

    @property
    def diverges(self) -> bool:
        """Whether decay alone drives the weights to infinity."""
        return self.decay_per_step >= 2

    @property
    def balance_is_defined(self) -> bool:
        """Whether an equilibrium identity holds for the run."""
        return (
            self.rule == "linear"
            and self.refusal is None
            and self.optimizer.is_derived
            and bool(self.scale_invariant)
            and self.learning_rate > 0
            and self.weight_decay > 0
            and self.all_weights_decayed
            and self.constant_rate
            and not self.momentum
            and not self.other_reasons
        )

    @property
    def refusal(self) -> Reason | None:
        """Why no verdict can be given on the rule; None where one can."""
        if self.diverges:
            return Reason("diverges", (self.decay_per_step,))
        return rule_refusal(self.optimizer, self.rule)

    @property
    def rule_defined_below(self) -> float:
        """The κ from which κ (1 - β) is not below 1, and the rule has no β."""
        if self.adaptive is None:
            return math.inf
        rates = self.adaptive.averaging_rates
        return min((1 / rate for rate in rates), default=math.inf)

    def scaled(self, kappa: float) -> Hyperparameters | None:
        """What the rule makes of the hyperparameters; None if it has none."""
        if self.adaptive is None:
            return {"learning_rate": kappa * self.learning_rate}
        rates = self.adaptive.averaging_rates
        if not all(can_average(kappa, rate) for rate in rates):
            return None
        return self.by_square_root(kappa, self.learning_rate)

    def by_square_root(self, kappa, learning_rate):
        """What the square-root rule makes of a rate and of all the rest."""
        return square_root_scaling_rule(
            learning_rate,
            kappa,
            weight_decay=self.weight_decay or None,
            epsilon_in_root=self.optimizer.root == "epsilon inside",
            **self.adaptive.hyperparameters,
        )

    def observed(
        self,
        weight_sq_norm: float,
        grad_sq_norms: ArrayLike,
        noise_traces: ArrayLike,
        closeness: float,
    ) -> "RunConditions":
        """The conditions with the equilibrium of a window of the run.

        As they are where no identity of equilibrium is defined.

        Args:
            weight_sq_norm: R, mean over the window.
            grad_sq_norms, noise_traces: G, and N at the batch size of the run,
                observed in the window, in the order of time, as they are: not
                corrected for sampling.
            closeness: C.
        """
        if not self.balance_is_defined:
            return self
        moments = np.array([grad_sq_norms, noise_traces], np.float64)
        g, n = moments[:, np.isfinite(moments).all(axis=0)]
        balance = None
        if len(g):
            means = weight_sq_norm, g.mean(), n.mean()
            rates = self.learning_rate, self.weight_decay
            # SVAG with ell 1 is SGD.
            balance = equilibrium_balance("svag", *means, *rates, self.ell)
        rest, drift = at_rest(balance, g, n, closeness)
        return dataclasses.replace(
            self, balance=balance, rest=rest, drift=drift
        )

    def reasons(self, estimate: NoiseEstimate) -> tuple[Reason, ...]:
        """Assumptions that fail or are not known to hold, of run and noise."""
        return tuple(self._reasons(estimate))

    def _reasons(self, estimate):
        if estimate.grad_sq_norm_sign() == "negative":
            yield Reason("negative_signal")
        if self.adaptive is None:
            yield from self._reasons_of_sgd()
        else:
            yield from self.adaptive.reasons(self.optimizer, self.ell)
        if estimate.sampling is None:
            yield Reason("sampling_unknown")
        elif not estimate.corrected_for_sampling:
            yield Reason("num_examples_unknown")
        elif estimate.noise_scale_warning:
            yield Reason("large_noise_scale")
        difference = estimate.loss_difference
        percent = math.nan if difference is None else 100 * abs(difference)
        for code in estimate.assumptions:
            yield Reason(code, (percent,) if code == "coupled_loss" else ())
        yield from map(Reason, self.other_reasons)
        if not self.constant_rate:
            yield Reason("rate_changes")
        if self.adaptive is not None:
            if self.momentum:
                yield Reason("adaptive_momentum", (self.momentum,))
        elif self.weight_decay and not self.all_weights_decayed:
            yield Reason("not_all_decayed")

    def _reasons_of_sgd(self):
        if not (self.optimizer.rule == "linear" and self.optimizer.is_derived):
            yield Reason("not_sgd", (self.optimizer.name,))
        if self.scale_invariant is None:
            yield Reason("scale_invariance_unknown")
        elif not self.scale_invariant:
            yield Reason("not_scale_invariant")
        if not self.weight_decay:
            yield Reason("no_weight_decay")
        elif self.rest is False:
            measured = equilibrium_text(self.balance, self.drift)
            yield Reason("not_at_equilibrium", (measured,))
        elif self.rest is None and self.balance is None:
            yield Reason("equilibrium_unknown")
        if self.momentum:
            rates = self.momentum, self.effective_learning_rate
            yield Reason("momentum", rates)


def conditions_of(optimizer: Any, rule: str = "auto") -> RunConditions:
    """The conditions of a run, as far as its optimizer tells them.

    Args:
        optimizer: A Keras optimizer, with a loss scale around it or without.
        rule: `"linear"`, `"square_root"`, or `"auto"`: that of the optimizer.

    Returns:
        `RunConditions`, whose learning rate is that of the moment.

    Raises:
        ValueError: If `rule` is unknown.
    """
    arguments.choice("rule", rule, ("auto", "linear", "square_root"))
    optimizer = without_loss_scale(optimizer)
    kind = kind_of(optimizer)
    is_clipped = any(getattr(optimizer, name, None) for name in _CLIPPING)
    other_reasons = ["clipped"] if is_clipped else []
    adaptive = None
    if (kind.rule if rule == "auto" else rule) == "square_root":
        hyperparameters = {
            name: float(getattr(optimizer, name))
            for name in kind.hyperparameters
        }
        # Where nothing is averaged, or nothing ever changes, it stays so at κB.
        for item in (("beta_1", 0), ("beta_1", 1), ("beta_2", 1), ("rho", 1)):
            if item in hyperparameters.items():
                del hyperparameters[item[0]]
        adaptive = AdaptiveConditions(hyperparameters)
        variants = ("amsgrad", "centered")
        other_reasons += [v for v in variants if getattr(optimizer, v, False)]
    rate, momentum = optimizer.learning_rate, getattr(optimizer, "momentum", 0)
    return RunConditions(
        optimizer=kind,
        learning_rate=float(keras.ops.convert_to_numpy(rate)),
        weight_decay=float(optimizer.weight_decay or 0),
        momentum=float(momentum) if isinstance(momentum, (int, float)) else 0.0,
        ell=getattr(optimizer, "ell", 1),
        # A schedule or a function gives a value, which is no variable.
        constant_rate=isinstance(rate, keras.Variable),
        other_reasons=tuple(other_reasons),
        adaptive=adaptive,
    )


def at_rest(
    balance: float | None,
    grad_sq_norms: ArrayLike,
    noise_traces: ArrayLike,
    closeness: float,
) -> tuple[bool | None, dict[str, Interval]]:
    """Whether R, by its balance, and G and N are at rest within a window.

    "No change was seen" is not "at rest", so there are three answers
    (docs/theory.md, section 5).

    Args:
        balance: Left over right side of the equilibrium identity, or None
            where none is defined.
        grad_sq_norms, noise_traces: G and N of the window, in the order of
            time.
        closeness: C, above 1: what lies within [1/C, C] counts as unchanged.

    Returns:
        `(rest, drift)`: True if the balance lies within [1/C, C] and so do,
        shown by tests of level 95%, the factors by which G and N change from
        one half of the window to the other; False if the balance or, shown by
        such a test, one of the factors lies outside; None if neither. And the
        intervals of the factors, `{"G": Interval, "N": Interval}`.
    """
    checked_closeness(closeness)
    (of_g, g_factors), (of_n, n_factors) = (
        halves(x, closeness, num_series=2)
        for x in (grad_sq_norms, noise_traces)
    )
    answers, drift = (of_g, of_n), {"G": g_factors, "N": n_factors}
    is_balanced, is_off = True, False
    if balance is not None:
        # Neither, if it is NaN.
        is_balanced = 1 / closeness <= balance <= closeness
        is_off = balance < 1 / closeness or balance > closeness
    if is_off or "no" in answers:
        return False, drift
    is_shown = is_balanced and answers == ("yes", "yes")
    return True if is_shown else None, drift
