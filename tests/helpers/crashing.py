"""Programs that tests stop and kill: a training with a small network, and parts of it.

    python tests/helpers/crashing.py serve      (starts each as a copy of a process that has
                                                 imported everything)
    python tests/helpers/crashing.py train FOLDER --config c.yaml      (for torchrun)

OMNIDALI_WAITS=N holds a training before step N until FOLDER/go exists, so that a signal comes where
the test wants it.
"""

import functools
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

# as a program, its own folder is the first place to import from
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers import recorder
from omnidali.cli import main as cli
from omnidali.cli.error_report import run_reporting_errors
from omnidali.distributed import control_connection, failure_monitor
from omnidali.distributed.ranks import Ranks, end_process_group, start_process_group
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import save_checkpoint
from omnidali.training import model_setup, stop_signals, train, trainer
from omnidali.training.hooks import Hooks
from omnidali.training.run_lock import RunLock


def calling(before):
    """A hook ``wrap_loader``: call ``before`` with each step that comes next."""

    def wrap(loader):
        while True:
            before(loader.next_step)
            batch = next(loader, None)
            if batch is None:
                return
            yield batch

    return wrap


def write_whole(path, text):
    """Write a file that nobody sees empty."""
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)


def run_training(folder, *arguments):
    """Train; the exit code is also left in FOLDER, as torchrun does not report it."""
    rank = os.environ.get("RANK", "0")
    held_before = int(os.environ.get("OMNIDALI_WAITS", -1))

    class ReportingSignals(stop_signals.StopSignals):
        """Leaves a file once a signal is received."""

        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "received" and value:
                write_whole(folder / f"received{rank}", value)

    def hold(step):
        if step == held_before:
            write_whole(folder / f"waits{rank}", str(os.getpid()))
            while not (folder / "go").exists():
                time.sleep(0.01)

    trainer.StopSignals = ReportingSignals
    model_setup.build_model = recorder.small_model
    train.train = functools.partial(train.train, hooks=Hooks(wrap_loader=calling(hold)))
    code = cli.main(list(arguments), verb="train")
    write_whole(folder / f"code{rank}", str(code))
    return code


def listen_to_signals(folder):
    """Listen to signals for ever."""
    stop_signals._ECHO_SECONDS = 0.2
    with stop_signals.StopSignals(Ranks()) as stop:
        (folder / "waits0").touch()
        while True:
            time.sleep(0.01)
            if stop.received:
                (folder / "received").touch()


def hold_lock(folder):
    """Hold a folder's lock until this process is killed."""
    RunLock(folder)
    (folder / "waits0").touch()
    time.sleep(1000)


def die_in_save(folder, stage):
    """Save a third checkpoint, and die in the middle of it: at the named call of ``os``."""

    def state(step):
        return {"state_dict": {"w": torch.full((300_000,), float(step))}, "loader": {"step": step}}

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def save_half(state, file):
        file.write(b"half")
        file.flush()
        die()

    for step in (1, 2):
        save_checkpoint(folder / "last.pt", state(step), folder / "previous.pt")

    name, _, number = stage.partition(" ")
    if stage == "save":
        torch.save = save_half
    elif stage != "nothing":
        real = getattr(os, name)
        calls = []

        def dying(*given):
            calls.append(given)
            return die() if len(calls) == int(number) else real(*given)

        setattr(os, name, dying)
    save_checkpoint(folder / "last.pt", state(3), folder / "previous.pt")


def fail_on_main(ranks, how):
    """Fail in what rank 0 does for all; it leaves last, as one that closes its files first."""

    def work():
        if how == "mainuser":
            raise UserError("sources.web", "one", "two", "Mend it.")
        raise KeyError("oops")

    try:
        ranks.on_main(work)
    finally:
        time.sleep(0.3 if ranks.is_main else 0)


def fail(folder, how, rank):
    """Fail, die or be suspended."""
    if how == "user":
        raise UserError("sources.web", "one", "two", "Mend it.")
    if how in ("bug", "stuck"):
        raise KeyError("oops")
    if how == "exit":
        os._exit(3)
    if how in ("kill", "stop"):
        (folder / f"waits{rank}").touch()
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)


def be_a_rank(folder, how, who):
    """Be one of several ranks, of which rank ``who`` fails."""
    failure_monitor._GRACE_SECONDS = 8.0
    failure_monitor._PRINT_SECONDS = 6.0
    control_connection._SILENT_SECONDS = 2

    def run():
        ranks = start_process_group()
        for step in range(4):
            dist.all_reduce(torch.zeros(1))
            if step != 2:
                continue
            if how.startswith("main"):
                fail_on_main(ranks, how)
            if ranks.rank == int(who):
                fail(folder, how, ranks.rank)
            elif how == "stuck":
                time.sleep(1000)  # as in a collective of NCCL, which does not notice
        end_process_group()

    return run_reporting_errors(run)


def run_program(_, name, *arguments):
    """Run a command of omnidali as it is."""
    return cli.main(list(arguments), verb=name)


PROGRAMS = {
    "train": run_training,
    "program": run_program,
    "listen": listen_to_signals,
    "lock": hold_lock,
    "save": die_in_save,
    "rank": be_a_rank,
}


def main(folder, arguments):
    """Run one of the programs in a folder of its own."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    name, *rest = arguments
    return PROGRAMS[name](Path(folder), *rest) or 0


if __name__ == "__main__":
    recorder.main = main
    if sys.argv[1] == "serve":
        sys.exit(recorder.serve())
    sys.exit(main(sys.argv[2], [sys.argv[1], *sys.argv[3:]]))
