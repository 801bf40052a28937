"""Arguments that are checked before anything is computed or trained."""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

# The squares of numbers up to here are finite, and so are their products with
# each other; no training has larger ones.
LARGEST_NUMBER = 1e100
# Arrays count no further.
_LARGEST_INTEGER = 2**63 - 1
_LONGEST_SHOWN = 100


def is_number(value):
    """Whether `value` is a real number; a boolean is none, NaN is one."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def integer(name, value, least=1, most=None, optional=False, remedy=""):
    """`value` as an int, if it is an integer in its range.

    Args:
        name: of the argument, for the sentence.
        value: what was given.
        least, most: the ends of the range, both allowed; None for no end but
            that of an integer of 64 bits.
        optional: whether None is allowed too.
        remedy: what to do instead, for the end of the sentence.

    Raises:
        TypeError: if `value` is no number; a boolean is none.
        ValueError: if it is no integer, or out of the range.
    """
    if value is None and optional:
        return None
    if most is None and is_number(value) and _size(value) > _LARGEST_INTEGER:
        most = _LARGEST_INTEGER
    wanted = "an integer" + _range(least, most)
    if not is_number(value):
        raise TypeError(refusal(name, wanted, value, remedy, optional))
    if (
        not isinstance(value, numbers.Integral)
        or (least is not None and value < least)
        or (most is not None and value > most)
    ):
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
    unknown=False,
    remedy="",
):
    """`value` as it is, if it is a finite number in its range.

    Args:
        name: of the argument, for the sentence.
        value: what was given.
        least, most: ends of the range that are allowed; None for no end but
            `LARGEST_NUMBER`, up to which a number counts as finite.
        above, below: ends that are not.
        optional: whether None is allowed too.
        unknown: whether NaN is, for what is not known.
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
    if unknown and value != value:
        return value
    size = _size(value)
    if LARGEST_NUMBER < size < math.inf:
        wanted += f", in size <= {LARGEST_NUMBER:g}"
    # False for NaN.
    if (
        not size <= LARGEST_NUMBER
        or (least is not None and value < least)
        or (most is not None and value > most)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        raise ValueError(refusal(name, wanted, value, remedy, optional))
    return value


def array(name, values, least=None, remedy=""):
    """`values` as an array of float64, if it is a number or holds numbers.

    NaN is allowed, and so is infinity.

    Raises:
        TypeError: if they are no numbers; booleans are none.
        ValueError: if one is below `least`, or does not fit a float.
    """
    wanted = "a number or an array of numbers" + _range(least)
    try:
        found = np.asarray(values)
    except (TypeError, ValueError):
        # Of rows that differ in length.
        found = np.array(None)
    if found.dtype.kind not in "fiu":
        # NumPy takes an integer that is too large for an object.
        error = ValueError if is_number(values) else TypeError
        raise error(refusal(name, wanted, values, remedy))
    if least is not None and np.any(found < least):
        raise ValueError(refusal(name, wanted, values, remedy))
    return found.astype(np.float64)


def boolean(name, value):
    """`value` as a bool, if it is True or False.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(refusal(name, "True or False", value))
    return bool(value)


def choice(name, value, known, optional=False, remedy=""):
    """`value`, if it is one of the names, or of the integers, in `known`.

    Raises:
        ValueError: if it is not.
    """
    if value is None and optional:
        return None
    if not isinstance(value, (str, int)) or value not in known:
        wanted = f"one of {', '.join(map(repr, known))}"
        raise ValueError(refusal(name, wanted, value, remedy, optional))
    return value


def instance(name, value, kind, wanted):
    """`value`, if it is an instance of a class, or of one of several.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(value, kind):
        raise TypeError(refusal(name, wanted, value))
    return value


def wrong(name, wanted, given, remedy=""):
    """The `ValueError` about a wrong argument, with the one sentence."""
    return ValueError(refusal(name, wanted, given, remedy))


def refusal(name, wanted, given, remedy="", optional=False):
    """The one sentence about a wrong argument."""
    none = "None or " if optional else ""
    end = f"; {remedy}." if remedy else "."
    return f"`{name}` must be {none}{wanted}, got {shown(given)}{end}"


_Reader = TypeVar("_Reader", bound=Callable[..., Any])


def reader(from_dict: _Reader) -> _Reader:
    """A `from_dict` that refuses what no `to_dict` made, in one sentence."""

    @functools.wraps(from_dict)
    def read(cls, saved):
        try:
            return from_dict(cls, saved)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            names = str(error)
            # All of a part says nothing of what is wrong in it.
            if names.startswith("`") and not names.startswith("`saved`"):
                raise
            wanted = f"what {cls.__name__}.to_dict returned"
            raise ValueError(refusal("saved", wanted, saved)) from error

    return read  # type: ignore[return-value]


def printable(text):
    """Text on one line, without what would act on its reader.

    Control characters, which move the cursor of a terminal or colour it,
    marks that turn the direction of writing, and what UTF-8 cannot hold are
    shown as the escapes that Python has for them: a name may have any.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in " ".join(str(text).split())
    )


def shown(value):
    """What was given as it is typed, on one line, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:
        # Python writes out no integer of more than 4,300 digits.
        text = f"{type(value).__name__} of too many digits"
    return " ".join(text.split())[:_LONGEST_SHOWN]


def _size(value):
    try:
        return abs(float(value))
    except OverflowError:
        # An integer of more than 308 digits.
        return math.inf


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
