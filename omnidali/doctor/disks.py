"""Folders: whether they can be read and written, and how fast."""

import contextlib
import fcntl
import itertools
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omnidali.doctor.findings import Findings, reason_of

_MIB = 1 << 20
_BYTES = 64 * _MIB  # read of a folder
_QUICK_BYTES = 16 * _MIB
_CHUNK = 256 << 10  # about the packets of one clip
_READERS = 8
_LOOKED_AT = 5000  # files of a folder


def look_at_folders(findings: Findings) -> None:
    """Try every folder of the context and the scratch folder."""
    folders = [*findings.context.folders, findings.context.scratch]
    for case in findings.cases(dict.fromkeys(folders)):
        folder = Path(case)
        if not folder.is_dir():
            findings.bad(f"{folder} is no folder: create it, or name another one")
            continue
        writes = _try_writing(findings, folder)
        _try_reading(findings, folder, writes)


def _try_writing(findings: Findings, folder: Path) -> bool:
    """Write as a run does: a file that is synced and renamed, a lock, a database."""
    try:
        with tempfile.TemporaryDirectory(prefix=".omnidali-doctor-", dir=folder) as name:
            place = Path(name)
            with open(place / "aside", "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.write(b"x")
                os.fsync(file.fileno())
            os.replace(place / "aside", place / "file")
            with contextlib.closing(sqlite3.connect(place / "db.sqlite")) as database:
                database.execute("CREATE TABLE t (x)")
                database.commit()
    except (OSError, sqlite3.Error) as error:
        findings.fact(f"{folder}: writes", reason_of(error))
        findings.note(
            f"{folder} cannot be written ({reason_of(error)}):"
            " fine for media; a run folder has to be elsewhere"
        )
        return False
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    findings.fact(f"{folder}: writes", {"free": free})
    findings.good(f"{folder} can be written, {free / (1 << 30):.1f} GiB are free")
    return True


def _try_reading(findings: Findings, folder: Path, writes: bool) -> None:
    """Read the folder's own files, or one written for it, without the page cache and with it."""
    size = _QUICK_BYTES if findings.context.quick else _BYTES
    with contextlib.ExitStack() as stack:
        try:
            files = _some_files(folder, size)
            if not files and writes:
                file = stack.enter_context(
                    tempfile.NamedTemporaryFile(prefix=".omnidali-doctor-", dir=folder)
                )
                file.write(random.Random(0).randbytes(size))
                file.flush()
                os.fsync(file.fileno())
                files = [Path(file.name)]
            if not files:
                findings.note(f"{folder} holds no files whose reading could be measured")
                return
            cold, is_cold = _read_all(files, size, forget=True)
            warm, _ = _read_all(files, size, forget=False)
        except OSError as error:
            findings.bad(f"{folder} cannot be read: {reason_of(error)}")
            return

    findings.fact(f"{folder}: reads", {"cold": cold, "warm": warm, "was cold": is_cold})
    remark = "" if is_cold else " (the cache could not be emptied)"
    findings.good(
        f"{folder} reads {cold / _MIB:,.0f} MiB/s from the disk{remark},"
        f" {warm / _MIB:,.0f} MiB/s from memory, {_READERS} at a time"
    )


def _some_files(folder: Path, size: int) -> list[Path]:
    """Files of the folder that hold ``size`` bytes together; none if it holds fewer."""
    found = []
    total = 0
    for path in itertools.islice(_files(folder), _LOOKED_AT):
        with contextlib.suppress(OSError):
            found.append(path)
            total += path.stat().st_size
        if total >= size:
            return found
    return []


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _read_all(files: Sequence[Path], size: int, forget: bool) -> tuple[float, bool]:
    """Read chunks in random order with several threads; returns bytes a second.

    Args:
        files: to read.
        size: bytes to read in all.
        forget: empty the page cache of the files first.

    Returns:
        Bytes a second, and whether the cache could be emptied.
    """
    is_cold = forget
    chunks = []
    for path in files:
        with open(path, "rb") as file:
            if forget:
                with contextlib.suppress(OSError):  # on a read-only one nothing waits
                    os.fsync(file.fileno())
                try:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                except OSError:
                    is_cold = False
            length = os.fstat(file.fileno()).st_size
        chunks += [(path, offset) for offset in range(0, length, _CHUNK)]
    random.Random(0).shuffle(chunks)

    begun = time.perf_counter()
    with ThreadPoolExecutor(_READERS) as pool:
        count = sum(pool.map(_read_chunk, chunks[: -(-size // _CHUNK)]))
    return count / max(1e-6, time.perf_counter() - begun), is_cold


def _read_chunk(chunk: tuple[Path, int]) -> int:
    path, offset = chunk
    with open(path, "rb", buffering=0) as file:
        return len(os.pread(file.fileno(), _CHUNK, offset))
