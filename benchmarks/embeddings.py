"""What a large embedding costs: its gradients are sparse, and stay so.

    python benchmarks/embeddings.py [--rows 1000000] [--rounds 5] [--memory]

The mean of 20 vectors of 32 numbers, looked up in a table, and a dense layer;
batches of 256 of the same examples, through `fit`, by SGD and by SVAG.
benchmarks/clients.py measures beside training with such a table.

With `--memory`, megabytes in place of milliseconds: the highest resident set of
a process of its own for each training of two steps, minus the resident set
before the first step, as benchmarks/memory.py has it with its blocks freed at
once.
"""

import argparse
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from memory import megabytes_printed, print_added
from side_by_side import (
    alternating_rounds,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
)
from workloads import seconds_per_step

import keras_svag

WORDS, WIDTH, BATCH_SIZE, STEPS = 20, 32, 256, 20


def svag():
    # Of ell = 1 it would ignore every second batch.
    return keras_svag.SVAG(0.01, ell=4)


# Each with its reference.
TRAININGS = {
    "SGD": ("sgd", False, "SGD"),
    "SVAG, in an SVAGModel": (svag, True, "SGD"),
    "SVAG, plain model": (svag, False, "SGD"),
}


def compiled(training, rows):
    """The model of a training, with its table of so many rows."""
    optimizer, wrapped, _ = TRAININGS[training]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((WORDS,), dtype="int32"),
            layers.Embedding(rows, WIDTH),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )
    if wrapped:
        model = keras_svag.SVAGModel(model)
    model.compile(optimizer() if callable(optimizer) else optimizer, "mse")
    return model


def endless_batches(rows):
    rng = np.random.default_rng(0)
    x = rng.integers(0, rows, (BATCH_SIZE, WORDS), "int32")
    y = rng.normal(size=(BATCH_SIZE, 1)).astype("float32")
    return tf.data.Dataset.from_tensors((x, y)).repeat()


def steps_timed(rows):
    """`{training: function}` that give the seconds of a step."""
    batches = endless_batches(rows)

    def timed(model):
        return lambda: seconds_per_step(model, batches, STEPS)

    return {name: timed(compiled(name, rows)) for name in TRAININGS}


def print_memory_of_training(name, rows):
    """Trains in this process and prints what it added, in MB."""
    model, batches = compiled(name, rows), endless_batches(rows)
    print_added(model, batches)


def trainings_weighed(rows):
    """`{training: function}` that give the megabytes of a training."""

    def megabytes(name):
        return megabytes_printed(__file__, name, "--rows", str(rows))

    return {name: lambda n=name: megabytes(n) for name in TRAININGS}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print_memory_of_training(arguments.train, arguments.rows)
        return
    trainings = trainings_weighed if arguments.memory else steps_timed
    measured = alternating_rounds(
        trainings(arguments.rows),
        arguments.rounds,
        warm_up=not arguments.memory,
    )
    unit = "MB" if arguments.memory else "ms"
    print_header("training", unit, "to its reference", "range")
    for name, values in measured.items():
        print_row(
            name,
            f"{statistics.median(values):.0f}"
            if arguments.memory
            else milliseconds(values),
            ratio_cells(values, measured[TRAININGS[name][2]]),
        )


if __name__ == "__main__":
    main()
