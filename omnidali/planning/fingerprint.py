"""The differences between a plan and the one that a checkpoint was made with, in words."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.media_kind import MediaKind
from omnidali.utils.untrusted_text import for_terminal

_NAMES = {
    "batch": "train.batch (slots of a step)",
    "ratio": "train.ratio",
    "mixup": "train.mixup and mixup_alpha",
    "order of sources": "sources, in their order",
}
_FILES = ("widths", "heights", "frames", "firsts", "starts", "positives")


def describe_content(table: SourceTable, pattern: str | None = None) -> dict[str, object]:
    """The table's fingerprint, and what it holds in a few numbers, which explain a difference.

    The numbers are checksums that take 0.1 s for ten million rows: keep them.

    Args:
        table: of the source.
        pattern: by which the frames of a folder were chosen.
    """
    labels = table.labels[table.labels >= 0]
    sets = table.label_sets
    columns = [getattr(table, name) for name in _FILES]
    return {
        "content": table.fingerprint,
        "holds": {
            "kind": table.kind.value,
            "pattern": pattern if table.kind.is_folder else None,
            "samples": len(table),
            "pieces": len(table.records),
            "labels": _checksum(table.labels),
            "classes": _checksum(np.bincount(labels)),
            "files": [_checksum(column) for column in columns if column is not None],
            "irregular": [list(table.irregular[0]), table.irregular[1]],
            **({} if sets is None else {"label sets": _checksum(sets.values)}),
        },
    }


def find_differences(old: object, new: object, where: str = "") -> list[str]:
    """Every difference of two fingerprints, in words; none if they plan the same.

    Args:
        old: of the checkpoint, which may be from before ``holds`` was written.
        new: of the present plan.
        where: key of the two in the whole fingerprints.
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

    # A checkpoint has lists where a plan has tuples.
    old, new = (list(value) if isinstance(value, tuple) else value for value in (old, new))
    return [] if old == new else [f"{where}: {_text(old)} became {_text(new)}"]


def _content_differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> list[str]:
    """What became of the samples of one source."""
    had = old.get("holds")
    has = new["holds"]
    found = [
        f"{where}.{key}: {_text(had[key])} became {_text(has[key])}"
        for key in ("kind", "pattern")
        if had and had[key] != has[key]
    ]

    # A table's fingerprint is one word for its list, and words on how rows were chosen from it.
    old_list, _, old_choice = old["content"].partition(" ")
    new_list, _, new_choice = new["content"].partition(" ")
    if old_choice != new_choice:
        found.append(f"{where}: {old_choice or 'all samples'} became {new_choice or 'all samples'}")
    if old_list == new_list:
        return found
    if had is None or old_choice != new_choice:
        found.append(
            f"{where}: its list, labels or files changed; it has {has['samples']:,} samples now"
        )
        return found

    changes = _changes(had, has)
    alike = "" if had["samples"] != has["samples"] else f" ({has['samples']:,} samples, as before)"
    return [*found, f"{where} {' and '.join(changes)}{alike}"]


def _changes(had: Mapping[str, Any], has: Mapping[str, Any]) -> list[str]:
    """What differs between two contents of a source, the most telling things alone."""
    renumbered = has["irregular"][1] and had.get("irregular") != has["irregular"]
    changes = [
        f"had {had[key]:,} {key} and has {has[key]:,}"
        for key in ("samples", "pieces")
        if had[key] != has[key] and not (key == "pieces" and had["samples"] == had["pieces"])
    ]

    if changes:
        length = " or window_seconds" if has["kind"] == MediaKind.UNTRIMMED else ""
        changes[-1] += (
            f", as its list{length} changed, or files came, went or cannot be used any more"
        )
    elif had["classes"] != has["classes"]:
        changes = ["has other labels, with other numbers of samples in the classes"]
    elif had["labels"] != has["labels"] or had.get("label sets") != has.get("label sets"):
        changes = ["has its samples in another order, or labels that were exchanged"]
    elif had["files"] != has["files"]:
        changes = ["has files of other sizes or lengths, or in another order"]
    elif not renumbered:
        changes = ["has other paths in its list, with the same labels, sizes and lengths"]

    # Frames were numbered by timestamps when the run began, which was wrong for some files.
    if renumbered:
        paths, count = has["irregular"]
        names = for_terminal(", ".join(paths))
        more = f" and {count - len(paths):,} more" if count > len(paths) else ""
        changes.append(
            f"has files whose frames had wrong numbers when the run began: {names}{more}"
        )
    return changes


def _checksum(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)


def _text(value: object) -> str:
    """A setting, about as YAML shows it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return "none" if value is None else str(value)
