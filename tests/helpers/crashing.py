"""What tests/test_crashes.py kills: train.py with a small network, and parts of it; and programs
for other tests.

    python tests/helpers/crashing.py serve      (starts each as a copy of a process that has imported
    everything) python tests/helpers/crashing.py train FOLDER --config c.yaml      (for torchrun)

OMNIDALI_WAITS=N: a training is held before step N until FOLDER/go exists, so that a signal comes
where the test wants it.
"""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

import train
from helpers import recorder
from omnidali.cli.error_report import run_reporting_errors
from omnidali.distributed import failure_monitor
from omnidali.distributed.ranks import Ranks, end_ranks, start_ranks
from omnidali.errors import UserError
from omnidali.loading.fusion import FusionIterator
from omnidali.models.checkpoint_file import save_checkpoint
from omnidali.training import stop_signals as stopping
from omnidali.training.run_lock import RunLock


class Calling(FusionIterator):
    """A loader that calls ``before`` with the step that comes next."""

    def __next__(self):
        self.before(self.next_step)
        return super().__next__()


def calling(before):
    """For train's ``wrap_loader``."""

    def wrap(loader):
        loader.__class__, loader.before = Calling, before
        return loader

    return wrap


def leave(path, text):
    """A file that nobody sees empty."""
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)


def run_training(folder, *arguments):
    """train.py; its exit code is also left in FOLDER, as torchrun does not tell it."""

    class Telling(stopping.StopSignals):
        """Leaves a word once a signal is heard."""

        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "heard" and value:
                leave(folder / f"heard{rank}", value)

    rank, held_before = os.environ.get("RANK", "0"), int(os.environ.get("OMNIDALI_WAITS", -1))

    def hold(step):
        if step == held_before:
            leave(folder / f"waits{rank}", str(os.getpid()))
            while not (folder / "go").exists():
                time.sleep(0.01)

    story, train.build_model, train.StopSignals = train.train, recorder.small_model, Telling
    train.train = lambda *given: story(*given, wrap_loader=calling(hold))
    code = train.main(list(arguments))
    leave(folder / f"code{rank}", str(code))
    return code


def listen_to_signals(folder):
    """Nothing but that."""
    stopping._SAME_SECONDS = 0.2
    with stopping.StopSignals(Ranks()) as stop:
        (folder / "waits0").touch()
        while True:
            time.sleep(0.01)
            if stop.heard:
                (folder / "heard").touch()


def hold_lock(folder):
    """Until killed."""
    RunLock(folder)
    (folder / "waits0").touch()
    time.sleep(1000)


def die_in_save(folder, stage):
    """A third checkpoint, in the middle of which the process dies: at the named call of ``os``."""

    def state(step):
        return {"state_dict": {"w": torch.full((300_000,), float(step))}, "loader": {"step": step}}

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    for step in (1, 2):
        save_checkpoint(folder / "last.pt", state(step), folder / "previous.pt")
    name, _, number = stage.partition(" ")
    if stage == "save":
        torch.save = lambda state, file: (file.write(b"half"), file.flush(), die())
    elif stage != "nothing":
        real, calls = getattr(os, name), []
        setattr(
            os,
            name,
            lambda *given: (
                calls.append(1) or (die() if len(calls) == int(number) else real(*given))
            ),
        )
    save_checkpoint(folder / "last.pt", state(3), folder / "previous.pt")


def break_on_main(ranks, how):
    """In what rank 0 does for all of them; it is the last to leave, as one that closes its files
    first.
    """

    def work():
        raise (
            UserError("sources.web", "one", "two", "Mend it.")
            if how == "mainuser"
            else KeyError("oops")
        )

    try:
        ranks.on_main(work)
    finally:
        time.sleep(0.3 if ranks.is_main else 0)


def be_a_rank(folder, how, who):
    """One of several, of which rank ``who`` fails."""
    (
        failure_monitor._GRACE_SECONDS,
        failure_monitor._TELL_SECONDS,
        failure_monitor._SILENT_SECONDS,
    ) = 8.0, 6.0, 2

    def story():
        ranks = start_ranks()
        for step in range(4):
            dist.all_reduce(torch.zeros(1))
            if step == 2 and how.startswith("main"):
                break_on_main(ranks, how)
            if step == 2 and ranks.rank == int(who):
                if how == "user":
                    raise UserError("sources.web", "one", "two", "Mend it.")
                if how in ("bug", "stuck"):
                    raise KeyError("oops")
                if how == "exit":
                    os._exit(3)
                if how in ("kill", "stop"):
                    (folder / f"waits{who}").touch()
                    os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            elif step == 2 and how == "stuck":
                time.sleep(1000)  # as in a collective of NCCL, which does not notice
        end_ranks()

    return run_reporting_errors(story, int(os.environ["RANK"]))


def run_program(_, name, *arguments):
    """train.py or evaluate.py, as it is."""
    return importlib.import_module(name).main(list(arguments))


STORIES = {
    "train": run_training,
    "program": run_program,
    "listen": listen_to_signals,
    "lock": hold_lock,
    "save": die_in_save,
    "rank": be_a_rank,
}


def main(folder, arguments):
    """Tell a story in a folder of its own."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return STORIES[arguments[0]](Path(folder), *arguments[1:]) or 0


if __name__ == "__main__":
    recorder.main = main
    sys.exit(
        recorder.serve()
        if sys.argv[1] == "serve"
        else main(sys.argv[2], [sys.argv[1], *sys.argv[3:]])
    )
