"""Whether a plan is the one that a checkpoint was made with, and if not, what differs, in words."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from omnidali.catalog.database.store import SourceTable
from omnidali.utils.untrusted_text import for_terminal

_NAMES = {
    "batch": "train.batch (slots of a step)",
    "ratio": "train.ratio",
    "mixup": "train.mixup and mixup_alpha",
    "order of sources": "sources, in their order",
}
_FILES = ("widths", "heights", "frames", "firsts", "starts", "positives")


def describe_content(table: SourceTable, pattern: str | None = None) -> dict[str, object]:
    """The table's fingerprint, and what it holds in a few numbers, which say what it is that
    differs.

    The numbers are checksums that take 0.1 s for ten million rows: keep them.

    Args:
        pattern: by which the frames of a folder were chosen.
    """
    labels = table.labels[table.labels >= 0]
    columns = [getattr(table, name) for name in _FILES]
    return {
        "content": table.fingerprint,
        "holds": {
            "kind": table.kind.value,
            "pattern": pattern if table.kind == "frames" else None,
            "samples": len(table),
            "pieces": len(table.records),
            "labels": _checksum(table.labels),
            "classes": _checksum(np.bincount(labels)),
            "files": [_checksum(column) for column in columns if column is not None],
            "irregular": [list(table.irregular[0]), table.irregular[1]],
        },
    }


def find_differences(old: object, new: object, where: str = "") -> list[str]:
    """Every place in which two fingerprints differ, in words; none where they plan the same.

    Args:
        old: of the checkpoint, which may be from before ``holds`` was written. new: of the present
            plan.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in {**old, **new}:
            name = f"{where}.{key}" if where else _NAMES.get(key, str(key))
            if where == "sources" and (key not in old or key not in new):
                found.append(f"{name} is {'new' if key in new else 'gone'}")
            elif key == "content":
                found += _content_differences(old, new, where)
            elif key != "holds" and not (
                key == "order of sources" and set(old[key]) != set(new[key])
            ):
                found += find_differences(old.get(key), new.get(key), name)
        return found
    same = (
        list(old) == list(new)
        if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple))
        else old == new
    )
    return [] if same else [f"{where}: {_text(old)} became {_text(new)}"]


def _content_differences(old: Mapping, new: Mapping, where: str) -> list[str]:
    """What became of the samples of one source."""
    had, has = old.get("holds"), new["holds"]
    found = [
        f"{where}.{key}: {_text(had[key])} became {_text(has[key])}"
        for key in ("kind", "pattern")
        if had and had[key] != has[key]
    ]
    (listed_then, chosen_then), (listed, chosen) = (
        text["content"].split(" ", 1) if " " in text["content"] else (text["content"], "")
        for text in (old, new)
    )
    if chosen_then != chosen:
        found.append(f"{where}: {chosen_then or 'all samples'} became {chosen or 'all samples'}")
    if listed_then == listed:
        return found
    if had is None or chosen_then != chosen:
        return [
            *found,
            f"{where}: its list, labels or files changed; it has {has['samples']:,} samples now",
        ]
    renumbered = has["irregular"][1] and had.get("irregular") != has["irregular"]
    told = [
        f"had {had[key]:,} {key} and has {has[key]:,}"
        for key in ("samples", "pieces")
        if had[key] != has[key] and not (key == "pieces" and had["samples"] == had["pieces"])
    ]
    if told:
        cut = " or window_seconds" if has["kind"] == "untrimmed" else ""
        told[-1] += f", as its list{cut} changed, or files came, went or cannot be used any more"
    elif had["classes"] != has["classes"]:
        told = ["has other labels, with other numbers of samples in the classes"]
    elif had["labels"] != has["labels"]:
        told = ["has its samples in another order, or labels that were exchanged"]
    elif had["files"] != has["files"]:
        told = ["has files of other sizes or lengths, or in another order"]
    elif not renumbered:
        told = ["has other paths in its list, with the same labels, sizes and lengths"]
    if renumbered:
        told.append(_renumbered(*has["irregular"]))
    alike = "" if had["samples"] != has["samples"] else f" ({has['samples']:,} samples, as before)"
    return [*found, f"{where} {' and '.join(told)}{alike}"]


def _renumbered(paths: list[str], count: int) -> str:
    """Frames were numbered by timestamps when the run began, which was wrong for some files."""
    more = f" and {count - len(paths):,} more" if count > len(paths) else ""
    return f"has files whose frames had wrong numbers when the run began: {for_terminal(', '.join(paths))}{more}"


def _checksum(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values))


def _text(value: object) -> str:
    """A setting as it stands in YAML, about."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return "none" if value is None else str(value)
