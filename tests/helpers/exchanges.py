"""What the programs of trainings exchange between the devices of JAX.

`python -m tests.helpers.exchanges programs results.json`, with `XLA_FLAGS` by
which XLA writes its programs into the folder `programs`, has for each training
`{program: [[instructions, sizes of the arrays exchanged], …]}`.
"""

import collections
import json
import math
import pathlib
import re
import sys

import keras

import keras_svag
from tests.helpers.backend_cases import built, convolutions, numbers

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


def train(optimizer, wraps=False, every=None):
    model, *_ = built(convolutions)
    if wraps:
        model = keras_svag.SVAGModel(model)
    model.compile(optimizer, "mse")
    monitors = [keras_svag.GradientNoiseMonitor(every)] if every else []
    x, y = numbers(160, 8, 8, 3), numbers(160, 3, seed=1)
    model.fit(x, y, batch_size=16, verbose=0, callbacks=monitors)


def main(folder, results):
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    trainings = {
        "SGD": lambda: train("sgd"),
        "SGD measured": lambda: train("sgd", every=4),
        "SVAG": lambda: train(keras_svag.SVAG(ell=2)),
        "SVAGModel": lambda: train(keras_svag.SVAG(ell=2), True),
        "SVAGModel measured": lambda: train(keras_svag.SVAG(ell=2), True, 1),
    }
    found, known = {}, set()
    for name, training in trainings.items():
        training()
        programs = collections.defaultdict(list)
        for path in sorted(set(folder.glob("*" + ENDING)) - known):
            known.add(path)
            text = path.read_text()
            program = path.name.removesuffix(ENDING).split(".")[-1]
            programs[program].append(
                [instructions(text), sizes_exchanged(text)]
            )
        found[name] = programs
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
