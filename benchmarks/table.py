"""Command lines and Markdown tables, the same for every benchmark."""

import argparse

import numpy as np


def command_line(doc, **defaults):
    """What the command line of a script says.

    Args:
        doc: the docstring of the script, which is its help.
        defaults: the options, each with its default: False for a switch, a
            list for any number of values, else a single value of that type.
            A dict is an argument that is one of its keys.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in defaults.items():
        if isinstance(default, dict):
            parser.add_argument(name, choices=default)
            continue
        if default is False:
            kind = {"action": "store_true"}
        elif isinstance(default, list):
            kind = {"nargs": "*", "type": type(default[0])}
        else:
            kind = {"type": type(default)}
        parser.add_argument(f"--{name}", default=default, **kind)
    return parser.parse_args()


def print_header(*columns):
    """Prints the head of a table whose columns after the first are numbers.

    A title may be several, with `|` between them.
    """
    head = "| " + " | ".join(columns) + " |"
    print(head)
    print("|---|" + "---:|" * (head.count("|") - 2), flush=True)


def print_row(*cells):
    """Prints a row; a cell may hold several columns."""
    cells = (f"{c:,}" if isinstance(c, int) else str(c) for c in cells)
    print("| " + " | ".join(cells) + " |", flush=True)


def percent(share):
    return f"{share:.1%}"


ERRORS = "too high | too low"


def errors(low, high, truth):
    """How many intervals are too high and too low: two columns, `ERRORS`."""
    too_high, too_low = np.mean(low > truth), np.mean(high < truth)
    return f"{percent(too_high)} | {percent(too_low)}"


def plus_minus(value, error, digits=".3g", of_error=".2g"):
    return f"{value:{digits}} ± {error:{of_error}}"


def mean_of(values, digits):
    """The mean of a few runs, with its standard error."""
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return plus_minus(np.mean(values), error, digits, digits)
