"""What the commands that write many files share: a journal that a second start goes on from, and a busy pool."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from omnidali.errors import UserError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_DENIED = {errno.EACCES, errno.EPERM, errno.EIO}  # of the results; an original that is denied is a failed file


def is_of_the_disk(error: BaseException, out: Path) -> bool:
    """Whether an error is that of the folder for the results, where no other file will fare better."""
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    return number in _DISK or (number in _DENIED and str(file or out).startswith(str(out)))


def check_folder(out: Path, journal: str, unfinished: str) -> None:
    """Refuse a folder that holds something, but not an earlier start of the same command.

    Raises:
        UserError: naming --out.
        OSError: if it cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not ((out / unfinished).exists() or (out / journal).exists()):
        raise UserError("--out", "an empty folder or an earlier copy", f"other files in {out}", "Choose another.")


def stamp(path: str | Path) -> list[int] | None:
    """Size and time of a file; None where it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def read_journal(path: Path) -> dict[str, dict]:
    """The last entry of every file; a line cut off by a kill counts as not there."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            rows[row["path"]] = row
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def run_ahead(work: Callable, items: Iterable, workers: int, done: Callable) -> None:
    """Call ``done(work(item))`` for every item, ``work`` in threads and a few items ahead, ``done`` in this one.

    Raises:
        Exception: the first of either; what has begun is finished before.
    """
    waiting, running = iter(items), set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                running |= {pool.submit(work, item) for item in itertools.islice(waiting, 2 * workers - len(running))}
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
