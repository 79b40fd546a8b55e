"""What a file is, by its name and its first bytes, and where it lies."""

import os
import stat

from omnidali.catalog.probing.formats import HEAD_BYTES, IMAGE_ENDINGS, VIDEO_ENDINGS
from omnidali.catalog.probing.sniff import describe_head, refusal_of
from omnidali.media_kind import MediaKind

_NO_FILE = "no such file or folder"
_NO_MEDIUM = "neither a video nor a photo"
# how the words begin for pictures and videos of formats that are not read
_UNREAD = ("a picture", "an animated picture", "a raw", "RealMedia", "ISO media", "camera raw")
_TEXTS = ("text", "a JSON answer")  # what a list looks like by its first bytes


def kind_by_name(path: str) -> MediaKind | None:
    """What a file is by its ending; None: the ending does not tell."""
    ending = os.path.splitext(path)[1].lower()
    if ending in VIDEO_ENDINGS:
        return MediaKind.VIDEO
    return MediaKind.IMAGE if ending in IMAGE_ENDINGS else None


def is_image_name(name: str) -> bool:
    """Whether a name ends like that of an image."""
    return kind_by_name(name) is MediaKind.IMAGE


def sniff_kind(path: str) -> tuple[MediaKind | None, str]:
    """What a file is by its first bytes; None and the reason if it is nothing that is read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            return None, "not a regular file"
        head = _read_head(path)
    except OSError as error:
        return None, why_unreadable(path, error)
    for kind in (MediaKind.IMAGE, MediaKind.VIDEO):
        if refusal_of(head, kind) is None:
            return kind, ""
    return None, f"{_NO_MEDIUM}: {describe_head(head)}"


def is_unread_medium(reason: str) -> bool:
    """Whether a reason of :func:`sniff_kind` is that of a picture or video of an unread format."""
    return reason.startswith(tuple(f"{_NO_MEDIUM}: {what}" for what in _UNREAD))


def looks_like_text(path: str) -> bool:
    """Whether a regular file begins like a text, which may be a list."""
    try:
        return describe_head(_read_head(path)) in _TEXTS
    except OSError:
        return False


def why_unreadable(path: str, error: OSError) -> str:
    """Why a path does not give a file or a folder, in words."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "a link to a file that is not there" if os.path.islink(path) else _NO_FILE
    return f"cannot be read: {error.strerror or error}"


def absolute(path: str) -> str:
    """The absolute path of what the kernel finds at a path, which ``..`` after a link changes."""
    folder, name = os.path.split(path)
    if name == os.pardir:
        return os.path.realpath(path)
    if os.pardir in path.split(os.sep):
        return os.path.join(os.path.realpath(folder), name)
    return f"/{os.path.abspath(path).lstrip(os.sep)}"


def _read_head(path: str) -> bytes:
    """The first bytes of a file."""
    with open(path, "rb", buffering=0) as file:
        return file.read(HEAD_BYTES)
