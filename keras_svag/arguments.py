"""Arguments that are checked before anything is computed or trained."""

import math
import numbers


def is_number(value):
    """Whether `value` is a real number; a boolean is none, NaN is one."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


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
