"""What is due after a step, and the learning rate: pure functions of the config and the step."""

import math
from dataclasses import dataclass

from omnidali.config.schema import Config, EvaluationConfig
from omnidali.config.train_settings import OptimizerConfig
from omnidali.models.checkpoint_file import LAST


@dataclass(frozen=True)
class Due:
    """What a training does after a step, in this order.

    Attributes:
        step: number of steps done.
        is_end: whether it is the last step of this process.
        logs: whether the step's line is due.
        files: checkpoints to write, last.pt as the last one.
        evaluates: whether to evaluate.
    """

    step: int
    is_end: bool = False
    logs: bool = False
    files: tuple[str, ...] = ()
    evaluates: bool = False


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a training logs, saves and evaluates.

    A step is counted when it is done: 1 is after the first batch. With ``accumulate``, saves and
    evaluations come at the first optimizer step from each multiple of their distance on.

    Attributes:
        steps: length of the whole run.
        steps_per_epoch: steps that the target's items last for.
        optimizer: settings of the learning rate, and how many steps make an optimizer step.
        log_every: distance of the console's lines, steps.
        checkpoint_every: distance of saves of last.pt, steps.
        keep_every: distance of checkpoints that are kept, steps; None: none are.
        evaluate_every: distance of evaluations, steps; None: there are none.
        first: steps done before this process began.
        dry_run: steps after which a process that writes nothing ends; None: no dry run.
    """

    steps: int
    steps_per_epoch: float
    optimizer: OptimizerConfig
    log_every: int
    checkpoint_every: int
    keep_every: int | None
    evaluate_every: int | None
    first: int = 0
    dry_run: int | None = None

    @classmethod
    def of(
        cls,
        config: Config,
        *,
        steps: int,
        steps_per_epoch: float,
        evaluates: bool,
        dry_run: int | None = None,
    ) -> "Schedule":
        """The schedule of a config.

        Args:
            config: of the run.
            steps: length of the whole run.
            steps_per_epoch: of the target.
            evaluates: whether there is something to evaluate on.
            dry_run: steps of a dry run.
        """
        distance = evaluation_distance(config.evaluation, steps_per_epoch)
        return cls(
            steps=steps,
            steps_per_epoch=steps_per_epoch,
            optimizer=config.optimizer,
            log_every=config.train.log_every,
            checkpoint_every=config.train.checkpoint_every,
            keep_every=config.train.keep_every,
            evaluate_every=distance if evaluates else None,
            dry_run=dry_run,
        )

    @property
    def last(self) -> int:
        """Steps done when this process ends."""
        if self.dry_run is None:
            return self.steps
        return min(self.steps, self.first + self.dry_run)

    def learning_rate(self, step: float) -> float:
        """The learning rate of a step, counted from 0; see :func:`learning_rate`."""
        return learning_rate(step, self.steps, self.steps_per_epoch, self.optimizer)

    def updates(self, step: int) -> bool:
        """Whether the batch before ``step`` ends an optimizer step."""
        return step % self.optimizer.accumulate == 0 or step == self.steps

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due."""
        if self.evaluate_every is None or self.dry_run is not None:
            return False
        return step == self.last or self.is_due(step, self.evaluate_every)

    def is_due(self, step: int, every: int) -> bool:
        """Whether ``step`` ends the first optimizer step from a multiple of ``every`` on."""
        return self.updates(step) and step % every < self.optimizer.accumulate

    def due(self, step: int, *, saves: bool = False, stops: bool = False) -> Due:
        """What to do after a step.

        Args:
            step: number of steps done.
            saves: whether last.pt is written in any case.
            stops: whether the ranks have agreed to stop, which also saves; an evaluation that is
                due then is left to the resume.
        """
        is_end = step == self.last
        evaluates = self.evaluates(step)

        files = []
        if self.dry_run is None:
            if self.keep_every is not None and self.is_due(step, self.keep_every):
                files.append(f"step-{step}.pt")
            if saves or stops or is_end or evaluates or self.is_due(step, self.checkpoint_every):
                files.append(LAST)

        is_first = step == self.first + 1
        return Due(
            step,
            is_end=is_end,
            logs=is_first or is_end or bool(files) or step % self.log_every == 0,
            files=tuple(files),
            evaluates=evaluates and not stops,
        )


def evaluation_distance(config: EvaluationConfig, steps_per_epoch: float) -> int:
    """Steps from one evaluation to the next."""
    return config.every_steps or max(1, round(config.every_epochs * steps_per_epoch))


def learning_rate(
    step: float, steps: int, steps_per_epoch: float, config: OptimizerConfig
) -> float:
    """Learning rate of a step, 0 <= step < steps.

    ``step`` multiplies by 0.1 at each milestone; ``cosine`` falls to 0 at the end (Loshchilov and
    Hutter, ICLR 2017). The warm-up rises linearly from a tenth and multiplies either.

    >>> learning_rate(50, 100, 1.0, OptimizerConfig(lr=1.0, milestones=(40.0, 80.0)))
    0.1
    """
    epoch = step / steps_per_epoch
    if config.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * step / steps))
    else:
        factor = 0.1 ** sum(epoch >= milestone for milestone in config.milestones)
    if epoch < config.warmup_epochs:
        factor *= 0.1 + 0.9 * epoch / config.warmup_epochs
    return config.lr * factor
