"""AVIF files made box by box, so that they may say whatever a test wants.

Source: ISO/IEC 23008-12 (HEIF) and the AV1 Image File Format.
"""

import struct

import cv2
import numpy as np

PICTURE = b"av01"
GRID = b"grid"


def box(name, *content):
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), name) + body


def full_box(name, version, flags, *content):
    return box(name, struct.pack(">I", version << 24 | flags), *content)


def ispe(width, height):
    """The size of an item."""
    return full_box(b"ispe", 0, 0, struct.pack(">II", width, height))


def irot(quarters):
    """A turn, quarters counter-clockwise."""
    return box(b"irot", bytes([quarters]))


def imir(axis):
    """A mirror: 0 turns the picture upside down, 1 swaps left and right."""
    return box(b"imir", bytes([axis]))


def clap(width, height, across=0, down=0):
    """The part that is shown: its size, and how far its middle lies from the picture's.

    Each is a number or a pair, numerator and denominator.
    """
    parts = [
        part if isinstance(part, tuple) else (part, 1) for part in (width, height, across, down)
    ]
    return box(b"clap", *(struct.pack(">iI", *part) for part in parts))


def grid(rows, columns, width, height):
    """The content of an item that is put together from others."""
    return bytes([0, 1, rows - 1, columns - 1]) + struct.pack(">II", width, height)


def coded(picture, quality=100):
    """AV1 and its configuration (av1C) of a picture (H, W, 3), RGB."""
    data = cv2.imencode(".avif", picture[:, :, ::-1], [cv2.IMWRITE_AVIF_QUALITY, quality])[
        1
    ].tobytes()
    place = data.index(b"av1C") - 4
    (size,) = struct.unpack_from(">I", data, place)
    colours = data.index(b"colr") - 4
    (colours_size,) = struct.unpack_from(">I", data, colours)
    settings = [data[place : place + size], data[colours : colours + colours_size]]
    return data[data.index(b"mdat") + 4 :], settings


def avif(items, *, primary=1, refers=(), brands=(b"avif", b"mif1", b"miaf"), before=b"", moved=0):
    """An AVIF file.

    Args:
        items: (kind, content, properties) of each, the first of them item 1.
        primary: number of the item that is shown.
        refers: (name, from, to, ...) numbers of items.
        brands: the first one is the major one.
        before: boxes between the header and the content.
        moved: added to where the content lies, by the header's word.
    """
    properties = []
    links = []
    for number, (_, _, own) in enumerate(items, 1):
        if not own:
            continue
        places = []
        for one in own:
            if one not in properties:
                properties.append(one)
            places.append(0x80 | properties.index(one) + 1)
        links.append(struct.pack(">HB", number, len(places)) + bytes(places))

    entries = [
        full_box(b"infe", 2, 0, struct.pack(">HH4s", number, 0, kind), b"\0")
        for number, (kind, _, _) in enumerate(items, 1)
    ]
    references = [
        box(name, struct.pack(f">HH{len(to)}H", start, len(to), *to)) for name, start, *to in refers
    ]

    def header(begin):
        places = []
        for number, (_, content, _) in enumerate(items, 1):
            places.append(struct.pack(">HHHII", number, 0, 1, begin + moved, len(content)))
            begin += len(content)
        parts = [
            full_box(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", 0, 0, struct.pack(">H", primary)),
            full_box(b"iloc", 0, 0, b"\x44\0", struct.pack(">H", len(items)), *places),
            full_box(b"iinf", 0, 0, struct.pack(">H", len(items)), *entries),
            box(
                b"iprp",
                box(b"ipco", *properties),
                full_box(b"ipma", 0, 0, struct.pack(">I", len(links)), *links),
            ),
        ]
        if references:
            parts.append(full_box(b"iref", 0, 0, *references))
        return full_box(b"meta", 0, 0, *parts)

    start = box(b"ftyp", brands[0], bytes(4), *brands)
    begin = len(start) + len(header(0)) + len(before) + 8
    content = b"".join(content for _, content, _ in items)
    return start + header(begin) + before + box(b"mdat", content)


def picture_avif(picture, *properties, **more):
    """An AVIF file of one picture (H, W, 3), RGB, with these properties besides its size."""
    content, settings = coded(picture)
    height, width = picture.shape[:2]
    return avif([(PICTURE, content, [ispe(width, height), *settings, *properties])], **more)


def grid_avif(picture, rows, columns, *properties):
    """An AVIF file of one picture (H, W, 3), RGB, cut into equal tiles."""
    height, width = picture.shape[:2]
    items = [(GRID, grid(rows, columns, width, height), [ispe(width, height), *properties])]
    for row in np.split(picture, rows):
        for tile in np.split(row, columns, axis=1):
            content, settings = coded(np.ascontiguousarray(tile))
            items.append((PICTURE, content, [ispe(tile.shape[1], tile.shape[0]), *settings]))
    items[0] = (*items[0][:2], [*items[0][2], *items[1][2][1:]])
    return avif(items, refers=[(b"dimg", 1, *range(2, len(items) + 1))])
