"""FusionIterator: the sources' clips, mixed as planned, one StepBatch a step."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

import torch

from omnidali.config.schema import MediaConfig
from omnidali.decoding.routes import CPU, choose_routes, describe_routes
from omnidali.errors import UserError
from omnidali.loading.batch import StepBatch
from omnidali.loading.buffer_pool import BufferPool
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.tracker import Faults, Limits
from omnidali.loading.memory_trim import Trimmer
from omnidali.loading.producer import Producer
from omnidali.loading.stats import Meter, SourceStats
from omnidali.loading.step_buffer import Step
from omnidali.loading.thread_pool import Workers, cannot_start
from omnidali.planning.fingerprint import find_differences
from omnidali.planning.plan import EvaluationPlan, TrainPlan
from omnidali.utils.log import LOG

_TOLD = 5  # files of a source
_ERROR_SECONDS = 1.0  # for threads to end behind an error, of which the other ranks must hear


class FusionIterator:
    """Iterate over the steps of a plan; decoding runs ahead in the background.

    Args:
        plan: a :class:`TrainPlan` or :class:`EvaluationPlan`.
        sources: settings of the plan's tables, in their order.
        rank, world: which share of every step to deliver.
        device: where the clips are needed; a CUDA device makes DALI decode there.
        dtype: of the clips; by default float32.
        threads: for decoding on the CPU; 0 means all cores this process may use.
        prefetch: steps made ready ahead.
        cpu_share: of the slots of sources with ``decode: hybrid``.
        quarantine: names the files that fail; by default in memory.
        limits: how much may fail, and how long a file or a batch may take.
        target_apart: keep the first source's clips in groups of their own, for batch norms that
            tell it apart.
        end: step before which to stop; none means never for training and after every item for
            evaluation.

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
        threads: int = 0,
        prefetch: int = 2,
        cpu_share: float = 0.25,
        target_apart: bool = False,
        quarantine: Quarantine | None = None,
        limits: Limits = Limits(),
        end: int | None = None,
    ):
        self.plan, self.rank, self.world, self.prefetch = plan, rank, world, prefetch
        self.device, self.dtype, self.target_apart = torch.device(device), dtype, target_apart
        self.cpu_share, self.limits = cpu_share, limits
        self.end = plan.steps(world) if end is None and isinstance(plan, EvaluationPlan) else end
        capability = (
            torch.cuda.get_device_capability(self.device) if self.device.type == "cuda" else None
        )
        self._routes = [
            choose_routes(table, source.decode, capability)
            for table, source in zip(plan.tables, sources)
        ]
        _check_python(self.device, self._routes)
        threads = threads or len(os.sched_getaffinity(0))
        self._workers, quarantine = Workers(threads, "decode"), quarantine or Quarantine()
        self._producers = [
            Producer(
                plan,
                number,
                routes,
                self._workers,
                threads,
                self.device,
                Faults(table, quarantine, rank, limits),
                cpu_share,
            )
            for number, (table, routes) in enumerate(zip(plan.tables, self._routes))
        ]
        shares = plan.mixing.shares if isinstance(plan, TrainPlan) else [1.0]
        self._meters = [
            Meter(float(share), producer.faults) for share, producer in zip(shares, self._producers)
        ]
        self._buffers = BufferPool()
        self._trim = Trimmer(self._buffers, threads)
        self._next_step, self._started, self._closed, self._run = 0, None, False, None

    @property
    def next_step(self) -> int:
        """The step that the next batch belongs to."""
        return self._next_step

    @property
    def routes(self) -> list[str]:
        """A line a source: which decoder takes which of its codecs."""
        on_gpu = self.device.type == "cuda"
        return [
            describe_routes(table, routes, on_gpu, self.cpu_share)
            for table, routes in zip(self.plan.tables, self._routes)
        ]

    def __iter__(self) -> FusionIterator:
        return self

    def __next__(self) -> StepBatch:
        """The batch of the next step.

        Raises:
            StopIteration: at the end, and at every later call.
            BadSourceError: if more of a source fails than the limits allow.
            RuntimeError: after :meth:`close`.
        """
        self._check_open()
        if self.end is not None and self._next_step >= self.end:
            raise StopIteration
        if self._run is None:
            self._run = _Run(self, self._next_step)
        asked = time.perf_counter()
        self._started = self._started or asked
        for meter, ready in zip(self._meters, self._run.ready()):
            meter.request(ready, self.prefetch)
        try:
            step = self._run.take(self._next_step)
        except BaseException:
            self._close(_ERROR_SECONDS)
            raise
        for meter, samples, finished in zip(self._meters, step.samples, step.finished):
            meter.clips += len(samples) * samples.boxes.shape[1]
            meter.wait_seconds += max(0.0, finished - asked)
        self._next_step += 1
        self._trim()
        return step.batch(self.device)

    def state_dict(self) -> dict[str, object]:
        """The next step, everything that the order depends on, and who decodes, on which the pixels
        depend.
        """
        return {"step": self._next_step, "plan": self._fingerprint(), "decoders": self._decoders()}

    def load_state_dict(self, state: Mapping[str, object]) -> list[str]:
        """Go on behind the last step that was consumed when ``state`` was saved.

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
        self._stop(self.limits.hang_seconds)
        self._next_step = state["step"]
        before, now = state.get("decoders", {}), self._decoders()
        return [
            f"same order, but slightly other pixels from here on: {before[name]}; now {now[name]}"
            for name in before
            if before[name] != now[name]
        ]

    def _fingerprint(self) -> dict[str, object]:
        plan = self.plan.fingerprint()
        return {**plan, "ranks": self.world} if isinstance(self.plan, EvaluationPlan) else plan

    def _decoders(self) -> dict[str, str]:
        place = "" if self.device.type == "cpu" else f", finished on {self.device.type}"
        return {table.name: line + place for table, line in zip(self.plan.tables, self.routes)}

    def stats(self) -> dict[str, SourceStats]:
        """Figures per source since the start, by name."""
        clips = sum(meter.clips for meter in self._meters)
        return {
            table.name: meter.snapshot(clips, self._started)
            for table, meter in zip(self.plan.tables, self._meters)
        }

    def close(self) -> None:
        """Stop the background work and free its memory. A second call does nothing."""
        self._close(self.limits.hang_seconds)

    def _close(self, patience: float) -> None:
        """Leave threads that need more than ``patience`` seconds to themselves."""
        if not self._closed:
            self._closed = True
            self._stop(patience)
            for producer in self._producers:
                producer.close()
            self._workers.close(patience)
            self._producers.clear()

    def __enter__(self) -> FusionIterator:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"this FusionIterator (rank {self.rank}) was closed; make a new one")

    def _stop(self, patience: float) -> None:
        if self._run is not None:
            self._run.stop(patience)
            self._run = None


def _check_python(device: torch.device, routes: Sequence[Mapping[str, str]]) -> None:
    """Raise UserError where DALI is needed and Python has no docstrings, which it cannot be
    imported without.
    """
    needed = device.type != "cpu" or any(route != CPU for each in routes for route in each.values())
    if needed and sys.flags.optimize > 1:
        raise UserError(
            "PYTHONOPTIMIZE",
            "0 or 1, as DALI needs Python's docstrings",
            str(sys.flags.optimize),
            "Unset it, or use decode: cpu on a machine without a GPU.",
        )


class _Run:
    """The producer threads from one step on, until they are stopped."""

    def __init__(self, owner: FusionIterator, first: int):
        self._owner = owner
        self._changed = threading.Condition()
        self._steps: dict[int, Step] = {}
        self._taken, self._error, self._stopped = first, None, False
        self._threads = [
            threading.Thread(
                target=self._produce,
                args=(number, first),
                daemon=True,
                name=f"source-{owner.plan.tables[number].name}",
            )
            for number in range(len(owner._producers))
        ]
        self._start()

    def _start(self) -> None:
        """Start the threads, or none of them.

        Raises:
            UserError: if the system does not let one start.
        """
        for place, thread in enumerate(self._threads):
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:
                wanted, self._threads = len(self._threads), self._threads[:place]
                self.stop(_ERROR_SECONDS)
                raise cannot_start(wanted, place, "source", error) from None

    def ready(self) -> list[int]:
        """How many steps ahead of the consumer each source has finished."""
        with self._changed:
            return [
                sum(1 for step in self._steps.values() if step.finished[i])
                for i in range(len(self._threads))
            ]

    def take(self, number: int) -> Step:
        """Wait for a step and free its place in the queue."""
        patience = self._owner.limits.stall_seconds
        tell_at = time.monotonic() + patience
        with self._changed:
            while self._error is None and not (
                number in self._steps and not self._steps[number].missing
            ):
                self._changed.wait(1.0)
                if time.monotonic() >= tell_at:
                    tell_at += patience
                    self._tell_stall(number, patience)
                if (
                    not any(thread.is_alive() for thread in self._threads)
                    and self._error is None
                    and number not in self._steps
                ):
                    raise RuntimeError(f"the loader's threads ended before step {number}")
            if self._error is not None:
                raise self._error
            self._taken = number + 1
            self._changed.notify_all()
            return self._steps.pop(number)

    def _tell_stall(self, number: int, seconds: float) -> None:
        """Say whom a batch has been waiting for."""
        owner, step = self._owner, self._steps.get(number)
        for source, producer in enumerate(owner._producers):
            if step is None or not step.finished[source]:
                flights = sorted(producer.in_flight(), key=lambda flight: -flight[1])[:_TOLD]
                files = (
                    ", ".join(f"{path} ({age:.0f} s)" for path, age in flights)
                    or "no file in flight"
                )
                LOG.error(
                    "rank %d: no batch for %g s; step %d waits for source %s: %s",
                    owner.rank,
                    seconds,
                    number,
                    owner.plan.tables[source].name,
                    files,
                )

    def stop(self, patience: float) -> None:
        """End the threads; waits ``patience`` seconds for decodes that have begun."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        end = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._steps.clear()

    def _step(self, number: int) -> Step | None:
        """The step's buffer, made by whichever producer comes first; None once stopped."""
        owner = self._owner
        with self._changed:
            while not self._stopped and number >= self._taken + owner.prefetch:
                self._changed.wait()
            if self._stopped:
                return None
            if number not in self._steps:
                self._steps[number] = Step(
                    owner.plan,
                    number,
                    owner.rank,
                    owner.world,
                    owner.device,
                    owner.dtype,
                    owner.target_apart,
                    owner._buffers,
                )
            return self._steps[number]

    def _produce(self, source: int, number: int) -> None:
        """Decode ahead: the CPU part of later steps runs while DALI finishes this one."""
        owner, producer = self._owner, self._owner._producers[source]
        stream = torch.cuda.Stream(owner.device) if owner.device.type == "cuda" else None
        begun: deque = deque()
        try:
            with torch.cuda.stream(stream):  # does nothing without a stream
                while True:
                    with self._changed:
                        free = number < self._taken + owner.prefetch
                    in_plan = owner.end is None or number < owner.end
                    if in_plan and (free or not begun):
                        step = self._step(number)
                        if step is None:
                            break
                        samples = step.samples[source]
                        begun.append(
                            (
                                step,
                                producer.start(
                                    number, samples, step.places[source], lambda: self._stopped
                                )
                                if len(samples)
                                else None,
                            )
                        )
                        number += 1
                        continue
                    if not begun or self._stopped:
                        break
                    self._finish(source, producer, *begun.popleft(), stream)
        except BaseException as error:  # the consumer gets the first error, whatever it is
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
        finally:
            for _, started in begun:
                if started:
                    producer.drop(started)

    def _finish(self, source: int, producer: Producer, step: Step, started, stream) -> None:
        if started:
            try:
                producer.finish(started, lambda: self._stopped)
            except BaseException:
                producer.drop(started)
                raise
        if stream is not None:
            # DALI may reuse its output once it is let go: the copy must be over
            stream.synchronize()
        with self._changed:
            step.finished[source] = time.perf_counter()
            step.missing -= 1
            self._changed.notify_all()
