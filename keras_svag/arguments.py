"""Arguments that are checked before anything is trained."""

import math
import numbers


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


def checked_closeness(closeness):
    """`closeness`, if it is a finite number above 1."""
    if not 1 < closeness < math.inf:
        raise ValueError(
            f"`closeness` must be a finite number above 1, got {closeness!r}: "
            "2**0.5 is usual."
        )
    return closeness


def checked_kappas(kappas):
    """`kappas` as a tuple, if all are finite numbers of at least 1."""
    kappas = tuple(kappas)
    if not all(1 <= kappa < math.inf for kappa in kappas):
        raise ValueError(
            f"`kappas` must be finite numbers >= 1, got {kappas!r}: factors by "
            "which the batch grows."
        )
    return kappas


def checked_tolerance(rtol):
    """`rtol`, if it is None or a finite number above 0."""
    if rtol is not None and not 0 < rtol < math.inf:
        raise ValueError(
            f"`rtol` must be None or a finite number above 0, got {rtol!r}."
        )
    return rtol
