"""The checkpoints of a run: which one it goes on from, what is written when, and what happens when
that fails.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from omnidali.distributed import failure_monitor
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import (
    BEST,
    LAST,
    PREVIOUS,
    NoSpaceError,
    checkpoints_in,
    copy_state,
    load_newest,
    load_run,
    remove_parts,
    save_checkpoint,
)
from omnidali.training.console import format_seconds
from omnidali.training.retry import Attempts, warn
from omnidali.training.run_lock import RunFolderTakenError
from omnidali.training.state import TrainingState
from omnidali.utils.untrusted_text import for_shell

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries of the last save


class Checkpointer:
    """Writes ``checkpoints/`` of a run folder, on its main rank.

    Args:
        run: the run folder.
        writes: whether this process writes at all.
        minutes: for which the last save is tried again where it fails.
        check: raises UserError where another run has taken the folder.

    Attributes:
        owes_save: whether the last checkpoint could not be written and none has been since; the
            same on every rank.
        saved_step: steps done in last.pt, if this process has read or written it.
    """

    def __init__(
        self,
        run: Path,
        ranks: Ranks,
        attempt: Attempts,
        writes: bool,
        minutes: float = 0.0,
        check: Callable[[], None] = lambda: None,
    ):
        self.owes_save = False
        self.saved_step: int | None = None
        self._run = run
        self._folder = run / "checkpoints"
        self._ranks = ranks
        self._attempt = attempt
        self._writes = writes
        self._minutes = minutes
        self._check = check
        self._is_damaged = False  # last.pt, which must not become the previous one
        self._best = -1.0  # of best.pt
        self._step_elsewhere: int | None = None  # of a checkpoint that could only be saved there
        # name and state of what could not be written, by its kind
        self._owed: dict[str, tuple[str, dict]] = {}

    def found(self) -> list[Path]:
        """What there is to go on from, best first."""
        return checkpoints_in(self._folder)

    def refuse_folders(self) -> None:
        """Raise UserError where no file can be written, before hours are spent on what it shall
        hold.
        """
        names = [LAST, PREVIOUS, BEST]
        taken = [self._folder / name for name in (*names, *(f"{name}.part" for name in names))]
        wrong = [path for path in taken if path.is_dir() and not path.is_symlink()]
        if self._folder.exists() and not self._folder.is_dir():
            raise UserError(str(self._folder), "a folder", "a file", "Move it away.")
        if wrong:
            raise UserError(str(wrong[0]), "a file, or nothing yet", "a folder", "Move it away.")

    def load(self, resume: str) -> tuple[dict | None, list[str]]:
        """The checkpoint that ``resume`` (auto, none or a path) means, the same on every rank; None
        to start anew.

        Returns:
            The checkpoint, and lines that say what was found.

        Raises:
            UserError: if the checkpoint is missing or damaged; with ``auto``, if all are.
        """
        if resume == "none":
            return None, []
        path, told, state = Path(resume), None, None

        def choose() -> tuple[Path | None, str | None]:
            nonlocal state
            if not self.found():
                return None, None
            path, state, told = load_newest(self._folder)
            return path, told

        # the main rank decides: another one may see a file that is not damaged for it
        if resume == "auto":
            path, told = self._ranks.on_main(choose)
            if path is None:
                return None, [f"no checkpoint in {self._run}: training begins at step 0"]

        state = state or load_run(path)
        # of another run, or it was taken away
        if not self._ranks.on_main((self._folder / BEST).exists):
            state = {**state, "best": -1.0}
        self._best = state["best"]

        step = state["loader"]["step"]
        path = path / "checkpoints" / LAST if path.is_dir() else path
        if path.resolve() == (self._folder / LAST).resolve():
            self.saved_step = step
        else:
            self._is_damaged = resume == "auto"
        return state, [
            *([told] if told else ()),
            f"resumed from {path}, saved after step {step}{_age(path)}",
        ]

    def remove_parts(self) -> None:
        """Remove what a crash in mid-write has left."""
        remove_parts(self._folder, LAST, PREVIOUS, BEST, "step-*.pt")

    def save(self, state: dict, *names: str, final: bool = False) -> None:
        """Write a checkpoint under each of ``names``, in this order.

        Other ones than the last that cannot be written are tried again, as they are now, at the
        next save; of several ``step-N`` the newest.

        Args:
            state: its ``best`` is that of best.pt; in the other files it becomes what best.pt then
                holds.
            final: no later save will make up for this one.

        Raises:
            UserError: if ``final`` and a checkpoint cannot be written; for the last one it says
                where it is instead.
        """

        def save() -> bool:
            with failure_monitor.finishing():  # another rank's end must not cut it off
                return self._save(state, names, final)

        self.owes_save = self._ranks.on_main(save)

    def rescue(self, training: TrainingState) -> None:
        """Save the last optimizer step at an error that ends the run, by the main rank alone; says
        what it did.

        Nothing is raised, as nothing must hide that error.
        """
        if training.step == self._step_elsewhere:  # the error says where
            return
        is_there = training.step == self.saved_step and (self._folder / LAST).exists()
        if not self._writes or is_there or training.step == training.first_step:
            return self._tell_resume()
        with training.frozen():
            self._rescue(training)

    def _rescue(self, training: TrainingState) -> None:
        try:
            state = training.as_dict()
        except Exception as error:
            warn(f"step {training.step} is not saved: {error}")
            return self._tell_resume()

        try:
            self._check()
            failure = self._write(LAST, state)
        except Exception as error:  # no memory, another run in this folder, or what ended the run
            failure = error
        if failure is None:
            return self._tell_resume()
        warn(f"step {training.step} is not saved: {failure}")
        path = self._save_elsewhere(state)
        return warn(self._how_to_use(path, failure)) if path is not None else self._tell_resume()

    def _tell_resume(self) -> None:
        if not self._writes:
            return
        if self.saved_step is not None and (self._folder / LAST).exists():
            warn(f"the run ends at an error; --resume auto goes on after step {self.saved_step}")
        elif self.found():
            warn(
                f"the run ends at an error; --resume auto goes on from the newest good one in {self._folder}"
            )
        else:
            warn(
                "the run ends at an error before anything was saved; --resume auto begins at step 0"
            )

    def _save(self, state: dict, names: tuple[str, ...], final: bool) -> bool:
        """Whether the last checkpoint is owed."""
        try:
            self._check()
        except RunFolderTakenError as taken:
            path = self._save_elsewhere(state)
            raise UserError(
                taken.where,
                "the folder that this run began in",
                taken.got,
                self._how_to_use(path, taken) if path else "What was trained is lost.",
            ) from None
        except UserError:  # trouble of the disk, which the writes below have, too
            pass

        owes_last = self.owes_save
        for kind, (name, owed) in list(self._owed.items()):
            if name in names or self._write(name, owed) is None:
                del self._owed[kind]

        failure = None
        for name in names:
            failed = self._write(name, state)
            if name == LAST:
                if failed is not None and final and self.saved_step != state["loader"]["step"]:
                    self._insist(state, failed)
                    failed = None
                owes_last = failed is not None
            elif failed is not None:
                self._owed[_kind(name)] = name, copy_state(state)
                failed = failed if name == BEST else None  # a run can be without step-N, after all
            failure = failure or failed
        if failure is not None and final:
            raise failure
        return owes_last

    def _write(self, name: str, state: dict) -> UserError | None:
        path, step = self._folder / name, state["loader"]["step"]
        if name != BEST:  # a run that goes on behind a best one which was lost looks for another
            state = {
                **state,
                "best": self._best,
                "owes_evaluation": state["owes_evaluation"] or BEST in self._owed,
            }

        # the previous one is that of an earlier step, not the same one before its evaluation
        keeps = name == LAST and self.saved_step != step and not self._is_damaged
        previous = self._folder / PREVIOUS if keeps else None
        failure = self._attempt(_kind(name), path, lambda: save_checkpoint(path, state, previous))
        if failure is None:
            self._best = state["best"]
            if name == LAST:
                self.saved_step = step
                self._is_damaged = False
        return failure

    def _insist(self, state: dict, failure: UserError) -> None:
        """The last save failed: make room, save elsewhere, try again for minutes, in this order.

        Elsewhere comes before the minutes, as who ended the run may not wait for them.

        Raises:
            UserError: if all of that fails, or the checkpoint is elsewhere.
        """
        # which becomes the previous one
        has_last = self.saved_step is not None and (self._folder / LAST).exists()
        if (
            isinstance(failure, NoSpaceError)
            and has_last
            and self._give_up(self._folder / PREVIOUS)
        ):
            failure = self._write(LAST, state)
        if failure is None:
            return

        elsewhere = self._save_elsewhere(state)
        if elsewhere is not None:
            warn(
                f"the last checkpoint is in {elsewhere} until it can be written to {self._folder / LAST}"
            )
        failure = self._keep_trying(state, failure)
        if failure is not None and elsewhere is None:
            for path in reversed([path for path in self.found() if path.name.startswith("step-")]):
                if isinstance(failure, NoSpaceError) and self._give_up(path):
                    failure = self._write(LAST, state)
        if failure is None:
            if elsewhere is not None:
                _remove(elsewhere)
                self._step_elsewhere = None
            return

        if elsewhere is None:
            raise failure
        raise UserError(
            failure.where,
            "a place to write a checkpoint",
            failure.got,
            self._how_to_use(elsewhere, failure),
        )

    def _keep_trying(self, state: dict, failure: UserError) -> UserError | None:
        end, pause = time.monotonic() + 60 * self._minutes, _FIRST_PAUSE
        while failure is not None and (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
            failure = self._write(LAST, state)
        return failure

    def _give_up(self, path: Path) -> bool:
        """Remove a file that is only convenience, for room; whether it was there."""
        with contextlib.suppress(OSError):
            path.unlink()
            warn(f"{path} is given up to make room for {self._folder / LAST}")
            return True
        return False

    def _save_elsewhere(self, state: dict) -> Path | None:
        """Save into a new folder for temporary files (TMPDIR) that nobody else can read; None where
        that fails, too.
        """
        path = None
        try:
            path = Path(tempfile.mkdtemp(prefix="omnidali-")) / f"step-{state['loader']['step']}.pt"
            save_checkpoint(path, state)
            self._step_elsewhere = state["loader"]["step"]
            return path
        except Exception:  # whatever it is, there are other places
            if path is not None:
                _remove(path)
            return None

    def _how_to_use(self, path: Path, failure: UserError) -> str:
        """Advice in words and as a command, for a checkpoint that could only be saved at ``path``."""
        told = f"What was trained is in {path}."
        if isinstance(failure, RunFolderTakenError):
            return f"{told} Go on with {for_shell('--resume', path)} and another run_dir."
        return (
            f"{told} Once there is room: {for_shell('mv', path, self._folder / LAST)}, then start with"
            " --resume auto."
        )


def _kind(name: str) -> str:
    """Of a checkpoint: one of each is held for another try, as it takes the memory of a network."""
    return {LAST: "checkpoints", BEST: BEST}.get(name, "step-N.pt")


def _age(path: Path) -> str:
    """When a file was written, in words; nothing where the clock says that it is yet to come."""
    try:
        written = os.stat(path).st_mtime
    except OSError:
        return ""
    seconds = time.time() - written
    ago = f", {format_seconds(seconds)} ago" if seconds >= 0 else ""
    return f" ({time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(written))}{ago})"


def _remove(path: Path) -> None:
    """A file that was saved elsewhere, with the folder made for it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
