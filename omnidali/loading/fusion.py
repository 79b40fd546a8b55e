"""FusionIterator: the sources' clips, mixed as planned, one StepBatch a step."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import NotRequired, Self, TypedDict

import torch

from omnidali.config.schema import LoaderConfig
from omnidali.config.sources import MediaConfig
from omnidali.decoding.routes import describe_codecs, gives_same_pixels
from omnidali.errors import UserError
from omnidali.loading.backend import Workers
from omnidali.loading.batch import StepBatch
from omnidali.loading.buffer_pool import BufferPool, Trimmer
from omnidali.loading.device_work import device_work
from omnidali.loading.failures.dali_failures import DaliFailures, beside
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.loading.prefetcher import ERROR_SECONDS, Prefetcher
from omnidali.loading.source_decoder import SourceDecoder
from omnidali.loading.source_routes import describe_sources, route_sources
from omnidali.loading.stats import Meter, SourceStats
from omnidali.loading.step_buffer import StepBuffer
from omnidali.loading.thread_plan import thread_plan
from omnidali.loading.trial_outcome import NO_TRIAL, Trial, TrialRecord
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.fingerprint import find_differences
from omnidali.planning.train_plan import TrainPlan


class LoaderState(TypedDict):
    """The state of a :class:`FusionIterator`.

    Attributes:
        step: that the next batch belongs to.
        plan: everything that the order depends on.
        decoders: by source, what decodes it, on which the pixels depend; older states lack it.
        trial: what a trial of DALI showed; older states lack it.
    """

    step: int
    plan: Mapping[str, object]
    decoders: NotRequired[Mapping[str, str]]
    trial: NotRequired[TrialRecord]


class LoaderOptions(TypedDict, total=False):
    """Keyword arguments of :class:`FusionIterator`, where its meaning of each is documented."""

    rank: int
    world: int
    device: torch.device | str
    dtype: torch.dtype
    threads: int
    prefetch: int
    cpu_share: float
    max_bad_ratio: float
    max_bad_in_a_row: int
    hang_seconds: float
    stall_seconds: float
    target_apart: bool
    quarantine: Quarantine | None
    trial: Trial
    end: int | None


class FusionIterator:
    """Iterate over the steps of a plan; decoding runs ahead in the background.

    Args:
        plan: a :class:`TrainPlan` or :class:`EvaluationPlan`.
        sources: settings of the plan's tables, in their order.
        rank: of this process.
        world: number of ranks, each of which gets its share of every step.
        device: where the clips are needed; a CUDA device makes DALI decode there.
        dtype: of the clips; by default float32.
        threads: for decoding on the CPU; 0 means all cores this process may use.
        prefetch: steps made ready ahead.
        cpu_share: of the slots of sources with ``decode: hybrid``.
        max_bad_ratio: share of a source's files that may fail.
        max_bad_in_a_row: clips that may fail one after the other.
        hang_seconds: after which a file that is still being read or decoded counts as failed.
        stall_seconds: without a batch, after which a warning names late sources and their files.
        target_apart: keep the first source's clips in groups of their own, for batch norms that
            treat it in another way.
        quarantine: names the files that fail; by default in memory. A file beside it names those
            that DALI alone does not decode.
        trial: what DALI did with a few clips; by default the facts of the catalog alone decide what
            it decodes.
        end: step before which to stop; None means never for training and after every item for
            evaluation.

    Attributes:
        next_step: the step that the next batch belongs to.
        trial: what DALI did with a few clips.
        file_routes: by source, what decodes each of its files.
        routes: a line a source: which decoder takes how many of its files, and why.

    Raises:
        UserError: if a source asks for a decoder that cannot take its codecs.

    A clip that cannot be decoded is replaced by the planned substitute, the same one on any number
    of ranks; its file is named in the quarantine, and every step has all its clips. In an
    evaluation the clip is not valid.

    The state is what the consumer has taken, not what was prefetched: save ``state_dict()`` with a
    checkpoint and every later batch is the same after ``load_state_dict``.

    Example::

        with FusionIterator(plan, sources, end=1000) as batches:
            for batch in batches:
                loss = F.cross_entropy(model(batch.clips), batch.labels)
    """

    def __init__(
        self,
        plan: TrainPlan | EvaluationPlan,
        sources: Sequence[MediaConfig],
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int = LoaderConfig.threads,
        prefetch: int = LoaderConfig.prefetch,
        cpu_share: float = LoaderConfig.cpu_share,
        max_bad_ratio: float = LoaderConfig.max_bad_ratio,
        max_bad_in_a_row: int = LoaderConfig.max_bad_in_a_row,
        hang_seconds: float = LoaderConfig.hang_seconds,
        stall_seconds: float = LoaderConfig.stall_seconds,
        target_apart: bool = False,
        quarantine: Quarantine | None = None,
        trial: Trial = NO_TRIAL,
        end: int | None = None,
    ):
        self.plan = plan
        self.rank = rank
        self.world = world
        self.device = torch.device(device)
        self.dtype = dtype
        self.prefetch = prefetch
        self.target_apart = target_apart
        self.end = plan.steps(world) if end is None and isinstance(plan, EvaluationPlan) else end
        self._settings = LoaderConfig(
            threads=threads or len(os.sched_getaffinity(0)),
            prefetch=prefetch,
            cpu_share=cpu_share,
            max_bad_ratio=max_bad_ratio,
            max_bad_in_a_row=max_bad_in_a_row,
            hang_seconds=hang_seconds,
            stall_seconds=stall_seconds,
        )

        quarantine = quarantine or Quarantine()
        self._left = beside(quarantine)
        self.trial = trial
        self.file_routes = route_sources(
            plan.tables, sources, self.device, tried=trial.tried, left=self._left
        )
        self.routes = describe_sources(plan.tables, self.file_routes, self.device, cpu_share)

        # the number of threads is that of one rank already
        threads_of = thread_plan(self._settings.threads, 1, len(plan.tables))
        self._device = device_work(self.device)
        self._workers = Workers(threads_of, self._device)
        self._decoders = self._make_decoders(quarantine)
        self._meters = self._make_meters()
        self._buffers = BufferPool()
        self._trim = Trimmer(self._buffers, self._settings.threads)

        self.next_step = 0
        self._asked_first: float | None = None  # when the first batch was requested
        self._closed = False
        self._prefetcher: Prefetcher | None = None

    def _make_decoders(self, quarantine: Quarantine) -> list[SourceDecoder]:
        return [
            SourceDecoder(
                self.plan,
                number,
                routes,
                workers=self._workers,
                tracker=FailureTracker(table, quarantine, self.rank, self._settings),
                failures=DaliFailures(table, routes.by_cpu, self._left, self.rank),
                cpu_share=self._settings.cpu_share,
            )
            for number, (table, routes) in enumerate(
                zip(self.plan.tables, self.file_routes, strict=True)
            )
        ]

    def _make_meters(self) -> list[Meter]:
        shares = self.plan.mixing.shares if isinstance(self.plan, TrainPlan) else [1.0]
        return [
            Meter(float(share), decoder.tracker, decoder.failures)
            for share, decoder in zip(shares, self._decoders, strict=True)
        ]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StepBatch:
        """The batch of the next step.

        Raises:
            StopIteration: at the end, and at every later call.
            BadSourceError: if more of a source fails than the limits allow.
            RuntimeError: after :meth:`close`.
        """
        self._check_open()
        if self.end is not None and self.next_step >= self.end:
            raise StopIteration
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(
                self._make_step,
                self._decoders,
                first=self.next_step,
                end=self.end,
                ahead=self.prefetch,
                device=self._device,
                rank=self.rank,
                stall_seconds=self._settings.stall_seconds,
            )

        asked = time.perf_counter()
        self._asked_first = self._asked_first or asked
        for meter, ready in zip(self._meters, self._prefetcher.ready(), strict=True):
            meter.requests += 1
            meter.occupancy += ready / self.prefetch
        try:
            step = self._prefetcher.take(self.next_step)
        except BaseException:
            self._close(ERROR_SECONDS)
            raise

        for meter, samples, finished_at in zip(
            self._meters, step.samples, step.finished_at, strict=True
        ):
            meter.clips += len(samples) * samples.boxes.shape[1]
            meter.wait_seconds += max(0.0, finished_at - asked)
        self.next_step += 1
        self._trim()
        return step.batch()

    def _make_step(self, number: int) -> StepBuffer:
        return StepBuffer(
            self.plan,
            number,
            rank=self.rank,
            world=self.world,
            device=self._device,
            dtype=self.dtype,
            target_apart=self.target_apart,
            pool=self._buffers,
        )

    def state_dict(self) -> LoaderState:
        """The next step, everything that the order depends on, and the decoders, on which the
        pixels depend.
        """
        return {
            "step": self.next_step,
            "plan": self._fingerprint(),
            "decoders": self._describe(),
            "trial": self.trial.record,
        }

    def load_state_dict(self, state: LoaderState) -> list[str]:
        """Continue after the last step that was consumed when ``state`` was saved.

        Returns:
            A line for each source that is decoded in another way now: the order is the same, its
                pixels are not quite.

        Raises:
            UserError: if the plan is another one, listing every difference.
        """
        self._check_open()
        differences = find_differences(state["plan"], self._fingerprint())
        if differences:
            raise UserError(
                "resume",
                "the plan that the checkpoint was made with",
                "; ".join(differences),
                "Restore the old settings and lists, or start anew in another run_dir.",
            )
        self._stop(self._settings.hang_seconds)
        self.next_step = state["step"]

        before = state.get("decoders", {})
        now = self._describe()
        return [
            f"same order, but slightly other pixels from here on: {before[name]}; now {now[name]}"
            for name in before
            if not gives_same_pixels(before[name], now[name])
        ]

    def _fingerprint(self) -> dict[str, object]:
        plan = self.plan.fingerprint()
        return {**plan, "ranks": self.world} if isinstance(self.plan, EvaluationPlan) else plan

    def _describe(self) -> dict[str, str]:
        """By source, what decodes it and where."""
        on_gpu = self.device.type == "cuda"
        place = f", finished on {self.device.type}" if on_gpu else ""
        share = self._settings.cpu_share
        return {
            table.name: describe_codecs(table, routes, on_gpu, share) + place
            for table, routes in zip(self.plan.tables, self.file_routes, strict=True)
        }

    def stats(self) -> dict[str, SourceStats]:
        """Figures per source since the start, by name."""
        clips = sum(meter.clips for meter in self._meters)
        return {
            table.name: meter.snapshot(clips, self._asked_first)
            for table, meter in zip(self.plan.tables, self._meters, strict=True)
        }

    def close(self) -> None:
        """Stop the background work and free its memory. A second call does nothing."""
        self._close(self._settings.hang_seconds)

    def _close(self, patience: float) -> None:
        """Leave threads that need more than ``patience`` seconds to themselves."""
        if self._closed:
            return
        self._closed = True
        self._stop(patience)
        self._workers.close(patience)
        self._decoders.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"this FusionIterator (rank {self.rank}) was closed; make a new one")

    def _stop(self, patience: float) -> None:
        if self._prefetcher is not None:
            self._prefetcher.stop(patience)
            self._prefetcher = None
