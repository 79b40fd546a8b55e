"""The checkpoints of a run: which one it resumes, and what happens when a save fails."""

import contextlib
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
from omnidali.training.best_files import PATTERN, BestFile, BestFiles
from omnidali.training.console import format_age
from omnidali.training.retry import RetriedWrites
from omnidali.training.run_lock import RunFolderTakenError
from omnidali.training.spare_checkpoint import SpareCheckpoint
from omnidali.training.state import TrainingState
from omnidali.utils.backoff import Backoff
from omnidali.utils.untrusted_text import warn


class Checkpointer:
    """Writes ``checkpoints/`` of a run folder, on its main rank.

    Args:
        run: the run folder.
        ranks: of which the main one reads and writes.
        writes: whether this process writes at all.
        retried: warns of writes that fail.
        minutes: for which the last save is tried again if it fails.
        keep_best: how many checkpoints of the best evaluations are kept, beside best.pt.
        check_folder: raises UserError if another run has taken the folder.

    Attributes:
        best_files: which of these there are.
        owes_save: whether the last checkpoint could not be written and none has been since; the
            same on every rank.
        saved_step: steps done in last.pt, if this process has read or written it.
    """

    def __init__(
        self,
        run: Path,
        ranks: Ranks,
        *,
        writes: bool,
        retried: RetriedWrites,
        minutes: float,
        keep_best: int,
        check_folder: Callable[[], None],
    ):
        self.owes_save = False
        self.saved_step: int | None = None

        self._run = run
        self._folder = run / "checkpoints"
        self.best_files = BestFiles(self._folder, keep_best)
        self._last = self._folder / LAST
        self._ranks = ranks
        self._writes = writes
        self._retried = retried
        self._minutes = minutes
        self._check_folder = check_folder

        self._is_damaged = False  # last.pt, which must not become the previous one
        self._best = -1.0  # of best.pt
        self._spare = SpareCheckpoint(self._last)
        self._chosen: dict | None = None  # contents of the checkpoint that is resumed
        # name and state of what could not be written, by its kind
        self._owed: dict[str, tuple[str, dict]] = {}

    def found(self) -> list[Path]:
        """The checkpoints that a run can resume, best first."""
        return checkpoints_in(self._folder)

    def refuse_folders(self) -> None:
        """Raise UserError if a folder takes the place of a file that will be written."""
        if self._folder.exists() and not self._folder.is_dir():
            raise UserError(str(self._folder), "a folder", "a file", "Move it away.")
        for name in (LAST, PREVIOUS, BEST):
            for path in (self._folder / name, self._folder / f"{name}.part"):
                if path.is_dir() and not path.is_symlink():
                    expected = "a file, or nothing yet"
                    raise UserError(str(path), expected, "a folder", "Move it away.")

    def load(self, resume: str) -> tuple[dict | None, list[str]]:
        """Load the checkpoint to resume, the same on every rank.

        Args:
            resume: ``auto``, ``none`` or a path.

        Returns:
            The checkpoint, or None to start anew, and lines that describe what was found.

        Raises:
            UserError: if the checkpoint is missing or damaged; with ``auto``, if all are.
        """
        if resume == "none":
            return None, []
        path = Path(resume)
        damage: str | None = None
        if resume == "auto":
            # the main rank decides: another one may see a file that is not damaged for it
            chosen = self._ranks.on_main(lambda: self._choose() if self.found() else None)
            if chosen is None:
                return None, [f"no checkpoint in {self._run}: training begins at step 0"]
            path, damage = chosen
        state = self._chosen or load_run(path)
        self._chosen = None

        # best.pt is of another run, or was taken away
        if not self._ranks.on_main((self._folder / BEST).exists):
            state = {**state, "best": -1.0}
        self._best = state["best"]

        step = state["loader"]["step"]
        path = path / "checkpoints" / LAST if path.is_dir() else path
        if path.resolve() == self._last.resolve():
            self.saved_step = step
        else:
            self._is_damaged = resume == "auto"
        resumed = f"resumed from {path}, saved after step {step}{format_age(path)}"
        return state, [damage, resumed] if damage else [resumed]

    def _choose(self) -> tuple[Path, str | None]:
        """The newest good checkpoint, and a line about damaged ones; its contents stay here."""
        path, self._chosen, damage = load_newest(self._folder)
        return path, damage

    def remove_parts(self) -> None:
        """Remove what a crash during a save has left."""
        remove_parts(self._folder, LAST, PREVIOUS, BEST, "step-*.pt", PATTERN)

    def save(self, state: dict, *names: str, final: bool = False) -> None:
        """Write a checkpoint under each of ``names``, in this order.

        Where files other than the last cannot be written, the next save tries them again, with
        their present content; of several ``step-N`` the newest, of several best ones the best.

        Args:
            state: its ``best`` is that of best.pt; the other files get what best.pt then holds.
            *names: of files.
            final: no later save will make up for this one.

        Raises:
            UserError: if ``final`` and a checkpoint cannot be written; for the last one it names
                the place where it is instead.
        """

        def save() -> bool:
            with failure_monitor.delaying_exit():
                return self._save(state, names, final)

        self.owes_save = self._ranks.on_main(save)

    def _save(self, state: dict, names: tuple[str, ...], final: bool) -> bool:
        """Whether the last checkpoint is owed."""
        try:
            self._check_folder()
        except RunFolderTakenError as taken:
            path = self._spare.save(state)
            advice = self._spare.how_to_use(path, taken) if path else "What was trained is lost."
            raise UserError(
                taken.where, "the folder that this run began in", taken.got, advice
            ) from None
        except UserError:  # trouble of the disk, which the writes below have, too
            pass

        for kind, (name, owed) in list(self._owed.items()):
            if name in names or self._write(name, owed) is None:
                del self._owed[kind]

        owes_last = self.owes_save
        failure = None
        for name in names:
            failed = self._write(name, state)
            if name == LAST:
                if failed is not None and final and self.saved_step != state["loader"]["step"]:
                    self._force_last(state, failed)
                    failed = None
                owes_last = failed is not None
            elif failed is not None:
                self._owe(name, state)
                failed = failed if name == BEST else None  # a run can be without step-N
            failure = failure or failed
        if failure is not None and final:
            raise failure
        return owes_last

    def _owe(self, name: str, state: dict) -> None:
        """Remember a file for the next try, unless a better one of its kind waits."""
        kind = _kind(name)
        new = BestFile.parse(name)
        waiting = BestFile.parse(self._owed[kind][0]) if kind in self._owed else None
        if new is None or waiting is None or new.is_better_than(waiting):
            copied = copy_state(state)
            assert isinstance(copied, dict)
            self._owed[kind] = (name, copied)

    def _write(self, name: str, state: dict) -> UserError | None:
        path = self._folder / name
        step = state["loader"]["step"]
        if name != BEST:  # after a best one was lost, a resumed run looks for another
            owes_evaluation = state["owes_evaluation"] or BEST in self._owed
            state = {**state, "best": self._best, "owes_evaluation": owes_evaluation}

        # the previous one is that of an earlier step, not the same one before its evaluation
        replaces = name == LAST and self.saved_step != step and not self._is_damaged
        previous = self._folder / PREVIOUS if replaces else None
        failure = self._retried.attempt(
            _kind(name), path, lambda: save_checkpoint(path, state, previous)
        )
        if failure is None:
            self._best = state["best"]
            if name == LAST:
                self.saved_step = step
                self._is_damaged = False
            elif (best_file := BestFile.parse(name)) is not None:
                self.best_files.prune(best_file)
        return failure

    def _force_last(self, state: dict, failure: UserError | None) -> None:
        """Make room, save elsewhere, and try again for minutes, after the last save failed.

        Elsewhere comes before the minutes, as the process may be killed before they are over.

        Raises:
            UserError: if all of that fails, or the checkpoint is elsewhere.
        """
        # last.pt becomes the previous one
        if isinstance(failure, NoSpaceError) and self._has_last() and self._drop(PREVIOUS):
            failure = self._write(LAST, state)
        if failure is None:
            return

        elsewhere = self._spare.save(state)
        if elsewhere is not None:
            warn(f"the last checkpoint is in {elsewhere} until it can be written to {self._last}")
        failure = self._keep_trying(state, failure)
        if elsewhere is None:
            kept = [p.name for p in reversed(self.found()) if p.name.startswith("step-")]
            for name in (*kept, *(file.name for file in self.best_files.found())):
                if isinstance(failure, NoSpaceError) and self._drop(name):
                    failure = self._write(LAST, state)
            if failure is not None:
                raise failure
        elif failure is not None:
            advice = self._spare.how_to_use(elsewhere, failure)
            raise UserError(failure.where, "a place to write a checkpoint", failure.got, advice)
        else:
            self._spare.remove(elsewhere)

    def _keep_trying(self, state: dict, failure: UserError | None) -> UserError | None:
        end = time.monotonic() + 60 * self._minutes
        backoff = Backoff(first=1.0, longest=30.0)
        while failure is not None and (left := end - time.monotonic()) > 0:
            backoff.pause(at_most=left)
            failure = self._write(LAST, state)
        return failure

    def _has_last(self) -> bool:
        """Whether last.pt is there, and of this run."""
        return self.saved_step is not None and self._last.exists()

    def _drop(self, name: str) -> bool:
        """Remove a file that is only convenience, for room; whether it was there."""
        path = self._folder / name
        with contextlib.suppress(OSError):
            path.unlink()
            warn(f"{path} is given up to make room for {self._last}")
            return True
        return False

    def rescue(self, training: TrainingState) -> None:
        """Save the last optimizer step after an error, and print where a resume continues.

        The main rank does it alone. Nothing is raised: that would hide the error of the run.
        """
        # a save elsewhere is in the error's text
        if not self._writes or training.step == self._spare.step:
            return
        is_saved = training.step == self.saved_step and self._last.exists()
        if not is_saved and training.step != training.first_step:
            with training.frozen():
                if self._rescue(training):
                    return

        if self._has_last():
            warn(f"the run ends at an error; --resume auto goes on after step {self.saved_step}")
        elif self.found():
            warn(
                "the run ends at an error; --resume auto goes on from the newest good one in"
                f" {self._folder}"
            )
        else:
            warn(
                "the run ends at an error before anything was saved; --resume auto begins at step 0"
            )

    def _rescue(self, training: TrainingState) -> bool:
        """Whether the step could only be saved elsewhere."""
        state = None
        failure: Exception | None
        try:
            state = training.state_dict()
            self._check_folder()
            failure = self._write(LAST, state)
        except Exception as error:  # no memory, another run in this folder, or what ended the run
            failure = error
        if failure is None:
            return False

        warn(f"step {training.step} is not saved: {failure}")
        path = self._spare.save(state) if state is not None else None
        if path is not None:
            warn(self._spare.how_to_use(path, failure))
        return path is not None


def _kind(name: str) -> str:
    """The kind of a checkpoint; one of each waits for another try, as it takes much memory."""
    others = "step-N.pt" if BestFile.parse(name) is None else "best-STEP.pt"
    return {LAST: "checkpoints", BEST: BEST}.get(name, others)
