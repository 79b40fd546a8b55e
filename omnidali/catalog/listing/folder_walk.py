"""The folders of a source: its class folders and all below them, through links that may be used."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from omnidali.catalog.listing.left_out import LeftOut
from omnidali.catalog.probing.root_guard import LINK_LEAVES, escape_reason
from omnidali.errors import UserError
from omnidali.utils.text_files import is_line, is_text

HIDDEN_FOLDER = "hidden folder, or one of an operating system"
LINK_UP = "link to a folder above it"
VISITED = "folder that its class has by another path"
# what macOS, Synology, Linux and Windows leave in folders and archives
_SYSTEM_FOLDERS = {
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
}


def is_class_name(folder: str) -> bool:
    """Whether a folder may be a class by its name: neither hidden nor an operating system's."""
    return not folder.startswith(".") and folder not in _SYSTEM_FOLDERS


def class_folders(root: str | Path) -> list[str]:
    """The sorted names of the class folders in ``root``; links to folders and empty ones count.

    Raises:
        UserError: if it cannot be read, or a name cannot be that of a class: it has to fit into a
            line of a list.
    """
    try:
        # os.path.isdir, as entry.is_dir fails at a link to itself
        names = sorted(
            entry.name
            for entry in os.scandir(root)
            if is_class_name(entry.name) and os.path.isdir(entry)
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


class FolderWalk:
    """Walks over the folders of a source in sorted order; links come last of their class.

    Args:
        root: of the source.
        left_out: receives the folders that are left out.
        follows_links: whether links may lead out of the root.
    """

    def __init__(self, root: str | Path, left_out: LeftOut, follows_links: bool = False) -> None:
        self._root = str(root)
        self._real_root = os.path.realpath(root)
        self._left_out = left_out
        self._follows_links = follows_links

    def folders(self, classes: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """Yield (folder, names of its files) of the root, and of all below its class folders.

        Args:
            classes: as :func:`class_folders` gives them.

        Raises:
            UserError: for a folder that cannot be read; its files would be gone without a word.
        """
        try:
            top = next(self._list(self._root), None)
            if top is not None:
                folder, below, files = top
                self._leave_out(folder, [name for name in below if not is_class_name(name)])
                yield folder, files
            for name in classes:
                yield from self._class(os.path.join(self._root, name))
        except RecursionError:
            raise UserError(
                self._root, "folders of a few levels", "hundreds of levels", "Flatten them."
            ) from None

    def _class(self, top: str) -> Iterator[tuple[str, list[str]]]:
        # a farm of links may reach one folder in any number of ways
        seen: set[tuple[int, int]] = set()
        starts = [top]
        for start in starts:
            reason = self._link_reason(start) if os.path.islink(start) else None
            if reason is not None:
                self._left_out.add(self._relative(start), reason)
                continue

            for folder, below, files in self._list(start):
                if not self._is_new(folder, seen):
                    below.clear()
                    continue
                self._leave_out(folder, [name for name in below if not is_class_name(name)])
                below[:] = sorted(filter(is_class_name, below))

                links = [name for name in below if os.path.islink(os.path.join(folder, name))]
                starts += [os.path.join(folder, name) for name in links]
                below[:] = [name for name in below if name not in links]
                yield folder, files

    def _list(self, folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
        def refuse(error: OSError) -> None:
            # a folder deleted since its parent was listed is no loss: a start a moment later would
            # find the same
            if not isinstance(error, FileNotFoundError):
                raise _unreadable(self._root, error) from None

        return os.walk(folder, onerror=refuse)

    def _is_new(self, folder: str, seen: set[tuple[int, int]]) -> bool:
        """Whether a folder has not been visited yet; of one that was, the path is left out."""
        try:
            status = os.stat(folder)
        except FileNotFoundError:
            return False

        place = (status.st_dev, status.st_ino)
        if place in seen:
            self._left_out.add(self._relative(folder), VISITED)
            return False
        seen.add(place)
        return True

    def _link_reason(self, link: str) -> str | None:
        """Why a link to a folder is not followed; None if it is."""
        target = os.path.realpath(link)
        here = os.path.realpath(os.path.dirname(link))
        if f"{here}{os.sep}".startswith(f"{target.rstrip(os.sep)}{os.sep}"):
            return LINK_UP
        reason = escape_reason(self._real_root, self._relative(link), self._follows_links)
        return None if reason is None else LINK_LEAVES

    def _leave_out(self, folder: str, names: Sequence[str]) -> None:
        for name in sorted(names):
            self._left_out.add(self._relative(os.path.join(folder, name)), HIDDEN_FOLDER)

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._root)


def _unreadable(root: str | Path, error: OSError) -> UserError:
    return UserError(
        str(error.filename or root),
        "a folder that can be read",
        str(error.strerror),
        "Correct its permissions, or start again once its disk answers.",
    )
