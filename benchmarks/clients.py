"""What `GradientNoiseMonitor` adds to the training of users.

    PYTHONPATH=. python benchmarks/clients.py
        [--networks vit transformer lstm …] [--rounds 30]

Networks in the style of Keras's guides, with Adam, through `fit`: plain, and
with the callback, which measures one of the 20 steps of a turn. Batches are in
memory, static and even. A shared machine changes its speed from second to
second, so a measured step is held against the other steps of its turn, and
these against those of a plain turn just before or after. What `every=20` and
`every=100` cost follows from both.
"""

import keras
import numpy as np
from networks import CLIENTS
from side_by_side import (
    StepTimes,
    alternating_rounds,
    make_parser,
    milliseconds,
    print_header,
    print_row,
)

from keras_svag import GradientNoiseMonitor


def timed(network, monitored):
    """A function that trains for a turn.

    It returns the median seconds of an ordinary step, and the seconds of the
    measured one, NaN without the callback.
    """
    batches = network.batches(network.batch_size)
    model, steps = network.compiled("adam"), network.steps
    clock, monitor = StepTimes(), GradientNoiseMonitor(every=steps)
    callbacks = [clock, monitor] if monitored else [clock]

    def turn():
        arguments = {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}
        model.fit(batches, callbacks=callbacks, **arguments)
        seconds = np.diff(clock.times)
        if not monitored:
            return np.median(seconds), np.nan
        place = int(monitor.series["step"][-1] - 1) % steps
        return np.median(np.delete(seconds, place)), seconds[place]

    return turn


def standard_error(values):
    """That of the median, from the middle half of the values."""
    first, third = np.quantile(values, [0.25, 0.75])
    return 1.2533 * (third - first) / 1.349 / len(values) ** 0.5


def main():
    arguments = make_parser(__doc__, 30, CLIENTS).parse_args()
    print_header(
        "training",
        "plain, ms",
        "a step between / plain",
        "a measured step / between",
        "every=20",
        "every=100",
    )
    for name in arguments.networks:
        network = CLIENTS[name]
        turns = alternating_rounds(
            {m: timed(network, m) for m in (False, True)}, arguments.rounds
        )
        plain, _ = np.transpose(turns[False])
        ordinary, measured = np.transpose(turns[True])
        parts = (ordinary / plain, measured / ordinary)
        between, step = map(np.median, parts)
        print_row(
            network.title,
            milliseconds(plain),
            *(f"{np.median(p):.3f} ± {standard_error(p):.3f}" for p in parts),
            *(f"{between * (1 + (step - 1) / n):.3f}" for n in (20, 100)),
        )
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
