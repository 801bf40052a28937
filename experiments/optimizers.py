"""The optimizers that a configuration names, and what they take."""

import inspect

import keras

from keras_svag.optimizers.adaptive import SVAGAdam, SVAGRMSprop
from keras_svag.optimizers.svag import SVAG
from keras_svag.scaling.optimizers import kind_of
from keras_svag.scaling.rules import square_root_scaling_rule

# For which `ell` and `pairing` are.
SVAG_OPTIMIZERS = {
    "svag": SVAG,
    "svag_adam": SVAGAdam,
    "svag_rmsprop": SVAGRMSprop,
}

# What only some optimizers take: 0 or None leaves it to the optimizer.
OPTIONS = ("momentum", "beta_1", "beta_2", "rho", "epsilon")


def is_svag(name):
    """Whether an optimizer's name is that of SVAG or one of its kin."""
    return name in SVAG_OPTIMIZERS


def optimizer_class(name):
    """The class of the optimizer with a name; "ngd" takes steps of SGD's.

    Raises:
        ValueError: if there is none.
    """
    known = {
        key.lower(): value
        for key, value in vars(keras.optimizers).items()
        if inspect.isclass(value) and value is not keras.optimizers.Optimizer
    }
    known["ngd"] = keras.optimizers.SGD
    found = SVAG_OPTIMIZERS.get(name) or known.get(str(name).lower())
    if found is None:
        ours = ", ".join(map(repr, (*SVAG_OPTIMIZERS, "ngd")))
        raise ValueError(
            f"`optimizer` must be one of {ours} or the name of a Keras "
            f"optimizer, such as 'sgd' or 'adam', got {name!r}."
        )
    return found


def optimizer_kind(name):
    """The `OptimizerKind` of the optimizer with a name."""
    return kind_of(optimizer_class(name))


def optimizer_options(config):
    """`{key: value}` of the `OPTIONS` that a configuration gives.

    Raises:
        ValueError: if the optimizer is unknown or does not take one.
    """
    name = config["optimizer"]
    taken = _taken(name)
    given = {}
    for key in OPTIONS:
        value = config.get(key)
        if value is None or (key == "momentum" and not value):
            continue
        if key not in taken:
            takes = ", ".join(taken) or f"none of {', '.join(OPTIONS)}"
            raise ValueError(
                f"`{key}` must be {0 if key == 'momentum' else None} with "
                f"optimizer={name!r}, got {value!r}; it takes {takes}."
            )
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


def square_root_scaled(config, kappa):
    """What a run of an adaptive optimizer has at κB, by the square-root rule.

    Where the configuration leaves a number to the optimizer, the optimizer's
    default is the baseline. RMSprop's ε is added within the root, to the
    square of what Adam's is added to: there it is divided by κ, not by √κ
    (derived: √(v + ε) has to shrink as √v does, by √κ). Keras's `weight_decay`
    is decoupled.

    Returns:
        A dict from keys of the configuration to numbers: `learning_rate`,
        `weight_decay`, and the betas, `rho` and `epsilon` that the optimizer
        takes.

    Raises:
        ValueError: if a number is out of range, κ (1 - β) is 1 or more, or the
            rule is none for the optimizer.

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
        raise ValueError(
            "`momentum` must be 0 with scale_lr='square_root', got "
            f"{config['momentum']!r}; the rule has no factor for it."
        )
    baseline = _taken(name) | optimizer_options(config)
    baseline.pop("momentum", None)
    return square_root_scaling_rule(
        config["learning_rate"],
        kappa,
        weight_decay=config.get("weight_decay") or 0.0,
        epsilon_in_root=kind.root == "epsilon inside",
        **baseline,
    )
