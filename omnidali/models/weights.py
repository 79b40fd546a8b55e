"""Files of weights: read without trust, checked by a checksum, and written for other projects."""

import hashlib
import io
import itertools
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from omnidali.errors import UserError
from omnidali.models.foreign_types import as_list
from omnidali.models.safe_load import META, WEIGHT_ENTRIES, read_entries
from omnidali.utils.atomic_write import write_whole

# The entry of a checkpoint that holds the digest of the others.
DIGEST = "digest"
_DIGEST_BEGIN = "sha256:"


def read_weights(path: str | Path, *, foreign: bool = True) -> dict[str, Any]:
    """Read a checkpoint file without running code from it.

    Args:
        path: ``.safetensors``, or a file of torch.save: ours, mmaction2's, torchvision's, timm's.
        foreign: whether the file may be another project's. NumPy's scalars are then plain values,
            its arrays are for :func:`~omnidali.models.foreign_types.as_list`, and other objects of
            NumPy and mmengine do nothing.

    Returns:
        The file's entries, with the tensors under ``state_dict``, and averaged ones under ``ema``
        if the file has them under the same names.

    Raises:
        UserError: if it is missing, damaged, holds more than plain data, or holds no weights.
    """
    entries = read_entries(Path(path), foreign=foreign)
    weights = _find_weights(entries)
    if weights is None:
        got = type(entries).__name__
        if isinstance(entries, dict):
            keys = [key[:50] for key in itertools.islice(entries, 20) if isinstance(key, str)]
            got = f"the entries {', '.join(keys)[:200]}"
        raise UserError(
            str(path),
            "a checkpoint with weights, bare or under state_dict",
            got,
            "Use another one.",
        )

    state = {**({} if weights is entries else entries), "state_dict": dict(weights)}
    _check_tensors(path, state["state_dict"])
    ema = state.get("ema")
    has_average = isinstance(ema, Mapping) and ema.keys() == state["state_dict"].keys()
    if has_average:
        _check_tensors(path, ema)
    if state.get("classes") is not None:
        names = as_list(state["classes"])
        if names is None or not all(isinstance(name, str) for name in names):
            raise UserError(str(path), "names under classes", "something else", "Use another file.")
        state["classes"] = names
    _check_digest(path, state)
    if ema is not None and not has_average:
        state["ema"] = None  # what other projects keep there
    return state


def best_weights(state: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
    """The averaged weights of a checkpoint if it has them, else the plain ones."""
    return state.get("ema") or state["state_dict"]


def class_names(state: Mapping[str, Any]) -> list[str]:
    """What a checkpoint holds as the names of its classes, in label order; empty if nothing.

    Ours stand under ``classes``, those of mmaction2 0.x under ``CLASSES`` in ``meta``, and those of
    1.x in its ``dataset_meta``.
    """
    meta = state.get("meta")
    places = [state, meta, meta.get("dataset_meta") if isinstance(meta, Mapping) else None]
    for place in places:
        if isinstance(place, Mapping):
            for key in ("classes", "CLASSES"):
                names = as_list(place.get(key)) or []
                are_names = names and all(isinstance(name, str) for name in names)
                # an export has numbers in `meta` if the classes have no names
                if are_names and (place is state or names != list(map(str, range(len(names))))):
                    return names
    return []


def are_same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether class names are the same in the same order, in any Unicode form.

    Underscores count as spaces if the names differ without them, too.

    >>> are_same_classes(["long_jump", "run"], ["long jump", "run"])
    True
    >>> are_same_classes(["a_b", "a b"], ["a b", "a_b"])
    False
    """
    names = [unicodedata.normalize("NFC", name) for name in one]
    others = [unicodedata.normalize("NFC", name) for name in other]
    if names == others:
        return True
    spaced = [name.replace("_", " ") for name in names]
    are_different = len(set(spaced)) == len(spaced)
    return are_different and spaced == [name.replace("_", " ") for name in others]


def _find_weights(entries: Any) -> Mapping[Any, Any] | None:
    """The entry with the weights, or ``entries`` itself if it holds tensors alone."""
    if not isinstance(entries, dict):
        return None
    for key in WEIGHT_ENTRIES:
        inner = entries.get(key)
        if isinstance(inner, Mapping) and (
            key == "state_dict" or any(map(torch.is_tensor, inner.values()))
        ):
            return inner
    return entries if entries and all(map(torch.is_tensor, entries.values())) else None


def _check_digest(path: str | Path, state: Mapping[str, object]) -> None:
    """Refuse a file of ours with other contents than those that were saved."""
    found = state.get(DIGEST)
    is_ours = "loader" in state or (isinstance(found, str) and found.startswith(_DIGEST_BEGIN))
    if DIGEST not in state or not is_ours:
        return
    try:
        is_same = found == digest_of(state)
    except (RuntimeError, TypeError, ValueError):  # tensors of a kind that ours are not
        is_same = False
    if not is_same:
        raise UserError(
            str(path),
            "the contents that were saved",
            "others than its checksum says",
            "The file is damaged; use another one, such as previous.pt beside it.",
        )


def _check_tensors(path: str | Path, weights: object) -> None:
    """Refuse all but a mapping of names to plain tensors that the file itself holds."""
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
        elif value.is_complex():
            got = f"complex numbers under {name[:100]!r}"
        elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
            # It shows one number many times.
            got = f"a tensor that claims more numbers than it has under {name[:100]!r}"
        if got:
            raise UserError(str(path), "weights by name", got, "Use another file.")


def digest_of(state: Mapping[str, object]) -> str:
    """SHA-256 over all entries but the digest itself, in their order.

    torch's own format does not notice flipped bits.

    >>> digest_of({"a": torch.zeros(2)}) == digest_of({"a": torch.zeros(2), "digest": "x"})
    True
    """
    digest = hashlib.sha256()
    _add(digest, {name: value for name, value in state.items() if name != DIGEST})
    return f"{_DIGEST_BEGIN}{digest.hexdigest()}"


def _add(digest: "hashlib._Hash", value: object) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        # Only one tensor at a time has a second place in memory.
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    elif isinstance(value, Mapping):
        digest.update(b"{")
        for name, inner in value.items():
            digest.update(f"{name!r}:".encode())
            _add(digest, inner)
        digest.update(b"}")
    elif isinstance(value, (list, tuple)):
        digest.update(b"[")
        for inner in value:
            _add(digest, inner)
        digest.update(b"]")
    else:
        digest.update(f"{value!r},".encode())


def export_weights(
    weights: Mapping[str, torch.Tensor], path: str | Path, meta: Mapping[str, object]
) -> None:
    """Write a state dict for others: ``.safetensors``, or else as mmaction2 0.x reads it.

    Args:
        weights: by name.
        path: of the file.
        meta: facts about the weights as plain values: the file's ``meta``; of a safetensors file,
            whose metadata is text, ``meta`` of that, as JSON.

    Raises:
        OSError: if it cannot be written.
    """
    path = Path(path)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    if path.suffix == ".safetensors":
        data = safetensors.torch.save(weights, metadata={"format": "pt", META: json.dumps(meta)})
    else:
        buffer = io.BytesIO()
        torch.save({"meta": dict(meta), "state_dict": weights}, buffer)
        data = buffer.getvalue()
    write_whole(path, data)
