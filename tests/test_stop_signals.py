"""Signals stop a run, or all ranks after the same step, and everything is saved."""

import os
import signal
import time
from dataclasses import dataclass, field

import pytest

from helpers.crashing import calling
from helpers.running import (
    HELD_OUT,
    assert_same,
    damage_checkpoint,
    run,
    step_of,
    weights,
)
from helpers.warm_process import PATIENCE, Process, start_torchrun, state_of, wait_for_files
from omnidali.distributed.ranks import Ranks
from omnidali.training import train
from omnidali.training.run_lock import RunLock
from omnidali.training.save_clock import SaveClock
from omnidali.training.stop_signals import StopSignals

pytestmark = pytest.mark.usefixtures("small_network")


@dataclass(frozen=True)
class Echo(Ranks):
    """One of two ranks, of which the other wants nothing."""

    world: int = 2
    asked: list = field(default_factory=list)

    def any_async(self, *flags):
        self.asked.append(flags)
        return lambda: flags


def test_several_ranks_agree_a_step_later():
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

    stop.received = "SIGTERM"
    assert [stop.agreed() for _ in range(3)] == [(False, False), (True, False), (True, False)]
    assert len(ranks.asked) == 5  # nobody is asked after a stop: the others may have left


def test_single_rank_agrees_at_once():
    stop = StopSignals(Ranks())
    assert stop.agreed(wants_save=True) == (False, True)
    stop.received = "SIGINT"
    assert stop.agreed() == (True, False)


def test_save_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("omnidali.training.save_clock.time.monotonic", lambda: now[0])
    clock = SaveClock(0.5)
    never = SaveClock(0)
    now[0] += 29
    assert not clock.is_old
    now[0] += 1
    assert clock.is_old and not never.is_old
    clock.restart()
    assert not clock.is_old


def stop_at(process, name="waits0", number=signal.SIGTERM, times=1):
    """Send a signal to a process that is held before a step, and let its job go on."""
    process.wait_for_file(name)
    for _ in range(times):
        os.kill(process.pid, number)
    process.wait_for_file(name.replace("waits", "received"))
    (process.folder / "go").touch()


def test_run_resumed_after_signal_ends_with_same_weights(warm, whole_weights, options, tmp_path):
    process = Process(warm, tmp_path / "first", "train", *options, OMNIDALI_WAITS=6)
    stop_at(process, times=2)  # a scheduler's and torchrun's: one and the same
    assert process.wait() == 0 and "Traceback" not in process.output
    step = step_of(tmp_path / "run")
    assert f"stopped by SIGTERM after step {step}; go on with --resume auto" in process.output
    assert 8 <= step < 24 and step % 2 == 0  # the signal came in the middle of a group of two
    process = Process(warm, tmp_path / "second", "train", *options, "--resume", "auto")
    assert process.wait() == 0, process.output
    assert_same(whole_weights(1), weights(tmp_path / "run"))


def test_second_signal_ends_at_once(warm, tmp_path):
    process = Process(warm, tmp_path, "listen")
    process.wait_for_file()
    os.kill(process.pid, signal.SIGUSR1)
    process.wait_for_file("received")
    time.sleep(0.5)
    assert state_of(process.pid) != "Z"
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert process.output == (
        "SIGUSR1: the run ends after this step and saves; a second one ends it at once\n"
        "SIGTERM again: ends without saving\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_interrupt_or_hangup_saves(options, tmp_path, number):
    # a shell's background jobs ignore them
    handler = signal.signal(number, signal.default_int_handler)
    try:
        code, out, err = run(
            *options, wrap_loader=calling(lambda step: step == 3 and raise_and_wait(number))
        )
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, handler)
    assert code == 0 and "Traceback" not in err, err
    assert f"{number.name}: the run ends after this step and saves" in err
    assert f"stopped by {number.name} after step 4; go on with --resume auto" in out
    assert step_of(tmp_path / "run") == 4


def raise_and_wait(number):
    """Send this process a signal, and wait until its thread has received it."""
    os.kill(os.getpid(), number)
    time.sleep(1)


def test_ignored_hangup_stays_ignored(options, tmp_path):
    """As under nohup."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code, out, err = run(
            *options,
            "train.steps=6",
            wrap_loader=calling(lambda step: step == 3 and raise_and_wait(signal.SIGHUP)),
        )
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert code == 0 and "SIGHUP" not in err + out and step_of(tmp_path / "run") == 6


def test_interrupt_before_first_step_prints_one_line(options, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "open_data", interrupted)
    code, _, err = run(*options)
    assert code == 130 and err == "interrupted\n"


def test_second_interrupt_within_a_moment_ends_at_once(warm, tmp_path):
    """Without torchrun, which sends it twice, also within a moment."""
    process = Process(warm, tmp_path, "listen")
    process.wait_for_file()
    os.kill(process.pid, signal.SIGINT)
    process.wait_for_file("received")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    assert process.output.endswith("SIGINT again: ends without saving\n")


def test_ranks_stop_after_the_same_step(warm, whole_weights, options, tmp_path):
    """A signal to one rank alone, Ctrl-C in a terminal, one to torchrun, and torchrun killed.

    All end as a run that nobody stopped. A terminal sends its signal to torchrun and the ranks, and
    torchrun sends it to the ranks once more.
    """
    folder = tmp_path / "run"
    resume = [*options, "--resume", "auto"]
    main, other = warm.start_ranks(tmp_path / "one", "train", *options, OMNIDALI_WAITS=4)
    stop_at(other, "waits1", signal.SIGUSR1)
    assert (main.wait(), other.wait()) == (0, 0), main.output + other.output
    first = step_of(folder)
    assert f"stopped by a signal to another rank after step {first};" in main.output
    assert 6 <= first < 13

    stop_torchrun(tmp_path / "terminal", resume, 11, signal.SIGINT)
    stop_torchrun(tmp_path / "two", resume, 15, signal.SIGTERM)
    stop_torchrun(tmp_path / "three", resume, 19, signal.SIGKILL)
    RunLock(folder).release()  # no process that is left holds it

    damage_checkpoint(folder / "checkpoints" / "last.pt", "flipped")  # all ranks use the previous
    main, other = warm.start_ranks(tmp_path / "four", "train", *resume)
    assert (main.wait(), other.wait()) == (0, 0), main.output + other.output
    assert "previous.pt, after step" in main.output
    assert_same(whole_weights(2), weights(folder))


def stop_torchrun(life, arguments, step, number):
    """Start two ranks under torchrun, and stop them before ``step`` by a signal to torchrun."""
    run_folder = life.parent / "run"
    torchrun = start_torchrun(life, *arguments, OMNIDALI_WAITS=str(step))
    log = life / "log"
    wait_for_files(life, "waits0", "waits1", otherwise=lambda: torchrun.poll() is not None)
    assert torchrun.poll() is None, log.read_text()
    (os.killpg if number == signal.SIGINT else os.kill)(torchrun.pid, number)
    wait_for_files(life, "received0", "received1")
    (life / "go").touch()

    code = -number if number == signal.SIGKILL else 1
    assert torchrun.wait(PATIENCE) == code, log.read_text()
    wait_for_files(life, "code0", "code1")
    codes = [(life / f"code{rank}").read_text() for rank in (0, 1)]
    assert codes == ["0", "0"], log.read_text()
    name = "SIGINT" if number == signal.SIGINT else "SIGTERM"
    saved = step_of(run_folder)
    assert f"stopped by {name} after step {saved};" in log.read_text()
    assert step < saved < 24 and step_of(run_folder, "previous.pt") < saved


def signal_in_first_evaluation(monkeypatch):
    """Send a signal with the first batch of an evaluation; returns a list that counts batches."""
    from omnidali.evaluation import score

    real, batches = score._one_clip_a_row, []

    def slow(*given):
        batches.append(1)
        if len(batches) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)  # its thread has received it
        return real(*given)

    monkeypatch.setattr(score, "_one_clip_a_row", slow)
    return batches


@pytest.mark.parametrize("steps", [8, 4])  # the evaluation after step 4 is the last one, or not
def test_abandoned_evaluation_is_repeated_by_resume(options, tmp_path, monkeypatch, steps):
    batches = signal_in_first_evaluation(monkeypatch)
    code, out, _ = run(*options, HELD_OUT, f"train.steps={steps}")
    assert code == 0 and len(batches) == 1
    assert "evaluation at step 4 abandoned" in out and "stopped by SIGTERM after step 4" in out
    assert step_of(tmp_path / "run") == 4
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    code, out, err = run(*options, HELD_OUT, f"train.steps={steps}", "auto")
    assert code == 0, err
    assert [f"evaluation at step {step}: top1" in out for step in (4, 8)] == [True, steps == 8]
    assert (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    _, out, _ = run(*options, HELD_OUT, f"train.steps={steps}", "auto")
    assert "evaluation at" not in out  # it is owed no more


def test_signal_handlers_are_restored(options):
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    assert run(*options, "train.steps=2")[0] == 0
    assert [signal.getsignal(number) for number in numbers] == before
