"""What ranks agree on between steps: to stop, and to save."""

from dataclasses import dataclass, field

from omnidali.distributed.ranks import Ranks
from omnidali.training.schedule import SaveClock
from omnidali.training.stop_signals import StopSignals


@dataclass(frozen=True)
class Echo(Ranks):
    """One of two ranks, of which the other wants nothing."""

    world: int = 2
    asked: list = field(default_factory=list)

    def any_soon(self, *flags):
        self.asked.append(flags)
        return lambda: flags


def test_several_ranks_are_answered_a_step_later():
    ranks = Echo()
    stop = StopSignals(ranks)
    assert [stop.agreed(wants) for wants in (True, True, False, False)] == [
        (False, False),
        (False, True),
        (False, False),
        (False, False),
    ]
    # saved once
    assert ranks.asked == [(False, True), (False, False), (False, False), (False, False)]

    stop.heard = "SIGTERM"
    assert [stop.agreed() for _ in range(3)] == [(False, False), (True, False), (True, False)]
    assert len(ranks.asked) == 5  # nobody is asked behind a stop: the others may have left


def test_a_single_rank_is_answered_at_once():
    stop = StopSignals(Ranks())
    assert stop.agreed(wants_save=True) == (False, True)
    stop.heard = "SIGINT"
    assert stop.agreed() == (True, False)


def test_save_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("omnidali.training.schedule.time.monotonic", lambda: now[0])
    clock, never = SaveClock(0.5), SaveClock(0)
    now[0] += 29
    assert not clock.is_due
    now[0] += 1
    assert clock.is_due and not never.is_due
    clock.restart()
    assert not clock.is_due
