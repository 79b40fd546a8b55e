"""Errors that a user can act on: where, what was expected, what came, what to do."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Sequence

from omnidali import watch


class UserError(ValueError):
    """A mistake in the user's files or settings.

    Args:
        where: the key, the file with its line, or the folder.
        expected: what would have been right.
        got: what was there instead.
        advice: one imperative sentence.

    >>> print(UserError("sources.web.weight", "a number above 0", "-1", "Leave the source out to switch it off."))
    sources.web.weight: expected a number above 0, got -1. Leave the source out to switch it off.
    """

    def __init__(self, where: str, expected: str, got: str, advice: str):
        super().__init__(f"{where}: expected {expected}, got {got}. {advice}")
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


class CannotDecode(Exception):
    """A file that no decoder could turn into the planned frames; its text is the reason."""


def exit_with_advice(story: Callable[[], int | None], rank: int = 0) -> int:
    """Run ``story``; errors of the user's settings and files become text on stderr and exit code 2, no traceback.

    Ranks above 0 keep back what rank 0 also says: mistakes of the config, and errors it has shared. An error that
    another rank's end has caused is told as that end, in one line. An interrupt from the keyboard is 130, and quiet.
    """
    try:
        return story() or 0
    except KeyboardInterrupt as interrupt:
        tell_peers(interrupt)
        return watch.leave(130, lambda: None)
    except Exception as raised:
        error = raised
    ending = tell_peers(error)
    if isinstance(error, UserError):
        return watch.leave(2, lambda: _advise(error, rank))
    if ending is not None:
        return watch.leave(ending.code, lambda: print(ending, file=sys.stderr, flush=True))
    if not watch.is_on():
        raise error
    return watch.leave(1, lambda: traceback.print_exception(error))


@contextlib.contextmanager
def telling_peers():
    """Tell the other ranks of an error at once, before files and loaders are closed, which may take long."""
    try:
        yield
    except BaseException as error:
        tell_peers(error)
        raise


def tell_peers(error: BaseException) -> watch.Ending | None:
    """Tell the other ranks that this one ends; where another rank's end is behind ``error``, that is returned."""
    code = 130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, UserError) else 1
    return watch.report(code, error)


def _advise(error: Exception, rank: int) -> None:
    if rank == 0 or not (isinstance(error, ConfigErrors) or getattr(error, "told_by_main", False)):
        lines = str(error).splitlines()
        head = "error" if len(lines) == 1 else f"{len(lines)} errors"
        print(f"{head} on rank {rank}:" if rank else f"{head}:", *(f"  {line}" for line in lines), sep="\n",
              file=sys.stderr, flush=True)
