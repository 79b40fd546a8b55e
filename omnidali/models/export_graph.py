"""A network as a program of its own: ONNX, or torch.export's format.

A program takes clips as (N, 3, T, H, W) float32 with names ``clips`` and ``logits``. Their number
may differ from call to call; so may frames and sides, where the network takes others at all.
"""

import contextlib
import importlib
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omnidali.errors import UserError
from omnidali.models.recognizers import Recognizer
from omnidali.models.safe_load import META
from omnidali.utils.named_function import describe_error

_AXES = {0: "batch", 2: "frames", 3: "height", 4: "width"}
_CLIPS = 2  # in the example: a program that was traced with one might take no other number
# Sides of clips of which the last maps of a ResNet have one pixel; traced with these, it takes no
# larger ones.
SMALL_SIDE = 32
_CLOSE = 1e-4  # logits of the program and the network, relative to the largest of 1 or more


@dataclass(frozen=True)
class Program:
    """A network that was traced.

    Attributes:
        exported: of torch.
        example: clips (2, 3, T, H, W), float32.
        logits: of the network for these, (2, classes).
        free_axes: names of the axes of clips that may differ from call to call.
    """

    exported: torch.export.ExportedProgram
    example: torch.Tensor
    logits: torch.Tensor
    free_axes: tuple[str, ...]


class _Clips(torch.nn.Module):
    """A network as a function of one tensor."""

    def __init__(self, network: Recognizer):
        super().__init__()
        self.network = network

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(clips)
        return logits


def trace(network: Recognizer, frames: int, size: int, where: str) -> Program:
    """Trace a network in evaluation mode, with as many free axes as it lets be free.

    Args:
        network: on the CPU.
        frames: of a clip.
        size: of its sides.
        where: names the network in an error.

    Raises:
        UserError: if torch cannot trace it.
    """
    reason = ""
    choices: tuple[Mapping[int, str], ...] = (_AXES, {0: "batch"})
    for axes in choices if size > SMALL_SIDE else choices[1:]:
        try:
            with _quietly():
                return _trace_with(network, axes, frames, size)
        except Exception as error:  # of any kind, as the code of the network is
            reason = describe_error(error)
    raise UserError(
        where,
        "a network that torch.export can trace",
        reason,
        "Export .safetensors, and build the network where it is used.",
    )


def _trace_with(network: Recognizer, axes: Mapping[int, str], frames: int, size: int) -> Program:
    """Trace a network; ``axes`` of its clips are free."""
    generator = torch.Generator().manual_seed(0)
    example = torch.randn((_CLIPS, 3, frames, size, size), generator=generator)
    module = _Clips(network).eval()
    with torch.inference_mode():
        logits = module(example).clone()
    # an axis of one entry would count as one that is always so
    free = {axis: name for axis, name in axes.items() if example.shape[axis] > 1}
    shapes = dict.fromkeys(free, torch.export.Dim.DYNAMIC)
    exported = torch.export.export(module, (example,), dynamic_shapes=(shapes,))
    return Program(exported, example, logits, tuple(free.values()))


def save_torch_export(program: Program, path: Path, facts: Mapping[str, object]) -> float:
    """Write a ``.pt2`` file, with the facts about the model in its extra file ``meta.json``.

    Returns:
        The largest difference between its logits, after it was loaded again, and the network's.

    Raises:
        UserError: if they are not the same.
        OSError: if it cannot be written.
    """
    with _writing(path) as part:
        torch.export.save(program.exported, part, extra_files={f"{META}.json": json.dumps(facts)})
        with _quietly():
            loaded = torch.export.load(part).module()
        with torch.inference_mode():
            return _compare(path, program, loaded(program.example))


def save_onnx(program: Program, path: Path, facts: Mapping[str, object]) -> float | None:
    """Write an ONNX file, with the facts about the model as JSON in its metadata ``meta``.

    Returns:
        The largest difference between onnxruntime's logits and the network's; None where
        onnxruntime does not import.

    Raises:
        UserError: if they are not the same, ONNX lacks an operator, or a package is missing.
        OSError: if it cannot be written.
    """
    _require_packages()
    made = _as_onnx(program, path)
    made.model.metadata_props[META] = json.dumps(facts)
    for value in (made.model.graph.inputs[0], made.model.graph.outputs[0]):
        _name_axes(value.shape, program)
    with _writing(path) as part:
        made.save(str(part), external_data=False)
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except Exception:  # missing, or broken in any way: the file does not need it
            return None
        session = onnxruntime.InferenceSession(str(part))
        (logits,) = session.run(["logits"], {"clips": program.example.numpy()})
        return _compare(path, program, torch.from_numpy(logits))


def _as_onnx(program: Program, path: Path) -> torch.onnx.ONNXProgram:
    """Translate a program.

    Raises:
        UserError: if ONNX lacks an operator.
    """
    try:
        with _quietly():
            made = torch.onnx.export(
                program.exported,
                dynamo=True,
                input_names=["clips"],
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:  # torch raises many kinds
        raise UserError(
            str(path),
            "a network that ONNX can hold",
            describe_error(error),
            "Export .pt2 or .safetensors.",
        ) from None
    assert made is not None
    return made


def _name_axes(shape: Any, program: Program) -> None:
    """Give the free axes of clips, or of logits, their names, instead of torch's symbols."""
    for axis, name in _AXES.items():
        if name in program.free_axes and axis < len(shape):
            shape[axis] = name


def _require_packages() -> None:
    """Refuse to go on without the packages of the extra ``onnx``.

    Raises:
        UserError: if one is missing or broken.
    """
    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except Exception as error:  # a broken package raises anything
            raise UserError(
                "--format onnx",
                f"the package {package}",
                describe_error(error),
                "Install it: pip install 'omnidali[onnx]'",
            ) from None


def _compare(path: Path, program: Program, logits: torch.Tensor) -> float:
    """The largest difference between a program's logits and the network's.

    Raises:
        UserError: if they are not the same.
    """
    difference = float((logits - program.logits).abs().max())
    if not difference <= _CLOSE * max(1.0, float(program.logits.abs().max())):
        raise UserError(
            str(path),
            "the logits of the network",
            f"others, by up to {difference:.3g}",
            "Nothing was written; export .safetensors.",
        )
    return difference


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Give a file that takes the place of ``path`` after a success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # torch looks at the ending
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep warnings of torch's own code, and what it prints, from the user."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
