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

    Its folder is named after the swept values, `ell=4,seed=0`. The overrides
    are `{key: value}`, those that follow from the swept ones included, and the
    configuration has them.
    """

    name: str
    overrides: dict
    config: ConfigDict

    @property
    def arguments(self):
        """The overrides as flags of a command line."""
        return [f"--config.{key}={v}" for key, v in self.overrides.items()]


def swept_runs(specifications, config):
    """The `SweptRun`s of a sweep; the last key changes fastest.

    A specification is `key=value,value,…`; a key may have dots, and a comma
    within brackets does not separate values. The configuration is not changed.

    With `scale_lr="linear"` in the configuration, a swept `batch_size`
    multiplies the learning rate, by what the batch size is relative to the
    configuration's own ([G17]). With `scale_lr="square_root"` it scales all
    that `square_root_scaled` does, for Adam and RMSprop ([M22]); numbers that
    are swept beside it are those of the configuration's own batch size.

    Raises:
        ValueError: if a specification is not such a one, has a key or a value
            twice, or one that the configuration does not take; or if the rule
            cannot scale a run.

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
        swept[key] = values.items()
    runs = []
    for combination in itertools.product(*swept.values()):
        texts, values = zip(*combination, strict=True)
        names = map("=".join, zip(swept, texts, strict=True))
        name = ",".join(names).replace("/", "_").replace(" ", "")
        overrides = dict(zip(swept, values, strict=True))
        own = copy.deepcopy(config)
        own.update_from_flattened_dict(overrides)
        if "batch_size" in overrides:
            scaled = _scaled(own, own.batch_size / config.batch_size)
            overrides |= scaled
            own.update(scaled)
        runs.append(SweptRun(name, overrides, own))
    return runs


def _scaled(config, kappa):
    """What the configuration's rule changes with a factor on the batch size."""
    if config.scale_lr == "linear":
        return {"learning_rate": kappa * config.learning_rate}
    if config.scale_lr == "none":
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
    known = flat(config)
    keys = [k for k, v in known.items() if not isinstance(v, ConfigDict)]
    if key not in keys:
        raise ValueError(
            f"--sweep names {key!r}, which is no key of the configuration; its "
            f"keys are {', '.join(sorted(keys))}."
        )
    section, _, last = key.rpartition(".")
    kind = known.get(section, config).get_type(last)
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
