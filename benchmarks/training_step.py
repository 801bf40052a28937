"""A step of SVAG, observed or not, against a step of plain Keras SGD.

    python benchmarks/training_step.py [--workloads bn gn wide mlp]
        [--policies float32 mixed_bfloat16] [--rounds 5]

All run through `fit`, on the same 2B examples and the same network. One pass
is SVAG on halves of one batch of 2B; SGD takes the batch whole. Observed is
SVAG with a `GradientNoiseMonitor`, which takes the pair of every step.
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
    batches = workload.batches(2 * workload.batch_size)

    def timed(model, *callbacks):
        return lambda: seconds_per_step(
            model, batches, workload.steps, callbacks
        )

    def svag():
        model = keras_svag.SVAGModel(workload.make())
        model.compile(optimizer=keras_svag.SVAG(0.1, ell=4), **options)
        return model

    return {
        "sgd": timed(sgd),
        "svag": timed(svag()),
        "observed": timed(svag(), keras_svag.GradientNoiseMonitor()),
    }


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--policies", nargs="+", default=["float32"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print_header(
        "network",
        "SGD, ms",
        "SVAG / SGD | range",
        "observed / SGD | range",
    )
    for policy in arguments.policies:
        keras.config.set_dtype_policy(policy)
        for name in arguments.workloads:
            workload = WORKLOADS[name]
            seconds = alternating_rounds(contenders(workload), arguments.rounds)
            print_row(
                f"{workload.title}, {policy}",
                milliseconds(seconds["sgd"]),
                ratio_cells(seconds["svag"], seconds["sgd"]),
                ratio_cells(seconds["observed"], seconds["sgd"]),
            )
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
