"""A setting of a config: the range of its numbers is in its type, its meaning in its metadata.

``flip: Share = setting(0.5, "probability of a horizontal flip")``
"""

import math
import typing
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """A range of finite numbers.

    Attributes:
        low: the smallest number.
        high: the largest number.
        is_open: whether ``low`` itself does not belong to the range.

    >>> 0.5 in Range(0, 1), 0 in Range(0, is_open=True), str(Range(0, 1)), str(Range(1))
    (True, False, 'a number from 0 to 1', 'a number of 1 or more')
    """

    low: float
    high: float = math.inf
    is_open: bool = False

    def __contains__(self, number: float) -> bool:
        is_above = self.low < number if self.is_open else self.low <= number
        return is_above and number <= self.high and number != math.inf

    def __str__(self) -> str:
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
PositiveShare = Annotated[float, Range(0, 1, is_open=True)]


def range_of(hint: object) -> Range | None:
    """The range in a type hint, also one inside a union or a tuple; None if there is none.

    >>> range_of(Share), range_of(tuple[Count, ...] | None), range_of(float)
    (Range(low=0, high=1, is_open=False), Range(low=1, high=inf, is_open=False), None)
    """
    if isinstance(hint, Range):
        return hint
    parts = (*typing.get_args(hint), *getattr(hint, "__metadata__", ()))
    return next((found for part in parts if (found := range_of(part))), None)


def setting(default: T, meaning: str, unit: str = "") -> T:
    """A field of a config.

    Args:
        default: its value if a config does not set it.
        meaning: one line about it, in the field's metadata.
        unit: of its numbers, in the field's metadata.
    """
    return field(default=default, metadata={"meaning": meaning, "unit": unit})
