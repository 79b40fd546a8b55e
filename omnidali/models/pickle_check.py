"""A look through the pickles of a checkpoint before anything is made from them.

torch's careful reader calls only a few functions, but some of these take as much memory as a number
in the file asks for, and values may be nested so deep, or refer to each other in so many ways, that
whoever walks over them crashes or never ends. The opcodes are followed here with the size and the
depth of each value in its place. Where torch stops at an opcode, this ends too.
"""

import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

_MAX_DEPTH = 100  # of containers in each other
# A value may be used in several places, of which each counts. In characters and opcodes:
_MAX_SIZE = 10_000_000
_MAX_GROWTH = 10  # beside the pickle's own length
_LEGACY_PICKLES = 5  # that precede the numbers in a file that is no archive
_ARCHIVE = b"PK\x03\x04"

# Names that torch reads, or that this package replaces. Where another one came before, it is named.
_KNOWN = re.compile(
    r"(collections|_codecs|__builtin__|builtins|torch\._utils|torch\._tensor|torch\.serialization"
    r"|torch\.nn\.parameter|torch\.storage|torch|numpy(\.\w+)*|mmengine\.logging\.history_buffer)"
    r" \w+"
)
# What makes memory of a number.
_SIZED = re.compile(r"(__builtin__|builtins) bytearray|torch(\.\w+)* \w*(Tensor|Storage)")


class _Value:
    """What stands for a value.

    Attributes:
        size: its characters and parts, each as often as it occurs.
        depth: of the containers in it.
        content: of a short text, a global and a tuple, and what tells bytes; else None.
        is_placed: whether it is in another value, which makes that value's size final.
    """

    __slots__ = ("content", "depth", "is_placed", "size")

    def __init__(self, size: int = 1, depth: int = 0, content: Any = None) -> None:
        self.size = size
        self.depth = depth
        self.content = content
        self.is_placed = False


class _Global(NamedTuple):
    name: str


_ENCODE = _Global("_codecs encode")  # makes bytes of a text
_CALLER = _Global("torch._tensor _rebuild_from_type_v2")  # calls what it is given
_BYTES = object()


def check_pickles(path: Path) -> None:
    """Refuse a file of torch.save whose pickles ask for much more than they hold.

    Args:
        path: an archive, or the older form.

    Raises:
        ValueError: with the reason.
    """
    with open(path, "rb") as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                if not check_pickle(file):
                    return
            return
    # torch's own reader: another one might find another entry of the same name
    check_pickle(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))


def check_pickle(data: bytes | IO[bytes]) -> bool:
    """Follow one pickle.

    Args:
        data: that begins with it; a file is read up to its end.

    Returns:
        Whether it has an end: torch stops at an earlier place if not.

    Raises:
        ValueError: with the reason.
    """
    walk = _Walk()
    try:
        for opcode, argument, position in pickletools.genops(data):
            if opcode.name == "STOP":
                return True
            walk.follow(opcode.name, argument, position or 0)
    except _TooMuchError as error:
        # the type is the better reason, as torch refuses the file for it
        raise ValueError(f"GLOBAL {walk.unknown}" if walk.unknown else str(error)) from None
    except (IndexError, KeyError, ValueError):
        pass
    return False


class _TooMuchError(Exception):
    """A pickle asks for too much."""


class _Walk:
    """The stack of a pickle machine.

    Attributes:
        unknown: the first name that torch does not read; empty if there is none.
    """

    def __init__(self) -> None:
        self.unknown = ""
        self._stack: list[_Value] = []
        self._marked: list[list[_Value]] = []
        self._memo: dict[int, _Value] = {}
        self._begin: int | None = None
        self._limit = _MAX_SIZE
        self._copied = 0  # size of all that is given to functions, or is a key

    def follow(self, name: str, argument: Any, position: int) -> None:
        """Follow an opcode.

        Raises:
            _TooMuchError: if its value is too large or too deep.
            KeyError: for an opcode at which torch stops.
        """
        if self._begin is None:
            self._begin = position
        self._limit = max(_MAX_SIZE, _MAX_GROWTH * (position - self._begin))
        if name in _LEAVES:
            is_text = isinstance(argument, str)
            size = 1 + len(argument) if isinstance(argument, (str, bytes)) else 1
            content = argument if is_text and size < 20 else None
            self._stack.append(_Value(size=size, content=content))
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif name in _PUTS:
            self._memo[argument] = self._stack[-1]
        else:
            _OTHERS[name](self, argument)

    def push_global(self, name: str) -> None:
        """A class or function; pickletools gives its module and name with a space between."""
        if not self.unknown and not _KNOWN.fullmatch(name):
            self.unknown = ".".join(name.split(" ", 1))
        self._stack.append(_Value(content=_Global(name)))

    def push_empty(self, _: object) -> None:
        """A container without values."""
        self._stack.append(_Value())

    def push_no_values(self, _: object) -> None:
        """The empty tuple."""
        self._stack.append(_Value(content=()))

    def mark(self, _: object) -> None:
        """Begin a group of values."""
        self._marked.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[_Value]:
        """The values of the group, and back to those before."""
        values = self._stack
        self._stack = self._marked.pop()
        return values

    def push_tuple(self, values: list[_Value]) -> None:
        """A tuple of values."""
        made = _Value(content=tuple(values))
        self._stack.append(made)
        self._fill(made, values)

    def push_storage(self) -> None:
        """The numbers of a tensor, in place of where they are in the file."""
        self._copy(self.pop_some(1))
        self._stack.append(_Value())

    def pop_some(self, count: int) -> list[_Value]:
        """The topmost values, lowest first."""
        values = [self._stack.pop() for _ in range(count)]
        return values[::-1]

    def add(self, values: list[_Value], *, have_keys: bool = False) -> None:
        """Put values into the container below them."""
        if have_keys:
            self._copy(values[::2])  # which are hashed
        self._fill(self._stack[-1], values)

    def call(self) -> None:
        """Call a function with a tuple, or make an object of a class."""
        function, arguments = self.pop_some(2)
        _check_call(function, arguments)
        self._copy([arguments])
        made = _Value(content=_BYTES if function.content == _ENCODE else None)
        self._stack.append(made)
        self._fill(made, [function, arguments])

    def set_state(self, _: object) -> None:
        """Give an object its state, which may refer to it: it is no value of a container."""
        self._copy(self.pop_some(1))

    def _copy(self, values: list[_Value]) -> None:
        self._copied += sum(value.size for value in values)
        if self._copied > self._limit:
            raise _TooMuchError("values that are used too often")

    def _fill(self, made: _Value, values: list[_Value]) -> None:
        for value in values:
            value.is_placed = True
            made.size += value.size
            made.depth = max(made.depth, value.depth + 1)
        if made.is_placed and values:
            raise _TooMuchError("a container that is filled late, as one that contains itself")
        if made.depth > _MAX_DEPTH:
            raise _TooMuchError(f"containers that are nested more than {_MAX_DEPTH} deep")
        if made.size > self._limit:
            raise _TooMuchError("values that are used too often")


def _check_call(function: _Value, arguments: _Value) -> None:
    """Refuse a call that may take more memory than its arguments.

    Raises:
        _TooMuchError: naming the function.
    """
    if not isinstance(arguments.content, tuple):
        raise _TooMuchError("a call with other arguments than a tuple")
    if function.content == _CALLER and len(arguments.content) > 2:
        _check_call(arguments.content[0], arguments.content[2])

    given = [value.content for value in arguments.content]
    if function.content == _ENCODE and given[1:] != ["latin1"]:
        raise _TooMuchError("text in an encoding that no checkpoint has")
    name = function.content.name if isinstance(function.content, _Global) else ""
    if _SIZED.fullmatch(name) and not all(content is _BYTES for content in given):
        called = name.replace(" ", ".")
        raise _TooMuchError(f"a call of {called}, which takes any amount of memory")


_LEAVES = frozenset(
    ("NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1")
    + ("BINUNICODE", "SHORT_BINSTRING")
)
_GETS = frozenset(("BINGET", "LONG_BINGET"))
_PUTS = frozenset(("BINPUT", "LONG_BINPUT"))
# Opcodes that torch does not read are in none of these tables.
_OTHERS: dict[str, Callable[[_Walk, Any], None]] = {
    "PROTO": lambda walk, argument: None,
    "GLOBAL": _Walk.push_global,
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), _Walk.push_empty),
    "EMPTY_TUPLE": _Walk.push_no_values,
    "MARK": _Walk.mark,
    "TUPLE": lambda walk, _: walk.push_tuple(walk.pop_mark()),
    "TUPLE1": lambda walk, _: walk.push_tuple(walk.pop_some(1)),
    "TUPLE2": lambda walk, _: walk.push_tuple(walk.pop_some(2)),
    "TUPLE3": lambda walk, _: walk.push_tuple(walk.pop_some(3)),
    "APPEND": lambda walk, _: walk.add(walk.pop_some(1)),
    "APPENDS": lambda walk, _: walk.add(walk.pop_mark()),
    "SETITEM": lambda walk, _: walk.add(walk.pop_some(2), have_keys=True),
    "SETITEMS": lambda walk, _: walk.add(walk.pop_mark(), have_keys=True),
    "BINPERSID": lambda walk, _: walk.push_storage(),
    "REDUCE": lambda walk, _: walk.call(),
    "NEWOBJ": lambda walk, _: walk.call(),
    "BUILD": _Walk.set_state,
}
