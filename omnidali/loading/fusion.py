"""FusionIterator: the sources' clips, mixed as planned, one StepBatch a step."""

import os
from collections.abc import Sequence
from typing import NoReturn, Self

import torch
from torch.utils.data import IterableDataset

from omnidali.config.schema import LoaderConfig
from omnidali.config.sources import MediaConfig
from omnidali.decoding.routes import gives_same_pixels
from omnidali.errors import OtherProcessError, UserError
from omnidali.loading.backend import Workers
from omnidali.loading.batch import StepBatch
from omnidali.loading.buffer_pool import BufferPool, Trimmer
from omnidali.loading.device_work import device_work
from omnidali.loading.exit_calls import call_at_exit
from omnidali.loading.failures.dali_failures import DaliFailures, beside
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.loading.loader_options import LoaderState, check_options
from omnidali.loading.prefetcher import ERROR_SECONDS, Prefetcher
from omnidali.loading.source_decoder import SourceDecoder
from omnidali.loading.source_routes import describe_decoders, describe_sources, route_sources
from omnidali.loading.stats import LoaderMeters, SourceStats
from omnidali.loading.step_buffer import StepBuffer
from omnidali.loading.thread_plan import thread_plan
from omnidali.loading.trial_outcome import NO_TRIAL, Trial
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.fingerprint import find_differences
from omnidali.planning.train_plan import TrainPlan
from omnidali.utils.log import LOG

_EXIT_SECONDS = 10.0  # for decodes that have begun when the program ends


class FusionIterator(IterableDataset[StepBatch]):
    """Iterate over the steps of a plan; decoding runs ahead in the background.

    It is an iterator over one run, from its first step to ``end``. A loop that begins after a
    ``break`` goes on with the next step, and one that begins after the end gets nothing; with
    ``itertools.islice(loader, n)`` an epoch has n steps. ``len`` is the number of steps of the
    whole run, ``len(loader) - loader.next_step`` what is left of it.

    It is also a dataset of PyTorch, whose samples are whole batches: ``DataLoader(loader,
    batch_size=None, pin_memory=True)``, and torchdata's StatefulDataLoader. It decodes on threads
    of its own, so that ``num_workers`` stays 0; it belongs to the process that opened it.

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
        UserError: for options out of their range, and if a source asks for a decoder that cannot
            take its codecs.
        OtherProcessError: if it is pickled, or used in another process than its own.

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
        check_options(rank=rank, world=world, threads=threads, prefetch=prefetch, end=end)
        self.plan = plan
        self.rank = rank
        self.world = world
        self.device = torch.device(device)
        self.dtype = dtype
        self.prefetch = prefetch
        self.target_apart = target_apart
        self._settings = LoaderConfig(
            threads=threads or len(os.sched_getaffinity(0)),
            prefetch=prefetch,
            cpu_share=cpu_share,
            max_bad_ratio=max_bad_ratio,
            max_bad_in_a_row=max_bad_in_a_row,
            hang_seconds=hang_seconds,
            stall_seconds=stall_seconds,
        )
        self.end = plan.steps(world) if end is None and isinstance(plan, EvaluationPlan) else end

        quarantine = quarantine or Quarantine()
        self._left = beside(quarantine)
        self.trial = trial
        self.file_routes = route_sources(
            plan.tables, sources, self.device, tried=trial.tried, left=self._left
        )
        self.routes = describe_sources(plan.tables, self.file_routes, self.device, cpu_share)

        self._workers = self._make_workers()
        self._decoders = self._make_decoders(quarantine)
        self._meters = LoaderMeters(plan, self._decoders, prefetch)
        self._buffers = BufferPool()
        self._trim = Trimmer(self._buffers, self._settings.threads)

        self.next_step = 0
        self._closed = False
        self._has_ended = False
        self._process = os.getpid()
        self._prefetcher: Prefetcher | None = None
        call_at_exit(self._close_at_exit)

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

    def _make_workers(self) -> Workers:
        # the number of threads is that of one rank already
        threads = thread_plan(self._settings.threads, 1, len(self.plan.tables))
        return Workers(threads, device_work(self.device))

    def __iter__(self) -> Self:
        """Itself: a loop goes on with the next step, wherever the last one stopped."""
        self._check_process()
        if self._has_ended:
            LOG.warning(
                "the loader is at its end, step %d: this loop gets nothing; load_state_dict with an"
                " earlier state goes back, a longer train.epochs or train.steps goes on",
                self.next_step,
            )
        return self

    def __len__(self) -> int:
        """The steps of the whole run, whatever was consumed of it.

        Raises:
            TypeError: if it has no end.
        """
        if self.end is None:
            raise TypeError(
                "this FusionIterator has no length, as it has no end: open it with end="
            )
        return self.end

    def __next__(self) -> StepBatch:
        """The batch of the next step.

        Raises:
            StopIteration: at the end, and at every later call.
            BadSourceError: if more of a source fails than the limits allow.
            RuntimeError: after :meth:`close`.
        """
        self._check_open()
        if self.end is not None and self.next_step >= self.end:
            self._has_ended = True
            raise StopIteration
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(
                self._make_step,
                self._decoders,
                first=self.next_step,
                end=self.end,
                ahead=self.prefetch,
                device=self._workers.device,
                rank=self.rank,
                stall_seconds=self._settings.stall_seconds,
            )

        self._meters.on_request(self._prefetcher.ready())
        try:
            step = self._prefetcher.take(self.next_step)
        except BaseException:
            self._close(ERROR_SECONDS)
            raise

        clips = [len(samples) * samples.boxes.shape[1] for samples in step.samples]
        self._meters.on_step(clips, step.finished_at)
        self.next_step += 1
        self._trim()
        return step.batch()

    def _make_step(self, number: int) -> StepBuffer:
        return StepBuffer(
            self.plan,
            number,
            rank=self.rank,
            world=self.world,
            device=self._workers.device,
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
        self._has_ended = False

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
        share = self._settings.cpu_share
        return describe_decoders(self.plan.tables, self.file_routes, self.device, share)

    def stats(self) -> dict[str, SourceStats]:
        """Figures per source since the start, by name."""
        return self._meters.snapshot()

    def close(self) -> None:
        """Stop the background work and free its memory. A second call does nothing."""
        self._close(self._settings.hang_seconds)

    def _close_at_exit(self) -> None:
        self._close(_EXIT_SECONDS)

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

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: threads, and where they are, stay in their process."""
        raise OtherProcessError

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise OtherProcessError

    def _check_open(self) -> None:
        self._check_process()
        if self._closed:
            raise RuntimeError(f"this FusionIterator (rank {self.rank}) was closed; make a new one")

    def _stop(self, patience: float) -> None:
        if self._prefetcher is not None:
            self._prefetcher.stop(patience)
            self._prefetcher = None
