"""The folder of a run: config.yaml, environment.json, metrics.jsonl, tb/, pictures/, checkpoints/."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from omnidali.catalog.database.trial_copy import drop_trial
from omnidali.config.load import dump_config, find_changes, parse_yaml, to_plain
from omnidali.config.schema import Config
from omnidali.distributed import failure_monitor
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.batch import StepBatch
from omnidali.loading.clip_images import clip_grid, label_text
from omnidali.models.checkpoint_file import remove_parts
from omnidali.training.checkpointer import Checkpointer
from omnidali.training.retry import Attempts
from omnidali.training.run_lock import RunLock
from omnidali.training.state import NotFiniteError, TrainingState
from omnidali.training.tensorboard_log import Board
from omnidali.utils.atomic_write import write_whole
from omnidali.utils.plots import write_picture
from omnidali.utils.run_record import describe_environment
from omnidali.utils.untrusted_text import for_tensorboard

# a resume's have its step in the middle
_CONFIG, _ENVIRONMENT = "config{}.yaml", "environment{}.json"
_ALL = ("", "-[0-9]*")


class RunFolder:
    """Everything a run writes, by its main rank; a full disk does not end it. A context manager.

    Nothing is written before :meth:`begin`: a start that is refused leaves the folder as it was.

    Args:
        config: gives ``run_dir``.
        resume: ``auto`` or a path inside the folder; anything else refuses a folder with
            checkpoints.
        writes: False for a dry run, of which only the checkpoints are read.

    Attributes:
        checkpoints: reads and writes ``checkpoints/``.

    Raises:
        UserError: if the folder cannot be made, another process is writing to it, or it holds a run
            that would be overwritten.
    """

    def __init__(self, config: Config, ranks: Ranks, resume: str = "auto", writes: bool = True):
        self.path = Path(config.run_dir)
        self._catalog = Path(config.catalog_path)
        self._is_main = ranks.is_main
        self._on_cpu = ranks.device.type == "cpu"
        self._writes = writes and ranks.is_main
        self._attempt = Attempts()
        self._board = Board(self.path / "tb")
        self._lock: RunLock | None = None
        self._shown: set[str] = set()
        self._lines: list[str] = []  # of metrics.jsonl, that wait for space
        self.checkpoints = Checkpointer(
            self.path,
            ranks,
            self._attempt,
            self._writes,
            config.train.final_save_minutes,
            check=self._check,
        )
        if writes:
            try:
                ranks.on_main(lambda: self._open(resume))
            except BaseException:
                self.close()
                raise

    def _open(self, resume: str) -> None:
        resumed = Path(resume).resolve()
        own = (
            resume == "auto"
            or resume != "none"
            and self.path.resolve() in (resumed, *resumed.parents)
        )
        if resume not in ("auto", "none") and not os.path.exists(resume):
            raise UserError(
                "--resume",
                "auto, none, or a checkpoint or run folder",
                f"{resume}, which does not exist",
                "Correct the path.",
            )
        # first, as a run may come and go between a look and the lock
        self._lock = RunLock(self.path)
        self.checkpoints.refuse_folders()
        found = self.checkpoints.found()
        if found and not own:
            raise UserError(
                f"run_dir {self.path}",
                "a folder without checkpoints",
                f"a run with {found[0].name}",
                "Go on with --resume auto, or choose another run_dir.",
            )

    def _check(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def goes_on(self, resume: str) -> bool:
        """Whether a checkpoint will be found, good or damaged."""
        return resume != "none" and (resume != "auto" or bool(self.checkpoints.found()))

    def begin(self, config: Config, saved: Mapping[str, object] | None) -> list[str]:
        """Write the config and the environment of this start; call it once nothing can refuse it
        any more.

        The first start's are config.yaml and environment.json, those of a resume have its step in
        their names.

        Args:
            saved: the checkpoint that the run goes on from.

        Returns:
            A line for each setting that is not the one the checkpoint was trained with.

        Raises:
            UserError: if the folder cannot be written.
        """
        before = (saved or {}).get("config")
        before = before if isinstance(before, Mapping) else self._last_config()
        changes = find_changes(before, to_plain(config)) if saved else []
        if not self._writes:
            return changes

        step = (
            f"-{saved['loader']['step']}"
            if saved and (self.path / _CONFIG.format("")).exists()
            else ""
        )
        environment = json.dumps(describe_environment(), indent=2) + "\n"
        files = {
            self.path / _CONFIG.format(step): dump_config(config),
            self.path / _ENVIRONMENT.format(step): environment,
        }
        made = [path for path in files if not path.exists()]
        try:
            for path, text in files.items():
                write_whole(path, text)
            remove_parts(
                self.path, *(name.format(part) for name in (_CONFIG, _ENVIRONMENT) for part in _ALL)
            )
            self.checkpoints.remove_parts()
        except OSError as error:
            for path in made:
                path.unlink(missing_ok=True)
            raise UserError(
                f"run_dir {self.path}",
                "a folder that can be written",
                str(error.strerror or error),
                "Choose another run_dir or correct its permissions.",
            ) from None
        return changes

    def _last_config(self) -> Mapping[str, object]:
        """The config of the start before this one, of a checkpoint that does not hold it; empty
        where it is gone.
        """
        try:
            paths = [path for part in _ALL for path in self.path.glob(_CONFIG.format(part))]
            path = max(paths, key=lambda path: path.stat().st_mtime)
            found = parse_yaml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, Mapping) else {}

    @contextlib.contextmanager
    def rescuing(self, training: TrainingState) -> Iterator[None]:
        """Save the last optimizer step where an error ends what is inside, and say where a resume
        goes on.

        On the CPU that is also done where another rank's end ends this process and its main thread
        is busy. On a GPU it may be stuck behind a collective, and so would be whoever copies the
        weights.
        """
        will = (lambda: self.checkpoints.rescue(training)) if self._on_cpu else lambda: None
        try:
            with failure_monitor.last_will(will):
                yield
        except NotFiniteError:
            raise
        except BaseException:
            with failure_monitor.finishing():
                self.checkpoints.rescue(training)
            raise

    def log(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """One line of metrics.jsonl; numbers also go to TensorBoard as ``kind/name``."""
        if not self._writes:
            return
        row = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        self._lines.append(json.dumps({**row, **values}) + "\n")
        self._attempt("metrics", self.path / "metrics.jsonl", self._write_lines)
        self._draw(
            lambda board: [
                board.add_scalar(for_tensorboard(f"{kind}/{name}"), value, step)
                for name, value in _flatten(values)
            ]
        )

    def _write_lines(self) -> None:
        _append(self.path / "metrics.jsonl", "".join(self._lines).encode())
        self._lines.clear()

    def _draw(self, draw) -> None:
        self._attempt("TensorBoard's events", self.path / "tb", lambda: self._board.write(draw))

    def _show(self, name: str, tag: str, picture, step: int) -> None:
        path = self.path / "pictures" / f"step{step}-{name}.png"
        self._attempt("pictures", path, lambda: write_picture(path, picture))
        self._draw(
            lambda board: board.add_image(for_tensorboard(tag), picture, step, dataformats="HWC")
        )

    def show_batch(
        self, batch: StepBatch, names: tuple[str, ...], class_names: tuple[str, ...]
    ) -> None:
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
        if self._is_main:
            drop_trial(self._catalog)  # of a start that was refused
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _append(path: Path, data: bytes) -> None:
    """Append all of ``data`` or nothing, so that no line is cut in the middle."""
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


def _flatten(values: Mapping[str, object], above: str = ""):
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{above}{name}", value
