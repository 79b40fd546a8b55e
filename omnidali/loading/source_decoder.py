"""One source of a running loader: its samples are routed to the back ends."""

from collections.abc import Callable

import numpy as np
import torch

from omnidali.decoding.routes import Routes, on_cpu
from omnidali.loading.backend import Backend, PendingSamples, Workers
from omnidali.loading.cpu_backend import CpuBackend
from omnidali.loading.failures.dali_failures import DaliFailures
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.samples import Samples
from omnidali.planning.train_plan import TrainPlan


class SourceDecoder:
    """Decodes the samples of one source with the back end of their files; what that does not
    decode, the next one does, and at last the CPU.

    Args:
        plan: names the substitutes of what fails.
        source: place of the source in the plan.
        routes: of :func:`~omnidali.decoding.routes.choose_routes`.
        workers: threads and graphs that all sources share.
        tracker: learns of every file that fails.
        failures: learns of the files that DALI does not decode, and takes them away from it.
        cpu_share: of the slots of a hybrid source.
    """

    def __init__(
        self,
        plan: TrainPlan | EvaluationPlan,
        source: int,
        routes: Routes,
        *,
        workers: Workers,
        tracker: FailureTracker,
        failures: DaliFailures,
        cpu_share: float,
    ):
        self.table = plan.tables[source]
        self.tracker = tracker
        self.failures = failures
        self._cpu_share = cpu_share if routes.is_hybrid else 0.0
        self._backends: list[Backend] = [
            CpuBackend(plan, self.table, workers=workers, tracker=tracker)
        ]
        if routes.uses_dali:
            # imports DALI, which takes a second
            from omnidali.loading.dali_backend import DaliBackend

            dali = DaliBackend(self.table, workers=workers, tracker=tracker, failures=failures)
            self._backends.insert(0, dali)

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

    def _cpu_decodes(self, samples: Samples) -> np.ndarray:
        """Which samples the CPU decodes: bool (n,)."""
        by_cpu = ~self.failures.takes(samples.pieces) | ~samples.valid
        return by_cpu | on_cpu(samples.slots, self._cpu_share)
