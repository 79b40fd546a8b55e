"""The folder of a run: config, environment, metrics, TensorBoard, pictures/ and checkpoints/."""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from omnidali.catalog.database.trial_copy import drop_trial
from omnidali.config.convert import config_to_dict
from omnidali.config.load import dump_config, find_changes
from omnidali.config.schema import Config
from omnidali.config.strict_yaml import parse_yaml
from omnidali.distributed import failure_monitor
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError, start_of
from omnidali.loading.batch import StepBatch
from omnidali.loading.clip_images import clip_grid, label_text
from omnidali.loading.trial_outcome import TrialRecord
from omnidali.models.checkpoint_file import remove_parts
from omnidali.training.checkpointer import Checkpointer
from omnidali.training.chosen_loggers import load_factories, make_loggers
from omnidali.training.ending import TimeLimit
from omnidali.training.loggers import Logger, MetricsLog, PictureLog
from omnidali.training.retry import RetriedWrites
from omnidali.training.run_lock import RunLock
from omnidali.training.state import NotFiniteError, TrainingState
from omnidali.training.tensorboard_log import TensorBoardLog
from omnidali.utils.atomic_write import write_whole
from omnidali.utils.run_record import describe_environment

# those of a resume have its step in the braces
_CONFIG = "config{}.yaml"
_ENVIRONMENT = "environment{}.json"
_DECODERS = "decoders{}.json"
_FILES = (_CONFIG, _ENVIRONMENT, _DECODERS)
_STEPS = ("", "-[0-9]*")


class RunFolder:
    """Everything a run writes, by its main rank; a full disk does not end it. A context manager.

    Nothing is written before :meth:`begin`: a start that is refused leaves the folder as it was.

    Args:
        config: gives ``run_dir``.
        ranks: of which the main one writes.
        resume: ``auto`` or a path inside the folder; anything else refuses a folder with
            checkpoints.
        writes: False for a dry run, of which only the checkpoints are read.
        loggers: get the figures and pictures, too.

    Attributes:
        time_limit: of this start, which begins here: reading the data counts.
        checkpoints: reads and writes ``checkpoints/``.

    Raises:
        UserError: if the folder cannot be made, another process is writing to it, or it holds a run
            that would be overwritten.
    """

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        resume: str = "auto",
        writes: bool = True,
        loggers: Sequence[Logger] = (),
    ):
        self.time_limit = TimeLimit(config.train.max_hours)
        self.path = Path(config.run_dir)
        self._catalog = Path(config.catalog_path)
        self._is_main = ranks.is_main
        self._on_cpu = ranks.device.type == "cpu"
        self._writes = writes and ranks.is_main
        self._retried = RetriedWrites()
        self._lock: RunLock | None = None

        self._shown: set[str] = set()  # sources with images in pictures/
        self._loggers: Sequence[Logger] = ()
        if self._writes:
            own = (MetricsLog(self.path), PictureLog(self.path), TensorBoardLog(self.path))
            self._loggers = (*own, *loggers)

        self.checkpoints = Checkpointer(
            self.path,
            ranks,
            writes=self._writes,
            retried=self._retried,
            minutes=config.train.final_save_minutes,
            keep_best=config.train.keep_best,
            check_folder=self._check_lock,
        )
        if not writes:
            # the functions themselves do not travel to the other ranks
            ranks.on_main(lambda: len(load_factories(config.logger)))
        else:
            try:
                ranks.on_main(lambda: self._open(resume, config))
            except BaseException:
                self.close()
                raise

    def _open(self, resume: str, config: Config) -> None:
        if resume not in ("auto", "none") and not os.path.exists(resume):
            raise UserError(
                "--resume",
                "auto, none, or a checkpoint or run folder",
                f"{resume}, which does not exist{start_of(resume)}",
                "Write --resume auto to go on where run_dir stopped, or correct the path.",
            )
        # first, as a run may come and go between a look and the lock
        self._lock = RunLock(self.path)
        self.checkpoints.refuse_folders()

        resumed = Path(resume).resolve()
        is_own = resume == "auto" or (
            resume != "none" and self.path.resolve() in (resumed, *resumed.parents)
        )
        found = self.checkpoints.found()
        leftover = [] if found else self.checkpoints.best_files.found()
        if leftover:
            raise UserError(
                f"run_dir {self.path}",
                "a folder without checkpoints of another run",
                f"{leftover[-1].name} alone",
                "Move the files best-*.pt away, or choose another run_dir.",
            )
        if found and not is_own:
            raise UserError(
                f"run_dir {self.path}",
                "a folder without checkpoints",
                f"a run with {found[0].name}",
                "Go on with --resume auto, or choose another run_dir.",
            )
        # last, as a factory may make a run elsewhere
        self._loggers = (*self._loggers, *make_loggers(config))

    def _check_lock(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def goes_on(self, resume: str) -> bool:
        """Whether a checkpoint will be found, good or damaged."""
        return resume != "none" and (resume != "auto" or bool(self.checkpoints.found()))

    def begin(
        self, config: Config, saved: dict | None, trial: TrialRecord | None = None
    ) -> list[str]:
        """Write the config, the environment and the decoders of this start, once nothing can refuse
        it any more.

        The first start writes config.yaml, environment.json and, if DALI was tried, decoders.json;
        a resume adds its step to their names.

        Args:
            config: of this start.
            saved: the checkpoint that the run continues from.
            trial: what a trial of DALI has shown.

        Returns:
            A line for each setting that is not the one the checkpoint was trained with.

        Raises:
            UserError: if the folder cannot be written.
        """
        changes = []
        step = ""
        if saved is not None:
            before = saved.get("config")
            before = before if isinstance(before, Mapping) else self._last_config()
            changes = find_changes(before, config_to_dict(config))
            if (self.path / _CONFIG.format("")).exists():
                step = f"-{saved['loader']['step']}"
        if not self._writes:
            return changes

        environment = json.dumps(describe_environment(), indent=2) + "\n"
        files = {
            self.path / _CONFIG.format(step): dump_config(config),
            self.path / _ENVIRONMENT.format(step): environment,
        }
        if trial:
            files[self.path / _DECODERS.format(step)] = json.dumps(trial, indent=2) + "\n"
        made = [path for path in files if not path.exists()]
        try:
            for path, text in files.items():
                write_whole(path, text)
            remove_parts(
                self.path,
                *(name.format(part) for name in _FILES for part in _STEPS),
            )
            self.checkpoints.remove_parts()
        except OSError as error:
            for path in made:
                path.unlink(missing_ok=True)
            raise UserError(
                f"run_dir {self.path}",
                "a folder that can be written",
                f"{error.strerror or error}{start_of(self.path)}",
                "Choose another run_dir or correct its permissions.",
            ) from None
        return changes

    def _last_config(self) -> Mapping[str, object]:
        """The last start's config, for checkpoints that do not hold it; empty if it is gone."""
        try:
            paths = [path for part in _STEPS for path in self.path.glob(_CONFIG.format(part))]
            path = max(paths, key=lambda path: path.stat().st_mtime)
            found = parse_yaml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, Mapping) else {}

    @contextlib.contextmanager
    def rescuing(self, training: TrainingState) -> Iterator[None]:
        """Save the last optimizer step after an error inside, and print where a resume continues.

        On the CPU that also happens if another rank's failure ends this process and its main
        thread is busy. On a GPU the copy of the weights could wait for a collective, as that thread
        does.
        """

        def rescue() -> None:
            if self._on_cpu:
                self.checkpoints.rescue(training)

        try:
            with failure_monitor.before_exit(rescue):
                yield
        except NotFiniteError:
            raise
        except BaseException:
            with failure_monitor.delaying_exit():
                self.checkpoints.rescue(training)
            raise

    def log(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """Give figures to the loggers: metrics.jsonl, and TensorBoard as ``kind/name``."""
        self._log(lambda logger: logger.log_values(kind, step, values))

    def show_image(self, tag: str, step: int, image: np.ndarray) -> None:
        """Give an RGB picture, uint8 (H, W, 3), to the loggers."""
        self._log(lambda logger: logger.log_image(tag, step, image))

    def _log(self, write: Callable[[Logger], None]) -> None:
        for logger in self._loggers:
            self._retried.attempt(logger.name, logger.place, functools.partial(write, logger))

    def show_batch(
        self, batch: StepBatch, names: Sequence[str], class_names: tuple[str, ...]
    ) -> None:
        """Show each source's first clips, as the model gets them.

        Args:
            batch: of the step.
            names: of the sources.
            class_names: in label order.
        """
        if not self._writes or len(self._shown) == len(names):
            return
        for number, name in enumerate(names):
            if name in self._shown:
                continue
            for group in batch.groups:
                clips = (group.source == number).nonzero()[:6, 0]
                if len(clips):
                    self._shown.add(name)
                    labels = [label_text(label, class_names) for label in group.labels[clips]]
                    grid = clip_grid(group.clips[clips], labels)
                    self.show_image(f"clips/{name}", batch.step, grid)

    def close(self) -> None:
        """Close the files and let others have the folder. A second call does nothing."""
        with contextlib.ExitStack() as stack:  # in reverse, and each whatever the others do
            if self._lock is not None:
                stack.callback(self._lock.release)
            if self._is_main:
                stack.callback(drop_trial, self._catalog)  # of a start that was refused
            for logger in reversed(self._loggers):
                stack.callback(self._retried.attempt, logger.name, logger.place, logger.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
