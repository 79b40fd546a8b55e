"""Figures of a running loader, per source, and how to read them."""

import time
from dataclasses import dataclass

from omnidali.loading.failures.dali_failures import DaliFailures
from omnidali.loading.failures.tracker import FailureTracker


@dataclass(frozen=True)
class SourceStats:
    """One source since the loader started.

    Attributes:
        clips: delivered to the consumer.
        clips_per_second: delivered, over the time since the first batch was requested.
        wait_seconds: how long the consumer stood still for this source. Sources wait side by side,
            so these do not add up to the loader's wait.
        occupancy: mean share of the prefetch queue that was ready when a batch was requested; near
            1 the loader is ahead, near 0 the consumer starves.
        planned_share: of all slots, by the weights.
        realised_share: of all slots, as delivered.
        substituted: clips that were replaced by another one, as their file failed.
        replaced_frames: frames that a damaged file did not give, replaced by a neighbour.
        bad_files: named in the quarantine, by any rank, and not recovered since.
        left_to_cpu: files that DALI did not decode, on any rank, so that the CPU does.
        by_dali: samples that DALI decoded on this rank, those that were made ready ahead included.
    """

    clips: int
    clips_per_second: float
    wait_seconds: float
    occupancy: float
    planned_share: float
    realised_share: float
    substituted: int
    replaced_frames: int
    bad_files: int
    left_to_cpu: int
    by_dali: int = 0


@dataclass
class Meter:
    """Counts of one source, written by the consumer; those of failures by other threads.

    Attributes:
        planned_share: of all slots, by the weights.
        tracker: of the source's failures.
        failures: of DALI alone.
        clips: delivered to the consumer.
        requests: batches that were requested.
        wait_seconds: how long the consumer stood still for this source.
        occupancy: sum over the requests of the share of the queue that was ready.
    """

    planned_share: float
    tracker: FailureTracker
    failures: DaliFailures
    clips: int = 0
    requests: int = 0
    wait_seconds: float = 0.0
    occupancy: float = 0.0

    def snapshot(self, all_clips: int, started: float | None) -> SourceStats:
        """The figures as they stand now.

        Args:
            all_clips: delivered of all sources.
            started: when the first batch was requested, perf_counter seconds; None: not yet.
        """
        seconds = time.perf_counter() - started if started is not None else 0.0
        return SourceStats(
            clips=self.clips,
            clips_per_second=self.clips / seconds if seconds else 0.0,
            wait_seconds=self.wait_seconds,
            occupancy=self.occupancy / self.requests if self.requests else 0.0,
            planned_share=self.planned_share,
            realised_share=self.clips / all_clips if all_clips else 0.0,
            substituted=self.tracker.substituted,
            replaced_frames=self.tracker.replaced_frames,
            bad_files=self.tracker.quarantine.count(self.tracker.table.name),
            left_to_cpu=self.failures.count(),
            by_dali=self.failures.decoded,
        )
