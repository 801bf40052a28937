"""A step of SVAG, observed or not, against a step of plain Keras SGD.

    PYTHONPATH=. python benchmarks/training_step.py
        [--networks bn gn wide digits] [--policies float32 mixed_bfloat16]

All run through `fit`, on the same 2B examples and the same network. SVAG has
a pair of batches of size B in a batch of 2B; SGD takes the batch whole.
Observed is SVAG with a `GradientNoiseMonitor`, which takes the pair of every
step.
"""

import warnings

import keras
from networks import PAPERS
from side_by_side import (
    alternating_rounds,
    make_parser,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
    turn,
)

from keras_svag import SVAG, GradientNoiseMonitor, SVAGModel


def contenders(network):
    """`{name: function}` that give the seconds of a step."""
    batches = network.batches(2 * network.batch_size)
    sgd = network.compiled(keras.optimizers.SGD(0.1))
    svag, observed = (
        network.compiled(SVAG(0.1, ell=4), SVAGModel) for _ in range(2)
    )
    return {
        "sgd": turn(sgd, batches, network.steps),
        "svag": turn(svag, batches, network.steps),
        "observed": turn(
            observed, batches, network.steps, [GradientNoiseMonitor()]
        ),
    }


def main():
    parser = make_parser(__doc__, networks=PAPERS)
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
        for name in arguments.networks:
            network = PAPERS[name]
            seconds = alternating_rounds(contenders(network), arguments.rounds)
            print_row(
                f"{network.title}, {policy}",
                milliseconds(seconds["sgd"]),
                ratio_cells(seconds["svag"], seconds["sgd"]),
                ratio_cells(seconds["observed"], seconds["sgd"]),
            )
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
