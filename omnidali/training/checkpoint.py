"""Checkpoints: written atomically, read without running code, errors a user can act on."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from omnidali.errors import UserError
from omnidali.models.weights import UNKNOWN, fit_weights, read_weights, some

LAST = "last.pt"


def save_checkpoint(path: Path, state: dict) -> None:
    """Write ``state`` so that a crash leaves either the old file or the new one, never half of one.

    Raises:
        UserError: if the file cannot be written.
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError(str(path), "a place to write a checkpoint", str(error.strerror or error),
                        "Free space or correct the permissions; resume with --resume auto.") from None


def load_checkpoint(path: str | Path, inside: str = LAST) -> dict:
    """Read a checkpoint; pickled code in it is refused, not run.

    Args:
        path: a file, or a run folder, of which the checkpoint called ``inside`` is meant, or else the last one.

    Raises:
        UserError: if it is missing, damaged or no checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        found = [file for file in (path / "checkpoints" / inside, path / "checkpoints" / LAST) if file.exists()]
        if not found:
            raise UserError(str(path), f"a run folder with checkpoints/{inside}", "none in it",
                            "Name another folder, or a checkpoint file.")
        path = found[0]
    return read_weights(path)


def load_weights(model: torch.nn.Module, state: dict, where: str) -> None:
    """Put a checkpoint's weights into ``model``; every name and shape must match, but for a module. in front.

    Raises:
        UserError: naming up to five weights that do not match.
    """
    fitting, report = fit_weights(model, state["state_dict"], head=True)
    wrong = [f"{name} is missing" for name in report.missing] + report.wrong + [
        f"{name} is unknown" for name, reason in report.left_out.items() if reason == UNKNOWN]
    wrong += [f"{name} was inflated" for name in report.inflated]
    if wrong:
        made_for = ", ".join(f"{key} {value}" for key, value in (state.get("model") or {}).items())
        raise UserError(where, "the weights of this config's model", some(wrong),
                        f"It was made for: {made_for or 'an unknown model'}. Set model.* and classes to match.")
    model.load_state_dict(fitting, strict=False)
