"""Where others reach into a training without changing its code."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from omnidali.loading.batch import StepBatch
from omnidali.loading.fusion import FusionIterator
from omnidali.training.loggers import Logger


def _unchanged(batch: StepBatch) -> StepBatch:
    return batch


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions and loggers that a training calls; replace some to watch or change it.

    Attributes:
        wrap_loader: makes what the loop iterates over, on every rank; by default the loader itself.
            A generator that yields the batch of each step will do, and sees how the loop waits.
        on_batch: gets each batch before the network does, on every rank and augmented as the config
            says, and returns the one to train on, of the same step. Torch's random numbers in it
            are the same after a resume.
        loggers: get every figure and picture, beside metrics.jsonl, pictures/ and TensorBoard, on
            the main rank.

    Example::

        train(config, hooks=Hooks(on_batch=augment, loggers=[MyLogger()]))
    """

    wrap_loader: Callable[[FusionIterator], Iterable[StepBatch]] = iter
    on_batch: Callable[[StepBatch], StepBatch] = _unchanged
    loggers: Sequence[Logger] = ()


NO_HOOKS = Hooks()
