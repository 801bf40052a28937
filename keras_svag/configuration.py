"""What the keys of a run's configuration may hold."""

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
