"""What DALI could not decode of a source: such a file is the CPU's from then on, and so is a codec
of which nothing decodes.
"""

import time
from collections import defaultdict

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.loading.failures.quarantine import LEFT_TO_CPU, FailureRecord, Quarantine
from omnidali.utils.log import LOG

LEFT_FILES = "left_to_cpu.jsonl"  # beside the quarantine
# so many files of a codec, one after the other and no clip between them: it is not the files
FAILED_IN_A_ROW = 8


def beside(quarantine: Quarantine) -> Quarantine:
    """The file of what DALI did not decode, in the folder of a quarantine or in memory as it is."""
    path = quarantine.path
    return Quarantine(path.with_name(LEFT_FILES) if path is not None else None)


def known_records(table: SourceTable, left: Quarantine) -> list[int]:
    """Catalog ids of the files of a source that DALI did not decode, by any rank or start."""
    found = (
        table.reader.find_record(table.name, record.path) for record in left.records(table.name)
    )
    return [record for record in found if record is not None]


class DaliFailures:
    """Takes away from DALI what it could not decode of one source, on one rank.

    It is used by the thread of the source alone. The CPU decodes a clip that DALI could not decode
    in any case; later ones of the file are spared the attempt.

    A file is remembered in the run folder once another one of its codec decodes: until then the
    machine may be to blame.

    Args:
        table: of the source.
        by_cpu: bool (P,), pieces that are the CPU's from the start.
        left: names the files.
        rank: of this process.

    Attributes:
        by_cpu: bool (P,), pieces that are the CPU's by now.
        decoded: samples that DALI decoded so far.
    """

    def __init__(self, table: SourceTable, by_cpu: np.ndarray, left: Quarantine, rank: int):
        self.by_cpu = by_cpu.copy()
        self.decoded = 0
        self._table = table
        self._left = left
        self._rank = rank
        self._has_told = False
        # of each codec the files that failed since the last clip: reason and step
        self._since: defaultdict[int, dict[int, tuple[str, int]]] = defaultdict(dict)

    def takes(self, pieces: np.ndarray) -> np.ndarray:
        """Which samples are DALI's: bool (n,), of their pieces, int (n, P)."""
        return ~self.by_cpu[pieces].any(axis=1)

    def count(self) -> int:
        """How many files of the source are named, by any rank."""
        return self._left.count(self._table.name)

    def on_decoded(self, pieces: np.ndarray) -> None:
        """Samples decoded: what failed before them is the files' fault; ``pieces`` int (n, P)."""
        self.decoded += len(pieces)
        if not self._since:
            return
        for codec in np.unique(self._table.codecs[pieces]).tolist():
            for record, (reason, step) in self._since.pop(codec, {}).items():
                self._remember(record, reason, step)

    def on_failed(self, pieces: np.ndarray, reason: str, step: int) -> None:
        """A sample failed alone.

        Args:
            pieces: int (P,). One that consists of several files takes none away: DALI does not say
                which it was.
            reason: why.
            step: number of the step.
        """
        records = np.unique(self._table.records[pieces])
        for codec in np.unique(self._table.codecs[pieces]).tolist():
            since = self._since[codec]
            since.update((record, (reason, step)) for record in records.tolist())
            if len(since) >= FAILED_IN_A_ROW:
                many = f"{len(since)} files failed one after the other, the last one: {reason}"
                self._give_up(codec, many)
                continue
            if len(records) > 1:
                for record in records.tolist():
                    since.pop(record)
        if len(records) == 1:
            self.by_cpu[self._table.records == records[0]] = True

    def give_up(self, pieces: np.ndarray, reason: str) -> None:
        """No graph can be made for these samples, int (n, P): their codecs are the CPU's."""
        for codec in np.unique(self._table.codecs[pieces]).tolist():
            self._give_up(codec, reason)

    def _give_up(self, codec: int, reason: str) -> None:
        self._since.pop(codec, None)
        self.by_cpu[self._table.codecs == codec] = True
        LOG.warning(
            "%s: DALI decodes no %s any more (%s): the CPU does, from now on, on rank %d",
            self._table.name,
            self._table.codec_names[codec],
            reason,
            self._rank,
        )

    def _remember(self, record: int, reason: str, step: int) -> None:
        media = self._table.media(record)
        size, mtime_ns = media.stamp
        if not self._has_told:
            self._has_told = True
            LOG.warning(
                "%s: DALI cannot decode %s (%s); the CPU tries it, and all others of which this"
                " turns out, from now on",
                self._table.name,
                media.path,
                reason,
            )
        self._left.add(
            FailureRecord(
                source=self._table.name,
                path=media.path,
                reason=reason,
                state=LEFT_TO_CPU,
                step=step,
                rank=self._rank,
                file=media.span.path,
                size=size,
                mtime_ns=mtime_ns,
                time=round(time.time(), 3),
            )
        )
