"""A tar of a training copy: the same members in the same order, with media encoded anew."""

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.file_span import FileSpan, Region
from omnidali.curation.job_log import LogRow
from omnidali.decoding.failure_cause import cause_of
from omnidali.errors import DecodeError

# bytes of a header that the catalog accepts: tarfile reads what they claim into memory
_LONGEST_HEADER = 1 << 20


def copy_tar(
    original: str,
    media: Sequence[Media],
    encode: Callable[[Media, Path], int],
    part: Path,
    row: LogRow,
) -> None:
    """Copy a tar; members that the catalog refused stay as they are, and those that fail go.

    Args:
        original: path of the tar.
        media: the members to encode.
        encode: writes the copy of a member; returns how many frames were replaced.
        part: the file to write.
        row: of the job log; gets the frames that were ``replaced``, (path, reason) of the members
            that ``failed``, and ``passing`` if one of them may be read later.

    Raises:
        DecodeError: if the tar cannot be read.
        OSError, av.FFmpegError: if the copy cannot be written.
    """
    media_at = {one.span.offset: one for one in media}
    member_file = part.with_name(f"{part.name}-member")
    file = None
    try:
        with (
            _TarFile(FileSpan(original)) as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
            tarfile.open(part, "w") as copy,
        ):
            for member in _members(tar):
                one = media_at.get(member.offset_data) if member.isreg() else None
                if one is None:
                    copy.addfile(member, tar.extractfile(member) if member.isreg() else None)
                elif _encode_member(one, encode, member_file, row):
                    member.size = member_file.stat().st_size
                    with open(member_file, "rb") as data:
                        copy.addfile(member, data)
            if file.error is not None:
                raise file.error
    except (tarfile.TarError, OSError) as error:
        # an error of the original comes first, whatever it led to
        if file is not None and file.error is not None:
            raise cause_of(file.error).error() from None
        if isinstance(error, tarfile.TarError):
            raise DecodeError(f"tar broken: {error}") from None
        raise
    finally:
        member_file.unlink(missing_ok=True)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    position = -1
    while (member := tar.next()) is not None:
        # the list for random access, which typeshed does not know; it would grow without end
        tar.members = []  # type: ignore[attr-defined]
        if member.offset <= position or member.size < 0:  # they would again, without end
            raise tarfile.ReadError("headers that lead backwards")
        position = member.offset
        if not member.issparse():  # a few bytes that would become any number of zeros
            yield member


def _encode_member(
    media: Media, encode: Callable[[Media, Path], int], path: Path, row: LogRow
) -> bool:
    """Write the copy of a member; returns whether that was possible."""
    try:
        row["replaced"] += encode(media, path)
    except DecodeError as error:
        row["failed"].append((media.path, str(error)))
        row["passing"] = row.get("passing", False) or cause_of(error).passes
        return False
    return True


class _TarFile(Region, io.RawIOBase):
    """A tar without headers of endless length."""

    def read(self, count: int | None = -1) -> bytes:
        if count is None or not 0 <= count <= _LONGEST_HEADER:
            raise tarfile.ReadError("a header of endless length")
        return super().read(count)
