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
