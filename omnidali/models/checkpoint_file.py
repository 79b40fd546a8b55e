"""Files of checkpoints: written atomically, read without running code, checked when read."""

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from omnidali.errors import UserError, start_of
from omnidali.models.download import find_released, locate_weights
from omnidali.models.library_weights import is_external
from omnidali.models.model_folder import RECIPE, WEIGHTS, is_model_folder, read_folder
from omnidali.models.pretrained import fit_weights
from omnidali.models.weight_names import UNKNOWN, find_other_network, first_few
from omnidali.models.weights import DIGEST, digest_of, read_weights
from omnidali.utils.untrusted_text import say

LAST = "last.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"
# The ending of a file that is being written.
_PART = ".part"


class NoSpaceError(UserError):
    """A checkpoint does not fit on the disk, or into the quota."""


def save_checkpoint(path: Path, state: dict, previous: Path | None = None) -> None:
    """Write a checkpoint so that a crash leaves the old file or the new one, never half of one.

    Args:
        path: of the checkpoint.
        state: its entries; the file has one more, the checksum of the others.
        previous: new path of the file that is replaced; None: it is dropped.

    Raises:
        UserError: if the file cannot be written; the old one is untouched.
    """
    part = path.with_name(path.name + _PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            torch.save({**state, DIGEST: digest_of(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)
        os.replace(part, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # half a file would only fill the disk

        # torch raises a RuntimeError of its own while it handles the disk's.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        kind = NoSpaceError if cause.errno in (errno.ENOSPC, errno.EDQUOT) else UserError
        raise kind(
            str(path),
            "a place to write a checkpoint",
            cause.strerror or str(cause),
            "Free space or correct the permissions; resume with --resume auto.",
        ) from None


def _keep(path: Path, previous: Path) -> None:
    """Give a file a second name, so that it stays when the first name goes to another."""
    part = previous.with_name(previous.name + _PART)
    try:
        part.unlink(missing_ok=True)
        os.link(path, part)
        os.replace(part, previous)
        # A crash between the two renames leaves both names on one file; then nothing moves.
        part.unlink(missing_ok=True)
    except OSError:  # a file system without hard links
        os.replace(path, previous)


def _sync_folder(folder: Path) -> None:
    """A new name outlives a power cut only once its folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_state(state: object) -> object:
    """A copy of a state in the memory of the CPU, as training changes its tensors in place."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {name: copy_state(value) for name, value in state.items()}
    return type(state)(map(copy_state, state)) if isinstance(state, (list, tuple)) else state


def remove_parts(folder: Path, *patterns: str) -> None:
    """Remove the half files that a crash has left.

    Args:
        folder: of the checkpoints.
        *patterns: of the checkpoints' names; other half files are not ours.
    """
    for pattern in patterns:
        for part in folder.glob(f"{pattern}{_PART}"):
            with contextlib.suppress(OSError):
                part.unlink()


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints that a run can resume from, best first: last, previous, newest step-N."""
    kept = sorted(
        (path for path in folder.glob("step-*.pt") if path.stem[5:].isdecimal()),
        key=lambda path: int(path.stem[5:]),
        reverse=True,
    )
    files = [folder / LAST, folder / PREVIOUS, *kept]
    return [path for path in files if path.exists()]


def load_newest(folder: Path) -> tuple[Path, dict[str, Any], str | None]:
    """The first good one of :func:`checkpoints_in`.

    Returns:
        The file, its contents, and a line about damaged or missing ones before it, if any.

    Raises:
        UserError: if all are damaged, naming each.
    """
    damaged = [] if (folder / LAST).exists() else [f"{LAST} is missing"]
    for path in checkpoints_in(folder):
        try:
            state = load_run(path)
        except UserError as error:
            damaged.append(f"{path.name} is damaged ({error.got})")
            continue
        line = f"{'; '.join(damaged)}: going on from {path}, after step {state['loader']['step']}"
        return path, state, line if damaged else None

    raise UserError(
        str(folder),
        "a checkpoint that can be read",
        "; ".join(damaged),
        "Restore one of them from a copy, or start anew in another run_dir.",
    )


def load_run(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that a run can resume from: a file, or the last one of a run folder.

    Raises:
        UserError: as :func:`load_checkpoint`, and for weights alone.
    """
    state = load_checkpoint(path, foreign=False)
    if "loader" not in state:
        raise UserError(
            str(path),
            "a checkpoint of `omnidali train`",
            "weights alone",
            "Start from them by model.pretrained.",
        )
    return state


def find_checkpoint(path: str | Path, preferred: str = LAST) -> Path:
    """The checkpoint file that a path means.

    Args:
        path: a file, a run folder, an exported folder, or the name of released weights, which may
            be downloaded.
        preferred: name of the wanted checkpoint of a run folder, which else is the last one.

    Raises:
        UserError: if the run folder has neither, or released weights cannot be had.
    """
    path = locate_weights(path)
    if not path.is_dir():
        return path
    if is_model_folder(path):
        return path / WEIGHTS
    for name in (preferred, LAST):
        file = path / "checkpoints" / name
        if file.exists():
            return file
    raise UserError(
        str(path),
        f"a run folder with checkpoints/{preferred}",
        f"none in it{start_of(path)}",
        "Name another folder, or a checkpoint file.",
    )


def load_checkpoint(
    path: str | Path, preferred: str = LAST, *, foreign: bool = True
) -> dict[str, Any]:
    """Read a checkpoint; its checksum is compared, and pickled code in it is refused, not run.

    Args:
        path: as in :func:`find_checkpoint`.
        preferred: as in :func:`find_checkpoint`.
        foreign: as in :func:`~omnidali.models.weights.read_weights`.

    Raises:
        UserError: if it is missing, damaged or no checkpoint.
    """
    if is_model_folder(path):
        return read_folder(path)
    released = find_released(path)
    path = find_checkpoint(path, preferred)
    state = read_weights(path, foreign=foreign)
    if released is not None and released.recipe is not None:
        meta = state.get("meta")
        state["meta"] = {**(meta if isinstance(meta, dict) else {}), RECIPE: released.recipe}
    if "loader" in state and DIGEST not in state and os.environ.get("RANK", "0") == "0":
        say(
            f"{path} was saved without a checksum: damage to its contents would not be noticed",
            error=True,
        )
    return state


def load_weights(
    model: torch.nn.Module, state: Mapping[str, Any], where: str, *, resumes: bool = False
) -> None:
    """Put a checkpoint's weights into a model.

    Every name and shape must match, but for what may stand before the names; see
    :mod:`~omnidali.models.weight_names`. Weights of SlowOnly-18 and -34 from before 0.2 are
    brought up to date.

    Args:
        model: ours.
        state: of the checkpoint.
        where: the file, for errors.
        resumes: whether a training goes on, which needs the same network as before.

    Raises:
        UserError: naming up to five weights that do not match.
    """
    fitting, report = fit_weights(model, state["state_dict"], takes_head=True)
    if report.lengthened and resumes:
        raise UserError(
            where,
            "a checkpoint of this network, in whose late blocks both convolutions look at three"
            " frames",
            "one from before 0.2, when the second looked at one",
            "Finish the run with OmniDALI 0.1, or start another run_dir from its weights by"
            " model.pretrained.",
        )
    wrong = [
        *(f"{name} is missing" for name in report.missing),
        *report.wrong,
        *(f"{name} is unknown" for name, why in report.left_out.items() if why == UNKNOWN),
        *(f"{name} was inflated" for name in report.inflated),
    ]

    if wrong:
        made_for = _made_for(state.get("model"))
        is_known = made_for or is_external(model)
        other = None if is_known else find_other_network(state["state_dict"])
        got, advice = other or (
            first_few(wrong),
            f"It was made for: {made_for or 'an unknown model'}. Set model.* and classes to match.",
        )
        raise UserError(where, "the weights of this config's model", got, advice)
    if report.lengthened and os.environ.get("RANK", "0") == "0":
        say(f"{where}: {report.note_on_lengthened}", error=True)
    model.load_state_dict(fitting, strict=False)


def _made_for(model: object) -> str:
    """The network that a checkpoint of ours names; nothing for other projects' entries."""
    if not isinstance(model, Mapping):
        return ""
    return ", ".join(
        f"{key} {value}" for key, value in model.items() if isinstance(value, (str, int))
    )
