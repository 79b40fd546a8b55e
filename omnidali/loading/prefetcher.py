"""The threads that make steps ready ahead of the consumer, one a source."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from omnidali.loading.backend import PendingSamples
from omnidali.loading.device_work import DeviceWork
from omnidali.loading.source_decoder import SourceDecoder
from omnidali.loading.step_buffer import StepBuffer
from omnidali.loading.thread_pool import cannot_start
from omnidali.utils.log import LOG

ERROR_SECONDS = 1.0  # for threads to end after an error, of which the other ranks must hear
_EXAMPLES = 5  # files of a source that a warning names


class Prefetcher:
    """Decodes ahead from one step on, until it is stopped.

    Args:
        make_step: makes the buffer of a step.
        decoders: one a source.
        first: number of the first step.
        end: number of the step before which to stop; None: never.
        ahead: steps made ready ahead.
        device: where the clips go.
        rank: of this process, for warnings.
        stall_seconds: without a step, after which a warning names the late sources and their files.

    Raises:
        UserError: if the system does not start the threads.
    """

    def __init__(
        self,
        make_step: Callable[[int], StepBuffer],
        decoders: Sequence[SourceDecoder],
        *,
        first: int,
        end: int | None,
        ahead: int,
        device: DeviceWork,
        rank: int,
        stall_seconds: float,
    ):
        self._make_step = make_step
        self._decoders = tuple(decoders)
        self._end = end
        self._ahead = ahead
        self._device = device
        self._rank = rank
        self._stall_seconds = stall_seconds
        self._changed = threading.Condition()
        self._steps: dict[int, StepBuffer] = {}
        self._next = first  # to be taken
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._start(first)

    def _start(self, first: int) -> None:
        """Start the threads, or none of them."""
        for source, decoder in enumerate(self._decoders):
            thread = threading.Thread(
                target=self._work,
                args=(source, first),
                daemon=True,
                name=f"source-{decoder.table.name}",
            )
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:
                self.stop(ERROR_SECONDS)
                raise cannot_start(len(self._decoders), source, "source", error) from None
            self._threads.append(thread)

    def ready(self) -> list[int]:
        """How many steps ahead of the consumer each source has finished."""
        with self._changed:
            return [
                sum(1 for step in self._steps.values() if step.finished_at[source])
                for source in range(len(self._decoders))
            ]

    def take(self, number: int) -> StepBuffer:
        """Wait for a step and free its place in the queue; raises the first error of any thread."""
        warn_at = time.monotonic() + self._stall_seconds
        with self._changed:
            while self._error is None and not self._is_finished(number):
                self._changed.wait(1.0)
                if time.monotonic() >= warn_at:
                    warn_at += self._stall_seconds
                    self._warn_of_stall(number)
                is_alive = any(thread.is_alive() for thread in self._threads)
                if not is_alive and self._error is None and number not in self._steps:
                    raise RuntimeError(f"the loader's threads ended before step {number}")

            if self._error is not None:
                raise self._error
            self._next = number + 1
            self._changed.notify_all()
            return self._steps.pop(number)

    def stop(self, patience: float) -> None:
        """End the threads; waits ``patience`` seconds for decodes that have begun."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()
        end = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._steps.clear()

    def _is_finished(self, number: int) -> bool:
        return number in self._steps and not self._steps[number].unfinished

    def _warn_of_stall(self, number: int) -> None:
        """Log the files that a step has been waiting for."""
        step = self._steps.get(number)
        for source, decoder in enumerate(self._decoders):
            if step is not None and step.finished_at[source]:
                continue
            oldest = sorted(decoder.in_flight(), key=lambda flight: -flight[1])[:_EXAMPLES]
            files = ", ".join(f"{path} ({age:.0f} s)" for path, age in oldest)
            LOG.error(
                "rank %d: no batch for %g s; step %d waits for source %s: %s",
                self._rank,
                self._stall_seconds,
                number,
                decoder.table.name,
                files or "no file in flight",
            )

    def _work(self, source: int, number: int) -> None:
        """Decode ahead: the CPU's part of later steps is decoded while DALI finishes this one."""
        decoder = self._decoders[source]
        begun: deque[tuple[StepBuffer, PendingSamples | None]] = deque()

        try:
            with self._device.stream():
                while True:
                    step = self._step_to_begin(number, waits=not begun)
                    if step is not None:
                        samples = step.samples[source]
                        pending = None
                        if len(samples):
                            pending = decoder.start(
                                number, samples, step.places[source], self._stopped.is_set
                            )
                        begun.append((step, pending))
                        number += 1
                    elif begun and not self._stopped.is_set():
                        self._finish(source, *begun.popleft())
                    else:
                        break
        except BaseException as error:  # the consumer gets the first error, whatever it is
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
        finally:
            for _, unfinished in begun:
                if unfinished is not None:
                    decoder.drop(unfinished)

    def _step_to_begin(self, number: int, *, waits: bool) -> StepBuffer | None:
        """The buffer of a step, made by the first source that needs it.

        Args:
            number: of the step.
            waits: whether to wait until the step may begin.

        Returns:
            None for a step that may not begin yet, and once there is nothing more to begin.
        """
        if self._end is not None and number >= self._end:
            return None
        with self._changed:
            while waits and not self._stopped.is_set() and number >= self._next + self._ahead:
                self._changed.wait()
            if self._stopped.is_set() or number >= self._next + self._ahead:
                return None
            if number not in self._steps:
                self._steps[number] = self._make_step(number)
            return self._steps[number]

    def _finish(
        self,
        source: int,
        step: StepBuffer,
        pending: PendingSamples | None,
    ) -> None:
        if pending is not None:
            try:
                self._decoders[source].finish(pending, self._stopped.is_set)
            except BaseException:
                self._decoders[source].drop(pending)
                raise
            if not self._stopped.is_set():  # else threads may still be at them
                step.samples[source] = pending.decoded()

        with self._changed:
            step.finished_at[source] = time.perf_counter()
            step.unfinished -= 1
            self._changed.notify_all()
