"""How results go through strict JSON and come back."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from keras_svag import arguments
from keras_svag.noise.ratio import Interval

_T = TypeVar("_T", bound="SavedFields")

# What None stands for in `(value, low, high)` and in `(low, high)`.
_NONE = {3: (math.nan, math.inf, math.inf), 2: (math.inf, math.inf)}


class SavedFields:
    """A frozen dataclass that comes back from JSON by the types of its fields.

    Where these may be NaN, which stands for what is not known, the class has
    `eq=False`: two results are then equal if `to_dict` is, and NaN is equal to
    itself.
    """

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON; None for what is not finite.

        `from_dict` is the way back.
        """
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: plain(getattr(self, f.name)) for f in fields}

    @classmethod
    @arguments.reader
    def from_dict(cls: type[_T], saved: Mapping[str, Any]) -> _T:
        """The result that `to_dict` was called on.

        Raises:
            ValueError: If `saved` is not of that form.
        """
        kinds = typing.get_type_hints(cls).items()
        return cls(
            **{name: _restored(kind, saved[name]) for name, kind in kinds}
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def plain(value):
    """A value, and what it holds, as strict JSON can hold it."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _restored(kind, value):
    """What `plain` was given, a value of the type `kind`."""
    parts, origin = typing.get_args(kind), typing.get_origin(kind)
    if type(None) in parts:
        return None if value is None else _restored(parts[0], value)
    if hasattr(kind, "from_dict"):
        return kind.from_dict(value)
    if origin is dict:
        return {key: _restored(parts[1], one) for key, one in value.items()}
    if origin is tuple and parts[-1] is ...:
        return tuple(_restored(parts[0], one) for one in value)
    if origin is tuple or kind is Interval:
        ends = zip(value, _NONE[len(parts) or 2], strict=True)
        make = tuple if origin is tuple else Interval._make
        return make(float(end if one is None else one) for one, end in ends)
    return math.nan if value is None else value
