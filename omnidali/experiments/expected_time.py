"""How long the trainings of an experiment take: printed before the first one, and after each."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omnidali.config.load import dump_config
from omnidali.config.schema import Config, ViewsConfig
from omnidali.processes.launch import run_program
from omnidali.processes.program_log import log_of
from omnidali.training.console import format_seconds
from omnidali.training.schedule import evaluation_distance
from omnidali.training.step_cost import TRAINING, frames_of_step
from omnidali.utils.atomic_write import write_whole, writing_to
from omnidali.utils.untrusted_text import say

_TRIAL = "trial"
_TRIAL_STEPS = 20  # that are measured, after one in which everything starts
_MANY_STEPS = 500  # of all trainings: for fewer, a trial is no small part of the whole
_CROPS = {"center": 1, "three": 3, "ten": 10}


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A training with its evaluation, before it begins.

    Attributes:
        name: of the run.
        config: to train with; that of a similar run if its lists are still to be made.
        steps: of the training.
        steps_per_epoch: steps in which the target is seen once.
        items: of the evaluation.
        is_finished: whether its result lies in the folder of the experiment.
    """

    name: str
    config: Config
    steps: int
    steps_per_epoch: float
    items: int
    is_finished: bool

    @property
    def step_work(self) -> float:
        """The work of a step: pixels, as often as the network goes over them."""
        return TRAINING * frames_of_step(self.config) * self.config.clip.size**2

    @property
    def work(self) -> float:
        """The work of the training and its evaluations, in the unit of :attr:`step_work`."""
        evaluation = self.config.evaluation
        validations = -(-self.steps // evaluation_distance(evaluation, self.steps_per_epoch))
        item_work = validations * self._view_work(evaluation.validation)
        item_work += self._view_work(evaluation.test)
        return self.steps * self.step_work + self.items * item_work

    def _view_work(self, views: ViewsConfig) -> float:
        """The work of all views of an item."""
        source = self.config.evaluation.source
        is_still = source is not None and source.media_kind.is_still
        frames = 1 if is_still else views.num_clips * self.config.clip.clip_len
        return frames * _CROPS[views.crops] * views.size**2


class ExpectedTime:
    """Knows how many runs an experiment has, and how long those that are left will take.

    A unit of their work takes as long as it took on average in the trial and in the runs so far.

    Args:
        runs: all of the experiment.
    """

    def __init__(self, runs: Sequence[PlannedRun]):
        self._runs = {run.name: run for run in runs}
        self._left = {run.name: run for run in runs if not run.is_finished}
        self._seconds = 0.0  # of the trial's steps and of whole runs
        self._work = 0.0  # done in these seconds

    def announce(self, out: Path, ranks: int, kinds: str, remark: str = "") -> None:
        """Print how many runs there are, and how long they will take.

        The time comes from a dry run of the largest one that is left, which also finds what would
        end it hours later, such as too little memory. A few steps need none.

        Args:
            out: folder of the experiment.
            ranks: processes of a run.
            kinds: what the runs differ in, such as `4 variants, 3 seeds`.
            remark: what comes on top.

        Raises:
            UserError: if the dry run refuses its config.
            ProgramFailedError: if it fails.
        """
        runs = self._runs.values()
        lengths = sorted({run.steps for run in runs})
        length = f"{lengths[0]:,}" + (f" to {lengths[-1]:,}" if len(lengths) > 1 else "")
        done = len(runs) - len(self._left)
        finished = f"; {done} finished in {out}" if done else ""
        say(f"{len(runs)} trainings ({kinds}) of {length} steps, each evaluated{finished}{remark}")

        if sum(run.steps for run in self._left.values()) < _MANY_STEPS:
            return
        seconds = self._try_largest(out, ranks)
        say(
            "",
            f"expected: {format_seconds(self._left_seconds())} with evaluations, by {seconds:.2f}"
            f" s a step{remark}",
        )

    def _try_largest(self, out: Path, ranks: int) -> float:
        """Measure the largest run that is left; returns the seconds of a step."""
        run = max(self._left.values(), key=lambda run: run.step_work)
        steps = min(run.steps, trial_steps(run.config))
        say(f"first a trial of {steps} steps, for the time of a step")
        config_file = out / f"{_TRIAL}.yaml"
        config = replace(run.config, run_dir=str(out / _TRIAL))
        with writing_to(out):
            write_whole(config_file, dump_config(config))

        row = run_program(
            "train",
            *("--config", str(config_file), "--dry-run", str(steps)),
            ranks=ranks,
            log=log_of(out, _TRIAL),
        )
        assert row is not None, "a dry run prints its row"
        seconds = row["seconds_per_step"]
        self._add(steps * seconds, steps * run.step_work)
        return seconds

    def skip(self, name: str) -> None:
        """Count a run as finished before."""
        self._left.pop(name, None)

    @contextlib.contextmanager
    def timing(self, name: str, is_whole: bool) -> Iterator[None]:
        """Measure a run; prints how long it took, and how long the others will.

        Args:
            name: of the run. One that was not planned says nothing about the others.
            is_whole: whether it begins anew. One that goes on where it was stopped says nothing
                about the others.
        """
        begun = time.monotonic()
        yield
        seconds = time.monotonic() - begun

        self.skip(name)
        run = self._runs.get(name)
        if run is not None and is_whole:
            self._add(seconds, run.work)

        left = ""
        if self._left and self._work:
            left = f"; about {format_seconds(self._left_seconds())} left"
        done = len(self._runs) - len(self._left)
        which = f"{done} of {len(self._runs)}" if run is not None else name
        say(f"run {which} finished in {format_seconds(seconds)}{left}")

    def _add(self, seconds: float, work: float) -> None:
        self._seconds += seconds
        self._work += work

    def _left_seconds(self) -> float:
        """Seconds of the runs that are left."""
        return self._seconds / self._work * sum(run.work for run in self._left.values())


def trial_steps(config: Config) -> int:
    """Steps of a trial: one to start with, and then each source in its share.

    >>> from omnidali.config.schema import TrainConfig
    >>> trial_steps(Config(train=TrainConfig(steps=9)))
    21
    """
    period = sum(config.train.ratio_of(len(config.sources)) or (1,))
    return 1 + period * -(-_TRIAL_STEPS // period)
