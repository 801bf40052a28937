"""Reasons as codes with values, and the phrase of each code."""

import math
from typing import Any, NamedTuple

from keras_svag.noise.numerals import interval, number, whole
from keras_svag.noise.ratio import Interval

_PHRASES = {
    # The run.
    "not_sgd": "the theory is about SGD, not {}",
    "scale_invariance_unknown": "the loss is not known to be scale-invariant",
    "not_scale_invariant": "the loss is not scale-invariant",
    "no_weight_decay": "there is no weight decay, hence no equilibrium",
    "equilibrium_unknown": "the run is not known to be at equilibrium",
    "not_at_equilibrium": "the run is not at equilibrium ({})",
    "momentum": (
        "momentum is {}: the bound is that of SGD at the effective rate "
        "{}, which it is like for small learning rates only "
        "(arXiv 2307.15196)"
    ),
    "not_all_decayed": "some trainable weights are not decayed",
    "rate_changes": "the learning rate changes within the window",
    "clipped": "gradients are clipped",
    "weights_not_finite": "a weight was NaN or infinite within the window",
    "loss_not_finite": "a loss was NaN or infinite",
    "regularizer": "the loss contains a regularizer; use the optimizer's decay",
    "none_decayed": "weight decay excludes every trainable weight",
    "noisy_gradient_descent": (
        "the run is one of noisy gradient descent, not of SGD"
    ),
    # An adaptive optimizer.
    "not_adam": "the rule is derived for Adam and RMSprop, not {}",
    "second_moment_does_not_follow": "the second moment of {} does not follow",
    "second_moment_steps_unknown": (
        "how many steps the second moment has had is not known"
    ),
    "second_moment_is_young": (
        "the second moment had had {} steps when the measuring began, and "
        "follows over {}"
    ),
    "one_stretch": (
        "the window has {} steps, fewer than the {} over which the "
        "second moment follows: its observations are one stretch"
    ),
    "large_epsilon": (
        "epsilon is not small against √v (v/(√v + ε)² is {} in the mean)"
    ),
    "amsgrad": "amsgrad divides by the largest second moment so far",
    "centered": "the second moment is centered",
    "adaptive_momentum": "momentum is {}, not 0",
    # The estimate.
    "negative_signal": "G is significantly below 0",
    "sampling_unknown": "how the batches were drawn is not known",
    "num_examples_unknown": (
        "the data are shuffled and their number is not known"
    ),
    "large_noise_scale": (
        "the noise scale is not small against the shuffled data"
    ),
    "coupled_loss": (
        "the loss of a batch differs from the mean of its halves' by {}%"
    ),
    "masked_loss": "a mask divides the loss by the entries that a batch keeps",
    "batch_normalization": "batch normalization saw halves of a batch apart",
    "own_train_step": (
        "the model's own train_step may train by another loss than that whose "
        "noise was measured"
    ),
    # Why there is no verdict.
    "diverges": (
        "The weights diverge: learning rate times weight decay is {}, not "
        "below 2."
    ),
    "zero_gradients": (
        "Gradients that are exactly zero have no noise to measure."
    ),
    "linear_rule_for_adaptive": (
        "The linear scaling rule is a rule for SGD, not for {}: for adaptive "
        "optimizers use the square-root scaling rule "
        "(keras_svag.scaling.square_root_scaling_rule), which is derived for "
        "Adam and RMSprop; keras_svag.ScalingRuleCheck judges it."
    ),
    "square_root_rule_for_sgd": (
        "The square-root scaling rule is a rule for Adam and its kin, not for "
        "{}; rule='linear' is that for SGD."
    ),
    "no_second_moments": (
        "{} keeps no second moment of each entry by which it steps, so the "
        "noise is not measured in its norm."
    ),
    "second_moment_is_a_sum": (
        "The square-root scaling rule is for averages of squared gradients, "
        "not for the sum by whose root {} divides: with fewer steps the sum "
        "is smaller, and the steps are longer without a rule."
    ),
}


class Reason(NamedTuple):
    """Why a number is a heuristic, or is not given; its `str` is a phrase.

    Attributes:
        code: What the reason is, such as `"momentum"`. A code without a phrase
            is taken for the phrase itself.
        values: Numbers and texts in the phrase.
    """

    code: str
    values: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.code not in _PHRASES:
            return self.code
        return _PHRASES[self.code].format(*map(_shown, self.values))


def _shown(value):
    if isinstance(value, int):
        return whole(value)
    return number(value) if isinstance(value, float) else value


def equilibrium_text(
    balance: float | None, drift: dict[str, Interval] | None
) -> str:
    """What was measured of a run's equilibrium, such as `balance 1.02; ...`."""
    parts = []
    if balance is not None and not math.isnan(balance):
        parts.append(f"balance {number(balance)}")
    if drift:
        factors = (f"{key} × {interval(*ends)}" for key, ends in drift.items())
        parts.append("over the window's halves " + ", ".join(factors))
    return "; ".join(parts)
