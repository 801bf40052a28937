"""What a probe costs: a batch of it against a training step on that batch.

    python benchmarks/probe_cost.py [--workloads bn gn wide mlp] [--rounds 5]

Both run in the program that Keras makes of them: SGD in `fit`, and the batches
of `measure_gradient_noise`, at the same batch size and without the time of the
first batch, which is that of tracing. A probe of 100 batches, the default,
takes as long as so many steps, and traces once.
"""

import statistics
import time
import warnings

import keras
import numpy as np
from side_by_side import (
    alternating_rounds,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
)
from workloads import WORKLOADS, cross_entropy, make_parser, seconds_per_step

import keras_svag

PROBED = 100


def seconds_of_probe(model, batches, count):
    """`(first, others)`: the seconds of the first batch and of each other."""
    ends = []

    def timed():
        for batch in batches.take(count):
            ends.append(time.perf_counter())
            yield batch

    start = time.perf_counter()
    keras_svag.measure_gradient_noise(
        model, timed(), num_batches=count, verbose=0
    )
    ends.append(time.perf_counter())
    return ends[1] - start, np.mean(np.diff(ends[1:]))


def main():
    arguments = make_parser(__doc__).parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in arguments.workloads:
        workload = WORKLOADS[name]
        model = workload.make()
        model.compile(keras.optimizers.SGD(0.0), loss=cross_entropy())
        batches = workload.batches(workload.batch_size)
        firsts = []

        def probed(m=model, b=batches, w=workload, firsts=firsts):
            first, other = seconds_of_probe(m, b, w.steps + 1)
            firsts.append(first)
            return other

        seconds = alternating_rounds(
            {
                "step": lambda m=model, b=batches, w=workload: seconds_per_step(
                    m, b, w.steps
                ),
                "probe": probed,
            },
            arguments.rounds,
        )
        whole = statistics.median(firsts) + (PROBED - 1) * statistics.median(
            seconds["probe"]
        )
        rows.append(
            (
                workload.title,
                milliseconds(seconds["step"]),
                milliseconds(seconds["probe"]),
                ratio_cells(seconds["probe"], seconds["step"]),
                f"{statistics.median(firsts):.1f}",
                f"{whole:.1f}",
            )
        )
        keras.backend.clear_session()
    print_header(
        "network",
        "step, ms",
        "batch of a probe, ms",
        "ratio | range",
        "first batch, s",
        f"probe of {PROBED}, s",
    )
    for row in rows:
        print_row(*row)


if __name__ == "__main__":
    main()
