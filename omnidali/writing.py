"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from omnidali.errors import UserError


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
            file.writelines(piece.encode("utf-8", "surrogateescape") if isinstance(piece, str) else piece
                            for piece in pieces)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


@contextlib.contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """What goes wrong with the disk while results are written is the user's to put right.

    Raises:
        UserError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(str(error.filename or out), "a folder that can be written", str(error.strerror or error),
                        "Make room or choose another --out, and start again.") from None
