"""A run's configuration: its file, what its keys may hold, scaling it down."""

import copy
import inspect
import json
import os
import runpy
import traceback
from functools import partial

from ml_collections import ConfigDict

from configs import base
from experiments.datasets import DATASETS
from experiments.datasets.sampling import SAMPLING_MODES
from experiments.growth import GROWTHS, is_growing
from keras_svag import arguments
from keras_svag.applications import VGG, PreResNet, ResNet, ScaleInvariantMLP
from keras_svag.applications.vgg import CONVOLUTIONS_PER_STAGE


def _scaled_residual_depth(depth, scale):
    blocks_per_stage = (depth - 2) / 6
    return 6 * max(1, round(blocks_per_stage * scale)) + 2


def _scaled_vgg_depth(depth, scale):
    allowed = [d for d in CONVOLUTIONS_PER_STAGE if d <= depth * scale]
    return max(allowed, default=min(CONVOLUTIONS_PER_STAGE))


# `model.name`: (the network, how its depth is scaled down).
NETWORKS = {
    "scale_invariant_mlp": (ScaleInvariantMLP, None),
    "pre_resnet": (PreResNet, _scaled_residual_depth),
    "resnet": (ResNet, _scaled_residual_depth),
    "vgg": (VGG, _scaled_vgg_depth),
}


def _epochs(name, epochs, check=arguments.integer):
    if not isinstance(epochs, (list, tuple)):
        raise TypeError(arguments.refusal(name, "epochs", epochs))
    for epoch in epochs:
        check(name, epoch)


def _milestones(name, epochs):
    _epochs(name, epochs, partial(arguments.number, above=0))
    if list(epochs) != sorted(set(epochs)):
        raise arguments.wrong(name, "increasing epochs", epochs)


_choice, _count = arguments.choice, arguments.integer
_optional_count = partial(_count, optional=True)
_rate = partial(arguments.number, least=0)
_momentum = partial(_rate, below=1)
_optional_beta = partial(_momentum, optional=True)

# What a key may hold, where a run would find out late, or not at all.
_CHECKS = {
    "dataset": partial(_choice, known=DATASETS),
    "num_examples": _optional_count,
    "sampling": partial(_choice, known=SAMPLING_MODES),
    "batch_size": _count,
    "epochs": _count,
    "growth": partial(_choice, known=GROWTHS),
    "max_batch_size": _optional_count,
    "growth_epochs": _epochs,
    "on_heuristic": partial(_choice, known=("stay", "grow")),
    # Keras and NumPy take no other seeds.
    "seed": partial(_count, least=0, most=2**32 - 1),
    "scale": partial(arguments.number, above=0, most=1),
    "model.name": partial(_choice, known=NETWORKS),
    "model.momentum": _momentum,
    "ell": _count,
    "learning_rate": _rate,
    "momentum": _momentum,
    "weight_decay": _rate,
    "beta_1": _optional_beta,
    "beta_2": _optional_beta,
    "rho": _optional_beta,
    "epsilon": partial(_rate, optional=True),
    "milestones": _milestones,
    "warmup_epochs": _rate,
    "micro_batch_size": _count,
    "validate_every": _count,
    "augmentation": arguments.boolean,
    "measure_noise": arguments.boolean,
    "lsr.enabled": arguments.boolean,
    "lsr.per_layer": arguments.boolean,
    "lsr.closeness": partial(arguments.number, above=1),
    "lsr.window": _optional_count,
}


def load_config(path):
    """The locked `ConfigDict` that the `get_config` of a file returns.

    What follows a colon in `path` is given to `get_config`. A `ValueError`
    names the file, and the line in which it fails.
    """
    file, *argument = path.split(":", 1)
    if not os.path.isfile(file):
        raise ValueError(
            "--config must name a configuration file, such as "
            f"configs/digits.py, got {file!r}."
        )
    try:
        config = runpy.run_path(file)["get_config"](*argument)
        if not isinstance(config, ConfigDict):
            raise TypeError(
                "`get_config` must return a ConfigDict of ml_collections, got "
                f"{config!r:.100}"
            )
        check_complete(config)
        json.dumps(config.to_dict())
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        place = f"{file}, line {lines[-1]}" if lines else file
        message = " ".join(str(error).removesuffix(".").split())
        raise ValueError(
            f"{place}: the configuration cannot be made "
            f"({type(error).__name__}: {message:.200}); mend the file."
        ) from error
    return config.lock()


def check_complete(config):
    """Raises a `ValueError` if a key of configs/base.py is missing."""
    values = flat(config)
    for key in (*flat(base.get_config()), "model.name"):
        if key not in values:
            raise ValueError(
                f"The configuration lacks `{key}`; take configs/base.py for "
                "a pattern."
            )


def check_values(config):
    """Refuses a complete configuration with values that no run can have.

    What depends on the data, and what the network, the optimizer and the
    schedule refuse at once, is checked where they are made.
    """
    values = flat(config)
    for key, check in _CHECKS.items():
        if key in values:
            check(key, values[key])
    if is_growing(values):
        _check_growth(values)
    _check_network_options(**config["model"])


def flat(config, prefix=""):
    """A nested configuration as one dict with dots in its keys.

    A section has a key of its own too, after those within.
    """
    values = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            values |= flat(value, f"{prefix}{key}.")
        values[prefix + key] = value
    return values


def _check_growth(values):
    growth, ell, remedy = values["growth"], values["ell"], None
    is_judged = values["measure_noise"] and values["lsr.enabled"]
    if values["optimizer"] == "ngd":
        remedy = "every step of optimizer='ngd' takes all examples"
    elif ell != 1:
        remedy = f"the batch of an SDE with ell={ell} does not grow"
    elif growth == "measured" and not is_judged:
        remedy = "'measured' needs measure_noise and lsr.enabled to be True"
    if remedy:
        raise arguments.wrong("growth", "'none' here", growth, remedy)
    least, largest = values["batch_size"], values["max_batch_size"]
    remedy = f"growth={growth!r} begins at batch_size"
    _count("max_batch_size", largest, least, remedy=remedy)
    epochs = values["growth_epochs"]
    if growth == "always" and not epochs:
        wanted = "epochs after which the batch doubles with growth='always'"
        raise arguments.wrong("growth_epochs", wanted, epochs)


def _check_network_options(name, **options):
    known = set(inspect.signature(NETWORKS[name][0]).parameters)
    known -= {"input_shape", "num_classes", "seed"}
    for option, value in options.items():
        if option not in known and value is not None:
            raise ValueError(
                f"`model.{option}` is no option of {name!r}, got {value!r}; "
                f"its options are {', '.join(sorted(known))}."
            )


def scaled_down(config):
    """A copy of a configuration, scaled by its `scale`, a number in (0, 1].

    Depth, width, epochs and the number of training examples are multiplied by
    it and rounded to what the network and the training allow. Milestones,
    warm-up and averaging window keep their part of the epochs; batch size,
    learning rate and weight decay stay. The copy keeps `scale`, to tell where
    its numbers come from.
    """
    config = copy.deepcopy(config)
    check_complete(config)
    check_values(config)
    scale, epochs = config.scale, config.epochs
    if scale == 1:
        return config
    config.epochs = max(1, round(epochs * scale))
    # Of the epochs that there are, not of `scale`: rounding moves nothing.
    kept = config.epochs / epochs
    config.milestones = tuple(m * kept for m in config.milestones)
    config.growth_epochs = tuple(
        max(1, round(epoch * kept)) for epoch in config.growth_epochs
    )
    config.warmup_epochs *= kept
    if config.lsr.window is not None:
        config.lsr.window = max(1, round(config.lsr.window * kept))
    config.validate_every = min(config.validate_every, config.epochs)
    _scale_network(config.model, scale)
    num_examples = config.num_examples
    if num_examples is None:
        num_examples = DATASETS[config.dataset].num_train_examples
    config.num_examples = max(1, round(num_examples * scale))
    return config


def _scale_network(options, scale):
    network, scaled_depth = NETWORKS[options.name]
    values = {
        name: parameter.default
        for name, parameter in inspect.signature(network).parameters.items()
    }
    values |= {k: v for k, v in options.items() if v is not None}
    if "depth" in options and scaled_depth:
        options.depth = scaled_depth(values["depth"], scale)
    if "base_width" in options and "groups" in values:
        # Group normalization needs a multiple of its groups.
        groups, width = values["groups"], values["base_width"]
        options.base_width = groups * max(1, round(width / groups * scale))
    if "hidden_units" in options:
        options.hidden_units = tuple(
            max(2, round(units * scale)) for units in values["hidden_units"]
        )
