"""Arguments that are checked before anything is computed or trained."""

import math
import numbers
import os

import numpy as np


def is_number(value):
    """Whether `value` is a real number; a boolean is none, NaN is one."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def checked_integer(name, value, smallest=1, optional=False):
    """`value`, if it is an integer of at least `smallest`."""
    if value is None and optional:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Integral)
        or value < smallest
    ):
        raise ValueError(
            f"`{name}` must be {'None or ' if optional else ''}an integer >= "
            f"{smallest}, got {value!r}."
        )
    return int(value)


def checked_positive(name, value):
    """`value`, if it is a finite number above 0."""
    if not (is_number(value) and 0 < value < math.inf):
        raise ValueError(
            f"`{name}` must be a finite number above 0, got {value!r}."
        )
    return value


def checked_nonnegative(name, value):
    """`value`, if it is a finite number of at least 0."""
    if not (is_number(value) and 0 <= value < math.inf):
        raise ValueError(
            f"`{name}` must be a finite number of at least 0, got {value!r}."
        )
    return value


def checked_level(level):
    """`level`, if it is a number strictly between 0 and 1."""
    if not (is_number(level) and 0 < level < 1):
        raise ValueError(
            "`level` must be a number strictly between 0 and 1, got "
            f"{level!r}: use 0.95 for a 95% interval."
        )
    return level


def checked_boolean(name, value):
    """`value`, if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False, got {value!r}.")
    return bool(value)


def checked_closeness(closeness):
    """`closeness`, if it is a finite number above 1."""
    if not (is_number(closeness) and 1 < closeness < math.inf):
        raise ValueError(
            f"`closeness` must be a finite number above 1, got {closeness!r}: "
            "2**0.5 is usual."
        )
    return closeness


def checked_kappas(kappas):
    """`kappas` as a tuple, if all are finite numbers of at least 1."""
    if not isinstance(kappas, str) and hasattr(kappas, "__iter__"):
        kappas = tuple(kappas)
    if not isinstance(kappas, tuple) or not all(
        is_number(kappa) and 1 <= kappa < math.inf for kappa in kappas
    ):
        raise ValueError(
            f"`kappas` must be finite numbers >= 1, got {kappas!r}: factors by "
            "which the batch grows."
        )
    return kappas


def checked_tolerance(rtol):
    """`rtol`, if it is None or a finite number above 0."""
    if rtol is not None and not (is_number(rtol) and 0 < rtol < math.inf):
        raise ValueError(
            f"`rtol` must be None or a finite number above 0, got {rtol!r}."
        )
    return rtol


def checked_milestones(milestones):
    """`milestones`, if they are increasing epochs above 0."""
    if (
        not isinstance(milestones, (list, tuple))
        or not all(is_number(m) and 0 < m < math.inf for m in milestones)
        or list(milestones) != sorted(set(milestones))
    ):
        raise ValueError(
            f"`milestones` must be increasing epochs > 0, got {milestones!r}."
        )
    return milestones


def checked_path(name, value):
    """`value` as a string, if it is None or the path of a file or folder."""
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"`{name}` must be None or a path, got {value!r}.")
    return os.fspath(value)


def integer(name, value, least=1, most=None, optional=False, remedy=""):
    """`value` as an int, if it is an integer in its range.

    Args:
        name: of the argument, for the sentence.
        value: what was given.
        least, most: the ends of the range, both allowed; None for no end.
        optional: whether None is allowed too.
        remedy: what to do instead, for the end of the sentence.

    Raises:
        TypeError: if `value` is no number; a boolean is none.
        ValueError: if it is no integer, or out of the range.
    """
    if value is None and optional:
        return None
    wanted = "an integer" + _range(least, most)
    if not is_number(value):
        raise TypeError(refusal(name, wanted, value, remedy, optional))
    is_whole = isinstance(value, numbers.Integral)
    if not is_whole or value < least or (most is not None and value > most):
        raise ValueError(refusal(name, wanted, value, remedy, optional))
    return int(value)


def number(
    name,
    value,
    least=None,
    most=None,
    above=None,
    below=None,
    optional=False,
    remedy="",
):
    """`value` as it is, if it is a finite number in its range.

    Args:
        name: of the argument, for the sentence.
        value: what was given.
        least, most: ends of the range that are allowed; None for no end.
        above, below: ends that are not.
        optional: whether None is allowed too.
        remedy: what to do instead, for the end of the sentence.

    Raises:
        TypeError: if `value` is no real number; a boolean is none.
        ValueError: if it is not finite, or out of the range.
    """
    if value is None and optional:
        return None
    wanted = "a finite number" + _range(least, most, above, below)
    if not is_number(value):
        raise TypeError(refusal(name, wanted, value, remedy, optional))
    if (
        not math.isfinite(value)
        or (least is not None and value < least)
        or (most is not None and value > most)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        raise ValueError(refusal(name, wanted, value, remedy, optional))
    return value


def choice(name, value, known, optional=False, remedy=""):
    """`value`, if it is one of the names in `known`.

    Raises:
        ValueError: if it is not.
    """
    if value is None and optional:
        return None
    if not isinstance(value, str) or value not in known:
        wanted = f"one of {', '.join(map(repr, known))}"
        raise ValueError(refusal(name, wanted, value, remedy, optional))
    return value


def refusal(name, wanted, given, remedy="", optional=False):
    """The one sentence about a wrong argument."""
    none = "None or " if optional else ""
    end = f"; {remedy}." if remedy else "."
    return f"`{name}` must be {none}{wanted}, got {given!r}{end}"


def _range(least=None, most=None, above=None, below=None):
    ends = [
        f"{sign} {end:g}" if isinstance(end, float) else f"{sign} {end}"
        for sign, end in (
            (">=", least),
            (">", above),
            ("<=", most),
            ("<", below),
        )
        if end is not None
    ]
    return " " + " and ".join(ends) if ends else ""
