"""The table of one source that plans draw from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from omnidali.catalog.database.label_sets import LabelSets
from omnidali.catalog.database.media import Media
from omnidali.media_kind import MediaKind

# What the plan needs of every row or piece, as narrow as it fits; a codec is its place in the
# sorted list of codecs. Sets of labels are kept where a row may have several.
COLUMNS = {
    "labels": np.int32,
    "widths": np.uint16,
    "heights": np.uint16,
    "starts": np.int64,
    "positives": np.int32,
    "records": np.int64,
    "frames": np.int32,
    "codecs": np.uint8,
    "firsts": np.int32,
    "set_sizes": np.int32,
    "set_labels": np.int32,
}
PIECE_COLUMNS = ("records", "frames", "codecs", "firsts")


class MediaReader(Protocol):
    """The part of ``CatalogReader`` that a table needs; its module describes the methods."""

    def media(self, record: int, stretches: bool = False) -> Media: ...

    def find_record(self, name: str, path: str) -> int | None: ...

    def owners(self, name: str, records: np.ndarray) -> Iterator[str]: ...


@dataclass(frozen=True, repr=False)
class SourceTable:
    """The usable rows of one source, in the order of its list, as arrays.

    A row is an item of the list: N of them. Its pieces are decoded: P of them, one a row
    unless ``starts`` says otherwise, which it does for long videos.

    Attributes:
        labels: int32 (N,), -1 for unlabelled; of rows with several labels the rarest of them, to
            which class they count where classes are balanced.
        widths: uint16 (N,), upright pixels.
        heights: uint16 (N,), upright pixels.
        records: int64 (P,), catalog ids of the files.
        frames: int32 (P,), length of the piece.
        codecs: uint8 (P,), places in ``codec_names``.
        firsts: int32 (P,), frame of the file that the piece begins with; None: all begin with the
            first.
        starts: int64 (N + 1,), the pieces of row i are starts[i] to starts[i + 1] (exclusive),
            those that show the class first; None: one piece a row.
        positives: int32 (N,), how many pieces of the row show the class.
        fingerprint: text that changes with any row, its order, label, size or length.
        taken_from: rows of the whole source, where these are a part of it.
        irregular: paths of a few files whose timestamps do not identify frames, and how many
            there are.
        stretches: whether pixels that are not square are stretched.
        label_sets: all labels of the rows, where a row may have several; None: each has one.
    """

    name: str
    kind: MediaKind
    records: np.ndarray
    labels: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    frames: np.ndarray
    codecs: np.ndarray
    firsts: np.ndarray | None = None
    starts: np.ndarray | None = None
    positives: np.ndarray | None = None
    codec_names: tuple[str, ...] = ()
    fingerprint: str = ""
    taken_from: int | None = None
    irregular: tuple[tuple[str, ...], int] = ((), 0)
    stretches: bool = False
    label_sets: LabelSets | None = None
    _reader: MediaReader | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        pieces = "" if self.starts is None else f", {len(self.records):,} pieces"
        codecs = ", ".join(self.codec_names)
        return f"SourceTable({self.name}, {self.kind}, {len(self):,} rows{pieces}, codecs {codecs})"

    @property
    def source_rows(self) -> int:
        """How many rows the source has, of which these may be a part."""
        return self.taken_from or len(self)

    @property
    def reader(self) -> MediaReader:
        """The catalog that the table was read from."""
        assert self._reader is not None, "a table that was made by hand has no files"
        return self._reader

    def media(self, record: int) -> Media:
        """Look up everything that the catalog knows of the file with this catalog id."""
        return self.reader.media(int(record), self.stretches)

    def media_at(self, path: str) -> Media | None:
        """Look up a file by its path, as in :attr:`Media.path`; None if there is no such one."""
        record = self.reader.find_record(self.name, path)
        return None if record is None else self.media(record)

    def labels_at(self, row: int) -> tuple[int, ...]:
        """All labels of a row."""
        return (int(self.labels[row]),) if self.label_sets is None else self.label_sets.at(row)

    def class_items(self, classes: int) -> np.ndarray:
        """int64 (classes,): how many rows have each label."""
        values = self.labels if self.label_sets is None else self.label_sets.values
        return np.bincount(values[values >= 0], minlength=classes)

    def targets(self, rows: np.ndarray, classes: int) -> np.ndarray:
        """Which classes rows have: float32 (n, classes), 1 for each label of a row, else 0.

        Args:
            rows: int64 (n,).
            classes: number of classes.
        """
        if self.label_sets is not None:
            return self.label_sets.multi_hot(classes, rows)
        hot = np.zeros((len(rows), classes), np.float32)
        hot[np.arange(len(rows)), self.labels[rows]] = 1
        return hot

    @property
    def highest_label(self) -> int:
        """The highest label of all rows."""
        return int((self.labels if self.label_sets is None else self.label_sets.values).max())

    def rows_above(self, count: int) -> np.ndarray:
        """int64 (n,): the rows with a label that none of so many classes has."""
        if self.label_sets is None:
            return np.flatnonzero(self.labels >= count)
        return np.unique(self.label_sets.rows[self.label_sets.values >= count])

    def first_record(self, row: int) -> int:
        """The catalog id of a row's first piece."""
        return int(self.records[row if self.starts is None else self.starts[row]])

    def owners(self) -> Iterator[str]:
        """Yield the owner of each row: its file's path below the root, or its long video's name.

        All lists below the same root agree on it, and so do a long video and its pieces, where they
        are rows of their own; files that were cut or moved have other names.

        Raises:
            UserError: if another run with other lists has taken a file out of the catalog.
        """
        records = self.records if self.starts is None else self.records[self.starts[:-1]]
        return self.reader.owners(self.name, records)

    def take(self, rows: np.ndarray, note: str) -> "SourceTable":
        """The table of these rows alone; ``note`` says in the fingerprint how they were chosen."""
        pieces = rows
        starts = None
        if self.starts is not None:
            counts = np.diff(self.starts)[rows]
            starts = np.concatenate([[0], np.cumsum(counts)])
            pieces = np.repeat(self.starts[rows] - starts[:-1], counts) + np.arange(starts[-1])

        columns = {
            name: getattr(self, name)[pieces if name in PIECE_COLUMNS else rows]
            for name in COLUMNS
            if name != "starts" and getattr(self, name, None) is not None
        }
        return replace(
            self,
            **columns,
            starts=starts,
            label_sets=self.label_sets and self.label_sets.take(rows),
            fingerprint=f"{self.fingerprint} {note}",
            taken_from=self.source_rows,
        )
