"""How far a long work is, for a terminal or a log."""

import io
import math
import sys

from tqdm import tqdm


def progress_bar(text, total, initial, is_drawn):
    """A `tqdm` bar on stdout, or one whose `str` is to be printed instead."""
    return tqdm(
        desc=text,
        total=total,
        initial=initial,
        file=sys.stdout if is_drawn else io.StringIO(),
        mininterval=0.1 if is_drawn else math.inf,
        dynamic_ncols=True,
        bar_format="{desc}" + "{bar}  " * is_drawn + "{remaining} left",
    )
