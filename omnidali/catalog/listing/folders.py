"""Media found in folders, and the rule that nothing outside of a source's root is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from omnidali.catalog.listing.labels import UNLABELLED
from omnidali.errors import UserError
from omnidali.utils.text_files import is_line, is_text

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".jpe"}
VIDEO_ENDINGS = {
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".flv",
    ".mpg",
    ".mpeg",
    ".ts",
    ".m2ts",
    ".ivf",
    ".3gp",
    ".wmv",
}


# characters; the kernel takes no more, and looking at each folder on the way takes its time
MAX_PATH = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # a terminal would obey them
_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://|(file|concat|concatf|pipe|data|subfile|crypto|async|cache|fd):"
)


def is_video_name(path: str) -> bool:
    """Whether a path ends like a video file."""
    return os.path.splitext(path)[1].lower() in VIDEO_ENDINGS


def scan_folder(
    root: Path,
    kind: str,
    names: list[str] | None,
    leave_out: Callable[[str], None] = lambda path: None,
) -> tuple[list[tuple[str, int]], list[str]]:
    """Find media below ``root``: a folder of class folders (ImageFolder), or a folder of unlabelled
    files.

    Args:
        kind: ``image``; ``frames`` for folders that hold images; anything else for videos.
        names: class names; none: the sorted folder names are the classes.
        leave_out: is called with each path that is not UTF-8, which neither lists nor the catalog
            can hold.

    Returns:
        (path, label) in sorted order, and the folders that were visited.

    Raises:
        UserError: for a folder that is no class or cannot be read, and for no media at all.
    """
    endings = IMAGE_ENDINGS if kind in ("image", "frames") else VIDEO_ENDINGS
    folders = class_folders(root)
    for folder in folders if names is not None else ():
        if folder not in names:
            raise UserError(
                str(root / folder),
                f"a folder named like a class ({names[0]}, ...)",
                repr(folder),
                "Rename or move it, or use a list.",
            )
    labels = {folder: (names or folders).index(folder) for folder in folders}
    entries, visited = [], []
    for folder, files in walk(root, folders):
        visited.append(folder)
        relative = os.path.relpath(folder, root)
        label = labels.get(relative.split(os.sep)[0], UNLABELLED)
        found = [name for name in sorted(files) if os.path.splitext(name)[1].lower() in endings]
        if kind == "frames":
            found = [""] if found else []
        for path in (os.path.normpath(os.path.join(relative, name)) for name in found):
            if is_text(path):
                entries.append((path, label))
            else:
                leave_out(path)
    if not entries:
        raise UserError(
            str(root), f"{kind} files in class folders", "none", "Check root, or name a list."
        )
    if folders:  # loose files beside class folders have no class
        entries = [entry for entry in entries if entry[1] != UNLABELLED]
    return entries, visited


def walk(root: str | Path, folders: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, names of its files) of ``root`` and of all below its ``folders``, in sorted
    order.

    Args:
        folders: as :func:`class_folders` gives them; none: all of them, hidden ones too.

    Raises:
        UserError: for a folder that cannot be read, whose files would be gone for ever without a
            word.
    """

    def refuse(error: OSError) -> None:
        # what was deleted since its parent was listed is no loss: whoever comes a moment later
        # finds the same
        if not isinstance(error, FileNotFoundError):
            raise _unreadable(root, error) from None

    try:
        for folder, below, files in os.walk(root, onerror=refuse):
            below[:] = folders if folders and folder == str(root) else sorted(below)
            yield folder, files
    except RecursionError:
        raise UserError(
            str(root), "folders of a few levels", "hundreds of levels", "Flatten them."
        ) from None


def class_folders(root: str | Path) -> list[str]:
    """The sorted names of the folders in ``root``, hidden ones aside.

    Raises:
        UserError: if it cannot be read, or a name cannot be that of a class: lists and files of
            classes have lines.
    """
    try:
        names = sorted(
            entry.name
            for entry in os.scandir(root)
            if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError as error:
        raise _unreadable(root, error) from None
    for name in names:
        if not is_line(name):
            got = "a name with a line break" if is_text(name) else "a name that is not UTF-8"
            raise UserError(
                os.path.join(root, name),
                "a class folder whose name is a line of UTF-8",
                got,
                "Rename it.",
            )
    return names


def _unreadable(root: str | Path, error: OSError) -> UserError:
    return UserError(
        str(error.filename or root),
        "a folder that can be read",
        str(error.strerror),
        "Correct its permissions, or start again once its disk answers.",
    )


def escape_reason(root: str, path: str) -> str | None:
    """Why ``path`` does not stay below ``root``, or None if it does.

    ``root`` must be a real path (``os.path.realpath``). Links are followed.
    """
    if "\0" in path:
        return "path holds a NUL byte"
    if _CONTROL.search(path):
        return "path holds control characters"
    if len(path) > MAX_PATH:
        return "path is too long"
    if _URL.match(path):
        return "path is a URL"
    if os.path.isabs(path):
        return "path is absolute"
    if not (os.path.realpath(os.path.join(root, path)) + os.sep).startswith(
        root.rstrip(os.sep) + os.sep
    ):
        return "path leaves the root"
    return None
