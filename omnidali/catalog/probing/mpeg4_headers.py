"""How many pictures a packet of MPEG-4 part 2 holds, and whether others refer to them.

Source: ISO/IEC 14496-2, 6.2.5 and 6.3.5.
"""

_PICTURE = b"\0\0\1\xb6"  # start code of a picture; its kind is in the next two bits
_BIDIRECTIONAL = 2


def is_lone_b_picture(data: bytes) -> bool:
    """Whether a packet holds one picture, which no other refers to.

    Packets that hold two, as those of "packed" AVI files, hold such a one and its reference.
    """
    kind_at = data.find(_PICTURE) + len(_PICTURE)
    is_lone = count_pictures(data) == 1 and kind_at < len(data)
    return is_lone and data[kind_at] >> 6 == _BIDIRECTIONAL


def count_pictures(data: bytes) -> int:
    """How many pictures begin in a packet."""
    return data.count(_PICTURE)
