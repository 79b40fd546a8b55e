r"""Untrusted text, escaped for each place where people read it: one function a place.

Names of files, folders, classes and tar members, labels, ids, and messages that quote them may hold
control characters, marks that change the direction of writing, markup and formulas. Inside the
program, and in lists that are read back, they stay as they are.

A second call of a function here changes nothing, except of :func:`for_markdown`.
"""

import contextlib
import re
import shlex
import sys

from omnidali.errors import printable

LONGEST = 300  # characters of a name
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?")
# a spreadsheet takes these for the beginning of a formula, in narrow and in wide letters; many
# split cells at semicolons
_FORMULA = re.compile(r"(^\s*|;\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
# `_` inside a word is no markup; the beginning of a line or of a list's item has more markup
_MARKUP = re.compile(
    r"[\\`*\[\]|~#$]|(?<![^\W_])_|_(?![^\W_])|^[-+=](?![0-9.])|:(?=//)|(?<=www)\.", re.IGNORECASE
)
_NUMBERED = re.compile(r"^([0-9]+)([.)])(?=\s|$)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class PrintError(OSError):
    """The output cannot be printed: its file is on a full disk, or its terminal is gone."""


def for_terminal(text: object, longest: int | None = LONGEST) -> str:
    r"""Escape what does not print, for one line of a terminal, a log or a message.

    Args:
        text: of any origin.
        longest: characters; a longer text loses its middle. None: any number, for whole messages.

    >>> (
    ...     for_terminal("\x1b[31mred\n"),
    ...     for_terminal("\u202egpj.exe"),
    ...     for_terminal("na\u00efve \u732b"),
    ... )
    ('\\x1b[31mred\\n', '\\u202egpj.exe', 'naïve 猫')
    >>> for_terminal(b"caf\xe9".decode("utf-8", "surrogateescape"))
    'caf\\xe9'
    """
    text = printable(str(text))
    if longest is None or len(text) <= longest:
        return text
    begin = (longest - 3) // 2
    return f"{text[:begin]}...{text[begin + 3 - longest :]}"


def for_markdown(text: object, longest: int | None = LONGEST) -> str:
    r"""Escape markup, so that a line or table of Markdown shows the text as it is.

    Args:
        text: of any origin.
        longest: as in :func:`for_terminal`.

    >>> print(for_markdown("<b>|[x](javascript:y) snake_case"))
    &lt;b&gt;\|\[x\](javascript:y) snake_case
    """
    escaped = _MARKUP.sub(r"\\\g<0>", for_terminal(text, longest))
    escaped = _NUMBERED.sub(r"\1\\\2", escaped)
    return re.sub("[&<>]", lambda mark: _ENTITIES[mark[0]], escaped)


def for_csv(value: object) -> object:
    r"""Escape a cell of a table that people may open in a spreadsheet.

    No text is a formula, and each is one line. Numbers stay as they are. Tables that programs read
    back need no such cells.

    >>> for_csv("=cmd|' /C calc'!A0"), for_csv("a\nb"), for_csv(-1.5), for_csv("-1.5")
    ("'=cmd|' /C calc'!A0", 'a\\nb', -1.5, '-1.5')
    """
    if value is None or isinstance(value, (int, float)):
        return value
    text = for_terminal(value, None)
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1'", text)


def for_tensorboard(tag: object) -> str:
    r"""Turn a text into a tag of TensorBoard, in which slashes group.

    >>> for_tensorboard("clips/<b>web\n 猫")
    'clips/_b_web_ 猫'
    """
    return re.sub(r"[^\w./ +-]", "_", str(tag))[:LONGEST]


def for_image(text: object, longest: int | None = 100) -> str:
    r"""Turn a text into one line for OpenCV's fonts, which hold ASCII alone.

    Args:
        text: of any origin.
        longest: as in :func:`for_terminal`; a long line would make a huge image.

    >>> for_image("naïve\n")
    'na?ve\\n'
    """
    return for_terminal(text, longest).encode("ascii", "replace").decode("ascii")


def for_shell(*words: object) -> str:
    r"""Quote a command so that it can be pasted into a shell: each word stays one, and none is run.

    :func:`for_terminal` still applies where the command is printed; a name that this escapes has to
    be typed.

    >>> print(for_shell("omnidali", "train", "--config", "my runs/$(reboot).yaml"))
    omnidali train --config 'my runs/$(reboot).yaml'
    """
    return shlex.join(map(str, words))


def say(*lines: object, error: bool = False) -> None:
    """Print lines to stdout, or to stderr with ``error``; each stays one line whatever it holds.

    Raises:
        BrokenPipeError: if the reader has left.
        PrintError: for any other error of the stream.

    >>> say("found:", "a\\nb")
    found:
    a\\nb
    """
    stream = sys.stderr if error else sys.stdout
    text = "\n".join(for_terminal(line, None) for line in lines)
    encoding = getattr(stream, "encoding", None) or "utf-8"  # of a locale that may hold ASCII alone
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise PrintError(problem.errno, problem.strerror) from None


def warn(line: str) -> None:
    """Print a line to stderr if that is possible: it may be on a full disk, or closed."""
    with contextlib.suppress(OSError, ValueError):
        say(line, error=True)
