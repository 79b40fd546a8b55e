"""One source of a running loader: its samples are routed to the back ends."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from omnidali.decoding.routes import CPU, HYBRID, on_cpu
from omnidali.loading.backend import Backend, GraphPool, PendingSamples
from omnidali.loading.cpu_backend import CpuBackend
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.loading.thread_pool import AbandonableThreadPool
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.samples import Samples
from omnidali.planning.train_plan import TrainPlan


class SourceDecoder:
    """Decodes the samples of one source with the back end of their codecs; what that does not
    decode, the next one does, and at last the CPU.

    Args:
        plan: names the substitutes of what fails.
        source: place of the source in the plan.
        routes: {codec: decoder} of :func:`~omnidali.decoding.routes.choose_routes`.
        pool: threads for decoding on the CPU, shared by all sources.
        threads: DALI's threads.
        device: where the clips go.
        tracker: learns of every file that fails.
        cpu_share: of the slots of codecs that DALI and the CPU share.
    """

    def __init__(
        self,
        plan: TrainPlan | EvaluationPlan,
        source: int,
        routes: Mapping[str, str],
        *,
        pool: AbandonableThreadPool,
        threads: int,
        device: torch.device,
        tracker: FailureTracker,
        cpu_share: float,
    ):
        self.table = plan.tables[source]
        self.tracker = tracker
        self._cpu_share = cpu_share
        self._cpu_codecs, self._shared_codecs = (
            np.array([routes[name] == route for name in self.table.codec_names])
            for route in (CPU, HYBRID)
        )
        self._backends: list[Backend] = [
            CpuBackend(
                plan,
                self.table,
                pool=pool,
                graphs=GraphPool(threads, device) if device.type == "cuda" else None,
                tracker=tracker,
            )
        ]
        if any(routes[name] != CPU for name in self.table.codec_names):
            # imports DALI, which takes a second
            from omnidali.loading.dali_backend import DaliBackend

            self._backends.insert(
                0, DaliBackend(self.table, graphs=GraphPool(threads, device), tracker=tracker)
            )

    def start(
        self, step: int, samples: Samples, out: torch.Tensor, stopped: Callable[[], bool]
    ) -> PendingSamples:
        """Begin to decode samples.

        Args:
            step: number of the step.
            samples: of the source in this step.
            out: (n, V, T, size, size, 3), written by :meth:`finish`.
            stopped: whether the clips are no longer wanted.
        """
        pending = PendingSamples(step, samples, out)
        by_cpu = self._cpu_decodes(samples)
        left = np.flatnonzero(~by_cpu).tolist()
        *others, cpu = self._backends
        for backend in others:
            left = backend.start(pending, left, stopped)
        cpu.start(pending, np.flatnonzero(by_cpu).tolist() + left, stopped)
        return pending

    def finish(self, pending: PendingSamples, stopped: Callable[[], bool]) -> None:
        """Wait until the clips are written, unless ``stopped`` says that they are not wanted.

        Raises:
            BadSourceError: if too many files fail.
        """
        left: list[int] = []
        for backend in self._backends:
            if left:
                left = backend.start(pending, left, stopped)
            left += backend.finish(pending, stopped)

    def drop(self, pending: PendingSamples) -> None:
        """Release samples that will not be finished."""
        for backend in self._backends:
            backend.drop(pending)

    def in_flight(self) -> list[tuple[str, float]]:
        """Paths of the files that are being read or decoded, and for how many seconds."""
        return [
            (media.path, seconds)
            for backend in self._backends
            for media, seconds in backend.in_flight()
        ]

    def close(self) -> None:
        """End the threads of the back ends."""
        for backend in self._backends:
            backend.close()

    def _cpu_decodes(self, samples: Samples) -> np.ndarray:
        """Which samples the CPU decodes: bool (n,)."""
        codecs = self.table.codecs[samples.pieces]
        by_cpu = self._cpu_codecs[codecs].any(axis=1)
        by_cpu |= self._shared_codecs[codecs].any(axis=1) & on_cpu(samples.slots, self._cpu_share)
        return by_cpu | ~samples.valid
