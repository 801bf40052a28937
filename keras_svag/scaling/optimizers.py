"""The table of optimizers: the rule of each, and the moments that it keeps."""

import dataclasses
from typing import Any, Literal

import keras

from keras_svag.noise.saving import SavedFields
from keras_svag.optimizers.adaptive import SVAGAdam, SVAGRMSprop
from keras_svag.optimizers.svag import SVAG
from keras_svag.scaling.reasons import Reason

Rule = Literal["linear", "square_root"]


@dataclasses.dataclass(frozen=True)
class OptimizerKind(SavedFields):
    """What the theory asks of an optimizer.

    Attributes:
        rule: `"linear"` or `"square_root"`, the scaling rule for it.
        second_moments: Name of the attribute with the second moment v of every
            entry by whose root the optimizer divides; None if it keeps none.
        root: How it divides: `"epsilon outside"` by √v + ε, `"epsilon inside"`
            by √(v + ε), `"is root"` by v + ε, for v is a root already.
        is_derived: Whether the condition of the rule is derived for it.
        hyperparameters: Names of what the square-root rule changes besides
            learning rate and weight decay.
        simulates: Name of the optimizer whose SDE it simulates, or None.
        name: Name of its class. Sentences have it; nothing is decided by it.
    """

    rule: Rule = "linear"
    second_moments: str | None = None
    root: Literal["epsilon outside", "epsilon inside", "is root"] | None = None
    is_derived: bool = False
    hyperparameters: tuple[str, ...] = ()
    simulates: str | None = None
    name: str = ""


_ADAM = OptimizerKind(
    rule="square_root",
    second_moments="_velocities",
    root="epsilon outside",
    is_derived=True,
    hyperparameters=("beta_1", "beta_2", "epsilon"),
)
_RMSPROP = dataclasses.replace(
    _ADAM, root="epsilon inside", hyperparameters=("rho", "epsilon")
)

# Those of Keras by their names there, for not every release has all of them.
_KERAS_KINDS = {
    "SGD": OptimizerKind("linear", is_derived=True),
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "Nadam": dataclasses.replace(_ADAM, is_derived=False),
    "Adamax": dataclasses.replace(
        _ADAM, second_moments="_u", root="is root", is_derived=False
    ),
    # Its beta_1 is no memory: it tells where the gradient is taken.
    "ScheduleFreeAdamW": dataclasses.replace(
        _ADAM, is_derived=False, hyperparameters=("beta_2", "epsilon")
    ),
    "RMSprop": _RMSPROP,
    "Adagrad": dataclasses.replace(
        _RMSPROP,
        second_moments="_accumulators",
        is_derived=False,
        hyperparameters=("epsilon",),
    ),
    **dict.fromkeys(
        ("Adadelta", "Adafactor", "Ftrl", "Lamb", "Lion", "Muon"),
        OptimizerKind("square_root"),
    ),
}
_KINDS = {
    getattr(keras.optimizers, name): kind
    for name, kind in _KERAS_KINDS.items()
    if hasattr(keras.optimizers, name)
} | {
    SVAG: OptimizerKind("linear", is_derived=True, simulates="SGD"),
    SVAGAdam: dataclasses.replace(_ADAM, simulates="Adam"),
    SVAGRMSprop: dataclasses.replace(_RMSPROP, simulates="RMSprop"),
}


def without_loss_scale(optimizer: Any) -> Any:
    """The optimizer itself, not the loss scale around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def kind_of(optimizer: Any) -> OptimizerKind:
    """The kind of an optimizer, which is that of its nearest known base.

    Args:
        optimizer: An optimizer, with a loss scale around it or without, or a
            class of optimizers.

    Returns:
        An `OptimizerKind`. One that the table does not have is taken for a
        relative of SGD, for which nothing is derived.
    """
    cls = optimizer
    if not isinstance(optimizer, type):
        cls = type(without_loss_scale(optimizer))
    known = (_KINDS[base] for base in cls.__mro__ if base in _KINDS)
    return dataclasses.replace(next(known, OptimizerKind()), name=cls.__name__)


def rule_refusal(kind: OptimizerKind, rule: Rule) -> Reason | None:
    """Why a rule cannot be judged for an optimizer; None where it can."""
    if rule == "linear":
        if kind.rule == "linear":
            return None
        return Reason("linear_rule_for_adaptive", (kind.name,))
    if kind.rule == "linear":
        return Reason("square_root_rule_for_sgd", (kind.name,))
    if kind.second_moments is None:
        return Reason("no_second_moments", (kind.name,))
    if not {"beta_2", "rho"} & {*kind.hyperparameters}:
        return Reason("second_moment_is_a_sum", (kind.name,))
    return None
