"""Weights from elsewhere and back: names, inflation, and a report of what matched.

| family | known by | becomes |
|---|---|---|
| ours, mmaction2 0.x and 1.x | ``backbone.conv1.conv.weight`` | itself |
| mmaction2 1.x OmniSource | ``backbone.conv1.weight`` | as torchvision; its heads have no counterpart |
| torchvision, timm | ``conv1.weight`` | ``layer1.0.conv1.weight`` -> ``backbone.layer1.0.conv1.conv.weight`` etc. |

A 2D kernel becomes a 3D one by repeating it over time and dividing by the length, so that a still
clip gives the 2D response (I3D, Carreira and Zisserman, CVPR 2017).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from omnidali.errors import UserError
from omnidali.models.digest import DIGEST, digest_of

HEAD = "cls_head.fc_cls."
UNKNOWN = "unknown to this model"  # a reason for which a tensor is left out
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# entries under which others keep the weights
_WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model")


@dataclass
class Report:
    """What became of every tensor of a file, by name.

    Attributes:
        family: whose names the file has. matched: taken as they are. inflated: from 2D to 3D.
        left_out: of the file, with the reason. missing: of the model, which keep their initial
            values.
        wrong: of the backbone or the classifier, that do not fit, with what is wrong.
    """

    family: str = ""
    matched: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"weights with {self.family}'s names: {len(self.matched)} tensors as they are,"
            f" {len(self.inflated)} inflated to 3D"
        )
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            text += f"; left out, {reason}: {some(sorted(names))}"
        if self.missing:
            text += f"; at their initial values: {some(self.missing)}"
        return text


def read_weights(path: str | Path) -> dict:
    """Read a checkpoint file without running code from it.

    Args:
        path: ``.safetensors``, or what torch.save wrote: ours, mmaction2's, torchvision's, timm's.

    Returns:
        The file's entries, with the tensors under ``state_dict``.

    Raises:
        UserError: if it is missing, damaged, holds more than plain data, or holds no weights.
    """
    if Path(path).is_dir():
        raise UserError(
            str(path),
            "a checkpoint file",
            "a folder",
            "Name a file in it, such as checkpoints/best.pt.",
        )
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise UserError(str(path), "a checkpoint file", "no regular file", "Name a file.")
    try:
        _check_claims(path)
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(str(path))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(str(path), "a checkpoint", "no such file", "Check the path.") from None
    except Exception as error:  # both readers raise many kinds for damaged files
        reason = (
            str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        ).strip() or "nothing"
        raise UserError(
            str(path),
            "a checkpoint that can be read safely",
            reason.splitlines()[0][:200],
            "The file is damaged or foreign; use another one.",
        ) from None
    if isinstance(state, dict):
        wrapper = next(
            (
                key
                for key in _WRAPPERS
                if isinstance(state.get(key), Mapping)
                and (key == "state_dict" or any(map(torch.is_tensor, state[key].values())))
            ),
            None,
        )
        if (
            wrapper is None
            and state
            and all(isinstance(value, torch.Tensor) for value in state.values())
        ):
            wrapper, state = "state_dict", {"state_dict": state}
        if wrapper is not None:
            state = {**state, "state_dict": dict(state[wrapper])}
            _check_tensors(path, state["state_dict"])
            _check_tensors(path, state.get("ema") or {})
            if not all(isinstance(name, str) for name in state.get("classes") or ()):
                raise UserError(
                    str(path), "names under classes", "something else", "Use another file."
                )
            _check_digest(path, state)
            return state
    got = type(state).__name__
    if isinstance(state, dict):
        got = f"the entries {', '.join(key[:50] for key in itertools.islice(state, 20) if isinstance(key, str))[:200]}"
    raise UserError(
        str(path), "a checkpoint with weights, bare or under state_dict", got, "Use another one."
    )


def _check_claims(path: str | Path) -> None:
    """Raise ValueError for an archive whose entries unpack to more than the file holds; torch.save
    packs nothing.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > Path(path).stat().st_size:
        raise ValueError(f"entries of {claimed:,} bytes in a file of {Path(path).stat().st_size:,}")


def _check_digest(path: str | Path, state: Mapping[str, object]) -> None:
    """Refuse a file of ours whose contents are not those that were saved."""
    try:
        same = DIGEST not in state or state[DIGEST] == digest_of(state)
    except (RuntimeError, TypeError, ValueError):  # tensors of a kind that ours are not
        same = False
    if not same:
        raise UserError(
            str(path),
            "the contents that were saved",
            "others than its checksum says",
            "The file is damaged; use another one, such as previous.pt beside it.",
        )


def _check_tensors(path: str | Path, weights: object) -> None:
    """Raise UserError for what is no mapping of names to plain tensors that the file itself holds."""
    if not isinstance(weights, Mapping):
        raise UserError(str(path), "weights by name", type(weights).__name__, "Use another file.")
    for name, value in weights.items():
        got = None
        if not isinstance(name, str):
            got = f"a name that is {type(name).__name__}"
        elif not isinstance(value, torch.Tensor):
            got = f"{type(value).__name__} under {name[:100]!r}"
        elif value.layout != torch.strided or value.is_meta or value.is_quantized:
            got = f"a tensor without plain numbers under {name[:100]!r}"
        # one number seen many times
        elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
            got = f"a tensor that claims more numbers than it has under {name[:100]!r}"
        if got:
            raise UserError(str(path), "weights by name", got, "Use another file.")


def best_weights(state: Mapping[str, object]) -> Mapping[str, torch.Tensor]:
    """The averaged weights of a checkpoint where it has them, else the plain ones."""
    return state.get("ema") or state["state_dict"]


def rename(
    weights: Mapping[str, torch.Tensor],
) -> tuple[str, dict[str, torch.Tensor], dict[str, str]]:
    """The family of the names, the weights under ours, and what has no counterpart with the reason."""
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if "backbone.conv1.conv.weight" in weights:
        left_out = {
            name: "normalisation of the input, which is ours"
            for name in weights
            if name.startswith("data_preprocessor.")
        }
        return (
            "mmaction2",
            {name: value for name, value in weights.items() if name not in left_out},
            left_out,
        )
    prefix = "backbone." if "backbone.conv1.weight" in weights else ""
    family = "mmaction2 1.x OmniSource" if prefix else "torchvision"
    known, left_out = {}, {}
    for name, value in weights.items():
        ours = _from_torchvision(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if ours is not None:
            known[ours] = value
        elif name.startswith(("fc.", "head.fc.", "cls_head.")):
            left_out[name] = "classifier of another kind"
        else:
            left_out[name] = "no counterpart"
    return family, known, left_out


def _from_torchvision(name: str) -> str | None:
    """>>> _from_torchvision("layer1.0.bn2.running_mean"),
    _from_torchvision("layer2.0.downsample.0.weight") ('backbone.layer1.0.conv2.bn.running_mean',
    'backbone.layer2.0.downsample.conv.weight')
    """
    match = re.fullmatch(r"(layer[1-4]\.\d+\.)?(conv|bn)([1-3])\.(\w+)", name)
    if match and (match[1] or match[3] == "1"):
        block, kind, number, part = match.groups()
        if part == "weight" if kind == "conv" else part in _NORM:
            return f"backbone.{block or ''}conv{number}.{kind}.{part}"
    match = re.fullmatch(r"(layer[1-4]\.0\.)downsample\.([01])\.(\w+)", name)
    if match and (match[3] == "weight" if match[2] == "0" else match[3] in _NORM):
        return f"backbone.{match[1]}downsample.{'conv' if match[2] == '0' else 'bn'}.{match[3]}"
    return None


def inflate(weight: torch.Tensor, length: int) -> torch.Tensor:
    """A 2D kernel (O, I, H, W) as a 3D one (O, I, length, H, W)."""
    return weight[:, :, None].repeat(1, 1, length, 1, 1) / length


def fit_weights(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], head: bool
) -> tuple[dict, Report]:
    """What of a foreign state dict goes into ``model``, renamed and inflated.

    Args:
        head: whether the classifier is wanted; else it keeps its initial values.
    """
    own, report = model.state_dict(), Report()
    report.family, known, report.left_out = rename(weights)
    fitting = {}
    for name, value in known.items():
        wanted = own.get(name)
        if wanted is None and name.startswith("backbone."):
            report.wrong.append(f"{name} is unknown")  # a deeper network's
        elif wanted is None:
            report.left_out[name] = UNKNOWN
        elif name.startswith(HEAD) and not head:
            report.left_out[name] = "asked for with pretrained_head: fresh"
        elif value.shape == wanted.shape:
            fitting[name] = value
            report.matched.append(name)
        elif (
            value.ndim == 4
            and wanted.ndim == 5
            and (*value.shape[:2], *value.shape[2:]) == (*wanted.shape[:2], *wanted.shape[3:])
        ):
            fitting[name] = inflate(value, wanted.shape[2])
            report.inflated.append(name)
        else:
            report.wrong.append(f"{name} is {tuple(value.shape)} instead of {tuple(wanted.shape)}")
    wrong = {text.partition(" ")[0] for text in report.wrong}
    for name in own:
        # files of old torch versions have no counters of batches
        if name not in fitting and name not in wrong and not name.endswith("num_batches_tracked"):
            report.missing.append(name)
    return fitting, report


def load_pretrained(
    model: torch.nn.Module, path: str | Path, head: str = "keep", classes: Sequence[str] = ()
) -> Report:
    """Start a model from a file of any family.

    Args:
        head: ``keep`` takes the classifier too, ``fresh`` leaves it at its initial values.
            Classifiers of torchvision and timm, which name ImageNet's classes, are never taken.
        classes: names that a kept classifier must have been trained with, where the file tells.

    Raises:
        UserError: if a tensor has another shape, the backbone is incomplete, or the classifier is
            missing though it is wanted.
    """
    state = read_weights(path)
    fitting, report = fit_weights(model, best_weights(state), head == "keep")
    lacking = [name for name in report.missing if not name.startswith(HEAD)]
    if report.wrong or lacking:
        classes = all(text.startswith(HEAD) for text in report.wrong) and not lacking
        raise UserError(
            str(path),
            "the weights of this config's model",
            some([*report.wrong, *(f"{name} is missing" for name in lacking)]),
            "Set model.pretrained_head: fresh to train a classifier for other classes."
            if classes
            else "Set model.name and model.depth to what the file was made for.",
        )
    if not report.matched and not report.inflated:
        raise UserError(
            str(path), "weights of a ResNet", some(list(report.left_out)), "Use another file."
        )
    if head == "keep" and classes and list(state.get("classes") or classes) != list(classes):
        raise UserError(
            str(path),
            f"the classes {some(list(classes))}",
            some(list(state["classes"])),
            "Set model.pretrained_head: fresh to train a classifier for other classes.",
        )
    no_head = any(name.startswith(HEAD) for name in report.missing)
    if no_head and head == "keep" and report.family == "mmaction2":
        raise UserError(str(path), "a classifier", "none", "Set model.pretrained_head: fresh.")
    model.load_state_dict(fitting, strict=False)
    return report


def export_weights(
    weights: Mapping[str, torch.Tensor], path: str | Path, meta: Mapping[str, object]
) -> None:
    """Write a state dict for others: ``.pth`` as mmaction2 0.x reads it, or ``.safetensors``.

    Raises:
        UserError: for another ending, or a file that cannot be written.
    """
    path = Path(path)
    check_export(path)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(weights, str(part), {key: str(value) for key, value in meta.items()})
        else:
            torch.save({"meta": dict(meta), "state_dict": weights}, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch's own, where the folder cannot be written
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(
            str(path),
            "a file that can be written",
            str(getattr(error, "strerror", None) or error),
            "Choose another place.",
        ) from None


def check_export(path: str | Path, checkpoint: str | Path | None = None) -> None:
    """Refuse a file that :func:`export_weights` would not write, or that is a checkpoint of the
    same run.

    Args:
        checkpoint: file or run folder whose weights are exported.

    Raises:
        UserError: naming it.
    """
    path = Path(path)
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(
            str(path),
            "a name that ends in .pth or .safetensors",
            path.suffix or "none",
            "Rename it.",
        )
    if path.is_dir():
        raise UserError(str(path), "a file to write", "a folder", "Name a file in it.")
    if checkpoint is None or not path.exists():
        return
    beside = (
        Path(checkpoint, "checkpoints") if os.path.isdir(checkpoint) else Path(checkpoint).parent
    )
    if os.path.realpath(beside) == os.path.realpath(path.parent) and (
        os.path.isdir(checkpoint) or path.samefile(checkpoint) or beside.name == "checkpoints"
    ):
        raise UserError(
            "--out", "a new file, as a run needs its checkpoints", str(path), "Choose another name."
        )


def some(names: list[str]) -> str:
    """The first five of them, and how many more there are."""
    return "; ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
