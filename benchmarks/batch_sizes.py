"""A step on batches whose shape does not say their size, against static ones.

    PYTHONPATH=. python benchmarks/batch_sizes.py [--workloads mlp small]
        [--rounds 60]

The same even rows, as `tf.data` batches them with and without
`drop_remainder`, through `fit` with SGD: by plain Keras, and by an `SVAGModel`
with its noise metrics, which follows the size of the batches where no shape
says it. Turns are short and many, for a busy machine: of each comparison the
ratio of the fastest turns by the clock on the wall, the same by the seconds of
the processor over all threads, and the median of the ratios of the rounds by
the latter, with their middle half.
"""

import dataclasses
import time
import warnings

import keras
import numpy as np
import tensorflow as tf
from side_by_side import alternating_rounds, print_header, print_row, ratios
from workloads import (
    PRE_RESNET_8,
    WORKLOADS,
    EpochSeconds,
    cross_entropy,
    make_parser,
    seconds_per_step,
)

import keras_svag

NETWORKS = {
    "mlp": dataclasses.replace(WORKLOADS["mlp"], steps=100),
    "small": PRE_RESNET_8,
}
WRAPPERS = {"plain": lambda model: model, "wrapped": keras_svag.SVAGModel}
STATIC, UNKNOWN = "static", "unknown"
COMPARISONS = {
    "plain, unknown / static": (("plain", UNKNOWN), ("plain", STATIC)),
    "wrapped, unknown / static": (("wrapped", UNKNOWN), ("wrapped", STATIC)),
    "static, wrapped / plain": (("wrapped", STATIC), ("plain", STATIC)),
    "unknown, wrapped / plain": (("wrapped", UNKNOWN), ("plain", UNKNOWN)),
}


def batches(workload, size):
    """The same batch for ever, with or without its size in its shape."""
    rows = 2 * workload.batch_size
    x, y = next(iter(workload.batches(rows)))
    data = tf.data.Dataset.from_tensor_slices((x, y))
    return data.batch(rows, drop_remainder=size == STATIC).cache().repeat()


def contenders(workload):
    """`{(wrapper, size): function}`: a step's seconds by the two clocks."""

    def timed(wrapper, size):
        model = WRAPPERS[wrapper](workload.make())
        model.compile("sgd", loss=cross_entropy(), metrics=["accuracy"])
        data = batches(workload, size)

        def turn():
            processor = EpochSeconds(time.process_time)
            wall = seconds_per_step(model, data, workload.steps, [processor])
            return wall, processor.seconds / workload.steps

        return turn

    return {
        (wrapper, size): timed(wrapper, size)
        for wrapper in WRAPPERS
        for size in (STATIC, UNKNOWN)
    }


def fastest(first, second):
    """The ratio of the fastest turns, and their steps in milliseconds."""
    first, second = 1000 * min(first), 1000 * min(second)
    return f"{first / second:.3f} ({first:.2f} / {second:.2f})"


def main():
    parser = make_parser(__doc__, tuple(NETWORKS), NETWORKS)
    parser.set_defaults(rounds=60)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print_header(
        "network, training",
        "wall, fastest turns (ms)",
        "processor, fastest turns (ms)",
        "processor, median",
        "middle half",
    )
    for name in arguments.workloads:
        workload = NETWORKS[name]
        measured = alternating_rounds(contenders(workload), arguments.rounds)
        wall, processor = (
            {key: [turn[clock] for turn in measured[key]] for key in measured}
            for clock in (0, 1)
        )
        for title, (one, other) in COMPARISONS.items():
            low, median, high = np.quantile(
                ratios(processor[one], processor[other]), (0.25, 0.5, 0.75)
            )
            print_row(
                f"{workload.title}, {title}",
                fastest(wall[one], wall[other]),
                fastest(processor[one], processor[other]),
                f"{median:.3f}",
                f"{low:.3f} to {high:.3f}",
            )
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
