"""The headers of AVIF pictures, read without any library.

Source: ISO/IEC 23008-12 (HEIF), ISO/IEC 14496-12, and the AV1 Image File Format.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from omnidali.catalog.probing.av1_units import (
    AV1_SEQUENCE,
    SEQUENCE_BYTES,
    av1_units,
    frame_headers,
    read_sequence_start,
)
from omnidali.catalog.probing.bit_reader import BitReader, UnclearHeadersError
from omnidali.catalog.probing.formats import media_brands
from omnidali.catalog.probing.limits import (
    MAX_HIDDEN,
    MAX_IMAGE_BYTES,
    MAX_SEGMENTS,
    UnsupportedMediaError,
    check_size,
)

CUT_OFF = "header cut off"
_METADATA = (b"Exif", b"mime")  # kinds of items

# A picture's corners, in rows, as EXIF's orientations 1 to 8 show them.
_CORNERS = ("abcd", "badc", "dcba", "cdab", "acbd", "cadb", "dbca", "bdac")


@dataclass(frozen=True)
class AvifHeader:
    """What an AVIF says of its picture, before it is turned.

    Attributes:
        width: pixels, of what a decoder gives.
        height: likewise.
        crop: left, top, right, bottom of what is shown of it; None: all.
        orientation: EXIF's, 1 to 8, by which what is shown is turned.
        metadata: places of the names of items that hold metadata.
    """

    width: int
    height: int
    crop: tuple[int, int, int, int] | None
    orientation: int
    metadata: tuple[int, ...]


class _Box(NamedTuple):
    name: bytes
    start: int  # of its content
    end: int


@dataclass
class _Item:
    """A picture, or something else, of a file.

    Attributes:
        kind: such as ``av01`` or ``grid``.
        properties: places in the list of properties, in order.
        extents: (offset, bytes) of its content.
        in_idat: whether the offsets count from the content of the box ``idat``.
        place: of its kind in the file.
    """

    kind: bytes = b""
    properties: list[int] = field(default_factory=list)
    extents: list[tuple[int, int]] = field(default_factory=list)
    in_idat: bool = False
    place: int = 0


def read_avif_header(data: bytes) -> AvifHeader:
    """Parse the header of an AVIF.

    The size is that of the primary item, whatever coded pictures it is put together from; these are
    checked as well.

    Args:
        data: the file from its start, with the coded pictures.

    Raises:
        UnsupportedMediaError: for broken headers, animations, and pictures over the limits.
        struct.error, IndexError: if it is cut off.
    """
    if b"avis" in media_brands(data):
        raise UnsupportedMediaError("animated AVIF")
    meta = next((box for box in _boxes(data, 0, len(data)) if box.name == b"meta"), None)
    if meta is None or meta.end > len(data):
        raise UnsupportedMediaError(CUT_OFF)

    parts = {box.name: box for box in _boxes(data, meta.start + 4, meta.end)}
    for name in (b"pitm", b"iinf", b"iloc", b"iprp"):
        if name not in parts:
            raise UnsupportedMediaError(f"AVIF without its box {name.decode()}")
    items = _read_items(data, parts)
    primary = items.get(_read_primary(data, parts[b"pitm"]))
    if primary is None or primary.kind not in (b"av01", b"grid"):
        kind = "none" if primary is None else repr(primary.kind)[2:-1]
        raise UnsupportedMediaError(f"AVIF of a rare kind: its picture is {kind}")

    idat = parts.get(b"idat")
    for item in items.values():
        if item.kind == b"av01":
            _check_coded(_content(data, item, idat))
    properties = _read_properties(data, parts[b"iprp"], items)
    metadata = tuple(item.place for item in items.values() if item.kind in _METADATA)
    return _header_of(data, [properties[place] for place in primary.properties], metadata)


def _boxes(data: bytes, place: int, end: int) -> Iterator[_Box]:
    """Yield the boxes between two places; the last one may end after the data."""
    for _ in range(MAX_SEGMENTS):
        if place + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", data, place)
        start = place + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        elif size == 0:
            size = end - place
        if size < start - place or (end < len(data) and place + size > end):
            raise UnsupportedMediaError("AVIF with a box of an impossible size")
        yield _Box(name, start, place + size)
        place += size


def _read_primary(data: bytes, box: _Box) -> int:
    is_wide = data[box.start] > 0
    return int(struct.unpack_from(">I" if is_wide else ">H", data, box.start + 4)[0])


def _read_items(data: bytes, parts: dict[bytes, _Box]) -> dict[int, _Item]:
    """The items by number, without their properties."""
    box = parts[b"iinf"]
    items: dict[int, _Item] = {}
    for entry in _boxes(data, box.start + (8 if data[box.start] else 6), box.end):
        version = data[entry.start]
        if entry.name != b"infe" or version < 2:
            continue
        head = struct.Struct(">IH4s" if version > 2 else ">HH4s")
        number, _, kind = head.unpack_from(data, entry.start + 4)
        items[number] = _Item(kind, place=entry.start + head.size)
    _read_places(data, parts[b"iloc"], items)
    return items


def _read_places(data: bytes, box: _Box, items: dict[int, _Item]) -> None:
    """Read where the contents of the items lie."""
    version = data[box.start]
    sizes = data[box.start + 4], data[box.start + 5]
    offset_bytes, length_bytes, base_bytes = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_bytes = sizes[1] & 15 if version else 0
    place = box.start + 6

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > box.end:
            raise UnsupportedMediaError("AVIF with a table that is cut off")
        return int.from_bytes(data[place - count : place], "big")

    total = 0
    extents = 0
    for _ in range(take(4 if version > 1 else 2)):
        item = items.get(take(4 if version > 1 else 2), _Item())
        method = take(2) & 15 if version else 0
        if method > 1:
            raise UnsupportedMediaError("AVIF of a rare kind: items within items")
        item.in_idat = method == 1
        take(2)  # the file
        base = take(base_bytes)
        for _ in range(take(2)):
            take(index_bytes)
            item.extents.append((base + take(offset_bytes), take(length_bytes)))
            total += item.extents[-1][1]
            extents += 1
            if extents > MAX_SEGMENTS or total > MAX_IMAGE_BYTES:
                raise UnsupportedMediaError("AVIF whose items claim more than a file holds")


def _read_properties(data: bytes, box: _Box, items: dict[int, _Item]) -> list[_Box]:
    """The properties, from number 1 on, and which of them belong to each item."""
    properties = [_Box(b"", 0, 0)]
    for part in _boxes(data, box.start, box.end):
        if part.name == b"ipco":
            properties += _boxes(data, part.start, part.end)
        elif part.name == b"ipma":
            _read_links(data, part, items)
    for item in items.values():
        if any(place >= len(properties) for place in item.properties):
            raise UnsupportedMediaError("AVIF with a property that is missing")
    return properties


def _read_links(data: bytes, box: _Box, items: dict[int, _Item]) -> None:
    version, flags = data[box.start], data[box.start + 3]
    link = ">H" if flags & 1 else ">B"
    (count,) = struct.unpack_from(">I", data, box.start + 4)
    place = box.start + 8
    for _ in range(min(count, MAX_SEGMENTS)):
        if place >= box.end:
            raise UnsupportedMediaError("AVIF with a table that is cut off")
        (number,) = struct.unpack_from(">I" if version else ">H", data, place)
        place += 4 if version else 2
        links = data[place]
        place += 1
        for _ in range(links):
            (value,) = struct.unpack_from(link, data, place)
            place += struct.calcsize(link)
            if number in items:  # the highest bit says that a reader must know it
                items[number].properties.append(value & (0x7FFF if flags & 1 else 0x7F))


def _content(data: bytes, item: _Item, idat: _Box | None) -> bytes:
    parts = []
    for offset, count in item.extents:
        if item.in_idat:
            if idat is None or offset + count > idat.end - idat.start:
                raise UnsupportedMediaError("AVIF with an item outside of its box")
            offset += idat.start
        elif count == 0:  # to the end of the file
            count = max(0, len(data) - offset)
        if offset + count > len(data):
            raise UnsupportedMediaError(CUT_OFF)
        parts.append(data[offset : offset + count])
    return b"".join(parts)


def _check_coded(content: bytes) -> None:
    """Check the sizes of a coded picture, and how many frames hide in it."""
    try:
        starts = [
            read_sequence_start(BitReader(unit[:SEQUENCE_BYTES]))
            for kind, unit in av1_units(content)
            if kind == AV1_SEQUENCE
        ]
        frames = len(frame_headers(content))
    except (UnclearHeadersError, IndexError):
        raise UnsupportedMediaError("AVIF with broken AV1 in it") from None
    if not starts or not frames:
        raise UnsupportedMediaError("AVIF without a picture")
    for start in starts:
        check_size(start.width, start.height)
    if frames > MAX_HIDDEN:
        raise UnsupportedMediaError(f"AVIF with more than {MAX_HIDDEN} frames in a picture")


def _header_of(data: bytes, properties: list[_Box], metadata: tuple[int, ...]) -> AvifHeader:
    """Size, crop and turn, which apply in the order of the properties."""
    size: tuple[int, int] | None = None
    crop = None
    corners = _CORNERS[0]
    for box in properties:
        start = box.start
        if box.name == b"ispe":
            width, height = struct.unpack_from(">II", data, start + 4)
            check_size(width, height)
            size = width, height
        elif box.name == b"clap":
            if size is None or crop is not None or corners != _CORNERS[0]:
                raise UnsupportedMediaError("AVIF that is cut after it is turned")
            crop = _crop_of(struct.unpack_from(">iIiIiIiI", data, start), *size)
        elif box.name == b"irot":
            for _ in range(data[start] & 3):  # quarters counter-clockwise
                corners = corners[1] + corners[3] + corners[0] + corners[2]
        elif box.name == b"imir":
            places = (1, 0, 3, 2) if data[start] & 1 else (2, 3, 0, 1)
            corners = "".join(corners[place] for place in places)
    if size is None:
        raise UnsupportedMediaError("AVIF without a size")
    return AvifHeader(*size, crop, _CORNERS.index(corners) + 1, metadata)


def _crop_of(values: tuple[int, ...], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a clean aperture (14496-12, 12.1.4)."""
    if not all(values[1::2]):
        raise UnsupportedMediaError("AVIF with a crop of no size")
    edges = []
    for place, side in ((0, width), (2, height)):
        shown, shown_by = values[place : place + 2]
        moved, moved_by = values[place + 4 : place + 6]
        count, rest = divmod(shown, shown_by)
        # twice its first pixel: the middle of what is shown lies so far from the picture's
        doubled, moved_rest = divmod(2 * moved, moved_by)
        doubled += side - count
        if (
            rest
            or moved_rest
            or doubled % 2
            or not 0 <= doubled // 2 < doubled // 2 + count <= side
        ):
            raise UnsupportedMediaError("AVIF with a crop beside its pixels")
        edges.append((doubled // 2, doubled // 2 + count))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom
