"""Files that are written whole or not at all."""

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from omnidali.errors import UserError, start_of
from omnidali.utils.untrusted_text import PrintError, for_csv


def write_whole(path: Path, data: str | bytes | Iterable[str]) -> None:
    """Make or replace a file; after an error the old one stays, and nothing half written.

    Args:
        path: of the file; its folder is made where it is missing.
        data: all of it, or texts that are written as they come.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    chunks: Iterable[str | bytes] = [data] if isinstance(data, (str, bytes)) else data
    try:
        with open(part, "wb") as file:
            file.writelines(
                chunk.encode("utf-8", "surrogateescape") if isinstance(chunk, str) else chunk
                for chunk in chunks
            )
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


class _Echo:
    """A file that returns what is written into it."""

    def write(self, text: str) -> str:
        return text


def table_lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a CSV table for people: no cell is a formula, or has two lines.

    >>> list(table_lines([["class", "items"], ["=A1", 3]]))
    ['class,items\\n', "'=A1,3\\n"]
    """
    return csv_lines([for_csv(value) for value in row] for row in rows)


def csv_lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a list that programs read back: every value stays as it is.

    >>> list(csv_lines([["path", "label"], ["a, b.jpg", 3]]))
    ['path,label\\n', '"a, b.jpg",3\\n']
    """
    return map(csv.writer(_Echo(), lineterminator="\n").writerow, rows)


@contextlib.contextmanager
def writing_to(out: Path, *others: type[Exception]) -> Iterator[None]:
    """Turn errors of the disk while results are written into errors that the user can act on.

    Args:
        out: the folder of the results, for errors that name no file.
        *others: exceptions that libraries raise there instead of an OSError.

    Raises:
        UserError: for an OSError or one of the others.
    """
    disk_errors: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except (BrokenPipeError, PrintError):  # of what is printed meanwhile
        raise
    except disk_errors as error:
        path = str(getattr(error, "filename", None) or out)
        raise UserError(
            path,
            "a folder that can be written",
            f"{getattr(error, 'strerror', None) or error}{start_of(path)}",
            "Make room or choose another --out; a second start goes on where this one stopped.",
        ) from None
