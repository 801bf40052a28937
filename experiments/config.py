"""A run's configuration: what its keys may hold, and scaling it down."""

import copy

from keras_svag.arguments import (
    checked_boolean,
    checked_closeness,
    checked_integer,
    checked_kappas,
    checked_milestones,
    checked_nonnegative,
    checked_positive,
    is_number,
)

_SECTIONS = ("model", "lsr")
_INTEGERS = (
    "batch_size",
    "epochs",
    "ell",
    "micro_batch_size",
    "validate_every",
)
_BOOLEANS = ("augmentation", "measure_noise", "lsr.enabled", "lsr.per_layer")
_NAMES = (
    "dataset",
    "sampling",
    "optimizer",
    "pairing",
    "schedule",
    "scale_lr",
    "model.name",
)
REQUIRED = (
    "dataset",
    "augmentation",
    "sampling",
    "batch_size",
    "epochs",
    "seed",
    "model",
    "model.name",
    "optimizer",
    "ell",
    "pairing",
    "learning_rate",
    "momentum",
    "weight_decay",
    "schedule",
    "milestones",
    "decay_factor",
    "measure_noise",
    "validate_every",
    "lsr",
    "lsr.enabled",
    "lsr.closeness",
    "lsr.kappas",
    "lsr.window",
    "lsr.per_layer",
)

# Keras and NumPy take no other seeds.
_LARGEST_SEED = 2**32 - 1


def check_complete(config):
    """Refuses a configuration in which a key is missing.

    Args:
        config: a `ConfigDict`, or nested dicts.

    Raises:
        ValueError: if one is.
    """
    values = _flat(config)
    for key in REQUIRED:
        if key not in values:
            raise ValueError(
                f"The configuration lacks `{key}`; take configs/digits.py for "
                "a pattern."
            )


def check_values(config):
    """Refuses keys that hold what no run can have; they may be missing.

    Networks and schedules, and what depends on the data, are checked where
    they are made.

    Args:
        config: a `ConfigDict`, or nested dicts.

    Raises:
        ValueError: if a value is of another type or out of range.
    """
    values = _flat(config)
    for check, keys in (
        (checked_integer, _INTEGERS),
        (_optional_integer, ("num_examples", "lsr.window")),
        (checked_boolean, _BOOLEANS),
        (_checked_name, _NAMES),
        (checked_nonnegative, ("learning_rate", "weight_decay")),
        (checked_nonnegative, ("warmup_epochs",)),
        (checked_positive, ("decay_factor", "warmup_factor")),
        (_checked_momentum, ("momentum", "model.momentum")),
        (_checked_seed, ("seed",)),
        (_checked_milestones, ("milestones",)),
        (_checked_closeness, ("lsr.closeness",)),
        (_checked_kappas, ("lsr.kappas",)),
    ):
        for key in keys:
            if key in values:
                check(key, values[key])


def _flat(config):
    values = {}
    for key, value in config.items():
        values[key] = value
        if key not in _SECTIONS:
            continue
        if not hasattr(value, "items"):
            raise ValueError(
                f"`{key}` must be a section of the configuration, got "
                f"{value!r}."
            )
        values |= {f"{key}.{name}": option for name, option in value.items()}
    return values


def _checked_closeness(key, value):
    checked_closeness(value)


def _checked_kappas(key, value):
    checked_kappas(value)


def _checked_milestones(key, value):
    checked_milestones(value)


def _optional_integer(key, value):
    checked_integer(key, value, optional=True)


def _checked_name(key, value):
    if not isinstance(value, str):
        raise ValueError(f"`{key}` must be a name, got {value!r}.")


def _checked_momentum(key, value):
    if not (is_number(value) and 0 <= value < 1):
        raise ValueError(f"`{key}` must be a number in [0, 1), got {value!r}.")


def _checked_seed(key, value):
    if checked_integer(key, value, smallest=0) > _LARGEST_SEED:
        raise ValueError(
            f"`{key}` must be an integer of at most {_LARGEST_SEED}, got "
            f"{value!r}."
        )


# What [L21] and the digits train on; `num_examples` of None means all.
TRAINING_SET_SIZES = {
    "digits": 1_437,
    "mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "svhn_cropped": 73_257,
}
_VGG_DEPTHS = (11, 13, 16, 19)

# Of the networks' own defaults; `base_width` of None means these.
_BASE_WIDTHS = {"pre_resnet": 16, "resnet": 16, "vgg": 64}


def scaled_down(config):
    """Scales a configuration by its key `scale`, a number in (0, 1].

    Depth, width, epochs and the number of training examples are multiplied by
    it and rounded to what the network and the training allow. Milestones,
    warm-up and averaging window keep their part of the epochs; batch size,
    learning rate and weight decay stay. Scaled are the numbers that stand in
    the configuration, overrides included.

    Args:
        config: a configuration, a `ConfigDict` or a nested dict. It is not
            changed. Without `scale` it counts as 1.

    Returns:
        A copy of `config`, scaled. It keeps `scale`, to tell where its
        numbers come from.

    Raises:
        TypeError: if `scale` is no number.
        ValueError: if it is not in (0, 1], or another key holds what no run
            can have.
    """
    config = copy.deepcopy(config)
    scale = config.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"`scale` must be a number, got {scale!r}.")
    if not 0 < scale <= 1:
        raise ValueError(
            "`scale` must be above 0 and at most 1, which is the paper's "
            f"size, got {scale!r}."
        )
    check_values(config)
    if scale == 1:
        return config
    check_complete(config)
    _scale_epochs(config, scale)
    _scale_network(config["model"], scale)
    num_examples = config.get("num_examples")
    if num_examples is None:
        num_examples = TRAINING_SET_SIZES.get(config["dataset"])
    if num_examples is not None:
        config["num_examples"] = max(1, round(num_examples * scale))
    return config


def _scale_epochs(config, scale):
    epochs = config["epochs"]
    config["epochs"] = max(1, round(epochs * scale))
    # Of the epochs that there are, not of `scale`: rounding moves nothing.
    kept = config["epochs"] / epochs
    config["milestones"] = tuple(m * kept for m in config["milestones"])
    if config.get("warmup_epochs"):
        config["warmup_epochs"] *= kept
    window = config.get("lsr", {}).get("window")
    if window is not None:
        config["lsr"]["window"] = max(1, round(window * kept))
    if config.get("validate_every"):
        config["validate_every"] = min(
            config["validate_every"], config["epochs"]
        )


def _scale_network(network, scale):
    if "depth" in network:
        network["depth"] = _scaled_depth(
            network["name"], network["depth"], scale
        )
    width = network.get("base_width") or _BASE_WIDTHS.get(network["name"])
    if width and "base_width" in network:
        # Group normalization needs a multiple of its groups, 8 by default.
        groups = network.get("groups", 8)
        network["base_width"] = groups * max(1, round(width / groups * scale))
    if "hidden_units" in network:
        network["hidden_units"] = tuple(
            max(2, round(units * scale)) for units in network["hidden_units"]
        )


def _scaled_depth(name, depth, scale):
    if name == "vgg":
        allowed = [d for d in _VGG_DEPTHS if d <= depth * scale]
        return max(allowed, default=min(_VGG_DEPTHS))
    blocks_per_stage = (depth - 2) / 6
    return 6 * max(1, round(blocks_per_stage * scale)) + 2
