"""Damaged catalogs, which are moved aside and built again, and the lock between two builds."""

import errno
import fcntl
import mmap
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omnidali.errors import UserError, start_of
from omnidali.utils.untrusted_text import say

DAMAGED = ".damaged"  # ending of a damaged catalog's new name
# SQLite's ending for what a killed writer began, which the next one takes back
_JOURNAL = "-journal"
_LOOKS = 5  # at a catalog that seems damaged
_LOOK_SECONDS = 0.02
_MAGIC = b"SQLite format 3\0"
_USABLE = "a catalog file that can be used"
_PASSING = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
# What to do about errors of SQLite that do not come from the content of the file; none of them is
# a reason to delete the catalog.
_ADVICE = {
    "locked": "Let the other process that uses it end, or give this one a `catalog` of its own;"
    " then start again.",
    "full": "Make room on its disk, then start again.",
    "readonly": "Correct its permissions and those of its folder, or give the run a `catalog` of"
    " its own.",
    "disk I/O": "Check the disk and the mount, then start again; the file need not be damaged.",
    "out of memory": "Make memory free or raise the limit, then start again.",
    "interrupted": "Start again.",
    "unable to open": "Check its folder, the permissions and the limit of open files (ulimit -n),"
    " then start again.",
}


class DamagedCatalogError(Exception):
    """A catalog is not as it was written; the text is the finding."""


def damage(path: Path, seen: object, wanted: str = _USABLE) -> UserError:
    """The error of a run whose catalog is damaged, or cannot be used: it says which of the two.

    Args:
        path: of the catalog.
        seen: the damage that was found, or the error.
        wanted: what would have been right, of a catalog that is not damaged.
    """
    if isinstance(seen, sqlite3.Error) and not is_damage(seen):
        return trouble(path, seen, wanted)
    return UserError(
        str(path),
        "a catalog as it was written",
        str(seen),
        "Delete the file and start again; it is rebuilt from the media.",
    )


@contextmanager
def reporting_damage(path: Path, wanted: str = _USABLE) -> Iterator[None]:
    """Turn what a damaged or unusable catalog raises into an error for the user.

    Args:
        path: of the catalog.
        wanted: as in :func:`damage`.
    """
    try:
        yield
    except (sqlite3.Error, DamagedCatalogError) as error:
        raise damage(path, error, wanted) from None


def trouble(path: Path, error: sqlite3.Error | OSError, wanted: str = _USABLE) -> UserError:
    """The error of a run that cannot use its catalog, though the content is sound.

    Args:
        path: of the catalog.
        error: that occurred.
        wanted: what would have been right.
    """
    seen = str(error)
    if "unable to open" in seen and not os.path.exists(path):
        return UserError(
            str(path),
            "a catalog",
            f"no file{start_of(path)}",
            "Where it was deleted while a run used it, start again with"
            " --resume auto: it is rebuilt.",
        )
    found = [advice for words, advice in _ADVICE.items() if words in seen]
    seen += start_of(path)
    return UserError(str(path), wanted, seen, found[0] if found else _ADVICE["unable to open"])


def crc_of(*values: object) -> int:
    """Compute a checksum of values: SQLite does not see a bit that flips in them."""
    crc = 0
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
        crc = zlib.crc32(data, zlib.crc32(b"%d " % len(data), crc))
    return crc


def check_length(path: Path) -> None:
    """Refuse a file that was cut off, or filled with zeros by a crash: SQLite sees that late.

    Beside a writer its length, its head and its journal are those of different moments: what is
    wrong must stay so.

    Raises:
        DamagedCatalogError: with the finding.
    """
    for _ in range(_LOOKS):
        wrong = _wrong_length(path)
        if wrong is None:
            return
        time.sleep(_LOOK_SECONDS)
    raise DamagedCatalogError(wrong)


def _wrong_length(path: Path) -> str | None:
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        return None
    with open(path, "rb") as file:
        head = file.read(100)
    if not head.strip(b"\0"):
        return "zeros"
    # no database, or one to be taken back
    if not head.startswith(_MAGIC) or os.path.exists(f"{path}{_JOURNAL}"):
        return None

    page = int.from_bytes(head[16:18], "big")
    expected = int.from_bytes(head[28:32], "big") * (65536 if page == 1 else page)
    if size >= 100 and size == expected:
        return None
    return f"{size:,} bytes instead of {expected:,}"


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error comes from the content of the file, not from locks, permissions or disks."""
    text = str(error)
    if "not a database" in text:  # somebody else's file
        return False
    is_operational = isinstance(error, sqlite3.OperationalError)
    return not (is_operational and any(words in text for words in _ADVICE))


def may_pass(error: BaseException | None) -> bool:
    """Whether another try may succeed, as the disk or the machine is in trouble at this moment."""
    if isinstance(error, OSError):
        return error.errno in _PASSING
    if isinstance(error, sqlite3.OperationalError):
        return any(words in str(error) for words in ("disk I/O", "unable to open", "memory"))
    return isinstance(error, MemoryError)


def move_aside(path: Path, seen: Exception) -> None:
    """Give a damaged catalog, and its journal, another name, and report that.

    Args:
        path: of the catalog.
        seen: the damage that was found.
    """
    lost = "; the scores of teachers that it held went with it" if _holds_scores(path) else ""
    # in this order: a new catalog must not find the old one's journal
    for ending in (_JOURNAL, ""):
        if os.path.exists(f"{path}{ending}"):
            os.replace(f"{path}{ending}", f"{path}{DAMAGED}{ending}")
    say(f"{path} is damaged ({seen}): moved to {path}{DAMAGED} and built anew{lost}", error=True)


def _holds_scores(path: Path) -> bool:
    """Whether the bytes show a table of scores: a damaged catalog answers no queries."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"CREATE TABLE scores") >= 0


@contextmanager
def only_build(path: Path) -> Iterator[None]:
    """Make other builds of the catalog at ``path`` wait, which they report.

    A killed build makes nobody wait.
    """
    lock = f"{path}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:  # a catalog in a folder that others own: nothing can be written there anyway
        yield
        return

    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is building {path}: waiting for it", error=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: SQLite's own must do
            pass
        yield
    finally:
        os.close(file)
