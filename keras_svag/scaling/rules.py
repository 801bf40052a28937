"""The linear and the square-root scaling rule.

References:
- [G17] Goyal et al., Accurate, Large Minibatch SGD, 2017, arXiv 1706.02677.
- [M22] Malladi, Lyu, Panigrahi, Arora, On the SDEs and Scaling Rules for
  Adaptive Gradient Algorithms, NeurIPS 2022, arXiv 2205.10287.
"""

import math
from typing import TypedDict

from keras_svag import arguments


class Hyperparameters(TypedDict, total=False):
    """What a scaling rule gives: of what it was given."""

    learning_rate: float
    weight_decay: float
    beta_1: float
    beta_2: float
    rho: float
    epsilon: float
    batch_size: int
    steps: int


def linear_scaling_rule(
    learning_rate: float,
    kappa: float,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    steps: int | None = None,
) -> Hyperparameters:
    """Hyperparameters of SGD at batch size κB by the linear scaling rule [G17].

    The learning rate grows with the batch; weight decay stays; the steps
    shrink, so that the number of epochs stays.

    Args:
        learning_rate, weight_decay: η and λ at the baseline.
        kappa: Factor on the batch size, above 0.
        batch_size: B of the baseline, or None.
        steps: Steps of the baseline, or None.

    Returns:
        A dict with `learning_rate`, `weight_decay`, and `batch_size` and
        `steps` where given.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is out of range, κB is no whole number, or
            κηλ >= 2, with which the weights diverge.
    """
    arguments.number("kappa", kappa, above=0)
    arguments.number("learning_rate", learning_rate, least=0)
    arguments.number("weight_decay", weight_decay, least=0)
    decay = decay_per_step(learning_rate, weight_decay)
    if kappa * decay >= 2:
        raise ValueError(
            "`kappa` * `learning_rate` * `weight_decay` must be below 2, got "
            f"{kappa!r} with learning_rate * weight_decay = {decay!r}; keep "
            f"kappa below {2 / decay:.4g}."
        )
    rate = kappa * learning_rate
    scaled = {"learning_rate": rate, "weight_decay": weight_decay}
    return _with_sizes(scaled, kappa, batch_size, steps)


def square_root_scaling_rule(
    learning_rate: float,
    kappa: float,
    beta_1: float | None = None,
    beta_2: float | None = None,
    rho: float | None = None,
    epsilon: float | None = None,
    weight_decay: float | None = None,
    decoupled: bool = True,
    batch_size: int | None = None,
    steps: int | None = None,
    epsilon_in_root: bool = False,
) -> Hyperparameters:
    """Hyperparameters of Adam or RMSprop at batch size κB [M22].

    η√κ, 1 - κ (1 - β), ε/√κ, and decoupled weight decay λ√κ; decay that is
    added to the gradient stays; the steps shrink with κ.

    Args:
        learning_rate: η at the baseline.
        kappa: Factor on the batch size, above 0.
        beta_1, beta_2, rho: Averaging factors in [0, 1) (`rho` is RMSprop's),
            or None.
        epsilon: ε, or None.
        weight_decay: λ, or None.
        decoupled: Whether the decay acts on the weights times the learning
            rate, as AdamW's and Keras's `weight_decay` does.
        batch_size: B of the baseline, or None.
        steps: Steps of the baseline, or None.
        epsilon_in_root: Whether the optimizer divides by √(v + ε), as Keras's
            RMSprop does, and not by √v + ε: ε/κ (derived).

    Returns:
        A dict with `learning_rate` and every other hyperparameter given.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is out of range, κB is no whole number, or
            κ (1 - β) >= 1, with which nothing would be averaged.
    """
    arguments.number("kappa", kappa, above=0)
    arguments.number("learning_rate", learning_rate, least=0)
    arguments.boolean("decoupled", decoupled)
    arguments.boolean("epsilon_in_root", epsilon_in_root)
    root = math.sqrt(kappa)
    scaled = {"learning_rate": root * learning_rate}
    for name, beta in (("beta_1", beta_1), ("beta_2", beta_2), ("rho", rho)):
        if beta is None:
            continue
        arguments.number(name, beta, least=0, below=1)
        if not can_average(kappa, 1 - beta):
            raise ValueError(
                f"`kappa` * (1 - `{name}`) must be below 1, got kappa = "
                f"{kappa!r} with {name} = {beta!r}; keep kappa below "
                f"{1 / (1 - beta):.4g}."
            )
        scaled[name] = 1 - kappa * (1 - beta)
    if epsilon is not None:
        arguments.number("epsilon", epsilon, least=0)
        scaled["epsilon"] = epsilon / (kappa if epsilon_in_root else root)
    if weight_decay is not None:
        arguments.number("weight_decay", weight_decay, least=0)
        scaled["weight_decay"] = weight_decay * (root if decoupled else 1)
    return _with_sizes(scaled, kappa, batch_size, steps)


def can_average(kappa: float, rate: float) -> bool:
    """Whether κ (1 - β) is below 1, not by rounding alone; 1 - β is `rate`."""
    return kappa * rate < 1 - 1e-9


def _with_sizes(scaled, kappa, batch_size, steps):
    """The scaled hyperparameters, if they are finite, and the sizes."""
    for name, value in scaled.items():
        arguments.number(f"scaled {name}", value, remedy="take another kappa")
    if batch_size is not None:
        scaled["batch_size"] = scaled_batch_size(kappa, batch_size)
    if steps is not None:
        exact = arguments.integer("steps", steps, least=0) / kappa
        scaled["steps"] = round(arguments.number("steps / kappa", exact))
    return scaled


def scaled_batch_size(kappa, batch_size):
    """κB, if it is a whole number."""
    arguments.number("kappa", kappa, above=0)
    exact = kappa * arguments.integer("batch_size", batch_size)
    arguments.number("kappa * batch_size", exact)
    if round(exact) < 1 or abs(exact - round(exact)) > 1e-6:
        raise ValueError(
            "`kappa` * `batch_size` must be a whole number, got "
            f"{kappa!r} * {batch_size!r}; take kappa = "
            f"{max(round(exact), 1)} / {batch_size}."
        )
    return round(exact)


def decay_per_step(learning_rate, weight_decay):
    """u = ηλ, 0 where either is not known."""
    arguments.number("learning_rate", learning_rate, least=0, optional=True)
    arguments.number("weight_decay", weight_decay, least=0, optional=True)
    decay = (learning_rate or 0.0) * (weight_decay or 0.0)
    if decay >= 2:
        raise ValueError(
            "`learning_rate` * `weight_decay` must be below 2, got "
            f"{learning_rate!r} * {weight_decay!r}; above, the weights diverge."
        )
    return decay
