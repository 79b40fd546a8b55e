"""The outermost objects of an ASF file, read without any library.

Source: Advanced Systems Format specification, 2.1 and 3.1.
"""

from omnidali.catalog.probing.file_span import ReadAt

_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_HEAD_BYTES = 24  # of an object: its kind and its size
_MAX_OBJECTS = 64  # a header, the data, and an index of each stream


def joined_file(read: ReadAt) -> int | None:
    """Where another file begins that was joined to the end of this one; None if there is none.

    FFmpeg's demuxer ends before it.

    Args:
        read: the bytes of a file that begins with an ASF header.
    """
    place = 0
    for _ in range(_MAX_OBJECTS):
        head = read(place, _HEAD_BYTES)
        size = int.from_bytes(head[16:], "little")
        if len(head) < _HEAD_BYTES or size < _HEAD_BYTES:  # the end, or a recording without sizes
            return None
        if place and head.startswith(_HEADER):
            return place
        place += size
    return None
