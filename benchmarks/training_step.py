"""A step of SVAG with its noise metrics, against a step of plain Keras SGD.

    python benchmarks/training_step.py [--workloads bn gn wide mlp]
        [--policies float32 mixed_bfloat16] [--rounds 5]

Both run through `fit`, on the same 2B examples and the same network. One pass
is SVAG on halves of one batch of 2B; SGD takes the batch whole.
"""

import warnings

import keras
from side_by_side import (
    alternating_rounds,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
)
from workloads import WORKLOADS, cross_entropy, make_parser, seconds_per_step

import keras_svag


def contenders(workload):
    """`{name: function}` that give the seconds of a step."""
    options = {"loss": cross_entropy(), "metrics": ["accuracy"]}
    sgd = workload.make()
    sgd.compile(optimizer=keras.optimizers.SGD(0.1), **options)
    svag = keras_svag.SVAGModel(workload.make())
    svag.compile(optimizer=keras_svag.SVAG(0.1, ell=4), **options)
    batches = workload.batches(2 * workload.batch_size)

    def timed(model):
        return lambda: seconds_per_step(model, batches, workload.steps)

    return {"sgd": timed(sgd), "svag": timed(svag)}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--policies", nargs="+", default=["float32"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print_header("network", "SGD, ms", "SVAG, ms", "SVAG / SGD", "range")
    for policy in arguments.policies:
        keras.config.set_dtype_policy(policy)
        for name in arguments.workloads:
            workload = WORKLOADS[name]
            seconds = alternating_rounds(contenders(workload), arguments.rounds)
            print_row(
                f"{workload.title}, {policy}",
                milliseconds(seconds["sgd"]),
                milliseconds(seconds["svag"]),
                ratio_cells(seconds["svag"], seconds["sgd"]),
            )
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
