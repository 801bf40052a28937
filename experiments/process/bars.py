"""How far a long work is, for a terminal or a log."""

import io
import math
import sys

from tqdm import tqdm


def progress_bar(text, total, initial, is_drawn):
    """A `tqdm` bar, drawn on a terminal.

    Elsewhere it draws nothing and is to be printed: `str` of it has what a bar
    says beside itself, among it the time that is left.

    Args:
        text: what stands before it.
        total: how much work there is.
        initial: how much of it was done before.
        is_drawn: whether stdout is a terminal.
    """
    return tqdm(
        desc=text,
        total=total,
        initial=initial,
        file=sys.stdout if is_drawn else io.StringIO(),
        mininterval=0.1 if is_drawn else math.inf,
        dynamic_ncols=True,
        bar_format="{desc}" + "{bar}  " * is_drawn + "{remaining} left",
    )
