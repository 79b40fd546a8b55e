"""Figures of a running loader, per source, and how to read them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from omnidali.loading.failures.tracker import Faults


@dataclass(frozen=True)
class SourceStats:
    """One source since the loader started.

    Attributes:
        clips: delivered to the consumer.
        clips_per_second: delivered, over the time since the first batch was asked for.
        wait_seconds: how long the consumer stood still for this source (sources wait side by side,
            so these do not add up to the loader's wait).
        occupancy: mean share of the prefetch queue that was ready when a batch was asked for; near
            1 the loader is ahead, near 0 the consumer starves.
        planned_share, realised_share: of all slots, by the weights and as delivered.
        substituted: clips whose file failed and another one stands for.
        replaced_frames: frames that a damaged file did not give and a neighbour stands for.
        bad_files: named in the quarantine, by any rank, and not recovered since.
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


class Meter:
    """Counts of one source, written by the consumer; ``faults`` by the producer."""

    def __init__(self, planned_share: float, faults: Faults):
        self.planned_share, self.faults = planned_share, faults
        self.clips = self.requests = 0
        self.wait_seconds = self.occupancy = 0.0

    def request(self, ready: int, capacity: int) -> None:
        """A batch was asked for while ``ready`` of ``capacity`` steps stood ready."""
        self.requests += 1
        self.occupancy += ready / capacity

    def snapshot(self, all_clips: int, started: float | None) -> SourceStats:
        """The figures as they stand now."""
        seconds = time.perf_counter() - started if started is not None else 0.0
        faults = self.faults
        return SourceStats(
            self.clips,
            self.clips / seconds if seconds else 0.0,
            self.wait_seconds,
            self.occupancy / self.requests if self.requests else 0.0,
            self.planned_share,
            self.clips / all_clips if all_clips else 0.0,
            faults.substituted,
            faults.replaced_frames,
            faults.quarantine.count(faults.table.name),
        )
