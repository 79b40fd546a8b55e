"""What the commands that write many files share: a journal that a second start goes on from, and a
busy pool.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

from omnidali.errors import UserError
from omnidali.utils.atomic_write import write_whole, writing_to
from omnidali.utils.untrusted_text import say

OWNER = ".omnidali.json"  # whose folder it is
# a kill may leave a half written mark, and a start that was refused a catalog, which holds nothing
# but what files are
_NOBODYS = (OWNER, "catalog.sqlite")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# of the results; an original that is denied is a failed file
_DENIED = {errno.EACCES, errno.EPERM, errno.EIO}


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
        raise UserError(
            "--out",
            "an empty folder or an earlier copy",
            f"other files in {out}",
            "Choose another.",
        )


def take_folder(
    out: str | Path, command: str, config_file: str | Path, earlier: str = OWNER
) -> None:
    """Take a folder for what a command writes over at every start; what another one left in it
    stays.

    A mark tells whose it is from before the first result, so that a start that was killed can be
    made again.

    Raises:
        UserError: as :func:`check_free`; if it cannot be written.
    """
    out, mine = Path(out), {"command": command, "config": os.path.realpath(config_file)}
    if not check_free(out, command, config_file, earlier):
        with writing_to(out):
            out.mkdir(parents=True, exist_ok=True)
            write_whole(out / OWNER, json.dumps(mine) + "\n")


def check_free(
    out: str | Path, command: str, config_file: str | Path, earlier: str = OWNER
) -> bool:
    """Look whether :func:`take_folder` may take a folder, and change nothing.

    Args:
        earlier: what the command has made in a folder of before there were marks.

    Returns:
        Whether it is taken, for the same command and config.

    Raises:
        UserError: naming --out, if it holds something that is not of an earlier start on the same
            config.
    """
    out, mine = Path(out), {"command": command, "config": os.path.realpath(config_file)}
    theirs = None
    with writing_to(out), contextlib.suppress(FileNotFoundError):
        with contextlib.suppress(FileNotFoundError, ValueError):
            theirs = json.loads((out / OWNER).read_text(encoding="utf-8"))
        if theirs == mine:
            return True
        if theirs is None and earlier != OWNER and (out / earlier).exists():
            return False
        if any(not path.name.startswith(_NOBODYS) for path in out.iterdir()):
            got = (
                f"what `omnidali {theirs['command']}` made of {theirs['config']}"
                if isinstance(theirs, dict) and theirs.keys() == mine.keys()
                else "other files"
            )
            raise UserError(
                "--out",
                f"an empty folder, or one of an earlier `omnidali {command}` of {mine['config']}",
                f"{got} in {out}",
                "Choose another.",
            )
    return False


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


def complete(
    path: Path,
    others: Iterable[dict],
    journal: dict[str, dict],
    todo: Collection,
    workers: int,
    work: Callable,
) -> None:
    """Do what a journal does not know, and write it down as it is done.

    Args:
        path: of the journal. others: entries that stay in it, though nobody asks for them this
            time.
        journal: entries of what lies there already, by path; gets those of the rest.
        todo: what is left, things with a number of ``frames``. work: gives the entry of one.
    """
    write_whole(path, (json.dumps(row) + "\n" for row in (*others, *journal.values())))
    if journal:
        say(f"{len(journal):,} of {len(journal) + len(todo):,} files lie there already")
    with (
        open(path, "a", encoding="utf-8") as file,
        tqdm(
            total=sum(item.frames for item in todo),
            desc=path.stem,
            unit="frame",
            unit_scale=True,
            file=sys.stderr,
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
        ) as bar,
    ):

        def done(made: tuple[int, dict]) -> None:
            frames, row = made
            journal[row["path"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            bar.update(frames)

        run_ahead(lambda item: (item.frames, work(item)), todo, workers, done)


def run_ahead(work: Callable, items: Iterable, workers: int, done: Callable) -> None:
    """Call ``done(work(item))`` for every item, ``work`` in threads and a few items ahead, ``done``
    in this one.

    Raises:
        Exception: the first of either; what has begun is finished before.
    """
    waiting, running = iter(items), set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                running |= {
                    pool.submit(work, item)
                    for item in itertools.islice(waiting, 2 * workers - len(running))
                }
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                # what succeeded first: one that fails must not take it along
                for future in sorted(finished, key=lambda future: future.exception() is not None):
                    done(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
