"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from omnidali.errors import UserError
from omnidali.utils.untrusted_text import PrintError, for_csv


def write_whole(path: Path, data: str | bytes | Iterable[str]) -> None:
    """Make or replace a file; at an error the old one stays, and nothing half written is left.

    Args:
        data: all of it, or texts that are written as they come.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    pieces = [data] if isinstance(data, (str, bytes)) else data
    try:
        with open(part, "wb") as file:
            file.writelines(
                piece.encode("utf-8", "surrogateescape") if isinstance(piece, str) else piece
                for piece in pieces
            )
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


class _Echo:
    """A file that gives back what is written into it."""

    def write(self, text: str) -> str:
        return text


def table_lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lines of a CSV table for people, one at a time; to a spreadsheet no cell is a formula, and
    none has two lines.

    >>> list(table_lines([["class", "items"], ["=A1", 3]]))
    ['class,items\\n', "'=A1,3\\n"]
    """
    return csv_lines([for_csv(value) for value in row] for row in rows)


def csv_lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lines of a list that programs read back, one at a time, with every value as it is.

    >>> list(csv_lines([["path", "label"], ["a, b.jpg", 3]]))
    ['path,label\\n', '"a, b.jpg",3\\n']
    """
    return map(csv.writer(_Echo(), lineterminator="\n").writerow, rows)


@contextlib.contextmanager
def writing_to(out: Path, *others: type[Exception]) -> Iterator[None]:
    """What goes wrong with the disk while results are written is the user's to put right.

    Args:
        others: what libraries raise there instead of an OSError.

    Raises:
        UserError: for an OSError or one of the others.
    """
    try:
        yield
    except (BrokenPipeError, PrintError):  # of what is printed meanwhile
        raise
    except (OSError, *others) as error:
        raise UserError(
            str(getattr(error, "filename", None) or out),
            "a folder that can be written",
            str(getattr(error, "strerror", None) or error),
            "Make room or choose another --out; a second start goes on where this one stopped.",
        ) from None
