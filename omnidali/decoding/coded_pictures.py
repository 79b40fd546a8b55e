"""Packets of one coded picture each, for a decoder that gives hidden pictures, too.

DALI 2.4 takes each picture that NVDEC decodes for a frame, shown or not: it converts it within the
callback of ``pfnDecodePicture`` (dali/operators/video/frames_decoder_gpu.cc), and NVIDIA's parser
calls that for every coded picture of a packet, but not for one that is shown again.
"""

from collections.abc import Sequence

from omnidali.catalog.probing.av1_units import frame_headers
from omnidali.catalog.probing.vpx_av1_headers import split_superframe
from omnidali.errors import DecodeError

_HIDING = {"vp8", "vp9", "av1"}
# Bits of the first byte of a VP9 frame, and of an AV1 frame's header.
_VP9_PROFILE = 0x30
_VP9_AGAIN = 8
_VP9_SHOWN = 2
_AV1_AGAIN = 0x80

_Packet = bytes | memoryview


def may_hide(codec: str) -> bool:
    """Whether streams of a codec may have pictures that are never shown."""
    return codec in _HIDING


def one_picture_each(
    codec: str, packets: Sequence[_Packet]
) -> tuple[list[_Packet], list[int], list[bool]]:
    """Cut packets up.

    Args:
        codec: one that :func:`may_hide`.
        packets: in decoding order.

    Returns:
        One packet a picture, the place of the packet that each comes from, and whether it is the
            one that its packet shows.

    Raises:
        DecodeError: if a picture is shown again, or cannot be told apart.
    """
    pictures: list[_Packet] = []
    origins: list[int] = []
    shown: list[bool] = []
    for place, packet in enumerate(packets):
        parts: Sequence[_Packet] = [packet]
        if codec == "vp9":
            parts = split_superframe(bytes(packet))
            if any(part[0] & (_VP9_PROFILE | _VP9_AGAIN) for part in parts):
                raise DecodeError("a VP9 frame that is shown again, or not in profile 0")
        elif codec == "av1":
            headers = frame_headers(bytes(packet))
            if len(headers) != 1 or headers[0][0] & _AV1_AGAIN:
                raise DecodeError("an AV1 packet that is not of one picture")
        pictures += parts
        origins += [place] * len(parts)
        shown += [codec != "vp9" or bool(part[0] & _VP9_SHOWN) for part in parts]
    return pictures, origins, shown
