"""Why a training may end before its last step: a signal, its time, or its patience."""

import time

from omnidali.training.schedule import Schedule
from omnidali.training.state import TrainingState
from omnidali.training.stop_signals import StopSignals


class TimeLimit:
    """Decides by a monotonic clock when a start has had its time.

    Args:
        hours: that it has, from now on; None: as many as it needs.
    """

    def __init__(self, hours: float | None):
        self._end = None if hours is None else time.monotonic() + 3600 * hours

    @property
    def is_over(self) -> bool:
        """Whether the start is to save and end."""
        return self._end is not None and time.monotonic() >= self._end


class Ending:
    """Sees why a training is to end.

    Args:
        signals: of this process.
        state: of the training, which counts evaluations.
        schedule: of the training.
        time_limit: of this start.
    """

    def __init__(
        self,
        signals: StopSignals,
        state: TrainingState,
        *,
        schedule: Schedule,
        time_limit: TimeLimit,
    ):
        self._time_limit = time_limit
        self._signals = signals
        self._state = state
        # a dry run has no evaluations
        self._steps = schedule.steps if schedule.dry_run is None else 0

    def check_time(self) -> None:
        """Request the end of the run once its time is over; the ranks are to agree on it."""
        if self._time_limit.is_over:
            self._signals.request("train.max_hours")

    def abandons_evaluation(self) -> bool:
        """Whether the time or a signal is to end an evaluation on this rank."""
        self.check_time()
        return self._signals.received is not None

    def lost_patience(self) -> bool:
        """Whether the evaluations end the run before its last step; the same on all ranks."""
        state = self._state
        is_early = state.step < self._steps
        return is_early and state.early_stop.is_due and not state.owes_evaluation

    def __str__(self) -> str:
        state = self._state
        if self.lost_patience():
            done = f"stopped after step {state.step} by train.patience: {state.early_stop}"
            return f"{done}; a larger one goes on"
        received = self._signals.received or "a signal to another rank"
        return f"stopped by {received} after step {state.step}; go on with --resume auto"
