"""What stands in for other projects' types while their checkpoints are read.

Training snapshots of mmaction2, mmcv and others hold NumPy scalars and arrays, and mmengine's
``HistoryBuffer``, in ``meta``, ``message_hub``, ``optimizer`` and ``param_schedulers``. None of
those types is made here: NumPy's own functions would be C code that is fed with a stranger's
values. The classes and functions below take their names instead. They accept any arguments, take
no memory for what these claim, and call nothing.

Numbers and text are decoded, as class names and epochs may be NumPy's. Everything else is an object
that does nothing.
"""

import contextlib
import pickle
import re
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

# the characters of `struct` for NumPy's numbers
_NUMBERS = {
    **{"b1": "?", "f2": "e", "f4": "f", "f8": "d"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}
_MAX_VALUES = 100_000  # of an array that is decoded
# torch's list of allowed types belongs to the whole process
_LOCK = threading.Lock()


class Ignored:
    """An object that keeps nothing of what it is made from."""

    __slots__ = ()

    def __new__(cls, *args: object, **kwargs: object) -> "Ignored":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


class HistoryBuffer(Ignored):
    """Replaces mmengine's log of a value."""

    __slots__ = ()


class NumpyDtype(Ignored):
    """Replaces ``numpy.dtype``.

    Attributes:
        code: kind and size, as ``f8``.
        order: of the bytes, ``<`` or ``>``.
    """

    __slots__ = ("code", "order")
    code: str
    order: str

    def __new__(cls, *args: object, **kwargs: object) -> "NumpyDtype":
        made = object.__new__(cls)
        made.code = args[0] if args and isinstance(args[0], str) else ""
        made.order = "<"
        return made

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str):
            self.order = ">" if state[1] == ">" else "<"

    @property
    def size(self) -> int:
        """Bytes of a value; 0 for types that are not decoded."""
        if self.code in _NUMBERS:
            return struct.calcsize(self.order + _NUMBERS[self.code])
        is_text = re.fullmatch("U[0-9]{1,4}", self.code) is not None
        return 4 * int(self.code[1:]) if is_text else 0  # UTF-32

    def decode(self, data: bytes) -> list[Any] | None:
        """The numbers or texts in ``data``; None for other types, and for too many of them."""
        size = self.size
        if not size or len(data) % size or len(data) > _MAX_VALUES * size:
            return None
        if self.code in _NUMBERS:
            pairs = struct.iter_unpack(self.order + _NUMBERS[self.code], data)
            return [value for (value,) in pairs]
        encoding = "utf-32-le" if self.order == "<" else "utf-32-be"
        parts = [data[begin : begin + size] for begin in range(0, len(data), size)]
        return [part.decode(encoding, "replace").rstrip("\0") for part in parts]


class NumpyArray(Ignored):
    """Replaces ``numpy.ndarray``: keeps the bytes that the file holds, whatever it claims."""

    __slots__ = ("_state",)
    _state: object

    def __new__(cls, *args: object, **kwargs: object) -> "NumpyArray":
        made = object.__new__(cls)
        made._state = None
        return made

    def __setstate__(self, state: object) -> None:
        self._state = state

    def as_list(self) -> list[Any] | None:
        """The values of a one-dimensional array; None for any other."""
        state = self._state
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], NumpyDtype):
            return None

        _, shape, dtype, _, data = state
        values = list(data) if isinstance(data, list) else None  # of Python's objects
        if isinstance(data, bytes):
            values = dtype.decode(data)
        is_whole = isinstance(shape, tuple) and list(map(type, shape)) == [int]
        return values if values is not None and is_whole and shape[0] == len(values) else None


def as_list(value: object) -> list[Any] | None:
    """The values of a list, a tuple or a one-dimensional array; None for anything else."""
    if isinstance(value, NumpyArray):
        return value.as_list()
    return list(value) if isinstance(value, (list, tuple)) else None


def _scalar(*args: object) -> object:
    """Replaces ``numpy._core.multiarray.scalar``: dtype and bytes become a plain value."""
    values = None
    if len(args) == 2 and isinstance(args[0], NumpyDtype) and isinstance(args[1], bytes):
        values = args[0].decode(args[1]) if len(args[1]) == args[0].size else None
    return values[0] if values else Ignored()


def _reconstruct(*args: object) -> NumpyArray:
    """Replaces ``numpy._core.multiarray._reconstruct``."""
    return NumpyArray()


def _getattr(*args: object) -> Ignored:
    """Replaces ``getattr``, with which a ``HistoryBuffer`` names the methods of its class."""
    if args and args[0] is HistoryBuffer:
        return Ignored()
    raise pickle.UnpicklingError("Unsupported global: GLOBAL getattr")


def _bytes(*args: object) -> bytes:
    """Replaces ``bytes``, of which protocol 2 makes the data of an empty array."""
    if args:  # a number of them
        raise pickle.UnpicklingError("Unsupported global: GLOBAL bytes")
    return b""


_TYPES = (
    *("bool", "bool_", "str_", "bytes_", "void", "object_", "datetime64", "timedelta64"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("intc", "uintc", "longlong", "ulonglong", "float16", "float32", "float64", "longdouble"),
    *("float128", "complex64", "complex128", "clongdouble", "complex256"),
)
# NumPy 1 has its functions in `numpy.core`, NumPy 2 in `numpy._core`
STAND_INS: dict[str, Callable[..., object]] = {
    "builtins.bytes": _bytes,
    "builtins.getattr": _getattr,
    "mmengine.logging.history_buffer.HistoryBuffer": HistoryBuffer,
    "numpy.dtype": NumpyDtype,
    "numpy.ndarray": NumpyArray,
    **{f"numpy.{name}": Ignored for name in _TYPES},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
}


@contextlib.contextmanager
def standing_in() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read other projects' types as the ones of this file.

    One thread at a time is inside. A read of another part of the process, in another thread, gets
    the same stand-ins meanwhile; types that it has allowed itself stay allowed afterwards.
    """
    with _LOCK:
        # two types of one name would be chosen from at random
        allowed = torch.serialization.get_safe_globals()
        same_name = [entry for entry in allowed if _name_of(entry) in STAND_INS]
        if same_name:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(
                [entry for entry in allowed if entry not in same_name]
            )
        try:
            pairs: list[Any] = [(stand_in, name) for name, stand_in in STAND_INS.items()]
            with torch.serialization.safe_globals(pairs):
                yield
        finally:
            if same_name:
                torch.serialization.add_safe_globals(same_name)


def _name_of(entry: object) -> str:
    if isinstance(entry, tuple):
        return str(entry[1])
    return f"{getattr(entry, '__module__', '')}.{getattr(entry, '__qualname__', '')}"
