"""How results go through strict JSON and come back."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from keras_svag import arguments
from keras_svag.noise.estimate import finite_or_none

_T = TypeVar("_T", bound="SavedFields")

# What None stands for in `(value, low, high)` and in `(low, high)`.
_NONE = {3: (math.nan, math.inf, math.inf), 2: (math.inf, math.inf)}


class SavedFields:
    """A frozen dataclass of numbers, and of dicts and tuples of numbers.

    Its class has `eq=False`: two results are equal if `to_dict` is, so that
    NaN, which stands for what is not known, is equal to itself.
    """

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON; None for what is not finite.

        `from_dict` is the way back.
        """
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    @arguments.reader
    def from_dict(cls: type[_T], saved: Mapping[str, Any]) -> _T:
        """The result that `to_dict` was called on.

        Raises:
            ValueError: If `saved` is not of that form.
        """
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        return cls(**{field.name: _restored(saved, field) for field in fields})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return finite_or_none(value)


def _restored(saved, field):
    value = saved[field.name]
    if value is None and field.default is not None:
        return math.nan
    if isinstance(value, dict):
        return {key: _with_ends(one) for key, one in value.items()}
    return _with_ends(value)


def _with_ends(value):
    if not isinstance(value, (list, tuple)):
        return value
    unknown = _NONE.get(len(value), value)
    return tuple(
        end if one is None else one
        for one, end in zip(value, unknown, strict=True)
    )
