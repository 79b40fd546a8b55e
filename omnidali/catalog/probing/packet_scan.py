"""One pass over the packets of a video: where they lie, what their headers say, and which frames
a decoder outputs.
"""

from typing import NamedTuple

import av
import numpy as np

from omnidali.catalog.probing.bit_reader import CodedPicture, UnclearHeadersError
from omnidali.catalog.probing.file_span import ReadAt
from omnidali.catalog.probing.frame_planes import frame_checksum
from omnidali.catalog.probing.h264_headers import H264Reader
from omnidali.catalog.probing.hevc_headers import HevcReader
from omnidali.catalog.probing.limits import check_video
from omnidali.catalog.probing.mpeg4_headers import count_pictures, is_lone_b_picture
from omnidali.catalog.probing.nal_reader import NalReader
from omnidali.catalog.probing.packet_index import FRAMING
from omnidali.catalog.probing.run_checksums import RunChecksums
from omnidali.catalog.probing.video_container import packets_of
from omnidali.catalog.probing.vpx_av1_headers import Av1Reader, Vp9Reader
from omnidali.utils.heartbeat import report_progress

HeaderReader = H264Reader | HevcReader | Vp9Reader | Av1Reader

# Codecs whose headers say which frames a decoder outputs, and in which order.
_READERS: dict[str, type[HeaderReader]] = {
    "h264": H264Reader,
    "hevc": HevcReader,
    "vp9": Vp9Reader,
    "av1": Av1Reader,
}
# Containers without presentation times: what FFmpeg makes up for them is wrong if frames are
# reordered.
_TIMELESS = {"avi"}
_THEORA_HEADER = b"\x80"  # the lowest first byte of a header, by Theora's specification, 6.1
_BLOCK = 1 << 16  # bytes of the file that are read at once
_CHECKED = 1024  # packets between two checks of how many there are


class ScannedPacket(NamedTuple):
    """One packet of a stream.

    Attributes:
        position: of its bytes in the file; exact if the scan ``is_direct``.
        size: in bytes.
        time: presentation timestamp, ticks.
        decode_time: decoding timestamp, ticks.
        is_hidden: whether an edit list discards its frame.
        is_key: whether decoding may begin here, by the headers if they can be read, else by the
            container.
        is_disposable: whether it holds one picture, which no other refers to, as far as its own
            headers say.
    """

    position: int
    size: int
    time: int | None
    decode_time: int | None
    is_hidden: bool
    is_key: bool
    is_disposable: bool


class PacketScan:
    """What a pass over a stream found.

    Args:
        stream: of an opened video.
        demuxer: FFmpeg's name.
        read: the file's bytes.
        decodes_all: whether to decode all packets rather than those of the first frame alone. That
            happens, too, if the codec's headers or the container's times do not determine the
            frames.

    Attributes:
        coded_size: (width, height) that the container says, pixels.
        packets: in decoding order.
        is_direct: whether the bytes of the packets lie in the file as a decoder needs them.
        run_checksums: of the packets.
        pictures: what the headers say about each packet, as far as ``unclear`` is None.
        unclear: why the headers do not determine the frames; None if they do.
        delay: packets that a frame is held back by at most, by the headers.
        shown: packets that frames came out of, in the order of the frames; one, or all with
            ``decodes_all``.
        frame_sizes: (width, height) of these frames, pixels.
        checksums: of frames by packet: of keyframes, and of all if frames are reordered.
        first: the first frame.
        is_interlaced: whether one of these frames is.
        has_packed_pictures: whether a packet of MPEG-4 holds several pictures, or none.
        damaged: packets that do not decode, or not without the decoder making something up; known
            with ``decodes_all``, and all of them if FFmpeg's log is on.
    """

    def __init__(
        self, stream: av.VideoStream, demuxer: str, read: ReadAt, decodes_all: bool
    ) -> None:
        self.context = stream.codec_context
        self.coded_size = (self.context.width, self.context.height)
        self.packets: list[ScannedPacket] = []
        self.is_direct = True
        self.run_checksums = RunChecksums()
        self.pictures: list[CodedPicture] = []
        self.unclear: str | None = None
        self.delay = 0
        self.shown: list[int | None] = []
        self.frame_sizes: list[tuple[int, int]] = []
        self.checksums: dict[int, int] = {}
        self.first: av.VideoFrame | None = None
        self.is_interlaced = False
        self.has_packed_pictures = False
        self.damaged: set[int] = set()

        self._has_new_tables = False
        self._stream = stream
        self._read = read
        self._block = b""
        self._block_begin = 0

        self._reader: HeaderReader | None = None
        codec = self.context.codec.canonical_name
        if codec in _READERS:
            try:
                self._reader = _READERS[codec](self.context.extradata or b"")
            except (UnclearHeadersError, IndexError) as error:
                self.unclear = str(error)
        else:
            self.unclear = f"frames of {codec} that only a decoder can count"
        self.decodes_all = decodes_all or self.unclear is not None or demuxer in _TIMELESS

    def run(self, container: av.container.InputContainer) -> None:
        """Take all packets.

        Raises:
            UnsupportedMediaError: for more frames than a video has.
            av.FFmpegError: from the demuxer.
        """
        with av.logging.Capture() as complaints:
            for packet in packets_of(container, self._stream):
                report_progress()
                if packet.size:
                    self._add(packet)
                if self.unclear is not None and not self.decodes_all:
                    return  # another pass will decode
                if self.decodes_all or (self.first is None and not self.damaged):
                    complaints.clear()  # of the demuxer
                    self._decode(packet)
                    is_loud = any(level <= av.logging.ERROR for level, _, _ in complaints)
                    if is_loud and not self._is_header(bytes(packet)):
                        self.damaged.add(len(self.packets) - 1)

    def _add(self, packet: av.Packet) -> None:
        data = bytes(packet)
        position = -1 if packet.pos is None else packet.pos
        # Asking for one kind takes three times as long, and mostly there is none.
        has_new_settings = bool(list(packet.iter_sidedata())) and packet.has_sidedata(
            "new_extradata"
        )
        if self.is_direct:
            found = -1 if position < 0 or has_new_settings else self._find(data, position)
            self.is_direct = found >= 0
            position = max(found, position)
        is_key = self._read_headers(data, packet.is_keyframe, has_new_settings)
        self.packets.append(
            ScannedPacket(
                position=position,
                size=len(data),
                time=packet.pts,
                decode_time=packet.dts,
                is_hidden=packet.is_discard,
                is_key=is_key,
                is_disposable=self._is_disposable(data),
            )
        )
        self.run_checksums.add(data, is_key)
        if not len(self.packets) % _CHECKED:
            check_video(0, len(self.packets))

    def _find(self, data: bytes, position: int) -> int:
        """Find a packet's bytes in the file, at or a little after a position; -1: not there."""
        wanted = len(data) + FRAMING
        begin = position - self._block_begin
        if not 0 <= begin <= len(self._block) - wanted:
            self._block = self._read(position, max(wanted, _BLOCK))
            self._block_begin = position
            begin = 0
        found = self._block.find(data, begin, begin + wanted)
        return found if found < 0 else self._block_begin + found

    def _read_headers(self, data: bytes, flagged: bool, has_new_settings: bool) -> bool:
        """Read the headers of a packet; returns whether decoding may begin with it."""
        if self._reader is None:
            self._has_new_tables |= self._is_header(data)
            return flagged and not self._has_new_tables
        if self.unclear is None and has_new_settings:
            self.unclear = "the decoder's settings change"
        if self.unclear is None:
            try:
                self.pictures.append(self._reader.read(data, flagged))
                return self.pictures[-1].is_key
            except (UnclearHeadersError, IndexError) as error:
                self.unclear = str(error)
        try:
            return self._reader.is_key(data, flagged)
        except (UnclearHeadersError, IndexError):
            return False

    def _is_header(self, data: bytes) -> bool:
        """Whether a packet is a header of Theora, as where files were joined: frames after it need
        its tables, and it shows none.
        """
        is_theora = self.context.codec.canonical_name == "theora"
        return is_theora and data[:1] >= _THEORA_HEADER

    def _is_disposable(self, data: bytes) -> bool:
        """Whether no other packet refers to the one whose headers were read last."""
        if self.context.codec.canonical_name == "mpeg4":
            self.has_packed_pictures |= count_pictures(data) != 1
            return is_lone_b_picture(data)
        return self.unclear is None and bool(self.pictures) and self.pictures[-1].is_disposable

    def _decode(self, packet: av.Packet) -> None:
        number = len(self.packets) - 1
        if packet.size:
            packet.pts = number  # the time of the frame that comes out of it
        try:
            frames = packet.decode()
        except av.error.MemoryError:
            raise
        except av.FFmpegError:
            if not self._is_header(bytes(packet)):
                self.damaged.add(number)
            return

        for frame in frames:
            self.shown.append(frame.pts)
            self.frame_sizes.append((frame.width, frame.height))
            self.is_interlaced |= frame.interlaced_frame
            if self.first is None:
                self.first = frame
            if not self.decodes_all:
                return
            if frame.pts is None:
                continue
            if frame.is_corrupt:
                self.damaged.add(frame.pts)
            if self.context.reorder_depth or self.packets[frame.pts].is_key:
                self.checksums[frame.pts] = frame_checksum(frame)

    def order_by_headers(self) -> np.ndarray | None:
        """All packets in the order in which a decoder outputs their frames: int64 (P,).

        Frames that an edit list hides have a place, too. The timestamps of the others must agree:
        if they do not, they or the headers are wrong.

        Returns:
            None, and sets ``unclear``, if only a decoder knows.
        """
        if self.unclear is not None or not self.pictures:
            return None
        assert self._reader is not None

        sequences, orders = np.array(self.pictures, np.int64).T[:2]
        order = np.lexsort((orders, sequences))
        self.delay = int((np.arange(len(order)) - np.argsort(order)).max())
        shown = order[~self.is_hidden[order]]
        times = [self.packets[number].time for number in shown.tolist()]
        if not times:
            self.unclear = "all frames are hidden"
        elif self.delay > (self._reader.max_reorder or 0):
            self.unclear = "more frames are reordered than the stream says"
        elif None in times or (np.diff(np.array(times, np.int64)) < 0).any():
            self.unclear = "timestamps that are missing, or in another order than the frames"
        elif self.shown[:1] != shown[:1].tolist():
            self.unclear = "a first frame that is another one than the headers say"
        return order if self.unclear is None else None

    @property
    def is_hidden(self) -> np.ndarray:
        """Which packets an edit list hides: bool (P,)."""
        return np.array([packet.is_hidden for packet in self.packets], bool)

    @property
    def has_open_gop(self) -> bool:
        """Whether a keyframe of H.264 leaves the pictures before it in place.

        Then a decoder that jumps there shows others, and counts them.
        """
        return isinstance(self._reader, H264Reader) and self._reader.has_open_gop

    @property
    def replaces_sets(self) -> bool:
        """Whether a parameter set has taken the number of another one."""
        return isinstance(self._reader, NalReader) and self._reader.replaces_sets

    @property
    def may_have_fields(self) -> bool:
        """Whether a frame may consist of two fields."""
        has_some = isinstance(self._reader, H264Reader) and self._reader.may_have_fields
        return has_some or self.is_interlaced
