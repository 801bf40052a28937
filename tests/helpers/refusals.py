"""What every refusal of a bad argument has in common."""

import dataclasses
import os
import re
from collections.abc import Callable

import pytest

from keras_svag.arguments import is_number

NAN = float("nan")
INF = float("inf")

# What no argument takes that wants a number, and what most do not take.
NO_NUMBER = ("1", None, True, [1], {}, 1j)
NO_FINITE_NUMBER = (*NO_NUMBER, NAN, INF, -INF)
NOT_NONNEGATIVE = (*NO_FINITE_NUMBER, -1e-9)
NOT_POSITIVE = (*NOT_NONNEGATIVE, 0, 0.0)
NO_INTEGER = (*NO_FINITE_NUMBER, 1.5, 2.0)
NO_COUNT = (*NO_INTEGER, 0, -1)
NO_STRING = (None, 1, 0.5, True, ["a"], NAN)


@dataclasses.dataclass(frozen=True)
class Refused:
    """A call that has to be refused.

    Attributes:
        call: what is called.
        arguments: its arguments, of which one is bad.
        name: the bad argument, as the sentence names it.
        given: what it was given.
        error: the type of the exception.
        fragments: what else the sentence has to contain.
    """

    call: Callable
    arguments: dict
    name: str
    given: object
    error: type = ValueError
    fragments: tuple = ()

    @property
    def id(self):
        given = re.sub(r"[^\w.+-]+", "_", repr(self.given))[:24]
        called = getattr(self.call, "__name__", type(self.call).__name__)
        return f"{called}-{self.name}-{given}"


def refused(
    call,
    good,
    name,
    values,
    error=ValueError,
    says=(),
    named=None,
    given=None,
):
    """A `Refused` for each of the values of one argument.

    Args:
        call: what is called by name.
        good: arguments with which it would work.
        name: the argument that is replaced by each of `values`.
        values: its bad values.
        error: the type of the exception.
        says: strings that the sentence contains besides.
        named: how the sentence names the argument, if not by `name`.
        given: what of the value the sentence shows, if not all of it.
    """
    return [
        Refused(
            call,
            {**good, name: value},
            named or name,
            value if given is None else given,
            error,
            says,
        )
        for value in values
    ]


def refused_numbers(call, good, name, values, **kwargs):
    """As `refused`, for an argument that wants a number.

    What is none is of a wrong type; a boolean is none.
    """
    return [
        case
        for value in values
        for case in refused(
            call,
            good,
            name,
            [value],
            ValueError if is_number(value) else TypeError,
            **kwargs,
        )
    ]


def table(*rows):
    """Decorator that runs a test for every row."""
    flat = [case for row in rows for case in row]
    return pytest.mark.parametrize("case", flat, ids=lambda case: case.id)


def shows(sentence, given, error=ValueError):
    """Whether a sentence says what was given: its value, shape or type."""
    texts = [repr(given), str(given)]
    if isinstance(given, (list, tuple)):
        texts.append(str(tuple(given)))
    if isinstance(given, tuple) and len(given) == 1:
        # Some sentences are about an entry.
        texts.append(repr(given[0]))
    if error is TypeError or not isinstance(given, (int, float, str)):
        texts.append(type(given).__name__)
    if hasattr(given, "shape"):
        texts.append(str(tuple(given.shape)))
    return any(text in sentence for text in texts)


def check_sentence(sentence, *fragments):
    """Asserts that it is one sentence, and that it has the fragments."""
    assert "\n" not in sentence
    assert re.search(r"[.)]$", sentence), sentence
    assert len(sentence) < 600, sentence
    for fragment in fragments:
        assert fragment in sentence, (fragment, sentence)


def check_refused(case, folder):
    """Asserts that a call is refused, and that it writes nothing.

    Args:
        case: a `Refused`.
        folder: an empty folder, in which the call is made.
    """
    before = os.getcwd()
    os.chdir(folder)
    try:
        with pytest.raises(case.error) as caught:
            case.call(**case.arguments)
    finally:
        os.chdir(before)
    assert type(caught.value) is case.error
    sentence = str(caught.value)
    check_sentence(sentence, *case.fragments)
    assert re.search(rf"(?<!\w){re.escape(case.name)}(?!\w)", sentence), (
        case.name,
        sentence,
    )
    assert shows(sentence, case.given, case.error), (case.given, sentence)
    assert not os.listdir(folder)
