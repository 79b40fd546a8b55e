"""What the headers of H.264 and HEVC have in common: NAL units, parameter sets, and order counts.

Containers may carry wrong timestamps. A decoder goes by the picture order count of the slice
headers, which can be read without decoding.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from omnidali.catalog.probing.bit_reader import (
    BitReader,
    CodedPicture,
    UnclearHeadersError,
)
from omnidali.catalog.probing.limits import MAX_UNITS, UnsupportedMediaError

SLICE_BYTES = 20  # hold the fields of a slice header up to its order count, with room for escapes
_SET_BYTES = 4096  # of a parameter set
_SETS = 1000  # different parameter sets that a stream may have
_START_CODE = b"\0\0\1"


@dataclass(frozen=True)
class Cropping:
    """What a sequence parameter set says about the part of the coded picture that is shown.

    Attributes:
        sides: what is cut off at the left, right, top and bottom, in units of the chroma format;
            empty if nothing is.
        bits_after: bits of the payload after these fields, its last bytes included.
        bits: how many these fields take, the flag before them included.
    """

    sides: list[int]
    bits_after: int
    bits: int


@dataclass(frozen=True)
class Sps:
    """Fields of a sequence parameter set.

    Attributes:
        picture_format: size, chroma format and bit depths; one value for all pictures of a video.
        order_bits: width of the low part of the order count.
        max_reorder: frames that a decoder holds back at most; None if the stream does not say.
        has_separate_planes: whether slices name the plane that they belong to.
        order_type: of H.264, how the order count is coded.
        frame_number_bits: of H.264, width of the frame number.
        only_frames: of H.264, whether there are no fields.
        layers: of HEVC, how many temporal layers there may be.
        cropping: the part of the picture that is shown.
        coded_size: width and height before cropping, pixels.
    """

    picture_format: tuple[int, ...]
    order_bits: int
    max_reorder: int | None
    has_separate_planes: bool
    order_type: int = 0
    frame_number_bits: int = 0
    only_frames: bool = True
    layers: int = 1
    cropping: Cropping | None = None
    coded_size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Pps:
    """Fields of a picture parameter set.

    Attributes:
        sps: number of the sequence parameter set that it belongs to.
        output_flag_present: of HEVC, whether slices say if their picture is shown.
        extra_bits: of HEVC, how many bits to skip in each slice header.
    """

    sps: int
    output_flag_present: bool = False
    extra_bits: int = 0


class NalReader:
    """Reads packets, in decoding order, of one whole frame each.

    Args:
        extradata: parameter sets as the container returns them, avcC, hvcC or start codes.

    Attributes:
        max_reorder: how many frames a decoder holds back, as the stream says; None if it does
            not.
        replaces_sets: whether a parameter set has taken the number of another one. A decoder that
            jumps may have the wrong one.
    """

    def __init__(self, extradata: bytes) -> None:
        self.max_reorder: int | None = 0
        self.replaces_sets = False
        self._sps: dict[int, Sps] = {}
        self._pps: dict[int, Pps] = {}
        self._known_sets: set[bytes] = set()
        self._used_sps: Sps | None = None
        self._sequence = -1
        self._previous_order = 0
        self._length_bytes = 0  # of the length before each unit; 0: units begin with start codes

        has_lengths = extradata.startswith(b"\1")
        units = self._configured_units(extradata) if has_lengths else self._units(extradata)
        for unit in units:
            self._keep_parameter_set(unit)

    def read(self, data: bytes, flagged: bool) -> CodedPicture:
        """Read the headers of a packet.

        Args:
            data: the packet.
            flagged: whether the container calls it a keyframe; HEVC itself names its keyframes.

        Raises:
            UnclearHeadersError: if a decoder may give another number of frames than one, or
                another order.
        """
        picture = None
        for slice_header in self._pictures(data, flagged):
            if picture is not None:
                raise UnclearHeadersError("two pictures in one packet")
            picture = self._read_slice(slice_header, flagged)

        if picture is None:
            raise UnclearHeadersError("a packet without the first slice of a picture")
        return picture

    def is_key(self, data: bytes, flagged: bool) -> bool:
        """Whether decoding may begin with a packet, as far as its headers alone can say."""
        raise NotImplementedError

    def _configured_units(self, extradata: bytes) -> Iterator[bytes]:
        """Yield the units of avcC or hvcC; note how packets separate theirs."""
        raise NotImplementedError

    def _keep_parameter_set(self, unit: bytes) -> None:
        raise NotImplementedError

    def _pictures(self, data: bytes, flagged: bool) -> Iterator[bytes]:
        """Yield the start of each picture's first slice; parameter sets are kept on the way."""
        raise NotImplementedError

    def _read_slice(self, data: bytes, flagged: bool) -> CodedPicture:
        raise NotImplementedError

    def _units(self, data: bytes) -> Iterator[bytes]:
        """Yield the NAL units of a packet.

        Raises:
            UnsupportedMediaError: for more units than a packet has.
        """
        for number, unit in enumerate(self._all_units(data)):
            if number == MAX_UNITS:
                raise UnsupportedMediaError(f"more than {MAX_UNITS:,} units in a packet")
            yield unit

    def _all_units(self, data: bytes) -> Iterator[bytes]:
        if not self._length_bytes:
            yield from data.split(_START_CODE, MAX_UNITS + 1)[1:]
            return

        end = 0
        while end + self._length_bytes < len(data):
            begin = end + self._length_bytes
            end = begin + int.from_bytes(data[end:begin], "big")
            if end > len(data):
                raise UnclearHeadersError("a NAL unit is cut off")
            yield data[begin:end]

    def _is_new_set(self, unit: bytes) -> bool:
        """Whether a parameter set is new; most streams repeat the same ones all the time."""
        unit = unit.rstrip(b"\0")
        if unit in self._known_sets:
            return False
        if len(unit) > _SET_BYTES or len(self._known_sets) == _SETS:
            raise UnclearHeadersError("more parameter sets than a stream has, or larger ones")
        self._known_sets.add(unit)
        return True

    def _sets_of(self, pps_number: int) -> tuple[Pps, Sps]:
        try:
            pps = self._pps[pps_number]
            return pps, self._sps[pps.sps]
        except KeyError:
            raise UnclearHeadersError("a parameter set is missing") from None

    def _use(self, sps: Sps) -> None:
        """Note the sequence that a picture belongs to.

        Raises:
            UnclearHeadersError: if its pictures differ from those of the first sequence.
        """
        if sps is self._used_sps:  # as nearly always
            return
        if self._used_sps is not None and sps.picture_format != self._used_sps.picture_format:
            raise UnclearHeadersError("the picture size changes")

        self._used_sps = sps
        if sps.max_reorder is None or self.max_reorder is None:
            self.max_reorder = None
        else:
            self.max_reorder = max(self.max_reorder, sps.max_reorder)

    def _full_order(self, low: int, bits: int, starts: bool, is_reference: bool) -> int:
        """The whole order count, from its low bits and the reference picture before.

        Sources: H.264 8.2.1.1 and H.265 8.3.1.
        """
        whole = 1 << bits
        previous = low if starts else self._previous_order
        order = previous - previous % whole + low
        if order - previous > whole // 2:
            order -= whole
        elif previous - order >= whole // 2:
            order += whole

        if is_reference:
            self._previous_order = order
        return order


def sized_units(data: bytes, end: int, count: int) -> Generator[bytes, None, int]:
    """Yield ``count`` units, each with its length in two bytes before it.

    Args:
        data: holds the units.
        end: of the data before them.
        count: how many there are.

    Returns:
        Where the last one ends.
    """
    for _ in range(count):
        begin = end + 2
        end = begin + int.from_bytes(data[end:begin], "big")
        yield data[begin:end]
    return end


def read_cropping(bits: BitReader) -> Cropping:
    """Read the flag and the four fields that H.264 and HEVC have in common."""
    before = bits.left
    sides = bits.golombs(4) if bits.take(1) else []
    return Cropping(sides, bits_after=bits.left, bits=before - bits.left)


def unescape(data: bytes) -> bytes:
    """The payload of a unit without emulation prevention bytes (H.264 7.4.1)."""
    return data.replace(b"\0\0\3", b"\0\0") if b"\0\0\3" in data else data
