"""Errors that a user can act on: where, what was expected, what came, what to do."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from omnidali import streams, watch
from omnidali.untrusted_text import CannotPrint, for_terminal, say


class UserError(ValueError):
    """A mistake in the user's files or settings.

    Its text is one line that a terminal may print, as names in it may be those of strangers;
    ``where`` and ``got`` are as they were given.

    Args:
        where: the key, the file with its line, or the folder.
        expected: what would have been right.
        got: what was there instead.
        advice: one imperative sentence.

    >>> print(
    ...     UserError(
    ...         "sources.web.weight",
    ...         "a number above 0",
    ...         "-1",
    ...         "Leave the source out to switch it off.",
    ...     )
    ... )
    sources.web.weight: expected a number above 0, got -1. Leave the source out to switch it off.
    """

    def __init__(self, where: str, expected: str, got: str, advice: str):
        super().__init__(for_terminal(f"{where}: expected {expected}, got {got}. {advice}", None))
        self.where, self.got = where, got

    def __reduce__(self):  # exceptions with several arguments do not survive pickling otherwise
        return _rebuild, (type(self), self.args[0], self.where, self.got)


def _rebuild(kind: type, message: str, where: str, got: str) -> UserError:
    error = kind.__new__(kind)
    ValueError.__init__(error, message)
    error.where, error.got = where, got
    return error


class ConfigErrors(UserError):
    """Every mistake of a config at once, one line each; ``errors`` holds them."""

    def __init__(self, errors: Sequence[UserError]):
        ValueError.__init__(self, "\n".join(str(error) for error in errors))
        self.errors = tuple(errors)
        self.where, self.got = errors[0].where, errors[0].got

    def __reduce__(self):
        return ConfigErrors, (self.errors,)


class BadSource(UserError):
    """More files of a source fail than its limits allow."""


class NothingUsable(UserError):
    """A source was read, and the catalog knows of every file what is wrong with it."""


# Who is to blame for a file that does not decode.
DISK = "disk"  # it does not give the file, or not all of it: this belongs to the moment
HANG = "hang"  # the same, but whoever asks waits
MACHINE = "machine"  # out of memory or descriptors: of the moment, too
FILE = "file"  # its content does not decode: that stays so until somebody changes it
TROUBLES = (DISK, HANG, MACHINE, FILE)


class CannotDecode(Exception):
    """A file that no decoder could turn into the planned frames.

    Its text is the reason, with who is to blame for it before it where that is not the file.

    Args:
        reason: for people.
        trouble: who is to blame: one of ``TROUBLES``.
    """

    def __init__(self, reason: str, trouble: str = FILE):
        super().__init__(reason, trouble)
        self.reason = reason
        self.trouble = trouble

    def __str__(self) -> str:
        return self.reason if self.trouble == FILE else f"{self.trouble}: {self.reason}"


def exit_with_advice(story: Callable[[], int | None], rank: int = 0) -> int:
    """Run ``story``; errors of the user's settings and files become text on stderr and exit code 2,
    no traceback.

    Ranks above 0 keep back what rank 0 also says: mistakes of the config, and errors it has shared.
    An error that another rank's end has caused is told as that end, in one line. An interrupt from
    the keyboard is 130, in one word; where whoever read stdout has left, it is 141, and quiet.
    """
    streams.open_missing()
    try:
        code = story() or 0
        _flush()
        return code
    except KeyboardInterrupt as interrupt:
        tell_peers(interrupt)
        return watch.leave(130, lambda: say("interrupted", error=True))
    except Exception as raised:
        error = raised
    ending = tell_peers(error)
    _record(error, ending)
    if streams.reader_left():
        streams.close_stdout()
        if isinstance(error, BrokenPipeError):
            return watch.leave(141, lambda: None)  # as a program that SIGPIPE ends
    if isinstance(error, CannotPrint):
        streams.close_stdout()
        error = UserError(
            "stdout",
            "a place that takes what is printed",
            str(error.strerror),
            "Free space, or print elsewhere.",
        )
    if isinstance(error, UserError):
        return watch.leave(2, lambda: _advise(error, rank))
    if ending is not None:
        return watch.leave(ending.code, lambda: say(*str(ending).split("\n"), error=True))
    if not watch.is_on():
        sys.excepthook = _print_traceback
        raise error
    return watch.leave(1, lambda: _print_traceback(type(error), error, error.__traceback__))


def _flush() -> None:
    """Print what waits to be printed, while an error can still be told."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise CannotPrint(problem.errno, problem.strerror) from None


@contextlib.contextmanager
def telling_peers():
    """Tell the other ranks of an error at once, before files and loaders are closed, which may take
    long.
    """
    try:
        yield
    except BaseException as error:
        tell_peers(error)
        raise


def tell_peers(error: BaseException) -> watch.Ending | None:
    """Tell the other ranks that this one ends; where another rank's end is behind ``error``, that
    is returned.
    """
    code = 130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, UserError) else 1
    return watch.report(code, error)


def _record(error: Exception, ending: watch.Ending | None) -> None:
    """Leave the text of an error, or of the end that has caused it, where torchrun looks for it."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        text = (
            str(error)
            if isinstance(error, UserError)
            else "".join(traceback.format_exception_only(error)).strip()
        )
        text = text if ending is None else ending.text
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": text, "timestamp": str(int(time.time()))}))


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What Python prints of an error that nobody catches, without what a terminal would obey."""
    say(
        *"".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"),
        error=True,
    )


def _advise(error: Exception, rank: int) -> None:
    if rank == 0 or not (isinstance(error, ConfigErrors) or getattr(error, "told_by_main", False)):
        lines = str(error).split("\n")
        head = "error" if len(lines) == 1 else f"{len(lines)} errors"
        say(
            f"{head} on rank {rank}:" if rank else f"{head}:",
            *(f"  {line}" for line in lines),
            error=True,
        )
