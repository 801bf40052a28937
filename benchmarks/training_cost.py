"""What SVAG and measuring cost, against plain training of the same network.

    PYTHONPATH=. python benchmarks/training_cost.py time \
        --networks bn gn wide digits --contenders SVAG observed
    KERAS_BACKEND=jax PYTHONPATH=. python benchmarks/training_cost.py time \
        --networks perceptron cnn --contenders every=20 SVAG --rounds 8
    PYTHONPATH=. python benchmarks/training_cost.py measuring \
        --networks vit transformer lstm --optimizer adam --rounds 30
    PYTHONPATH=. python benchmarks/training_cost.py memory --networks bn gn

All train through `fit`, on the same batches, which are in memory, static and
even. The contenders: SVAG with ell = 4 in an `SVAGModel`, whose two sub-batches
are the halves of a batch; the same `observed` by a `GradientNoiseMonitor`; and
plain training with the callback, which measures one step of 20 (`every=20`) or
every step (`measured`). What each cost is: docs/performance.md.
"""

import multiprocessing
import os
import warnings
from functools import partial

import keras
import numpy as np
from networks import NETWORKS
from side_by_side import (
    StepTimes,
    alternating_rounds,
    milliseconds,
    ratio_cells,
)
from table import command_line, plus_minus, print_header, print_row

from keras_svag import SVAG, GradientNoiseMonitor, SVAGModel

# How often a contender's callback measures.
EVERY = {"observed": None, "every=20": 20, "measured": 1}


class Training:
    """Trains a network as a contender does."""

    def __init__(self, name, contender, optimizer):
        self.network = NETWORKS[name]
        if contender in ("SVAG", "observed"):
            self.model = self.network.compiled(SVAG(0.01, ell=4), SVAGModel)
        else:
            self.model = self.network.compiled(optimizer)
        self.monitors = []
        if contender in EVERY:
            self.monitors = [GradientNoiseMonitor(every=EVERY[contender])]
        self.batches = self.network.batches()

    def seconds(self, steps):
        """Of each step, without what `fit` does before the first."""
        clock = StepTimes()
        self.model.fit(
            self.batches,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[clock, *self.monitors],
        )
        return np.diff(clock.times)

    def mean_step(self):
        return [self.seconds(self.network.steps).mean()]

    def measured_and_others(self):
        """Seconds of the measured step of 20, and the median of the others."""
        seconds = self.seconds(20)
        if not self.monitors:
            return np.nan, np.median(seconds)
        place = int(self.monitors[0].series["step"][-1] - 1) % 20
        return seconds[place], np.median(np.delete(seconds, place))


def rounds_of(options, turn_of):
    """`(title, measured in rounds by each contender)` of every network.

    `turn_of(name, contender, optimizer)` is a function that measures.
    """
    for policy in options.policies:
        keras.config.set_dtype_policy(policy)
        for name in options.networks:
            turns = {
                contender: turn_of(name, contender, options.optimizer)
                for contender in ("plain", *options.contenders)
            }
            rounds = alternating_rounds(turns, options.rounds)
            yield f"{NETWORKS[name].title}, {policy}", rounds
            keras.backend.clear_session()


def print_ratios(options, titles, turn_of, form):
    """A table of each title's measurement, plain and relative to it."""
    ratios = [f"{name} / plain | range" for name in options.contenders]
    columns = (column for title in titles for column in (title, *ratios))
    print_header("training", *columns)
    for title, rounds in rounds_of(options, turn_of):
        cells = []
        for part in range(len(titles)):
            plain, *others = (values[:, part] for values in rounds.values())
            cells += [form(plain)]
            cells += [ratio_cells(values, plain) for values in others]
        print_row(title, *cells)


def print_time(options):
    print_ratios(
        options,
        [f"plain on {keras.backend.backend()}, ms"],
        lambda *which: Training(*which).mean_step,
        milliseconds,
    )


def with_error(values):
    """The median, and its standard error from the middle half."""
    first, middle, third = np.quantile(values, [0.25, 0.5, 0.75])
    error = 1.2533 * (third - first) / 1.349 / len(values) ** 0.5
    return plus_minus(middle, error, ".3f", ".3f")


def print_measuring(options):
    print_header(
        "training | plain, ms",
        "a step between / plain | a measured step / between",
        "every=20 | every=100",
    )
    options.contenders = ["every=20"]
    for title, rounds in rounds_of(
        options, lambda *which: Training(*which).measured_and_others
    ):
        (_, plain), (measured, others) = rounds["plain"].T, rounds["every=20"].T
        parts = (others / plain, measured / others)
        between, step = map(np.median, parts)
        print_row(
            *(title, milliseconds(plain), *map(with_error, parts)),
            *(f"{between * (1 + (step - 1) / n):.3f}" for n in (20, 100)),
        )


def own_memory(name, contender, optimizer):
    """Trains in this process: its peak and what that added, in MB."""

    def megabytes(key):
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines[key].split()[0]) / 1024

    training = Training(name, contender, optimizer)
    next(iter(training.batches))
    before = megabytes("VmRSS")
    training.seconds(4)
    peak = megabytes("VmHWM")
    return peak, peak - before


def memory_of_new_process(*which):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(own_memory, which)


def print_memory(options):
    if not options.default_malloc:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "1048576"
    print_ratios(
        options,
        ["peak, MB", "added, MB"],
        lambda *which: partial(memory_of_new_process, *which),
        lambda megabytes: f"{np.median(megabytes):.0f}",
    )


COSTS = {
    "time": print_time,
    "measuring": print_measuring,
    "memory": print_memory,
}


def main():
    options = command_line(
        __doc__,
        cost=COSTS,
        networks=["digits"],
        contenders=["SVAG"],
        optimizer="sgd",
        policies=["float32"],
        rounds=5,
        default_malloc=False,
    )
    warnings.simplefilter("ignore")
    COSTS[options.cost](options)


if __name__ == "__main__":
    main()
