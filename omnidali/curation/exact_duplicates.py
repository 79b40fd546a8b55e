"""Files with equal bytes, within and between sources."""

import hashlib
import itertools
import os
import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial

import numpy as np
from tqdm import tqdm

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.probe import OK
from omnidali.config.schema import LoaderConfig
from omnidali.loading.thread_pool import AbandonableThreadPool, Task
from omnidali.media_kind import MediaKind
from omnidali.utils.heartbeat import on_progress, report_progress

DIGEST_BYTES = 16
_THREADS = 8
_CLOSE_SECONDS = 0.5  # that threads have to end, where none hangs
_FILES_AHEAD = 4096  # that wait for a thread
_BLOCK = 1 << 20  # bytes of one read
_SAMPLE = 4096  # bytes from the middle of a file

Key = tuple[object, ...]  # equal files have equal ones: size, then digests


def find_exact_duplicates(
    db: sqlite3.Connection,
    reader: CatalogReader,
    kinds: Mapping[int, MediaKind],
    hang_seconds: float = LoaderConfig.hang_seconds,
    unread: Callable[[int, str], object] = lambda record, reason: None,
) -> list[list[int]]:
    """Find groups of usable files with equal bytes, as sorted catalog ids.

    Sizes are compared first, then a part of the middle, and whole files only if both are equal.
    Folders of frames are equal if they have as many frames and equal first, middle and last images.

    Args:
        db: the catalog.
        reader: of the same catalog.
        kinds: of the sources to compare, by their numbers in the catalog.
        hang_seconds: without a byte, after which a file is not compared.
        unread: called with the id of each file that is not compared, and the reason.
    """
    keys = _keys_of_shared_sizes(db, kinds)
    for title, whole in (("glance", False), ("compare", True)):
        digest = partial(file_digest, whole=whole)
        keys = _add_digests(reader, keys, digest, title, hang_seconds, unread)
        counts = Counter(keys.values())
        keys = {record: key for record, key in keys.items() if counts[key] > 1}

    groups: dict[Key, list[int]] = defaultdict(list)
    for record, key in keys.items():
        groups[key].append(record)
    return [sorted(group) for group in groups.values()]


def _keys_of_shared_sizes(db: sqlite3.Connection, kinds: Mapping[int, MediaKind]) -> dict[int, Key]:
    """Catalog id and key of the files that share their size with another file."""
    rows = [np.zeros((0, 2), np.int64)]
    for source, kind in kinds.items():
        # The size of a folder is its number of frames, below 0 as no file's size is.
        size = "-frames" if kind.is_folder else "COALESCE(size, bytes)"
        found = db.execute(
            f"SELECT id, {size} FROM media WHERE source = ? AND state = ?", (source, OK)
        ).fetchall()
        rows.append(np.array(found, np.int64).reshape(-1, 2))
    records, sizes = np.concatenate(rows).T

    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    shared = counts[inverse] > 1
    return {
        record: (size,)
        for record, size in zip(records[shared].tolist(), sizes[shared].tolist(), strict=True)
    }


def _add_digests(
    reader: CatalogReader,
    keys: Mapping[int, Key],
    digest: Callable[[Media], bytes | None],
    title: str,
    hang_seconds: float,
    unread: Callable[[int, str], object],
) -> dict[int, Key]:
    """The keys with a digest of each file at their end, without files that cannot be read."""
    longer: dict[int, Key] = {}
    records = sorted(keys)

    with closing(read_files(digest, map(reader.media, records), _THREADS, hang_seconds)) as digests:
        bar = tqdm(digests, total=len(records), desc=title, unit="file", disable=None)
        for record, (value, reason) in zip(records, bar, strict=True):
            if value is None:
                unread(record, reason)
            else:
                longer[record] = (*keys[record], value)
    return longer


def read_files(
    read: Callable[[Media], bytes | None],
    files: Iterable[Media],
    threads: int,
    hang_seconds: float,
) -> Generator[tuple[bytes | None, str], None, None]:
    """Yield the result of ``read`` for each of the files, in their order.

    Threads read them; one that hangs at its disk is abandoned. Close the generator if an error
    may come before its end.

    Args:
        read: reads a file.
        files: taken as they are needed.
        threads: number of threads.
        hang_seconds: without a byte, after which a file is abandoned.

    Yields:
        A result, or None with the reason why the file cannot be read.
    """
    pool = AbandonableThreadPool(threads, "read")

    def work(media: Media, task: Task[bytes | None]) -> bytes | None:
        task.mark_file(media)
        with on_progress(partial(task.mark_file, media)):
            return read(media)

    tasks = (pool.submit("", partial(work, media)) for media in files)
    try:
        waiting = deque(itertools.islice(tasks, _FILES_AHEAD))
        while waiting:
            task = waiting.popleft()
            waiting.extend(itertools.islice(tasks, 1))
            while not pool.wait(task, hang_seconds):
                pass
            if task.abandoned:
                yield None, f"not read within {hang_seconds:g} s"
            else:
                yield task.future.result(), "unreadable"
    finally:
        pool.close(_CLOSE_SECONDS)


def file_digest(media: Media, whole: bool = True) -> bytes | None:
    """A digest of a file's bytes, 16 bytes long; None for a file that cannot be read.

    Of a folder of frames it covers the first, the middle and the last image.

    Args:
        media: the file.
        whole: False covers only a part of its middle, or of a folder's middle image.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    spans = [media.span]
    try:
        if os.path.isdir(media.span.path):
            middle = media.frames // 2
            numbers = sorted({0, middle, media.frames - 1}) if whole else [middle]
            spans = [media.frame(number).span for number in numbers]
        for span in spans:
            for block in _blocks(span, whole):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()


def _blocks(span: FileSpan, whole: bool) -> Iterator[bytes]:
    with open(span.path, "rb", buffering=0) as file:
        size = span.size if span.size is not None else os.fstat(file.fileno()).st_size
        margin = 0 if whole else max(0, size - _SAMPLE) // 2  # that is left out at either end
        for place in range(margin, size - margin, _BLOCK):
            count = min(_BLOCK, size - margin - place)
            yield os.pread(file.fileno(), count, span.offset + place)
            report_progress()
