"""Untrusted text and JSON: bounded in length, digits and nesting; errors name their place."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from omnidali.errors import UserError, start_of
from omnidali.utils.untrusted_text import for_terminal

MAX_LINE = 1 << 16  # characters: a path has 4,096 at most, and a day of video 8,640 pieces
# characters of a JSON file, which may be one line: the release's largest has 40 million
MAX_JSON = 1 << 28
NOT_UTF8 = "name is not UTF-8: rename it"  # how the reason begins for which a file is left out
MAX_DIGITS = 15  # of a whole number: what a float64 holds exactly


def read_lines(
    path: Path, what: str, passes_over: Callable[[str, str], bool] = lambda where, line: False
) -> Iterator[tuple[str, str]]:
    """Yield ("FILE, line N", stripped line) of a text file.

    Args:
        path: of the file.
        what: names the kind of file in errors.
        passes_over: decides for each line that is not UTF-8, given the same two texts, whether to
            leave it out. Its other bytes are surrogate escapes.

    Raises:
        UserError: if it cannot be read as UTF-8, or has an endless line.
    """
    try:
        longest = MAX_JSON if begins_as_json(path) else MAX_LINE
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = iter(lambda: file.readline(longest + 1), "")
            for number, line in enumerate(lines, 1):
                where = f"{path}, line {number}"
                if len(line) > longest:
                    raise UserError(
                        where,
                        f"a line of at most {longest:,} characters",
                        "more",
                        f"Check that the file is a {what} file.",
                    )

                line = line.strip()
                if line.isascii() or is_text(line):
                    yield where, line
                elif not passes_over(where, line):
                    raise UserError(
                        where,
                        f"a readable {what} file in UTF-8",
                        f"'{for_terminal(line[:80])}'",
                        "Save the file as UTF-8.",
                    )
    except FileNotFoundError:
        raise UserError(
            str(path),
            f"a {what} file",
            f"no such file{start_of(path)}",
            "Check the path and data_root.",
        ) from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            str(path),
            f"a readable {what} file in UTF-8",
            f"{getattr(error, 'strerror', None) or error}{start_of(path)}",
            "Check the file and its permissions.",
        ) from None


def begins_as_json(path: Path) -> bool:
    """Whether the first character of a file opens a list or an object of JSON."""
    with open(path, "rb") as file:
        return file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"[", b"{"))


def is_text(value: str) -> bool:
    """Whether ``value`` can be written as UTF-8, which halves of surrogate pairs cannot."""
    try:
        value.encode()
        return True
    except UnicodeEncodeError:
        return False


def is_line(value: str) -> bool:
    r"""Whether ``value`` can be a line of a text file of names.

    >>> is_line("na\u00efve"), is_line("a\nb"), is_line("\ud800")
    (True, False, False)
    """
    return is_text(value) and "\n" not in value and "\r" not in value


def require_utf8_names() -> None:
    """Refuse a Python whose file names have another encoding, which finds few names of a list.

    The programs restart themselves instead, see :func:`omnidali.cli.start.use_utf8`.

    Raises:
        UserError: naming the encoding.
    """
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        raise UserError(
            "Python's encoding of file names",
            "utf-8",
            encoding,
            "Set PYTHONUTF8=1 in the environment.",
        )


def is_whole(text: str) -> bool:
    """Whether ``text`` is a whole number of 0 or more with at most 15 digits, written 0 to 9.

    >>> is_whole("12"), is_whole("-1"), is_whole("\u00b2"), is_whole("9" * 5000)
    (True, False, False, False)
    """
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def parse_json(text: str, where: str) -> object:
    """Parse a JSON text. NaN and infinity, which JSON does not have, are mistakes.

    Raises:
        UserError: with ``where`` and the line.
    """
    start = len(text) - len(text.lstrip())
    value, end = read_json(text, start, where)
    if text[end:].strip():
        line = 1 + text.count("\n", 0, end)
        raise UserError(
            f"{where}, line {line}",
            "the end of the JSON",
            repr(text[end : end + 80]),
            "Correct the file.",
        )
    return value


def read_json(text: str, start: int, where: str) -> tuple[object, int]:
    """Parse the JSON value that begins at ``start``; returns it and the position after it.

    Raises:
        UserError: with ``where`` and the line.
    """
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}, line {error.lineno}", "JSON", error.msg, "Correct the file."
        ) from None
    except ValueError as error:
        raise UserError(where, "JSON", str(error)[:200], "Correct the file.") from None
    except RecursionError:
        raise UserError(
            where, "JSON of a few levels", "hundreds of levels", "Correct the file."
        ) from None


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS + 1:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text}, which is no number")


def _parse_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_constant(text[:20])


_DECODER = json.JSONDecoder(
    parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant
)
