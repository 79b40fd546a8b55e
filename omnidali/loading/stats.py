"""Figures of a running loader, per source, and how to read them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from omnidali.loading.failures.dali_failures import DaliFailures
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.loading.source_decoder import SourceDecoder
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.train_plan import TrainPlan


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


class LoaderMeters:
    """The meters of all sources, which the consumer's requests move.

    Args:
        plan: of the loader.
        decoders: of the plan's sources.
        prefetch: steps made ready ahead.
    """

    def __init__(
        self, plan: TrainPlan | EvaluationPlan, decoders: Sequence[SourceDecoder], prefetch: int
    ):
        shares = plan.mixing.shares if isinstance(plan, TrainPlan) else [1.0]
        self._meters = {
            decoder.table.name: Meter(float(share), decoder.tracker, decoder.failures)
            for share, decoder in zip(shares, decoders, strict=True)
        }
        self._prefetch = prefetch
        self._first_request: float | None = None  # perf_counter seconds
        self._request = 0.0

    def on_request(self, ready: Sequence[int]) -> None:
        """A step is requested now; ``ready``: by source, how many are finished ahead."""
        self._request = time.perf_counter()
        if self._first_request is None:
            self._first_request = self._request
        for meter, steps in zip(self._meters.values(), ready, strict=True):
            meter.requests += 1
            meter.occupancy += steps / self._prefetch

    def on_step(self, clips: Sequence[int], finished_at: Sequence[float]) -> None:
        """The requested step is delivered.

        Args:
            clips: by source, how many it has.
            finished_at: by source, when they were made, perf_counter seconds.
        """
        for meter, count, finished in zip(self._meters.values(), clips, finished_at, strict=True):
            meter.clips += count
            meter.wait_seconds += max(0.0, finished - self._request)

    def snapshot(self) -> dict[str, SourceStats]:
        """The figures of each source as they stand now, by name."""
        clips = sum(meter.clips for meter in self._meters.values())
        return {
            name: meter.snapshot(clips, self._first_request) for name, meter in self._meters.items()
        }
