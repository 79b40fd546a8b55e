"""WebDataset tars: their members, found by walking the headers; nothing is ever unpacked.

Members of one sample share everything up to the first dot of their file name, and the rest says
what they are: ``x/0001.jpg`` with ``x/0001.cls`` (the class as text) or ``x/0001.json`` (its
``label``, ``cls`` or ``class``; a list there, or under ``labels``, holds several), while
``x/0001.seg.png`` is no photo. Without a class of either kind, the first folder in the member's
name is its class.
"""

import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from omnidali.catalog.listing.folder_walk import is_class_name
from omnidali.catalog.listing.folders import endings_of
from omnidali.catalog.listing.labels import label_text, label_texts, split_labels
from omnidali.catalog.listing.left_out import LeftOutItem
from omnidali.catalog.probing.formats import IMAGE_ENDINGS, VIDEO_ENDINGS
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.probe import UNREADABLE
from omnidali.catalog.probing.root_guard import escape_reason
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.text_files import NOT_UTF8, is_text, parse_json

HIDDEN = "member that is hidden, or an operating system's"
SEVERAL_CLASSES = "member with several classes, which `multi_label: true` reads"
_CLASS_KEYS = ("label", "cls", "class")  # of a sample's JSON
_LIST_KEY = "labels"  # which holds a list
_SMALL = 1 << 20  # largest member that is read for its label, and longest header, bytes
_MAX_TARS = 1_000_000  # of a pattern with ranges
# By the first bytes of a file: the format, and the program that unpacks it.
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"PK\3\4": ("zip", "unzip"),
}
_COMPRESSED_ENDINGS = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".lz4", ".zip")


class TarMember(NamedTuple):
    """A member that is a media file.

    Attributes:
        name: of the member.
        offset: of its data in the tar, bytes.
        size: of its data, bytes.
        label: its class as text; None without one.
        labels: its classes, where its JSON has a list of them.
    """

    name: str
    offset: int
    size: int
    label: str | None
    labels: tuple[str, ...] = ()

    def texts(self, multi_label: bool) -> Sequence[str]:
        """Its labels as text, several of them only where that is asked for."""
        if multi_label and self.labels:
            return self.labels
        if self.label is None:
            return ()
        return split_labels(self.label) if multi_label else (self.label,)


def find_tars(root: Path, pattern: str, where: str) -> list[str]:
    """Find tars by a pattern with ``*``, ``?`` and ranges such as ``{000..099}``.

    Args:
        root: folder that the pattern starts from.
        pattern: of their names below it.
        where: key of the config, for errors.

    Raises:
        UserError: if a file of a range is missing, or no file fits.
    """
    try:
        names = _expand(pattern)
    except ValueError as error:
        raise UserError(
            where, "a pattern of tars", f"{pattern!r} ({error})", "Correct it."
        ) from None

    found: list[str] = []
    for name in names:
        matches = _glob(root, name, where)
        if not matches:
            raise _no_tars(root, name, where)
        found += matches
    return found


def _glob(root: Path, name: str, where: str) -> list[str]:
    try:
        return sorted(str(path.relative_to(root)) for path in root.glob(name))
    except (NotImplementedError, ValueError, IndexError) as error:
        raise UserError(
            where, "a pattern of tars below root", f"{name!r} ({error})", "Correct it."
        ) from None


def _no_tars(root: Path, name: str, where: str) -> UserError:
    """The error of a pattern that no file fits, maybe as the tars are compressed."""
    packed = sorted(
        path
        for ending in _COMPRESSED_ENDINGS
        for begin in {name, name.removesuffix(".tar")}
        if not begin.endswith("**")
        for path in _glob(root, begin + ending, where)[:1]
    )
    if not packed:
        return UserError(
            where, "tars that exist", f"no {name} in {root}", "Check the pattern and root."
        )
    return UserError(
        where,
        "tars that exist",
        f"no {name} in {root}, but {packed[0]}, which is compressed",
        "Decompress it, such as with gunzip: members are read in place.",
    )


def read_tar(
    root: str, name: str, kind: MediaKind, follows_links: bool = False
) -> tuple[list[TarMember], list[LeftOutItem]]:
    """Walk the headers of one tar.

    Args:
        root: folder that the name starts from.
        name: of the tar.
        kind: which members are media.
        follows_links: whether the tar may be a link that leads out of the root.

    Returns:
        The media files, in order; and what is left out: members, or the tar itself.
    """
    members: list[TarMember] = []
    left_out: list[LeftOutItem] = []
    classes: dict[str, str | tuple[str, ...]] = {}
    path = os.path.join(root, name)
    try:
        _check(root, name, follows_links)
        with _Headers(path) as headers, open(path, "rb") as file:
            reasons = _walk(headers, file, kind, members=members, classes=classes)
            left_out += (LeftOutItem(f"{name}:{member}", reason) for member, reason in reasons)
    except UnsupportedMediaError as refusal:
        left_out.append(LeftOutItem(name, str(refusal)))
    except OSError as error:
        left_out.append(LeftOutItem(name, f"{UNREADABLE} tar: {error.strerror or error}"))
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        left_out.append(LeftOutItem(name, f"tar broken: {error}"))

    # the class of a member may stand after it
    return [_with_classes(member, classes) for member in members], left_out


class _Headers(io.FileIO):
    """A tar of which only headers are read, whatever a header says of its length."""

    def read(self, count: int | None = -1, /) -> bytes:
        if count is None or not 0 <= count <= _SMALL:
            raise tarfile.ReadError("a header of endless length")
        return super().read(count)


class _TarWalk(tarfile.TarFile):
    members: list[tarfile.TarInfo]  # which the base class keeps for random access


def _walk(
    headers: _Headers,
    file: BinaryIO,
    kind: MediaKind,
    *,
    members: list[TarMember],
    classes: dict[str, str | tuple[str, ...]],
) -> Iterator[tuple[str, str]]:
    """Fill ``members``, and ``classes`` with the class of each sample, or its classes.

    Yields:
        Name and reason of each member that is left out.
    """
    size = os.fstat(file.fileno()).st_size
    endings = endings_of(kind)
    position = -1
    names = set()
    # UTF-8 whatever the locale says
    with _TarWalk.open(fileobj=headers, mode="r:", encoding="utf-8") as archive:
        for member in archive:
            archive.members.clear()
            if member.offset <= position or member.size < 0:
                # and would again, without end
                raise tarfile.ReadError("headers that lead backwards")
            position = member.offset
            if member.isdir():
                continue

            key, ending = _split(member.name)
            reason = _odd(member, size) or (HIDDEN if _is_hidden(member.name) else None)
            if reason is None and member.name in names:
                reason = "member with the name of another"
            elif reason is None and ending in endings:
                names.add(member.name)
                members.append(TarMember(member.name, member.offset_data, member.size, None))
            elif reason is None and ending in (".cls", ".json") and member.size <= _SMALL:
                file.seek(member.offset_data)
                text = _class_text(ending, file.read(member.size))
                if text is not None:
                    classes[key] = text
            elif reason is None:
                reason = _other_media(ending, kind)

            if reason is not None:
                yield member.name, reason

        if not _ends_at(file, archive.offset):  # tarfile takes a damaged header for the end
            raise tarfile.ReadError(f"ends at byte {archive.offset:,} of {size:,}")


def _other_media(ending: str, kind: MediaKind) -> str | None:
    """Why a member with another ending is no sample, where it looks like one.

    Captions and the like, which belong to a sample, are no loss.
    """
    last = os.path.splitext(ending)[1] or ending
    if last != ending and last in endings_of(kind):
        return "member with more than an ending after the first dot of its name"
    return f"member that is no {kind}" if last in IMAGE_ENDINGS | VIDEO_ENDINGS else None


def _split(name: str) -> tuple[str, str]:
    """What the members of one sample share, and the ending of this one.

    >>> _split("x/0001.seg.PNG")
    ('x/0001', '.seg.png')
    """
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", f".{ending.lower()}"


def _with_classes(member: TarMember, classes: Mapping[str, str | tuple[str, ...]]) -> TarMember:
    """The member with its class, or with the list of its classes and its folder's name."""
    key, _ = _split(member.name)
    folder, slash, _ = member.name.removeprefix("./").partition("/")
    found = classes.get(key, folder if slash else None)
    if isinstance(found, tuple):
        return member._replace(label=folder if slash else None, labels=found)
    return member._replace(label=found)


def _is_hidden(name: str) -> bool:
    """Whether a member, or a folder that it lies in, is hidden or an operating system's."""
    return not all(map(is_class_name, name.removeprefix("./").split("/")))


def _check(root: str, name: str, follows_links: bool) -> None:
    """Raise UnsupportedMediaError for anything but a tar within the root."""
    path = os.path.join(root, name)
    if not is_text(name):
        raise UnsupportedMediaError(f"tar whose {NOT_UTF8}")
    reason = escape_reason(os.path.realpath(root), name, follows_links)
    if reason:
        raise UnsupportedMediaError(f"tar whose {reason}")

    if not os.path.isfile(path):
        raise UnsupportedMediaError("tar that is no regular file")
    with open(path, "rb") as file:
        head = file.read(6)
    for magic, (form, program) in _COMPRESSED.items():
        if head.startswith(magic):
            raise UnsupportedMediaError(f"tar compressed with {form}: decompress it with {program}")


def _ends_at(file: BinaryIO, position: int) -> bool:
    """Whether a tar ends here as its writer ended it: with zeros, and nothing after them.

    Nothing else shows that a tar was cut off between two members.
    """
    file.seek(position)
    zeros = 0
    while data := file.read(_SMALL):
        if data.strip(b"\0"):
            return False
        zeros += len(data)
    return zeros >= tarfile.BLOCKSIZE


def _odd(member: tarfile.TarInfo, size: int) -> str | None:
    """Why a member is left out."""
    if member.issym() or member.islnk():
        return "member that is a link"
    if not member.isreg() or member.issparse():
        return "member that is no plain file"
    if member.name.startswith("/") or ".." in member.name.split("/") or "\0" in member.name:
        return "member whose name leaves the tar"
    if not is_text(member.name):
        return f"member whose {NOT_UTF8}"
    if not member.name.isprintable():
        return "member with an odd name"
    if member.offset_data + member.size > size:
        return "member cut off"
    return None


def _class_text(ending: str, data: bytes) -> str | tuple[str, ...] | None:
    """The class that a member's text or JSON names; of a list in it, all classes."""
    try:
        text = data.decode("utf-8-sig")
        values = {"cls": text.strip() or None} if ending == ".cls" else parse_json(text, "")
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    value = next((values[key] for key in _CLASS_KEYS if key in values), None)
    if value is None:
        return label_texts(values.get(_LIST_KEY))
    return label_texts(value) or label_text(value)


def _expand(pattern: str) -> list[str]:
    """
    >>> _expand("a_{08..10}.tar")
    ['a_08.tar', 'a_09.tar', 'a_10.tar']
    """
    match = re.search(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    if not 0 <= int(last) - int(first) < _MAX_TARS or len(first) > 9:
        raise ValueError(f"a range of more than {_MAX_TARS:,} tars, or that ends before it begins")
    return [
        name
        for number in range(int(first), int(last) + 1)
        for name in _expand(
            pattern[: match.start()] + str(number).zfill(len(first)) + pattern[match.end() :]
        )
    ]
