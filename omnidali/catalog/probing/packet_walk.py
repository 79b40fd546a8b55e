"""One pass over the packets of a video: where they lie, what their headers say, and which frames a
decoder gives.
"""

from __future__ import annotations

from collections.abc import Callable

import av
import numpy as np

from omnidali.catalog.probing.bit_reader import CodedPicture, UnclearHeadersError
from omnidali.catalog.probing.frame_planes import frame_checksum
from omnidali.catalog.probing.nal_headers import H264Reader, HevcReader
from omnidali.catalog.probing.packet_index import FRAMING
from omnidali.catalog.probing.sniff import check_video
from omnidali.catalog.probing.vpx_av1_headers import Av1Reader, Vp9Reader
from omnidali.utils.heartbeat import moves_on

# codecs whose headers say which frames a decoder gives, and in which order
_READERS = {"h264": H264Reader, "hevc": HevcReader, "vp9": Vp9Reader, "av1": Av1Reader}
# containers without presentation times: what FFmpeg makes up for them is wrong where frames are
# reordered
_TIMELESS = {"avi"}
_BLOCK = 1 << 16  # bytes of the file that are read at once
_CHECKED = 1024  # packets, between two looks at how many there are


class PacketWalk:
    """What a pass over a stream found, P packets in decoding order.

    Args:
        demuxer: FFmpeg's name. read: the file's bytes, by (offset, count).
        decodes_all: whether to decode all packets rather than those of the first frame alone. That
            happens, too, where the codec's headers or the container's times cannot tell the frames.

    Attributes:
        coded_size: (width, height) that the container says, pixels.
        positions, sizes: of packets; a position is exact where ``is_direct``.
        times, decode_times: presentation and decoding timestamps, ticks or None.
        keys: whether decoding may begin here, by the headers if they can be read, else by the
            container.
        hidden: whether an edit list discards its frame.
        pictures: what the headers say of each packet, as far as ``unclear`` is None.
        unclear: why the headers do not tell the frames; None where they do.
        delay: packets that a frame is held back by at most, by the headers.
        shown: packets that frames came out of, in the order of the frames; one, or all with
            ``decodes_all``.
        frame_sizes: (width, height) of these frames, pixels. checksums: of frames by packet: of
            keyframes, and of all where frames are reordered.
        first: the first frame. is_interlaced: whether one of these frames is.
        damaged: packets that do not decode, or not without the decoder making something up; known
            with ``decodes_all``, and all of them where FFmpeg's log is on.
    """

    def __init__(
        self,
        stream: av.VideoStream,
        demuxer: str,
        read: Callable[[int, int], memoryview],
        decodes_all: bool,
    ):
        self._stream = stream
        self._read = read
        self._block, self._block_begin = b"", 0
        self.context = stream.codec_context
        self.coded_size = self.context.width, self.context.height
        self.positions: list[int] = []
        self.sizes: list[int] = []
        self.times: list[int | None] = []
        self.decode_times: list[int | None] = []
        self.keys: list[bool] = []
        self.hidden: list[bool] = []
        self.is_direct = True
        self.pictures: list[CodedPicture] = []
        self.unclear: str | None = None
        self.delay = 0
        self.shown: list[int | None] = []
        self.frame_sizes: list[tuple[int, int]] = []
        self.checksums: dict[int, int] = {}
        self.first: av.VideoFrame | None = None
        self.is_interlaced = False
        self.damaged: set[int] = set()
        self._reader = self._make_reader()
        self.decodes_all = decodes_all or self.unclear is not None or demuxer in _TIMELESS

    def _make_reader(self) -> H264Reader | HevcReader | Vp9Reader | Av1Reader | None:
        codec = self.context.codec.canonical_name
        if codec not in _READERS:
            self.unclear = f"frames of {codec} that only a decoder can count"
            return None
        try:
            return _READERS[codec](self.context.extradata or b"")
        except (UnclearHeadersError, IndexError) as reason:
            self.unclear = str(reason)
            return None

    def run(self, container: av.container.InputContainer) -> None:
        """Take all packets.

        Raises:
            UnsupportedMediaError: for more frames than a video has.
            av.FFmpegError: from the demuxer.
        """
        with av.logging.Capture() as complaints:
            for packet in container.demux(self._stream):
                moves_on()
                if packet.size:
                    self._add(packet)
                if self.unclear is not None and not self.decodes_all:
                    return  # another pass will decode
                if self.decodes_all or (self.first is None and not self.damaged):
                    complaints.clear()  # of the demuxer
                    self._decode(packet)
                    if any(level <= av.logging.ERROR for level, _, _ in complaints):
                        self.damaged.add(len(self.sizes) - 1)

    def _add(self, packet: av.Packet) -> None:
        data = bytes(packet)
        position = -1 if packet.pos is None else packet.pos
        # asking for one kind takes thrice as long, and there mostly is none
        renewed = bool(list(packet.iter_sidedata())) and packet.has_sidedata("new_extradata")
        if self.is_direct:
            found = -1 if position < 0 or renewed else self._find(data, position)
            self.is_direct = found >= 0
            position = max(found, position)
        self.positions.append(position)
        self.sizes.append(len(data))
        self.times.append(packet.pts)
        self.decode_times.append(packet.dts)
        self.hidden.append(packet.is_discard)
        self.keys.append(self._look(data, packet.is_keyframe, renewed))
        if not len(self.sizes) % _CHECKED:
            check_video(0, len(self.sizes))

    def _find(self, data: bytes, position: int) -> int:
        """Where a packet's bytes lie in the file, at or a little behind a position; -1 where they
        do not.
        """
        begin, size = position - self._block_begin, len(data) + FRAMING
        if not 0 <= begin <= len(self._block) - size:
            # `obj` is the bytes that were read, without another copy
            self._block, self._block_begin, begin = (
                self._read(position, max(size, _BLOCK)).obj,
                position,
                0,
            )
        at = self._block.find(data, begin, begin + size)
        return at if at < 0 else self._block_begin + at

    def _look(self, data: bytes, flagged: bool, renewed: bool) -> bool:
        """Read the headers of a packet; returns whether decoding may begin with it."""
        if self.unclear is None:
            try:
                if renewed:
                    raise UnclearHeadersError("the decoder's settings change")
                picture = self._reader.read(data, flagged)
            except (UnclearHeadersError, IndexError) as reason:
                self.unclear = str(reason)
            else:
                self.pictures.append(picture)
                return picture.is_key
        if self._reader is None:
            return flagged
        try:
            return self._reader.is_key(data, flagged)
        except (UnclearHeadersError, IndexError):
            return False

    def _decode(self, packet: av.Packet) -> None:
        number = len(self.sizes) - 1
        if packet.size:
            packet.pts = number  # the frame that comes out of it bears it as its time
        try:
            frames = packet.decode()
        except av.error.MemoryError:
            raise
        except av.FFmpegError:
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
            if frame.pts is not None and frame.is_corrupt:
                self.damaged.add(frame.pts)
            if frame.pts is not None and (self.context.reorder_depth or self.keys[frame.pts]):
                self.checksums[frame.pts] = frame_checksum(frame)

    def _ranked(self) -> np.ndarray:
        """Packets in the order in which their pictures come out."""
        if self._reader.is_in_order:
            return np.arange(len(self.pictures))
        sequences, orders, _ = np.array(self.pictures, np.int64).T
        return np.lexsort((orders, sequences))

    def order_by_headers(self) -> np.ndarray | None:
        """Packets of shown frames in the order in which a decoder gives them; None, and
        ``unclear``, if only a decoder knows.

        The timestamps must agree: where they do not, they or the headers are wrong.
        """
        if self.unclear is not None or not self.pictures:
            return None
        ranked = self._ranked()
        places = np.empty(len(ranked), np.int64)
        places[ranked] = np.arange(len(ranked))
        self.delay = int((np.arange(len(places)) - places).max())
        declared = self._reader.max_reorder
        shown = ranked[~np.array(self.hidden)[ranked]]
        times = [self.times[packet] for packet in shown.tolist()]
        if self.delay and (declared is None or self.delay > declared):
            self.unclear = "more frames are reordered than the stream says"
        elif None in times or (np.diff(np.array(times, np.int64)) < 0).any():
            self.unclear = "timestamps that are missing, or in another order than the frames"
        elif self.shown[:1] != shown[:1].tolist():
            self.unclear = "a first frame that is another one than the headers say"
        return shown if self.unclear is None else None
