"""What measuring and SVAG's step add to plain training, on any backend.

    KERAS_BACKEND=jax PYTHONPATH=. python benchmarks/backends.py [--rounds 10]

Networks with SGD, through `fit`, in turns of 40 batches: plain; with the
callback, which measures two of the 40 steps; and in an `SVAGModel` with
ell = 4, whose two sub-batches are those of plain training at the same number
of examples. Needs no TensorFlow on JAX and PyTorch.
"""

import time

import keras
from networks import CLIENTS
from side_by_side import (
    alternating_rounds,
    make_parser,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
)

from keras_svag import SVAG, GradientNoiseMonitor, SVAGModel

STEPS = 40


def timed(network, contender):
    """A function that trains for a turn and returns the seconds of a step."""
    x, y = network.batch(STEPS * network.batch_size)
    callbacks = []
    if contender == "SVAG":
        model = network.compiled(SVAG(0.01, ell=4), SVAGModel)
    else:
        model = network.compiled(keras.optimizers.SGD(0.01))
    if contender == "every=20":
        callbacks = [GradientNoiseMonitor(every=20)]

    def turn():
        begun = time.perf_counter()
        model.fit(x, y, network.batch_size, verbose=0, callbacks=callbacks)
        return (time.perf_counter() - begun) / STEPS

    return turn


def main():
    networks = ("perceptron", "cnn", "transformer")
    arguments = make_parser(__doc__, 10, networks).parse_args()
    print_header(
        keras.backend.backend(),
        "plain, ms a step",
        "every=20",
        "range",
        "SVAG",
        "range",
    )
    for name in arguments.networks:
        network = CLIENTS[name]
        turns = alternating_rounds(
            {c: timed(network, c) for c in ("plain", "every=20", "SVAG")},
            arguments.rounds,
        )
        plain = turns.pop("plain")
        cells = (ratio_cells(seconds, plain) for seconds in turns.values())
        print_row(network.title, milliseconds(plain), *cells)


if __name__ == "__main__":
    main()
