"""Errors that a user can act on: where, what was expected, what was found, what to do."""

import copyreg
import os
from collections.abc import Sequence
from pathlib import Path

# French, Chinese and Persian text and emoji need these; they only look like spaces.
_SPACES_AND_JOINERS = "\u00a0\u3000\u200c\u200d"


def printable(text: str) -> str:
    r"""Turn ``text`` into one line for a terminal: characters that do not print are escaped.

    >>> printable("\x1b[31mred\n"), printable("na\u00efve \u732b")
    ('\\x1b[31mred\\n', 'naïve 猫')
    """
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(char: str) -> str:
    if char.isprintable() or char in _SPACES_AND_JOINERS:
        return char
    if "\udc80" <= char <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def start_of(path: str | Path, folder: str | Path = ".", name: str = "the current folder") -> str:
    """Say in an error about a path where it starts; nothing for an absolute path.

    Args:
        path: as it was given.
        folder: that a relative path starts from.
        name: of that folder, for people.

    >>> start_of("/data/train.txt"), start_of("train.txt", "/data", "data_root")
    ('', ' (relative to data_root /data)')
    """
    if os.path.isabs(path):
        return ""
    try:
        return f" (relative to {name} {os.path.abspath(folder)})"
    except OSError:  # the current folder was deleted
        return f" (relative to {name})"


class UserError(ValueError):
    """A mistake in the user's files or settings.

    Its text is one line that a terminal may print, as it may quote untrusted names; ``where`` and
    ``got`` are kept as they were given.

    Args:
        where: the key, the file with its line, or the folder.
        expected: what would have been right.
        got: found instead.
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
        super().__init__(printable(f"{where}: expected {expected}, got {got}. {advice}"))
        self.where = where
        self.got = got

    def __reduce__(self) -> tuple[object, ...]:
        # other exceptions are unpickled by a call of __init__, whose arguments are not kept here
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class ConfigError(UserError):
    """All mistakes of a config or a command line at once, a line each; ``errors`` holds them."""

    def __init__(self, errors: Sequence[UserError]):
        ValueError.__init__(self, "\n".join(str(error) for error in errors))
        self.errors = tuple(errors)
        self.where = errors[0].where
        self.got = errors[0].got


class BadSourceError(UserError):
    """More files of a source fail than its limits allow."""


class OtherProcessError(UserError):
    """A loader was carried into another process than its own.

    Args:
        report: ignored. PyTorch raises the error of a worker anew in the main process, with its
            own report of it as the only argument.
    """

    def __init__(self, report: str = ""):
        super().__init__(
            "FusionIterator",
            "to be used in the process that opened it, with num_workers=0 of a DataLoader",
            "another process, such as a worker of a DataLoader",
            "Use num_workers=0, as it decodes on threads of its own (loader.threads); in processes"
            " of your own call open_loader in each.",
        )


class UnreadableItemError(UserError):
    """An item of a dataset does not decode, and nothing takes its place.

    Args:
        where: as of :class:`UserError`; alone, PyTorch's report of a worker that raised the error,
            which the main process raises anew.
        expected: as of :class:`UserError`, like the next two.
        got: found instead.
        advice: one imperative sentence.
    """

    def __init__(self, where: str, expected: str = "", got: str = "", advice: str = ""):
        if expected:
            super().__init__(where, expected, got, advice)
            return
        # the error's own line is the last one of the report
        line = where.rstrip().rpartition("\n")[2]
        ValueError.__init__(self, line.removeprefix(f"{__name__}.{type(self).__name__}: "))
        self.where = self.args[0].partition(": ")[0]
        self.got = self.args[0]


class NoUsableFilesError(UserError):
    """No file of a source is usable, and the catalog has the reason for each."""


# The cause of a file's failure to decode.
DISK = "disk"  # it does not give the file, or not all of it: a temporary trouble
HANG = "hang"  # the same, but the reader waits
MACHINE = "machine"  # out of memory or descriptors: temporary, too
FILE = "file"  # its content does not decode: that stays so until somebody changes it
TROUBLES = (DISK, HANG, MACHINE, FILE)


class DecodeError(Exception):
    """A file that no decoder could turn into the planned frames.

    Its text is the reason, after the trouble if that is not the file.

    Args:
        reason: for people.
        trouble: what is to blame: one of ``TROUBLES``.
    """

    def __init__(self, reason: str, trouble: str = FILE):
        super().__init__(reason, trouble)
        self.reason = reason
        self.trouble = trouble

    def __str__(self) -> str:
        return self.reason if self.trouble == FILE else f"{self.trouble}: {self.reason}"
