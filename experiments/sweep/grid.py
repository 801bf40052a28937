"""What a sweep runs: the product of some values of a configuration's keys."""

import ast
import contextlib
import copy
import dataclasses
import itertools
import re

from ml_collections import ConfigDict

from experiments.config import flat
from experiments.optimizers import square_root_scaled
from keras_svag import arguments

SCALE_LR = ("none", "linear", "square_root")


@dataclasses.dataclass(frozen=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
        name: its folder, made of the swept values: `ell=4,seed=0`.
        overrides: dict from keys of the configuration to values, those that
            follow from the swept ones included.
        config: the configuration with `overrides`.
    """

    name: str
    overrides: dict
    config: object

    @property
    def arguments(self):
        """The overrides as flags of a command line."""
        return [f"--config.{key}={v}" for key, v in self.overrides.items()]


def swept_runs(specifications, config):
    """The runs of a sweep, in the order in which the last key changes fastest.

    With `scale_lr="linear"` in the configuration, a swept `batch_size`
    multiplies the learning rate, by what the batch size is relative to the
    configuration's own ([G17]). With `scale_lr="square_root"` it scales all
    that `square_root_scaled` does, for Adam and RMSprop ([M22]); numbers that
    are swept beside it are those of the configuration's own batch size.

    Args:
        specifications: strings `key=value,value,…`; a key may have dots; a
            comma within brackets does not separate values.
        config: a `ConfigDict`, which is not changed.

    Returns:
        A list of `SweptRun`s.

    Raises:
        ValueError: if a specification has no key or no values, a key twice or
            one that `config` lacks, or a value that is repeated or of
            another type than the key's; or if the rule cannot scale a run.

    References:
        [G17] Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv
        1706.02677.
        [M22] Malladi, Lyu, Panigrahi, Arora, "On the SDEs and Scaling Rules
        for Adaptive Gradient Algorithms", 2022, arXiv 2205.10287.
    """
    arguments.choice("scale_lr", config.scale_lr, SCALE_LR)
    swept = {}
    for specification in specifications:
        key, values = _parsed(specification, config)
        if key in swept:
            raise ValueError(
                f"--sweep has {key!r} twice; give all its values in one."
            )
        swept[key] = values
    return [
        _swept_run(dict(zip(swept, texts, strict=True)), swept, config)
        for texts in itertools.product(*swept.values())
    ]


def _swept_run(texts, swept, config):
    name = ",".join(f"{key}={text}" for key, text in texts.items())
    overrides = {key: swept[key][text] for key, text in texts.items()}
    own = copy.deepcopy(config)
    own.update_from_flattened_dict(overrides)
    if "batch_size" in overrides:
        scaled = _scaled(own, own.batch_size / config.batch_size)
        overrides |= scaled
        own.update(scaled)
    return SweptRun(name.replace("/", "_").replace(" ", ""), overrides, own)


def _scaled(config, kappa):
    """What the configuration's rule changes with a factor on the batch size."""
    if config.scale_lr == "linear":
        return {"learning_rate": kappa * config.learning_rate}
    if config.scale_lr != "square_root":
        return {}
    try:
        return square_root_scaled(config, kappa)
    except ValueError as error:
        raise ValueError(
            f"--sweep batch_size={config.batch_size}: {error}"
        ) from error


def _parsed(specification, config):
    """The key of a specification, and `{text: value}` of what it takes."""
    key, equals, values = specification.partition("=")
    key = key.strip()
    if not key or not equals:
        raise ValueError(
            "--sweep must be key=value,value,…, such as ell=1,2,4, got "
            f"{specification!r}."
        )
    kind = _kind(key, config)
    # At the commas that stand in no brackets.
    texts = [t.strip() for t in re.split(r",(?![^([]*[)\]])", values)]
    if not any(texts):
        raise ValueError(
            f"--sweep {key}= has no values; list some, such as {key}=1,2,4."
        )
    parsed = {}
    for text in texts:
        value = _value(key, text, kind)
        if value in parsed.values():
            raise ValueError(f"--sweep has {key}={text} twice; give it once.")
        parsed[text] = value
    return key, parsed


def _kind(key, config):
    """The type of the values of a key."""
    known = flat(config)
    if key not in known:
        keys = [k for k, v in known.items() if not isinstance(v, ConfigDict)]
        raise ValueError(
            f"--sweep names {key!r}, which the configuration lacks; its keys "
            f"are {', '.join(sorted(keys))}."
        )
    if isinstance(known[key], ConfigDict):
        within = min(k for k in known if k.startswith(f"{key}."))
        raise ValueError(
            f"--sweep names {key!r}, which is a section of the configuration; "
            f"name a key of it, such as {within}."
        )
    section, _, last = key.rpartition(".")
    return (known[section] if section else config).get_type(last)


def _value(key, text, kind):
    value = text
    if kind is not str:
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(text.title() if kind is bool else text)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or value == "":
        raise ValueError(
            f"--sweep {key} takes values of type {kind.__name__}, got {text!r}."
        )
    return value
