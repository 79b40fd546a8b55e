"""What the catalog keeps of any file; no library is needed for it."""

from dataclasses import dataclass

# The state of a file that is used. Any other one but "new" is the reason why it is left out.
OK = "ok"
UNREADABLE = "unreadable"  # how states begin that may pass: the disk was to blame
HUNGRY = "needs too much memory"

# Variants of a codec. The first one says that timestamps do not identify the frames; it may
# follow another.
IRREGULAR = ":irregular"
# Files for which a decoder makes something up.
DAMAGED = ":damaged"
# Files whose frames can only be counted from the start.
UNCOUNTED = ":uncounted"
# Files of which no excerpt of packets can be decoded from front to back: their container cuts
# packets up, they have fields, keyframes leave the pictures before them in place, or packets give
# no frame, which an edit list hides between others, too, or their settings change.
INDIRECT = ":indirect"
INTERLACED = ":interlaced"
OPEN_GOP = ":open-gop"
EDITED = ":edited"

# Variants that make no other plan: the same frames have the same numbers.
_SAME_FRAMES = (DAMAGED, INDIRECT, INTERLACED, OPEN_GOP, EDITED)


@dataclass(frozen=True)
class Probe:
    """The facts of one readable file that the catalog keeps.

    Attributes:
        container: FFmpeg's demuxer for videos, the format for images, the pattern of names for
            frames.
        codec: such as ``h264`` or ``jpeg``; a variant that not every decoder takes follows a colon:
            ``h264:rotated``, ``hevc:yuv420p10le``, ``jpeg:cmyk``.
        width: pixels as a viewer shows them, after rotation.
        height: likewise.
        frames: 1 for images.
        frame_rate: mean frames per second, 0 for images.
        rotation: degrees counter-clockwise that a viewer turns the coded picture by: 0, 90, 180 or
            270.
        timing: :func:`~omnidali.catalog.probing.packed_numbers.pack_numbers` of every frame's
            timestamp in presentation order, or of (first, step) where they are evenly spaced, or of
            nothing if the file has none. Of a folder of frames: the number in the first frame's
            name.
        keyframes: packed numbers, the presentation indices of the keyframes.
        tick: seconds of one unit of a timestamp.
        packets: a packed :class:`~omnidali.catalog.probing.packet_index.PacketIndex`, or nothing
            where frames can only be counted from the start.
        mirrored: whether a viewer mirrors the coded picture left to right before turning it.
        aspect: width of a pixel of the upright picture by its height; 1 for square ones.
        note: what a user should know about a file that is used, such as that its end is not.
    """

    container: str
    codec: str
    width: int
    height: int
    frames: int = 1
    frame_rate: float = 0.0
    rotation: int = 0
    timing: bytes = b""
    keyframes: bytes = b""
    tick: float = 0.0
    packets: bytes = b""
    mirrored: bool = False
    aspect: float = 1.0
    note: str = ""


def planned_codec(codec: str) -> str:
    """A codec without the variants that matter to decoders alone.

    >>> planned_codec("h264:open-gop"), planned_codec("h264:yuv444p")
    ('h264', 'h264:yuv444p')
    >>> planned_codec("h264:open-gop:irregular")
    'h264:irregular'
    """
    name, colon, variant = codec.partition(":")
    if codec.endswith(IRREGULAR):
        return name + IRREGULAR
    return name if colon + variant in _SAME_FRAMES else codec


def stretched(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Size of a picture after its pixels were made squares; it never shrinks.

    >>> stretched(720, 576, 16 / 15), stretched(720, 480, 8 / 9)
    ((768, 576), (720, 540))
    """
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
