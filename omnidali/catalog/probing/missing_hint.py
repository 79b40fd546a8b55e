"""Where a file that a list names in vain may lie after all: under the same name in another form.

Lists and media are made on different machines. A name has another Unicode form, backslashes,
quotes or an ending that the media lost when they were encoded again; or the list's paths begin with
a folder with which the root ends.
"""

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from omnidali.catalog.probing.root_guard import escape_reason
from omnidali.media_kind import MediaKind

# How the state of a file begins that is not there.
MISSING = "missing file"
# Of all that is read, copies of videos and photos usually have one of these; frames have none.
_ENDINGS = {
    MediaKind.VIDEO: (".mp4", ".avi", ".webm", ".mkv", ".mov"),
    MediaKind.UNTRIMMED: (".mp4", ".avi", ".webm", ".mkv", ".mov"),
    MediaKind.IMAGE: (".jpg", ".jpeg", ".png", ".webp"),
    MediaKind.FRAMES: ("",),
}
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_SEPARATORS = (",", ";", "\t", " ")  # of the fields of a line
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}")
_MANY = 20  # missing files of one folder, from which on its names are read at once
_LARGEST_FOLDER = 200_000  # names that are kept in memory
_COUNTED_FOLDERS = 10_000
_FEW_FOLDERS = 30  # below the root, in which files are looked for; class folders are more
_HOPELESS = 20  # missing files, after which no other is looked for there

# missing files by folder
_asked: Counter[str] = Counter()
# by root, how many files in a row were not below one of its folders
_not_below: Counter[str] = Counter()


def missing_state(root: str, path: str, kind: MediaKind, follows_links: bool = False) -> str:
    """The state of a file that is not there, with a hint if it is there in another form.

    Args:
        root: real path of the source's folder.
        path: of the list, below the root.
        kind: of the source.
        follows_links: whether links may lead out of the root.
    """
    folders = _Folders(root)
    if os.path.islink(os.path.join(root, path)):
        return f"{MISSING} (a link to a file that is gone)"
    if path.startswith("~"):
        return f"{MISSING} (no list expands ~: write the whole path)"
    for other, hint in _candidates(root, path, kind, folders):
        is_there = other and other != path and folders.holds(other)
        if is_there and escape_reason(root, other, follows_links) is None:
            return f"{MISSING} ({hint})"
    return MISSING


def _candidates(
    root: str, path: str, kind: MediaKind, folders: "_Folders"
) -> Iterator[tuple[str, str]]:
    """Yield other forms of a path, and what to do if one of them is there."""
    if "\\" in path:
        yield path.replace("\\", "/"), r"there with / instead of \: replace them in the list"
    stripped = path.strip(" \t,;")
    yield stripped, "there without the spaces or commas around it: correct the list"
    yield stripped.strip(_QUOTES), "there without the quotes around it: remove them from the list"
    if "%" in path:
        yield unquote(path), "there under its decoded name: decode %20 and the like in the list"
    if not path.isascii():
        yield from _other_forms(path, folders)

    for separator in _SEPARATORS:
        if separator in stripped:
            hint = "there without the last words of its name: name the list's `format:`"
            yield stripped.partition(separator)[0], hint
            yield stripped.rpartition(separator)[0], hint

    stem, ending = os.path.splitext(path)
    if not _ENDING.fullmatch(ending):  # what follows a dot in a name need not be an ending
        stem, ending = path, ""
    for changed in (ending.lower(), ending.upper()):
        yield stem + changed, f"there with the ending {changed}: correct the list, or rename it"
    for usual in _ENDINGS[kind]:
        hint = f"there with the ending {usual}" if usual else "there without the ending"
        yield stem + usual, f"{hint}: correct the list, or its `pattern`"
        if not ending[1:].isalpha():
            yield path + usual, f"{hint}: correct the list, or its `pattern`"

    # such as videos/a.mp4 below the root data/videos
    parts = path.split("/")
    for count in (1, 2):
        above = f"/{'/'.join(parts[:count])}"
        if len(parts) > count and root.endswith(above):
            hint = "there without the folders with which root ends: name the folder above as root"
            yield "/".join(parts[count:]), hint
    yield from _below_folders(root, path, folders)


def _below_folders(root: str, path: str, folders: "_Folders") -> Iterator[tuple[str, str]]:
    """Yield the path below a folder of the root, as of UCF-101 where root is the folder above."""
    first, is_below, _ = path.partition("/")
    if _not_below[root] >= _HOPELESS or (is_below and folders.holds(first)):
        return
    try:
        names = _sub_folders(root, os.stat(root).st_mtime_ns)
    except OSError:
        return
    for name in names:
        if folders.holds(f"{name}/{path}"):
            _not_below[root] = 0
            yield f"{name}/{path}", f"there below the folder {name} of root: name that as root"
            return
    _not_below[root] += 1


def _other_forms(path: str, folders: "_Folders") -> Iterator[tuple[str, str]]:
    """Yield the path with each name in that Unicode form in which it is there."""
    found = ""
    used = ""
    for name in path.split("/"):
        forms = {"": name, "NFC": _nfc(name), "NFD": _nfd(name)}
        there = next((form for form in forms if folders.holds(f"{found}{forms[form]}")), None)
        if there is None:
            return
        found += f"{forms[there]}/"
        used = there or used
    if used:
        hint = f"there in the Unicode form {used}: write the list in it, or rename the files"
        yield found.rstrip("/"), hint


_nfc = functools.partial(unicodedata.normalize, "NFC")
_nfd = functools.partial(unicodedata.normalize, "NFD")


class _Folders:
    """Answers which paths are there, without looking at the disk for each of them.

    Args:
        root: real path of the folder in which the paths start.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._names: dict[str, frozenset[str] | None] = {}

    def holds(self, path: str) -> bool:
        """Whether there is something at a path below the root, a link to nothing included."""
        full = os.path.normpath(os.path.join(self._root, path))
        if not f"{full}/".startswith(f"{self._root.rstrip('/')}/") or "\0" in full:
            return False
        folder, _, name = full.rpartition("/")
        names = self._names_of(folder)
        return name in names if names is not None else os.path.lexists(full)

    def _names_of(self, folder: str) -> frozenset[str] | None:
        """The names in a folder; None if it is cheaper to ask for each."""
        if folder in self._names:
            return self._names[folder]
        if len(_asked) > _COUNTED_FOLDERS:
            _asked.clear()
        _asked[folder] += 1

        names = None
        if _asked[folder] > _MANY:
            try:
                names = _read_names(folder, os.stat(folder).st_mtime_ns)
            except OSError:
                names = frozenset()
        self._names[folder] = names
        return names


@functools.lru_cache(maxsize=4)
def _sub_folders(root: str, changed_ns: int) -> Sequence[str]:
    """The folders in a folder as it was at a time; none if there are many."""
    names = []
    with os.scandir(root) as entries:
        for entry in entries:
            is_shown = entry.name.isprintable() and not entry.name.startswith(".")
            if is_shown and entry.is_dir():
                names.append(entry.name)
                if len(names) > _FEW_FOLDERS:
                    return ()
    return sorted(names)


@functools.lru_cache(maxsize=4)
def _read_names(folder: str, changed_ns: int) -> frozenset[str] | None:
    """The names in a folder as it was at a time; None if it is too large."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) > _LARGEST_FOLDER:
                return None
    return frozenset(names)
