r"""Text of strangers, made fit for each place where people read it: one function a place.

Names of files, folders, classes and tar members, labels, ids, and messages that quote them may hold
control characters, marks that change the direction of writing, markup and formulas. Inside the
program, and in lists that are read back, they stay as they are.

What a function here has escaped it leaves alone the next time, but for :func:`for_markdown`.
"""

from __future__ import annotations

import re
import shlex
import sys

from omnidali.errors import printable

LONGEST = 300  # characters of a name
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?")
# what a spreadsheet takes for the begin of a formula, in narrow and in wide letters; many split
# cells at semicolons
_FORMULA = re.compile(r"(^\s*|;\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
# `_` inside a word is no markup; at the begin of a line or an item of a list there is more than
# elsewhere
_MARKUP = re.compile(
    r"[\\`*\[\]|~#$]|(?<![^\W_])_|_(?![^\W_])|^[-+=](?![0-9.])|:(?=//)|(?<=www)\.", re.IGNORECASE
)
_NUMBERED = re.compile(r"^([0-9]+)([.)])(?=\s|$)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class PrintError(OSError):
    """What is printed goes to a file on a full disk, or to a terminal that is gone."""


def for_terminal(text: object, longest: int | None = LONGEST) -> str:
    r"""Text for one line of a terminal, a log or a message: what does not print is escaped.

    Args:
        longest: characters; what is longer loses its middle. None: any number, for whole messages.

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
    r"""Text anywhere in a line of Markdown, in a table, too, which shows it as it is.

    Args:
        longest: as in :func:`for_terminal`.

    >>> print(for_markdown("<b>|[x](javascript:y) snake_case"))
    &lt;b&gt;\|\[x\](javascript:y) snake_case
    """
    text = _NUMBERED.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", for_terminal(text, longest)))
    return re.sub("[&<>]", lambda mark: _ENTITIES[mark[0]], text)


def for_csv(value: object) -> object:
    r"""A cell of a table for people, who may open it in a spreadsheet: no text is a formula, and
    each is one line.

    Numbers stay as they are. Tables that programs read back need no such cells.

    >>> for_csv("=cmd|' /C calc'!A0"), for_csv("a\nb"), for_csv(-1.5), for_csv("-1.5")
    ("'=cmd|' /C calc'!A0", 'a\\nb', -1.5, '-1.5')
    """
    if value is None or isinstance(value, (int, float)):
        return value
    text = for_terminal(value, None)
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1'", text)


def for_tensorboard(tag: object) -> str:
    r"""A tag of TensorBoard's, in which slashes group.

    >>> for_tensorboard("clips/<b>web\n 猫")
    'clips/_b_web_ 猫'
    """
    return re.sub(r"[^\w./ +-]", "_", str(tag))[:LONGEST]


def for_picture(text: object, longest: int | None = 100) -> str:
    r"""One line of text for OpenCV's fonts, which hold ASCII alone; a long one would make a huge
    picture.

    >>> for_picture("naïve\n")
    'na?ve\\n'
    """
    return for_terminal(text, longest).encode("ascii", "replace").decode("ascii")


def for_shell(*words: object) -> str:
    r"""A command as a shell takes it: a word stays one word, and nothing in it is run when it is
    pasted.

    It goes through :func:`for_terminal` where it is printed; a name that this escapes has to be
    typed.

    >>> print(for_shell("train.py", "--config", "my runs/$(reboot).yaml"))
    train.py --config 'my runs/$(reboot).yaml'
    """
    return shlex.join(map(str, words))


def say(*lines: object, error: bool = False) -> None:
    """Print lines to stdout, or to stderr with ``error``. Each stays one line, whatever names it
    holds.

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
