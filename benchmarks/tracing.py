"""Time to the first step: tracing, with and without SVAGModel.

    python benchmarks/tracing.py [--workloads bn gn mlp] [--rounds 5]

From a compiled model to the end of its first training step, through `fit`,
minus a step that is traced already. Both take the same 2B examples.
"""

import time
import warnings

import keras
from side_by_side import (
    alternating_rounds,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
)
from workloads import WORKLOADS, cross_entropy, make_parser

import keras_svag
from keras_svag.backend import normalization


def seconds_of_tracing(workload, optimizer, wrap=lambda model: model):
    """Seconds of the first call of `fit`, minus those of the second."""
    model = wrap(workload.make())
    model.compile(optimizer(), loss=cross_entropy(), metrics=["accuracy"])
    batches = workload.batches(2 * workload.batch_size)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        model.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0)
        seconds.append(time.perf_counter() - start)
    keras.backend.clear_session()
    # What the next model needs is compiled anew, as in a new process.
    normalization._group_kernels.cache_clear()
    return seconds[0] - seconds[1]


def main():
    arguments = make_parser(__doc__, ("bn", "gn", "mlp")).parse_args()
    warnings.simplefilter("ignore")
    print_header("network", "SGD, ms", "SVAG, ms", "SVAG / SGD", "range")
    for name in arguments.workloads:
        workload = WORKLOADS[name]
        seconds = alternating_rounds(
            {
                "sgd": lambda w=workload: seconds_of_tracing(
                    w, keras.optimizers.SGD
                ),
                "svag": lambda w=workload: seconds_of_tracing(
                    w,
                    lambda: keras_svag.SVAG(0.1, ell=4),
                    keras_svag.SVAGModel,
                ),
            },
            arguments.rounds,
        )
        print_row(
            workload.title,
            milliseconds(seconds["sgd"]),
            milliseconds(seconds["svag"]),
            ratio_cells(seconds["svag"], seconds["sgd"]),
        )


if __name__ == "__main__":
    main()
