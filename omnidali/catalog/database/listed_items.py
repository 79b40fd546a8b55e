"""The items of a source's list with their probed files, and the frames that each one names."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.integrity import reporting_damage
from omnidali.catalog.database.label_sets import LabelSets
from omnidali.catalog.database.source_table import COLUMNS, SourceTable
from omnidali.catalog.listing.list_formats import MAX_PIECES
from omnidali.catalog.probing.packed_numbers import unpack_times
from omnidali.catalog.probing.probe import OK, stretched

RATE_IF_UNKNOWN = 25.0  # frames a second of a file that has neither timestamps nor a rate
OUTSIDE = "piece outside of its file"
FEWER_FRAMES = "fewer frames than listed"
TOO_MANY = f"video of more than {MAX_PIECES:,} windows: raise window_seconds or --window"
_ENTRIES = (
    "SELECT e.label, m.width, m.height, m.id, m.frames, m.codec, m.path, e.unit, e.first, e.last,"
    " e.video, e.positive, m.frame_rate, m.tick,"
    " CASE WHEN e.unit IN ('seconds', 'windows') THEN m.timing END, m.aspect, e.line, e.list,"
    " e.labels"
    " FROM entries e JOIN media m ON m.id = e.media"
    " WHERE e.source = ? AND m.state = ? ORDER BY e.id"
)


# the video that an item is a piece of, its label and its labels, as in the entry
SampleKey: TypeAlias = tuple[str, int, str]


class ListedItem(NamedTuple):
    """An entry of a list with its usable file, or one piece of it; fields as in the query above.

    Attributes:
        label: of the list; of several the first.
        width: upright pixels.
        height: upright pixels.
        record: catalog id of the file to decode.
        frames: of the file, or of the piece.
        codec: of the file.
        path: relative to the source's root.
        unit: as in :class:`~omnidali.catalog.listing.list_formats.Entry`.
        first: as in the entry; of a piece that is a window: in seconds.
        last: as in the entry; of a piece that is a window: in seconds, the last one's with the
            remainder.
        video: that it is a piece of, or empty.
        positive: whether it shows its class; None: removed.
        rate: frames a second; 0: unknown.
        tick: unit of the timestamps, seconds.
        timing: packed timestamps, where pieces need them.
        aspect: width of a stored pixel by its height.
        line: of the list; 0: in none.
        list: number of the list among several.
        labels: as in the entry: all labels as text, where it has several.
        begin: frame of the file that the piece begins with.
        number: of the piece in its video, also counting files that are missing.
    """

    label: int
    width: int
    height: int
    record: int
    frames: int
    codec: str
    path: str
    unit: str
    first: float
    last: float
    video: str
    positive: int | None
    rate: float = 0
    tick: float = 0
    timing: bytes | None = None
    aspect: float = 1
    line: int = 0
    list: int = 0
    labels: str = ""
    begin: int = 0
    number: int = 0

    @property
    def label_set(self) -> tuple[int, ...]:
        """All labels."""
        return tuple(map(int, self.labels.split(","))) if self.labels else (self.label,)

    @property
    def sample(self) -> "SampleKey":
        """What the pieces of one sample have in common."""
        return self.video, self.label, self.labels


def stretches_pixels(db: sqlite3.Connection, source: int) -> bool:
    """Whether the source with this id stretches pixels that are not square."""
    row = db.execute("SELECT pixel_aspect FROM sources WHERE id = ?", (source,)).fetchone()
    return row == ("apply",)


def read_entries(db: sqlite3.Connection, source: int) -> Iterator[ListedItem]:
    """Yield the entries of the source with this id whose files are usable, in the list's order.

    Sizes and codecs are those that plans see: after stretching.
    """
    stretches = stretches_pixels(db, source)
    for values in db.execute(_ENTRIES, (source, OK)):
        item = ListedItem(*values)
        if stretches and item.aspect != 1:
            width, height = stretched(item.width, item.height, item.aspect)
            item = item._replace(width=width, height=height, codec=stretched_codec(item.codec))
        yield item


def stretched_codec(name: str) -> str:
    """The variant of a codec whose pixels are stretched, which only the CPU decodes."""
    return f"{name.partition(':')[0]}:anamorphic"


class Spanned(Protocol):
    """A part of a file as a list names it; the attributes are those of :class:`ListedItem`."""

    @property
    def unit(self) -> str: ...

    @property
    def first(self) -> float: ...

    @property
    def last(self) -> float: ...

    @property
    def frames(self) -> int: ...

    @property
    def rate(self) -> float: ...

    @property
    def tick(self) -> float: ...

    @property
    def timing(self) -> bytes | None: ...


_SpannedT = TypeVar("_SpannedT", bound=Spanned)


def spans(
    item: _SpannedT, leave_out: Callable[[_SpannedT, str, str], None] = lambda *_: None
) -> Iterator[tuple[int, int, int]]:
    """Yield (number of the window, first frame, frames) of what an entry names.

    Windows without a frame are left out. A written list has windows by their numbers: the frames
    depend on these and the seconds alone, so that it reads back to the same ones, and there are
    never more of them than a list may have.

    Args:
        item: the entry.
        leave_out: is called with an entry that names no frame, the reason and a detail.
    """
    # a whole file, by far the most common
    if not item.unit:
        yield 0, 0, item.frames
        return

    if item.unit == "frames":
        cuts = [(int(item.first), int(item.last))] if item.last <= item.frames else []
    else:
        seconds = _frame_seconds(item)
        edges = [item.first, item.last]
        if item.unit == "windows":
            # a remainder of less than half a window belongs to the one before
            length = seconds[-1] + (seconds[-1] - seconds[0]) / max(item.frames - 1, 1)
            count = max(1, int(min(length / item.last + 0.5, MAX_PIECES + 1)))
            # left out, not refused: an untrusted video of a day shall not stop a run
            if count > MAX_PIECES:
                leave_out(item, TOO_MANY, "")
                return
            edges = [number * item.last for number in range(count)] + [length + 1]

        # half a millisecond: timestamps are rounded, and a frame belongs to the piece it begins
        places = np.searchsorted(seconds, np.asarray(edges) - 0.0005).tolist()
        cuts = list(pairwise(places))

    if not any(end > begin for begin, end in cuts):
        leave_out(item, *_why_outside(item))
    for number, (begin, end) in enumerate(cuts):
        if end > begin:
            yield number, begin, end - begin


def _why_outside(item: Spanned) -> tuple[str, str]:
    """The reason why an entry names no frame of its file, and the figures."""
    if item.unit == "frames":
        return FEWER_FRAMES, f"{item.frames:,} frames where the list needs {item.last:,.0f}"
    seconds = item.frames / (item.rate or RATE_IF_UNKNOWN)
    return OUTSIDE, f"{item.first:g} to {item.last:g} s of {seconds:.1f} s"


def _frame_seconds(item: Spanned) -> np.ndarray:
    """When each frame is shown, in seconds after the first: float64 (frames,)."""
    times = unpack_times(item.timing or b"", item.frames)
    if times is None:
        return np.arange(item.frames) / (item.rate or RATE_IF_UNKNOWN)
    return (times - times[0]) * item.tick


def read_items(catalog: str | Path, name: str) -> Iterator[ListedItem]:
    """Yield the items of a source: its table's rows in order, or a long video's listed pieces.

    Args:
        catalog: path of the catalog.
        name: of the source.

    Raises:
        UserError: if the catalog is damaged.
    """
    with _opened(catalog, name) as (db, source):
        usable = read_entries(db, source)
        sample = None
        number = 0
        for *key, state in db.execute(
            "SELECT e.video, e.label, e.labels, m.state FROM entries e"
            " LEFT JOIN media m ON m.id = e.media WHERE e.source = ? ORDER BY e.id",
            (source,),
        ):
            number = number + 1 if sample == key else 0
            sample = key
            if state != OK:
                continue
            entry = next(usable)
            if entry.positive is None:  # removed
                continue

            for window, begin, frames in spans(entry):
                item = entry._replace(timing=None, begin=begin, frames=frames, number=number)
                if entry.unit == "windows":
                    # as much as spans adds to the last
                    end = window + (1 if begin + frames < entry.frames else 1.5)
                    item = item._replace(
                        first=window * entry.last, last=end * entry.last, number=window
                    )
                yield item


def listed_pieces(catalog: str | Path, name: str) -> dict[SampleKey, list[bool]]:
    """Whether each piece of each sample was removed; missing pieces are among them."""
    pieces: dict[SampleKey, list[bool]] = {}
    with _opened(catalog, name) as (db, source):
        for *key, is_removed in db.execute(
            "SELECT video, label, labels, positive IS NULL FROM entries WHERE source = ?"
            " ORDER BY id",
            (source,),
        ):
            pieces.setdefault((key[0], key[1], key[2]), []).append(bool(is_removed))
    return pieces


def list_format(catalog: str | Path, name: str) -> str:
    """The format that the list of a source was read as."""
    with _opened(catalog, name) as (db, source):
        return db.execute("SELECT format FROM sources WHERE id = ?", (source,)).fetchone()[0]


def flatten(catalog: str | Path, table: SourceTable) -> SourceTable:
    """Make a table with a row for each listed piece of the long videos of ``table``.

    The rows are in the order of :func:`read_items`.
    """
    codec_places = {name: number for number, name in enumerate(table.codec_names)}
    rows = [
        (
            item.label,
            item.width,
            item.height,
            item.record,
            item.frames,
            codec_places[item.codec],
            item.begin,
        )
        for item in read_items(catalog, table.name)
    ]

    columns = np.array(rows, np.int64).reshape(-1, 7).T
    labels = columns[0].astype(COLUMNS["labels"])
    sets = None
    if table.label_sets is not None:
        sets = LabelSets.of_rows([item.label_set for item in read_items(catalog, table.name)])
        labels = sets.rarest()
    return replace(
        table,
        labels=labels,
        label_sets=sets,
        widths=columns[1].astype(COLUMNS["widths"]),
        heights=columns[2].astype(COLUMNS["heights"]),
        records=columns[3].astype(COLUMNS["records"]),
        frames=columns[4].astype(COLUMNS["frames"]),
        codecs=columns[5].astype(COLUMNS["codecs"]),
        firsts=columns[6].astype(COLUMNS["firsts"]),
        starts=None,
        positives=None,
        fingerprint=f"{table.fingerprint} pieces",
    )


@contextmanager
def _opened(catalog: str | Path, name: str) -> Iterator[tuple[sqlite3.Connection, int]]:
    """The open catalog, and its id of the source ``name``."""
    with reporting_damage(Path(catalog)), closing(connect(catalog, read_only=True)) as db:
        (source,) = db.execute("SELECT id FROM sources WHERE name = ?", (name,)).fetchone()
        yield db, source
