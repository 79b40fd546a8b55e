"""Media found in folders: by their content where a name does not tell, never by a name alone."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from omnidali.catalog.listing.class_files import ClassIndex
from omnidali.catalog.listing.folder_walk import FolderWalk, class_folders
from omnidali.catalog.listing.labels import UNLABELLED
from omnidali.catalog.listing.left_out import LeftOut
from omnidali.catalog.probing.formats import HEAD_BYTES, IMAGE_ENDINGS, VIDEO_ENDINGS
from omnidali.catalog.probing.probe import UNREADABLE
from omnidali.catalog.probing.root_guard import escape_reason
from omnidali.catalog.probing.sniff import refusal_of
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.text_files import NOT_UTF8, is_text

HIDDEN_FILE = "hidden file"
NO_FRAME = "folder with files of which none is a frame"
OUTSIDE_CLASSES = "file beside the class folders"


def is_video_name(path: str) -> bool:
    """Whether a path ends like a video file."""
    return os.path.splitext(path)[1].lower() in VIDEO_ENDINGS


def endings_of(kind: MediaKind) -> frozenset[str]:
    """The endings of the files that items of a kind are, or consist of."""
    return IMAGE_ENDINGS if kind.has_images else VIDEO_ENDINGS


def scan_folder(
    root: Path,
    kind: MediaKind,
    names: list[str] | None,
    left_out: LeftOut,
    follows_links: bool = False,
) -> tuple[list[tuple[str, int]], list[str]]:
    """Find media below ``root``, a folder of class folders (ImageFolder) or of unlabelled files.

    A file with a usual ending of the kind is an item; the probe looks into it. Of any other file
    the first bytes decide.

    Args:
        root: of the source.
        kind: of the source.
        names: class names; none: the sorted folder names are the classes.
        left_out: receives what is left out, and class folders without an item.
        follows_links: whether links may lead out of the root.

    Returns:
        (path, label) in sorted order, and the folders that were visited.

    Raises:
        UserError: for a folder that is no class or cannot be read, and for no media at all.
    """
    folders = class_folders(root)
    labels = _folder_labels(root, folders, names)
    real_root = Path(os.path.realpath(root))

    entries = []
    visited = []
    filled = set()
    for folder, files in FolderWalk(root, left_out, follows_links).folders(folders):
        visited.append(folder)
        relative = os.path.relpath(folder, root)
        top = relative.split(os.sep)[0]
        is_loose = bool(folders) and top not in labels

        for path in _items_in(real_root, relative, files, kind, left_out, follows_links):
            if is_loose:
                left_out.add(path, OUTSIDE_CLASSES)
            else:
                filled.add(top)
                entries.append((path, labels.get(top, UNLABELLED)))

    if not entries:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.counts.items())
        raise UserError(
            str(root),
            f"{kind} files in class folders",
            f"none ({reasons})" if reasons else "none",
            "Check root, or name a list.",
        )
    for folder in folders:
        if folder not in filled:
            left_out.add(folder, f"class folder without {kind} files, which keeps its number")
    return entries, visited


def _items_in(
    root: Path,
    folder: str,
    files: list[str],
    kind: MediaKind,
    left_out: LeftOut,
    follows_links: bool,
) -> Iterator[str]:
    """Yield the paths of the items of one folder; what is left out goes to ``left_out``."""
    paths = (os.path.normpath(os.path.join(folder, name)) for name in sorted(files))
    found: Iterable[tuple[str, str | None]] = (
        (path, _refusal_of_file(root, path, kind, follows_links)) for path in paths
    )
    # a folder with a frame is itself the item, and what lies beside its frames is no loss
    if kind.is_folder:
        has_frame = any(reason is None for _, reason in found)
        is_counted = has_frame or (files and folder != os.curdir)
        found = [(os.path.normpath(folder), None if has_frame else NO_FRAME)] if is_counted else []

    for path, reason in found:
        if reason is None and not is_text(path):  # neither lists nor the catalog can hold it
            reason = NOT_UTF8
        if reason is None:
            yield path
        else:
            left_out.add(path, reason)


def _refusal_of_file(root: Path, path: str, kind: MediaKind, follows_links: bool) -> str | None:
    """Why a file is no item, by its name or else by its first bytes; None if it is one."""
    name = os.path.basename(path)
    if name.startswith("."):
        return HIDDEN_FILE
    if os.path.splitext(name)[1].lower() in endings_of(kind):
        return None
    reason = escape_reason(str(root), path, follows_links) if is_text(path) else None
    if reason is not None:
        return reason
    try:
        full = os.path.join(root, path)
        if not stat.S_ISREG(os.stat(full).st_mode):  # a pipe would be waited for
            return "not a regular file"
        with open(full, "rb", buffering=0) as file:
            return refusal_of(file.read(HEAD_BYTES), kind)
    except FileNotFoundError:
        return "link to a file that is not there"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "link that leads to itself"
        return f"{UNREADABLE}: {error.strerror}"


def _folder_labels(root: Path, folders: list[str], names: list[str] | None) -> dict[str, int]:
    names = folders if names is None else names
    index = ClassIndex(names)
    labels = {}
    for folder in folders:
        label = index.find(folder)
        if label is None:
            raise UserError(
                str(root / folder),
                f"a folder named like a class ({names[0]}, ...)",
                repr(folder),
                "Rename or move it, or use a list.",
            )
        labels[folder] = label
    return labels
