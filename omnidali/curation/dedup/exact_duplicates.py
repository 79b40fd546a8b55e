"""Files of equal bytes and videos of equal names, within and between sources."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial

import numpy as np
from tqdm import tqdm

from omnidali.catalog.database.store import CatalogReader, Media
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing.sniff import OK
from omnidali.config.schema import LoaderConfig
from omnidali.loading.thread_pool import Job, Workers
from omnidali.utils.heartbeat import moves_on, watched

_READERS = 8
_CLOSE_SECONDS = 0.5  # that threads have to end, where none hangs
_AHEAD = 4096  # files whose rows are in memory at a time
_BLOCK = 1 << 20  # bytes that are read at once
_GLANCE = 4096  # bytes from the middle that are compared before whole files are
_LIKE_YOUTUBE = re.compile(r"[A-Za-z0-9_-]{11}")
_KINETICS = re.compile(r"([A-Za-z0-9_-]{11})_\d{6}_\d{6}")
# a word, a number, or a word with a number: video_00012
_COUNTED = re.compile(r"[A-Za-z]*[ _-]*\d*[ _-]*")
_TELLING = 6  # characters that a name needs to say anything


def find_equal(
    db: sqlite3.Connection,
    reader: CatalogReader,
    sources: Mapping[int, str],
    hang_seconds: float = LoaderConfig.hang_seconds,
    unread: Callable[[int, str], object] = lambda *_: None,
) -> list[list[int]]:
    """Groups of usable files with equal bytes, as sorted catalog ids.

    Sizes are compared first, then a part of the middle, and whole files only where both are equal.
    Folders of frames are equal where their number of frames and their first, middle and last images
    are.

    Args:
        sources: kind by the catalog's number of the source.
        hang_seconds: without a byte, after which a file is not compared.
        unread: called with the id of each file that is not compared, and the reason.
    """
    records, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for source, kind in sources.items():
        # folders have a size of their own kind: the number of frames, below 0
        size = "-frames" if kind == "frames" else "COALESCE(size, bytes)"
        rows = np.array(
            db.execute(
                f"SELECT id, {size} FROM media WHERE source = ? AND state = ?", (source, OK)
            ).fetchall(),
            np.int64,
        ).reshape(-1, 2)
        records.append(rows[:, 0])
        sizes.append(rows[:, 1])
    records, sizes = np.concatenate(records), np.concatenate(sizes)
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    shared = counts[inverse] > 1
    if not shared.any():
        return []
    keys = dict(zip(records[shared].tolist(), sizes[shared].tolist()))
    for title, whole in (("glance", False), ("compare", True)):
        keys = _sieve(reader, keys, whole, title, hang_seconds, unread)
    groups: dict[object, list[int]] = defaultdict(list)
    for record, key in keys.items():
        groups[key].append(record)
    return [sorted(group) for group in groups.values()]


def _sieve(
    reader: CatalogReader,
    keys: dict[int, object],
    whole: bool,
    title: str,
    hang_seconds: float,
    unread: Callable[[int, str], object],
) -> dict[int, object]:
    """Add a digest to every file's key, and keep those whose key another one shares."""
    digests: dict[int, object] = {}
    records = sorted(keys)
    with (
        closing(FileReaders(_READERS, hang_seconds)) as readers,
        tqdm(total=len(records), desc=title, unit="file", disable=None) as bar,
    ):
        for first in range(0, len(records), _AHEAD):
            part = records[first : first + _AHEAD]
            media = map(reader.media, part)
            for record, (digest, reason) in zip(
                part, readers.map(partial(digest_of, whole=whole), media)
            ):
                if digest is not None:
                    digests[record] = (keys[record], digest)
                else:
                    unread(record, reason)
                bar.update()
    counts: dict[object, int] = defaultdict(int)
    for key in digests.values():
        counts[key] += 1
    return {record: key for record, key in digests.items() if counts[key] > 1}


class FileReaders:
    """Threads that read files; one that hangs at its disk is given up.

    Args:
        hang_seconds: without a byte, after which a file is given up.
    """

    def __init__(self, threads: int, hang_seconds: float):
        self._workers = Workers(threads, "read")
        self._hang_seconds = hang_seconds

    def map(
        self, read: Callable[[Media], bytes | None], files: Iterable[Media]
    ) -> Iterator[tuple[bytes | None, str]]:
        """Yield what ``read`` gives of every file, in their order; None with the reason where there
        is nothing.
        """

        def work(media: Media, job: Job) -> bytes | None:
            job.at(media)
            with watched(partial(job.at, media)):
                return read(media)

        jobs = [self._workers.submit("", partial(work, media)) for media in files]
        for job in jobs:
            while not self._workers.wait(job, self._hang_seconds):
                pass
            if job.given_up:
                yield None, f"not read within {self._hang_seconds:g} s"
            else:
                yield job.future.result(), "unreadable"

    def close(self) -> None:
        """End the threads that do not hang."""
        self._workers.close(_CLOSE_SECONDS)


def digest_of(media: Media, whole: bool = True) -> bytes | None:
    """16 bytes that tell a file's content, or a part of it; None for a file that cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        if os.path.isdir(media.span.path):
            numbers = (
                sorted({0, media.frames // 2, media.frames - 1}) if whole else [media.frames // 2]
            )
            for number in numbers:
                _feed(digest, media.frame(number).span, whole)
        else:
            _feed(digest, media.span, whole)
    except OSError:
        return None
    return digest.digest()


def _feed(digest, span: FileSpan, whole: bool) -> None:
    with open(span.path, "rb", buffering=0) as file:
        size = span.size if span.size is not None else os.fstat(file.fileno()).st_size
        begin, end = (0, size) if whole else (max(0, size - _GLANCE) // 2, (size + _GLANCE) // 2)
        for place in range(begin, min(end, size), _BLOCK):
            digest.update(
                os.pread(file.fileno(), min(_BLOCK, min(end, size) - place), span.offset + place)
            )
            moves_on()


def video_id(path: str) -> tuple[str, bool] | None:
    """What the name of a video says of the video, and whether it looks like an id that no other one
    has.

    Returns:
        The stem, of Kinetics' ``id_000010_000020`` the id; None for names that only count.

    >>> video_id("train/dQw4w9WgXcQ_000010_000020.mp4")
    ('dQw4w9WgXcQ', True)
    >>> video_id("a/video_00012.mp4") is None
    True
    """
    stem = os.path.splitext(os.path.basename(path.rstrip("/").rpartition(":")[2]))[0]
    kinetics = _KINETICS.fullmatch(stem)
    if kinetics:
        return kinetics[1], True
    if _COUNTED.fullmatch(stem) or len(stem) < _TELLING:
        return None
    return stem, _LIKE_YOUTUBE.fullmatch(stem) is not None


def named_videos(db: sqlite3.Connection, source: int, kind: str) -> Iterator[tuple[str, str, bool]]:
    """Yield (id, path, whether it looks like one) of a source's usable videos; of long ones, the
    video's own.
    """
    path = (
        "CASE WHEN e.video <> '' THEN e.video ELSE m.path END" if kind == "untrimmed" else "m.path"
    )
    rows = db.execute(
        f"SELECT DISTINCT {path} FROM entries e JOIN media m ON m.id = e.media"
        " WHERE e.source = ? AND m.state = ?",
        (source, OK),
    )
    for (path,) in rows:
        found = video_id(path)
        if found:
            yield found[0], path, found[1]
