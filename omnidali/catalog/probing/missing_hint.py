"""Where a file that a list names in vain may lie after all: under the same name in another form.

Lists and media are made on different machines. A name has another Unicode form, backslashes,
quotes or an ending that the media lost when they were encoded again; or the list's paths begin with
a folder with which the root ends.
"""

import functools
import itertools
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
_AROUND = " \t,;"
_SEPARATORS = (",", ";", "\t", " ")  # of the fields of a line
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}")
_MANY = 20  # missing files of one folder, from which on its names are read at once
_LARGEST_FOLDER = 200_000  # names that are kept in memory
_COUNTED_FOLDERS = 10_000
_FEW_FOLDERS = 30  # below the root, in which files are looked for; class folders are more
_HOPELESS = 20  # missing files, after which no other is looked for there

# Another form of a path, and what to do if that is there.
_Candidate = tuple[str, str]


class MissingFiles:
    """Looks for files that are not there under other forms of their names.

    It counts them, so that a list of a million missing files asks the disk rarely.
    """

    def __init__(self) -> None:
        # by folder
        self._asked: Counter[str] = Counter()
        # by root, how many in a row were not below one of its folders
        self._not_below: Counter[str] = Counter()

    def state_of(self, root: str, path: str, kind: MediaKind, follows_links: bool = False) -> str:
        """The state of a file that is not there, with a hint if it is there in another form.

        Args:
            root: real path of the source's folder.
            path: of the list, below the root.
            kind: of the source.
            follows_links: whether links may lead out of the root.
        """
        if os.path.islink(os.path.join(root, path)):
            return f"{MISSING} (a link to a file that is gone)"
        if path.startswith("~"):
            return f"{MISSING} (no list expands ~: write the whole path)"

        folders = _Folders(root, self._asked)
        candidates = itertools.chain(
            _other_spellings(path, folders),
            _without_last_words(path),
            _other_endings(path, kind),
            _without_first_folders(path, root),
            self._below_folders(path, root, folders),
        )
        for other, hint in candidates:
            is_there = other and other != path and folders.holds(other)
            if is_there and escape_reason(root, other, follows_links) is None:
                return f"{MISSING} ({hint})"
        return MISSING

    def _below_folders(self, path: str, root: str, folders: "_Folders") -> Iterator[_Candidate]:
        """Yield the path below a folder of the root, as of UCF-101 where root is above it."""
        first, is_below, _ = path.partition("/")
        if self._not_below[root] >= _HOPELESS or (is_below and folders.holds(first)):
            return
        try:
            names = _sub_folders(root, os.stat(root).st_mtime_ns)
        except OSError:
            return
        for name in names:
            if folders.holds(f"{name}/{path}"):
                self._not_below[root] = 0
                yield f"{name}/{path}", f"there below the folder {name} of root: name that as root"
                return
        self._not_below[root] += 1


def _other_spellings(path: str, folders: "_Folders") -> Iterator[_Candidate]:
    """Yield the path with other separators, without marks around it, decoded or recomposed."""
    if "\\" in path:
        yield path.replace("\\", "/"), r"there with / instead of \: replace them in the list"
    stripped = path.strip(_AROUND)
    yield stripped, "there without the spaces or commas around it: correct the list"
    yield stripped.strip(_QUOTES), "there without the quotes around it: remove them from the list"
    if "%" in path:
        yield unquote(path), "there under its decoded name: decode %20 and the like in the list"
    if not path.isascii():
        yield from _other_forms(path, folders)


def _without_last_words(path: str) -> Iterator[_Candidate]:
    """Yield the path without what may be other fields of its line."""
    stripped = path.strip(_AROUND)
    for separator in _SEPARATORS:
        if separator in stripped:
            hint = "there without the last words of its name: name the list's `format:`"
            yield stripped.partition(separator)[0], hint
            yield stripped.rpartition(separator)[0], hint


def _other_endings(path: str, kind: MediaKind) -> Iterator[_Candidate]:
    """Yield the path with its ending in another case, and with those that copies have."""
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


def _without_first_folders(path: str, root: str) -> Iterator[_Candidate]:
    """Yield the path without the folders with which the root ends.

    Such is videos/a.mp4 below the root data/videos.
    """
    parts = path.split("/")
    for count in (1, 2):
        above = f"/{'/'.join(parts[:count])}"
        if len(parts) > count and root.endswith(above):
            hint = "there without the folders with which root ends: name the folder above as root"
            yield "/".join(parts[count:]), hint


def _other_forms(path: str, folders: "_Folders") -> Iterator[_Candidate]:
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
        asked: counts the missing files of each folder.
    """

    def __init__(self, root: str, asked: Counter[str]) -> None:
        self._root = root
        self._asked = asked
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
        if len(self._asked) > _COUNTED_FOLDERS:
            self._asked.clear()
        self._asked[folder] += 1

        names = None
        if self._asked[folder] > _MANY:
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
