"""What a loader is opened with, and what it saves."""

from collections.abc import Mapping
from numbers import Integral
from typing import NotRequired, TypedDict

import torch

from omnidali.errors import ConfigError, UserError
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.trial_outcome import Trial, TrialRecord


class LoaderState(TypedDict):
    """The state of a :class:`~omnidali.loading.fusion.FusionIterator`.

    Attributes:
        step: that the next batch belongs to.
        plan: everything that the order depends on.
        decoders: by source, what decodes it, on which the pixels depend; older states lack it.
        trial: what a trial of DALI showed; older states lack it.
    """

    step: int
    plan: Mapping[str, object]
    decoders: NotRequired[Mapping[str, str]]
    trial: NotRequired[TrialRecord]


class LoaderOptions(TypedDict, total=False):
    """Keyword arguments of :class:`~omnidali.loading.fusion.FusionIterator`, explained there."""

    rank: int
    world: int
    device: torch.device | str
    dtype: torch.dtype
    threads: int
    prefetch: int
    cpu_share: float
    max_bad_ratio: float
    max_bad_in_a_row: int
    hang_seconds: float
    stall_seconds: float
    target_apart: bool
    quarantine: Quarantine | None
    trial: Trial
    end: int | None


def check_options(*, rank: int, world: int, threads: int, prefetch: int, end: int | None) -> None:
    """Refuse options with which a loader would give wrong batches, or none.

    Args:
        rank: of this process.
        world: number of ranks.
        threads: for decoding; 0 means all cores.
        prefetch: steps made ahead.
        end: step before which to stop, if there is one.

    Raises:
        ConfigError: with all mistakes.
    """
    errors: list[UserError] = []
    if not (isinstance(rank, Integral) and isinstance(world, Integral) and 0 <= rank < world):
        errors.append(
            UserError(
                "rank",
                "a number from 0 to world - 1",
                f"rank {rank} of world {world}",
                "Give each process a rank of its own, and all the same world.",
            )
        )
    if end is not None and (not isinstance(end, Integral) or end < 0):
        errors.append(
            UserError("end", "a number of steps", str(end), "Leave it out for the whole run.")
        )
    for name, number, least in (("threads", threads, 0), ("prefetch", prefetch, 1)):
        if number < least:
            expected = f"a number of {least} or more"
            errors.append(UserError(f"loader.{name}", expected, str(number), "Correct the value."))
    if errors:
        raise ConfigError(errors)
