"""Trainings on the JAX devices of this process, and their programs.

`python -m tests.helpers.parallel_devices results.json folder`, with `XLA_FLAGS`
by which XLA writes its programs into the folder, has for each training its
weights, the noise, and `{program: [[instructions, sizes of the arrays that the
devices exchange], …]}`.
"""

import collections
import json
import math
import pathlib
import re
import sys

import jax
import keras
import numpy as np

from keras_svag import SVAG, GradientNoiseMonitor
from tests.helpers.backend_cases import (
    built,
    compiled_for,
    convolutions,
    numbers,
)

COLLECTIVE = re.compile(
    r" = (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute"
    r"|reduce-scatter)(?:-start)?\("
)
ENDING = ".cpu_after_optimizations.txt"


def sizes_exchanged(program):
    shapes = ",".join(match[1] for match in COLLECTIVE.finditer(program))
    return sorted(
        math.prod(map(int, filter(None, lengths.split(","))))
        for lengths in re.findall(r"\w\[([\d,]*)\]", shapes)
    )


def instructions(program):
    """The lines that compute, without their places in the code."""
    lines = re.sub(r", metadata={.*?}", "", program).splitlines()
    return [line for line in lines if " = " in line]


def trained(wraps=False, every=None, optimizer=None):
    """The weights and the noise, as lists."""
    model = compiled_for(wraps, built(convolutions)[0])
    if optimizer is not None:
        model.compile(optimizer, "mse")
    monitors = [GradientNoiseMonitor(every)] if every else []
    x, y = numbers(160, 8, 8, 3), numbers(160, 3, seed=1)
    settings = {"batch_size": 16, "shuffle": False, "verbose": 0}
    model.fit(x, y, callbacks=monitors, **settings)
    found = {"weights": np.concatenate([*map(np.ravel, model.get_weights())])}
    for monitor in monitors:
        for column in ("grad_sq_norm", "example_noise", "rows"):
            found[column] = monitor.series[column]
    return {key: values.tolist() for key, values in found.items()}


def main(results, folder):
    if jax.device_count() > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    found, known = {}, set()
    for name, training in {
        "SGD": {},
        "SGD measured": {"every": 1},
        "SVAG": {"optimizer": SVAG(0.1, ell=2)},
        "SVAGModel": {"wraps": True},
        "SVAGModel measured": {"wraps": True, "every": 1},
    }.items():
        numbers_found = trained(**training)
        programs = collections.defaultdict(list)
        for path in sorted(set(folder.glob("*" + ENDING)) - known):
            known.add(path)
            text = path.read_text()
            program = path.name.removesuffix(ENDING).split(".")[-1]
            programs[program] += [(instructions(text), sizes_exchanged(text))]
        found[name] = {"numbers": numbers_found, "programs": programs}
    found["devices"] = jax.device_count()
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
