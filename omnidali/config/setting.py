"""A setting of a config: the range of its numbers is in its type, its meaning in its metadata.

``flip: Share = setting(0.5, "probability of a horizontal flip")``
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

T = TypeVar("T")

_TYPES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Range:
    """A range of finite numbers.

    Attributes:
        low: the smallest number.
        high: the largest number.
        is_open: whether ``low`` itself does not belong to the range.
        is_open_above: whether ``high`` itself does not belong to it.

    >>> 0.5 in Range(0, 1), 0 in Range(0, is_open=True), str(Range(0, 1)), str(Range(1))
    (True, False, 'a number from 0 to 1', 'a number of 1 or more')
    """

    low: float
    high: float = math.inf
    is_open: bool = False
    is_open_above: bool = False

    def __contains__(self, number: float) -> bool:
        is_above = self.low < number if self.is_open else self.low <= number
        is_below = number < self.high if self.is_open_above else number <= self.high
        return is_above and is_below and number != math.inf

    def __str__(self) -> str:
        if self.is_open_above:
            return f"a number of {self.low:g} or more and below {self.high:g}"
        if self.is_open:
            most = f" and at most {self.high:g}" if self.high < math.inf else ""
            return f"a number above {self.low:g}{most}"
        if self.high < math.inf:
            return f"a number from {self.low:g} to {self.high:g}"
        return f"a number of {self.low:g} or more"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, is_open=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, is_open_above=True)]
PositiveShare = Annotated[float, Range(0, 1, is_open=True)]
OneOrMore = tuple[str, ...]  # texts, of which a single one needs no list


def range_of(hint: object) -> Range | None:
    """The range in a type hint, also one inside a union or a tuple; None if there is none.

    >>> range_of(Share) == Range(0, 1), range_of(tuple[Count, ...] | None) == Range(1)
    (True, True)
    >>> range_of(float)
    """
    if isinstance(hint, Range):
        return hint
    parts = (*typing.get_args(hint), *getattr(hint, "__metadata__", ()))
    return next((found for part in parts if (found := range_of(part))), None)


def describe_type(hint: typing.Any) -> str:
    """What a type of the schema expects, in words.

    >>> describe_type(int), describe_type(Count), describe_type(typing.Literal["a", "b"] | None)
    ('a whole number', 'a whole number of 1 or more', 'one of a, b, or null')
    >>> describe_type(tuple[Share, Share])
    'a list of 2 numbers, each from 0 to 1'
    """
    origin = typing.get_origin(hint)
    inner = typing.get_args(hint)
    if origin is Annotated:
        kind, *bounds = inner
        return f"{_TYPES[kind]}{str(range_of(bounds[0])).removeprefix('a number')}"
    if origin in (typing.Union, types.UnionType):
        kinds = [describe_type(kind) for kind in inner if kind is not type(None)]
        return f"{', '.join(kinds)}, or null"
    if origin is typing.Literal:
        return "one of " + ", ".join(str(item) for item in inner)
    if hint == OneOrMore:
        return "text, or a list of texts"
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        allowed = range_of(hint)
        each = f", each {str(allowed).removeprefix('a number ')}" if allowed else ""
        return f"a list of {count}numbers{each}"
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    if is_mapping and range_of(hint):
        return f"names with numbers under it, each {str(range_of(hint)).removeprefix('a number ')}"
    if dataclasses.is_dataclass(hint) or is_mapping:
        return "settings under it"
    return _TYPES[hint]


def setting(default: T, meaning: str, unit: str = "") -> T:
    """A field of a config.

    Args:
        default: its value if a config does not set it.
        meaning: one line about it, in the field's metadata.
        unit: of its numbers, in the field's metadata.
    """
    return field(default=default, metadata={"meaning": meaning, "unit": unit})
