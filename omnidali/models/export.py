"""A checkpoint as a file or folder for other programs."""

import contextlib
import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omnidali.errors import UserError, start_of
from omnidali.models.checkpoint_file import BEST, load_checkpoint
from omnidali.models.evaluation_records import EvaluationRecord, find_evaluation
from omnidali.models.export_graph import SMALL_SIDE, save_onnx, save_torch_export, trace
from omnidali.models.model_card import CardFacts, make_card
from omnidali.models.model_facts import as_plain, clip_shape, describe_model
from omnidali.models.model_folder import (
    CARD,
    CLASSES,
    CONFIG,
    HOLD_OUT,
    WEIGHTS,
    facts_as_config,
    is_model_folder,
    settings_of,
)
from omnidali.models.pretrained import lengthen_kernels
from omnidali.models.trained_model import TrainedModel, build_trained
from omnidali.models.weights import best_weights, class_names, export_weights
from omnidali.utils.atomic_write import write_whole

Format = Literal["pth", "safetensors", "onnx", "torch-export", "folder"]
UNKNOWN_LICENSE = "unknown"
_ENDINGS: dict[str, Format] = {
    ".pth": "pth",
    ".pt": "pth",
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".pt2": "torch-export",
    "": "folder",
}
_WEIGHTS_ALONE = ("pth", "safetensors")
_NAMES = ".pth, .safetensors, .onnx or .pt2, or none for a folder"


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        tensors: number of weights.
        is_average: whether they are averaged ones.
        note: about a program: its free axes, and how it was checked; or empty.
    """

    tensors: int
    is_average: bool
    note: str = ""


def find_format(out: str | Path, asked: str | None = None) -> Format:
    """The format of a file or folder to write: that of its ending.

    Args:
        out: its path.
        asked: the format that was asked for, if any, which has to go with the ending. A folder may
            have any name.

    Raises:
        UserError: for an unknown ending, or one of another format.

    >>> find_format("a.onnx"), find_format("tsn-r50"), find_format("v1.2", "folder")
    ('onnx', 'folder', 'folder')
    """
    suffix = Path(out).suffix
    if asked == "folder":
        return "folder"
    found = _ENDINGS.get(suffix)
    if asked is not None and found != asked:
        endings = [ending for ending, name in _ENDINGS.items() if name == asked]
        raise UserError(
            str(out),
            f"a name that ends in {endings[0]}, for --format {asked}",
            suffix or "none",
            "Rename it, or leave out --format.",
        )
    if found is None:
        close = difflib.get_close_matches(suffix, [ending for ending in _ENDINGS if ending], n=1)
        advice = f"Did you mean '{close[0]}'?" if close else "Rename it."
        advice += " A folder of that name needs --format folder."
        raise UserError(str(out), f"a name that ends in {_NAMES}", suffix, advice)
    return found


def check_export(out: str | Path, file_format: Format, checkpoint: str | Path) -> None:
    """Refuse a place that an export would not write to, or a checkpoint of the same run.

    Args:
        out: file or folder to write.
        file_format: its format.
        checkpoint: file or run folder with the weights.

    Raises:
        UserError: naming it.
    """
    path = Path(out)
    if file_format == "folder":
        is_free = not path.exists() or is_model_folder(path)
        if not is_free and not (path.is_dir() and not any(path.iterdir())):
            raise UserError(
                str(path), "a new folder, or one of an earlier export", "another", "Rename it."
            )
        return
    if path.is_dir():
        raise UserError(str(path), "a file to write", "a folder", "Name a file in it.")
    if not path.exists():
        return

    is_run = os.path.isdir(checkpoint)
    beside = Path(checkpoint, "checkpoints") if is_run else Path(checkpoint).parent
    is_same = os.path.exists(checkpoint) and path.samefile(checkpoint)
    is_needed = is_run or is_same or beside.name == "checkpoints"
    if is_needed and os.path.realpath(beside) == os.path.realpath(path.parent):
        raise UserError(
            "--out", "a new file, as a run needs its checkpoints", str(path), "Choose another name."
        )


def export_model(
    checkpoint: str | Path,
    out: str | Path,
    asked: str | None = None,
    *,
    license: str = UNKNOWN_LICENSE,
    trusted: Sequence[str] = (),
) -> Export:
    """Write a checkpoint for other programs, its averaged weights if it has them.

    Args:
        checkpoint: a file, or a run folder for its best.pt.
        out: file or folder to write; the ending chooses the format.
        asked: a :data:`Format`; None: by the ending.
        license: for the model card of a folder, an identifier of the hub.
        trusted: functions that may be called to build the network, as ``package.module:function``.

    Raises:
        UserError: if it cannot be read, written, or traced.
    """
    file_format = find_format(out, asked)
    check_export(out, file_format, checkpoint)
    state = load_checkpoint(checkpoint, preferred=BEST)
    weights, _ = lengthen_kernels(best_weights(state))
    note = ""
    if file_format in _WEIGHTS_ALONE and settings_of(state) is None:
        # those of any network, as they are
        with _writing_to(out):
            export_weights(weights, out, meta=_known_facts(state))
    else:
        trained = build_trained(state, str(checkpoint), trusted=trusted)
        card = CardFacts(
            name=Path(os.path.abspath(out)).name,
            license=license,
            evaluation=_find_evaluation(checkpoint, state, trained),
        )
        with _writing_to(out):
            note = _write_model(Path(out), file_format, trained, card)
    return Export(len(weights), is_average=bool(state.get("ema")), note=note)


def _write_model(path: Path, file_format: Format, trained: TrainedModel, card: CardFacts) -> str:
    """Write a model; returns what a user should know about a program."""
    facts = describe_model(trained)
    if file_format == "folder":
        _write_folder(path, trained, facts, make_card(trained, card))
    elif file_format in _WEIGHTS_ALONE:
        export_weights(trained.network.state_dict(), path, meta=facts)
    else:
        return _write_program(path, file_format, trained, facts)
    return ""


def _known_facts(state: Mapping[str, Any]) -> dict[str, object]:
    """What a file says of weights whose training it does not describe."""
    held_out = as_plain(state.get(HOLD_OUT))
    return {CLASSES: class_names(state), **({HOLD_OUT: held_out} if held_out else {})}


def _find_evaluation(
    checkpoint: str | Path, state: Mapping[str, Any], trained: TrainedModel
) -> EvaluationRecord | None:
    """The last evaluation of a checkpoint's weights; the training's own one if it has to be."""
    loader = state.get("loader")
    step = loader.get("step") if isinstance(loader, Mapping) else None
    validation = trained.config.evaluation.validation if trained.config is not None else None
    return find_evaluation(checkpoint, trained.digest, step=step, validation=validation)


def _write_folder(
    folder: Path, trained: TrainedModel, facts: Mapping[str, object], card: str
) -> None:
    """Write the files of a folder. Without its config.json, which is last, it is none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    export_weights(trained.network.state_dict(), folder / WEIGHTS, meta=facts)
    write_whole(folder / CARD, card)
    text = json.dumps(facts_as_config(facts), indent=2)
    write_whole(folder / CONFIG, f"{text}\n")


def _write_program(
    path: Path, file_format: Format, trained: TrainedModel, facts: Mapping[str, object]
) -> str:
    """Trace the network and write it; returns what a user should know about the file."""
    frames, size = clip_shape(trained)
    program = trace(trained.network, frames, size, trained.path)
    if file_format == "onnx":
        difference = save_onnx(program, path, facts)
        reader = "onnxruntime"
    else:
        difference = save_torch_export(program, path, facts)
        reader = "torch.export.load"
    free = ", ".join(program.free_axes)
    if file_format == "torch-export" and "height" in program.free_axes:
        free += f" (of more than {SMALL_SIDE} pixels)"
    checked = "not checked, as onnxruntime does not import"
    if difference is not None:
        checked = f"by {reader} within {max(difference, 1e-9):.0e} of the network's logits"
    return f"clips of {frames} frames, {size} pixels; free: {free}; {checked}"


@contextlib.contextmanager
def _writing_to(out: str | Path) -> Iterator[None]:
    """Turn errors of the disk into errors that a user can act on."""
    try:
        yield
    except OSError as error:
        raise UserError(
            str(out),
            "a place that can be written",
            f"{error.strerror or error}{start_of(out)}",
            "Choose another place.",
        ) from None
