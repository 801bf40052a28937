"""Times measured in alternating rounds, and their ratios.

A shared machine slows down and speeds up from minute to minute, so contenders
take turns and are compared within a round: a ratio is the median over the
rounds, with its range.
"""

import time

import keras
import numpy as np


def alternating_rounds(contenders, rounds):
    """What every contender measures, in rounds in which each has one turn.

    The order is turned around in every other round, so that none has the
    better place.

    Args:
        contenders: `{name: function}` of functions without arguments that
            return a number, such as the seconds of a step, or several.
        rounds: integer, the number of rounds, after one that is not counted.

    Returns:
        `{name: array}` of what was returned, one row a round.
    """
    measured = {name: [] for name in contenders}
    for number in range(-1, rounds):
        names = list(contenders)
        for name in reversed(names) if number % 2 else names:
            value = contenders[name]()
            if number >= 0:
                measured[name].append(value)
    return {name: np.array(values) for name, values in measured.items()}


class StepTimes(keras.callbacks.Callback):
    """When each step of the last `fit` began, and when its epoch ended."""

    def on_train_begin(self, logs=None):
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        self.times.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.perf_counter())


def ratio_cells(values, reference):
    """The median ratio of two contenders, and its range: two columns."""
    each = values / reference
    return f"{np.median(each):.3f} | {each.min():.3f} to {each.max():.3f}"


def milliseconds(seconds):
    """The median, in milliseconds, with three digits."""
    value = 1000 * np.median(seconds)
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
