"""The folder of a run: config.yaml, environment.json, metrics.jsonl, run.lock, tb/, pictures/, checkpoints/."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from omnidali.board import Board
from omnidali.charts import write_picture
from omnidali.clips import StepBatch
from omnidali.config import Config
from omnidali.environment import describe_environment
from omnidali.errors import UserError
from omnidali.loading.pictures import clip_grid, label_text
from omnidali.ranks import Ranks
from omnidali.settings import dump_config
from omnidali.training.attempts import Attempts
from omnidali.training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    checkpoints_in,
    copy_state,
    load_newest,
    load_run,
    remove_parts,
    save_checkpoint,
)
from omnidali.training.run_lock import RunLock
from omnidali.writing import write_whole

_CONFIG, _ENVIRONMENT = "config.yaml", "environment.json"


class RunFolder:
    """Everything a run writes, by its main rank; a full disk does not end it. A context manager.

    Args:
        config: gives ``run_dir``.
        resume: ``auto`` or a path inside the folder; anything else refuses a folder with checkpoints.
        writes: False for a dry run, of which only :meth:`load` does anything.

    Attributes:
        owes_save: whether the last checkpoint could not be written and none has been since; the same on every rank.

    Raises:
        UserError: if the folder cannot be written, another process is writing to it, or it holds a run that would be
            overwritten.
    """

    def __init__(self, config: Config, ranks: Ranks, resume: str = "auto", writes: bool = True):
        self.path, self._ranks, self._writes = Path(config.run_dir), ranks, writes and ranks.is_main
        self._checkpoints, self._last_is_good = self.path / "checkpoints", False
        self._attempt, self._board, self._lock = Attempts(), Board(self.path / "tb"), None
        self._shown: set[str] = set()
        self._lines: list[str] = []  # of metrics.jsonl, that wait for space
        self._best = -1.0  # of best.pt
        self._owed: dict[str, tuple[str, dict]] = {}  # name and state of what could not be written, by its kind
        self.owes_save = False
        if writes:
            try:
                ranks.on_main(lambda: self._open(config, resume))
            except BaseException:
                self.close()
                raise

    def _open(self, config: Config, resume: str) -> None:
        resumed = Path(resume).resolve()
        own = resume == "auto" or resume != "none" and self.path.resolve() in (resumed, *resumed.parents)
        found = checkpoints_in(self._checkpoints)
        if found and not own:
            raise UserError(f"run_dir {self.path}", "a folder without checkpoints", f"a run with {found[0].name}",
                            "Go on with --resume auto, or choose another run_dir.")
        self._lock = RunLock(self.path)
        try:
            remove_parts(self.path, _CONFIG, _ENVIRONMENT)
            remove_parts(self._checkpoints, LAST, PREVIOUS, BEST, "step-*.pt")
            write_whole(self.path / _CONFIG, dump_config(config))
            write_whole(self.path / _ENVIRONMENT, json.dumps(describe_environment(), indent=2) + "\n")
        except OSError as error:
            raise UserError(f"run_dir {self.path}", "a folder that can be written", str(error.strerror or error),
                            "Choose another run_dir or correct its permissions.") from None

    def goes_on(self, resume: str) -> bool:
        """Whether :meth:`load` will find a checkpoint, good or damaged."""
        return resume != "none" and (resume != "auto" or bool(checkpoints_in(self._checkpoints)))

    def load(self, resume: str) -> tuple[dict | None, str | None]:
        """The checkpoint that ``resume`` (auto, none or a path) means, the same on every rank; None to start anew.

        Returns:
            The checkpoint, and a line where ``auto`` had to pass over a damaged one.

        Raises:
            UserError: if the checkpoint is missing or damaged; with ``auto``, if all are.
        """
        if resume == "none":
            return None, None
        path, told, state = Path(resume), None, None

        def choose() -> tuple[Path | None, str | None]:
            nonlocal state
            if not checkpoints_in(self._checkpoints):
                return None, None
            path, state, told = load_newest(self._checkpoints)
            return path, told

        if resume == "auto":  # the main rank decides: another one may see a file that is not damaged for it
            path, told = self._ranks.on_main(choose)
            if path is None:
                return None, None
        self._last_is_good = path.resolve() in (self.path.resolve(), (self._checkpoints / LAST).resolve())
        state = state or load_run(path)
        if not self._ranks.on_main((self._checkpoints / BEST).exists):  # of another run, or it was taken away
            state = {**state, "best": -1.0}
        self._best = state["best"]
        return state, told

    def save(self, state: dict, *names: str, final: bool = False) -> None:
        """Write a checkpoint under each of ``names``, in this order.

        Other ones than the last that cannot be written are tried again, as they are now, at the next save; of several
        ``step-N`` the newest.

        Args:
            state: its ``best`` is that of best.pt; in the other files it becomes what best.pt then holds.
            final: no later save will make up for this one.

        Raises:
            UserError: if ``final`` and the last checkpoint cannot be written.
        """
        self.owes_save = self._ranks.on_main(lambda: self._save(state, names, final))

    def _save(self, state: dict, names: tuple[str, ...], final: bool) -> bool:
        """Whether the last checkpoint is owed."""
        owes_last = self.owes_save
        for kind, (name, owed) in list(self._owed.items()):
            if name in names or self._write(name, owed) is None:
                del self._owed[kind]
        for name in names:
            failure = self._write(name, state)
            if name == LAST:
                owes_last = failure is not None
                if owes_last and final:
                    raise failure
            elif failure is not None:
                self._owed[_kind(name)] = name, copy_state(state)
        return owes_last

    def _write(self, name: str, state: dict) -> UserError | None:
        path, last = self._checkpoints / name, name == LAST
        if name != BEST:  # a run that goes on behind a best one which was lost looks for another
            state = {**state, "best": self._best, "owes_evaluation": state["owes_evaluation"] or BEST in self._owed}
        previous = self._checkpoints / PREVIOUS if last and self._last_is_good else None
        failure = self._attempt(_kind(name), path, lambda: save_checkpoint(path, state, previous))
        if failure is None:
            self._last_is_good |= last
            self._best = state["best"]
        return failure

    def log(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """One line of metrics.jsonl; numbers also go to TensorBoard as ``kind/name``."""
        if not self._writes:
            return
        row = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        self._lines.append(json.dumps({**row, **values}) + "\n")
        self._attempt("metrics", self.path / "metrics.jsonl", self._write_lines)
        self._draw(lambda board: [board.add_scalar(f"{kind}/{name}", value, step) for name, value in _flatten(values)])

    def _write_lines(self) -> None:
        _append(self.path / "metrics.jsonl", "".join(self._lines).encode())
        self._lines.clear()

    def _draw(self, draw) -> None:
        self._attempt("TensorBoard's events", self.path / "tb", lambda: self._board.write(draw))

    def _show(self, name: str, tag: str, picture, step: int) -> None:
        path = self.path / "pictures" / f"step{step}-{name}.png"
        self._attempt("pictures", path, lambda: write_picture(path, picture))
        self._draw(lambda board: board.add_image(tag, picture, step, dataformats="HWC"))

    def show_batch(self, batch: StepBatch, names: tuple[str, ...], class_names: tuple[str, ...]) -> None:
        """Write a picture of each source's first clips as the model sees them, also to TensorBoard."""
        if not self._writes or len(self._shown) == len(names):
            return
        for number, name in enumerate(names):
            if name in self._shown:
                continue
            for group in batch.groups:
                mine = (group.source == number).nonzero()[:6, 0]
                if len(mine):
                    self._shown.add(name)
                    labels = [label_text(label, class_names) for label in group.labels[mine]]
                    grid = clip_grid(group.clips[mine], labels)
                    self._show(name, f"clips/{name}", grid, batch.step)

    def show_confusion(self, grid, step: int) -> None:
        """Write the confusion picture (H, W, 3) uint8 as a file and to TensorBoard."""
        if self._writes:
            self._show("confusion", "evaluation/confusion", grid, step)

    def close(self) -> None:
        """Close the files and let others have the folder. A second call does nothing."""
        self._board.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _kind(name: str) -> str:
    """Of a checkpoint: one of each is held for another try, as it takes the memory of a network."""
    return {LAST: "checkpoints", BEST: BEST}.get(name, "step-N.pt")


def _append(path: Path, data: bytes) -> None:
    """Append all of ``data`` or nothing, so that no line is cut in the middle."""
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[file.write(data):]
        except OSError:
            file.truncate(size)
            raise


def _flatten(values: Mapping[str, object], above: str = ""):
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{above}{name}", value
