"""Times measured in alternating rounds, and their ratios, as Markdown.

A shared machine slows down and speeds up from minute to minute, so contenders
take turns and are compared within a round: a ratio is the median over the
rounds, with its range.
"""

import argparse
import statistics
import time

import keras


def make_parser(description, rounds=5, networks=None):
    """A parser of `--rounds`, and of `--networks` if there are names."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    if networks:
        parser.add_argument("--networks", nargs="+", default=list(networks))
    return parser


def alternating_rounds(contenders, rounds, warm_up=True):
    """What every contender measures, in rounds in which each has one turn.

    The order is turned around in every other round, so that none has the
    better place.

    Args:
        contenders: `{name: function}` of functions without arguments that
            return a number, such as the seconds of a step.
        rounds: integer, the number of rounds.
        warm_up: whether a round before the first is run and not counted.

    Returns:
        `{name: list of numbers}`, one number a round.
    """
    measured = {name: [] for name in contenders}
    for number in range(-1 if warm_up else 0, rounds):
        names = list(contenders)
        for name in reversed(names) if number % 2 else names:
            value = contenders[name]()
            if number >= 0:
                measured[name].append(value)
    return measured


class StepTimes(keras.callbacks.Callback):
    """When each step of the last `fit` began, and when its epoch ended."""

    def on_train_begin(self, logs=None):
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        self.times.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.perf_counter())


def turn(model, batches, steps, callbacks=()):
    """A function that trains for a turn and returns the seconds of a step.

    Without what `fit` does before the first of them.
    """

    def seconds():
        clock = StepTimes()
        model.fit(
            batches,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[*callbacks, clock],
        )
        return (clock.times[-1] - clock.times[0]) / steps

    return seconds


def ratios(values, reference):
    """Ratios of two contenders, round by round."""
    return [a / b for a, b in zip(values, reference, strict=True)]


def ratio_cells(values, reference):
    """`"median | lowest to highest"` of the ratios of two contenders."""
    each = ratios(values, reference)
    return f"{statistics.median(each):.3f} | {min(each):.3f} to {max(each):.3f}"


def milliseconds(seconds):
    """The median, in milliseconds, with three digits."""
    value = 1000 * statistics.median(seconds)
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def print_header(*columns):
    """Prints the head of a table whose columns after the first are numbers."""
    head = "| " + " | ".join(columns) + " |"
    print(head)
    print("|---|" + "---:|" * (head.count("|") - 2), flush=True)


def print_row(*cells):
    """Prints a row; a cell may hold several columns."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
