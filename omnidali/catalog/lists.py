"""Which files a source names, with which labels: list files and class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from omnidali.errors import UserError

UNLABELLED = -1
MAX_LABEL = 1_000_000  # a slip in a list must not make a classifier that no memory holds
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".jpe"}
VIDEO_ENDINGS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".ts", ".m2ts", ".ivf",
                 ".3gp", ".wmv"}


class Entry(NamedTuple):
    """One named file: path relative to the source's root, and label."""

    path: str
    label: int


def read_class_names(path: Path) -> list[str]:
    """Class names, one a line; the line number, counted from 0, is the label.

    Raises:
        UserError: if the file is missing, empty or names a class twice.
    """
    names = [line.strip() for line in _read_lines(path, "classes")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UserError(str(path), "one class name a line", "an empty file", "Write the names in label order.")
    for number, name in enumerate(names, 1):
        if not name or names.index(name) != number - 1:
            raise UserError(f"{path}, line {number}", "a class name of its own", repr(name), "Correct the line.")
    return names


def read_list(path: Path, names: list[str] | None = None) -> Iterator[Entry]:
    """Yield the lines ``path label``; the label is split off from the right, so paths may hold spaces.

    Args:
        path: the list file, UTF-8.
        names: class names, which limit the labels.

    Raises:
        UserError: naming file and line.
    """
    count = 0
    for number, line in enumerate(_read_lines(path, "list"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        name, _, text = line.rpartition(" ") if " " in line else line.rpartition("\t")
        if not name.strip():
            raise UserError(where, "`path label`", repr(line[:200]), "Put the label behind the path.")
        if not (text.isascii() and text.isdigit()):
            raise UserError(where, "`path label` with a label that is 0 or more", repr(line[:200]),
                            "Put the class number behind the path.")
        label = int(text) if len(text) < 10 else MAX_LABEL + 1
        if label > MAX_LABEL:
            raise UserError(where, f"a label of at most {MAX_LABEL:,}", text, "Correct the line.")
        if names is not None and label >= len(names):
            raise UserError(where, f"a label below {len(names)}, the number of class names", text,
                            "Correct the label or add the class name.")
        count += 1
        yield Entry(name.strip(), label)
    if not count:
        raise UserError(str(path), "lines of `path label`", "an empty list", "Check that the right file is named.")


def scan_folder(root: Path, kind: str, names: list[str] | None) -> tuple[list[Entry], list[str]]:
    """Find media below ``root``: a folder of class folders, or a folder of unlabelled files.

    Args:
        names: class names; none: the sorted folder names are the classes.

    Returns:
        Entries in sorted order, and the folders that were visited.

    Raises:
        UserError: for a folder that is no class, and for no media at all.
    """
    endings = IMAGE_ENDINGS if kind == "image" else VIDEO_ENDINGS
    folders = class_folders(root)
    for folder in folders if names is not None else ():
        if folder not in names:
            raise UserError(str(root / folder), f"a folder named like a class ({names[0]}, ...)", repr(folder),
                            "Rename or move it, or use a list.")
    labels = {folder: (names or folders).index(folder) for folder in folders}
    entries, visited = [], []
    for folder, below, files in os.walk(root):
        below.sort()
        visited.append(_storable(folder))
        relative = os.path.relpath(folder, root)
        label = labels.get(relative.split(os.sep)[0], UNLABELLED)
        entries += [Entry(_storable(os.path.normpath(os.path.join(relative, name))), label) for name in sorted(files)
                    if os.path.splitext(name)[1].lower() in endings]
    if not entries:
        raise UserError(str(root), f"{kind} files in class folders", "none", "Check root, or name a list.")
    if folders:  # loose files beside class folders have no class
        entries = [entry for entry in entries if entry.label != UNLABELLED]
    return entries, visited


def _storable(path: str) -> str:
    """The path; a name that is not UTF-8 becomes one that is, and later a missing file."""
    return path.encode("utf-8", "backslashreplace").decode()


def class_folders(root: Path) -> list[str]:
    """The sorted names of the folders in ``root``, hidden ones aside."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _read_lines(path: Path, what: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from file
    except FileNotFoundError:
        raise UserError(str(path), f"a {what} file", "no such file", "Check the path and data_root.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"a readable {what} file in UTF-8", str(error), "Check the file.") from None


def escape_reason(root: str, path: str) -> str | None:
    """Why ``path`` does not stay below ``root``, or None if it does.

    ``root`` must be a real path (``os.path.realpath``). Links are followed.
    """
    if "\0" in path:
        return "path holds a NUL byte"
    if os.path.isabs(path):
        return "path is absolute"
    if not (os.path.realpath(os.path.join(root, path)) + os.sep).startswith(root.rstrip(os.sep) + os.sep):
        return "path leaves the root"
    return None
