"""The optimizers that a configuration names, and what they take."""

import inspect

import keras

from experiments.schedules import schedule_of
from keras_svag.arguments import wrong
from keras_svag.optimizers.adaptive import SVAGAdam, SVAGRMSprop
from keras_svag.optimizers.svag import SVAG
from keras_svag.scaling.optimizers import kind_of
from keras_svag.scaling.rules import square_root_scaling_rule

# For which `ell` and `pairing` are.
SVAG_OPTIMIZERS = dict(svag=SVAG, svag_adam=SVAGAdam, svag_rmsprop=SVAGRMSprop)
# What only some optimizers take: 0 or None leaves it to the optimizer.
OPTIONS = ("momentum", "beta_1", "beta_2", "rho", "epsilon")


def is_svag(name):
    """Whether an optimizer's name is that of SVAG or one of its kin."""
    return name in SVAG_OPTIMIZERS


def optimizer_class(name):
    """The class of the optimizer with a name; "ngd" takes steps of SGD's."""
    known = {
        key.lower(): value
        for key, value in vars(keras.optimizers).items()
        if inspect.isclass(value) and value is not keras.optimizers.Optimizer
    }
    known["ngd"] = keras.optimizers.SGD
    found = SVAG_OPTIMIZERS.get(name) or known.get(str(name).lower())
    if found is None:
        ours = ", ".join(map(repr, (*SVAG_OPTIMIZERS, "ngd")))
        wanted = f"one of {ours} or the name of a Keras optimizer, such as "
        raise wrong("optimizer", f"{wanted}'sgd' or 'adam'", name)
    return found


def optimizer_kind(name):
    """The `OptimizerKind` of the optimizer with a name."""
    return kind_of(optimizer_class(name))


def optimizer_options(config):
    """`{key: value}` of the `OPTIONS` that a configuration gives."""
    name = config["optimizer"]
    taken = _taken(name)
    given = {}
    for key in OPTIONS:
        value = config.get(key)
        if value is None or (key == "momentum" and not value):
            continue
        if key not in taken:
            takes = ", ".join(taken) or f"none of {', '.join(OPTIONS)}"
            wanted = 0 if key == "momentum" else None
            wanted = f"{wanted} with optimizer={name!r}"
            raise wrong(key, wanted, value, f"it takes {takes}")
        given[key] = value
    return given


def _taken(name):
    """`{key: default}` of the `OPTIONS` that an optimizer takes."""
    # NGD is compared with plain SGD.
    parameters = inspect.signature(optimizer_class(name)).parameters
    return {
        key: parameters[key].default
        for key in OPTIONS
        if key in parameters and name != "ngd"
    }


def make_optimizer(config, steps_per_epoch):
    """The optimizer of a configuration, for epochs of so many SGD steps."""
    options = optimizer_options(config) | {
        "learning_rate": schedule_of(config, steps_per_epoch),
        "weight_decay": config.weight_decay,
    }
    if is_svag(config.optimizer):
        options |= {"ell": config.ell, "pairing": config.pairing}
    try:
        return optimizer_class(config.optimizer)(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`optimizer` {config.optimizer!r} cannot be made with {options}: "
            f"{error}"
        ) from error


def square_root_scaled(config, kappa):
    """`{key: number}` of an adaptive run at κB, by the square-root rule.

    Where the configuration leaves a number to the optimizer, the optimizer's
    default is the baseline. RMSprop's ε is added within the root, to the
    square of what Adam's is added to: there it is divided by κ, not by √κ
    (derived: √(v + ε) has to shrink as √v does, by √κ). Keras's `weight_decay`
    is decoupled.

    References:
        [M22] Malladi, Lyu, Panigrahi, Arora, "On the SDEs and Scaling Rules
        for Adaptive Gradient Algorithms", 2022, arXiv 2205.10287.
    """
    name = config["optimizer"]
    kind = optimizer_kind(name)
    if kind.rule != "square_root" or not kind.is_derived:
        raise ValueError(
            "`optimizer` must be Adam, AdamW, RMSprop or SVAG's kin of them "
            f"with scale_lr='square_root', got {name!r}; for SGD take "
            "scale_lr='linear'."
        )
    if config.get("momentum"):
        wanted = "0 with scale_lr='square_root'"
        remedy = "the rule has no factor for it"
        raise wrong("momentum", wanted, config["momentum"], remedy)
    baseline = _taken(name) | optimizer_options(config)
    baseline.pop("momentum", None)
    return square_root_scaling_rule(
        config["learning_rate"],
        kappa,
        weight_decay=config.get("weight_decay") or 0.0,
        epsilon_in_root=kind.root == "epsilon inside",
        **baseline,
    )
