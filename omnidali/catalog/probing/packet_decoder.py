"""Decodes wanted frames of a video with its packet index, without a demuxer."""

import itertools
from collections.abc import Iterator, Sequence

import av

from omnidali.catalog.probing.file_span import ReadAt
from omnidali.catalog.probing.limits import MAX_VIDEO_PIXELS
from omnidali.catalog.probing.packet_index import PacketIndex, Run
from omnidali.utils.heartbeat import report_progress

_DECODERS = {"av1": "libdav1d"}  # FFmpeg's own av1 needs hardware
# Codecs whose packets say how large the picture is.
_SELF_SIZED = {"h264", "hevc", "vp8", "vp9", "av1", "mjpeg"}
# Decoders that keep some state of earlier frames when they are reset.
KEEPS_STATE = {"mpeg4", "ffv1", "gif"}


def make_context(codec: str, index: PacketIndex) -> av.VideoCodecContext:
    """A new decoder for the packets of an index."""
    context = av.CodecContext.create(_DECODERS.get(codec, codec), "r")
    assert isinstance(context, av.VideoCodecContext)
    if index.extradata:
        context.extradata = index.extradata
    context.colorspace = index.colorspace
    context.color_range = index.color_range
    use_one_thread(context)
    context.options = decoder_options(codec)
    if codec not in _SELF_SIZED:
        context.width, context.height = index.size
    return context


def use_one_thread(context: av.VideoCodecContext) -> None:
    """Have a decoder work on the thread that calls it: files are decoded in parallel."""
    context.thread_count = 1
    context.thread_type = "NONE"


def decoder_options(codec: str) -> dict[str, str]:
    """FFmpeg's options for the decoder of a codec, whoever feeds it."""
    # Pictures may grow after the header that was checked.
    options = {"max_pixels": str(MAX_VIDEO_PIXELS)}
    # Newer versions of FFmpeg keep back frames whose references are lost; older ones do not.
    if codec == "hevc":
        options["flags"] = "+output_corrupt"
    return options


def decode_run(
    context: av.VideoCodecContext, packets: Iterator[av.Packet], frames: dict[int, int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) of the wanted frames of one run as they come.

    As FFmpeg does, a packet that does not decode is passed over.

    Args:
        context: the decoder.
        packets: each with its number as its time.
        frames: wanted frames by packet; those that came are taken out.

    Raises:
        av.FFmpegError: the first of the packets, where a frame is missing in the end.
    """
    failure = None
    for packet in itertools.chain(packets, [None]):  # at the end: what the decoder holds back
        report_progress()
        try:
            for frame in context.decode(packet):
                if frame.pts in frames:
                    yield frames.pop(frame.pts), frame
        except av.error.MemoryError:
            raise
        except av.FFmpegError as error:
            failure = failure or error
        if not frames:
            return
    if failure is not None:
        raise failure


class PacketDecoder:
    """A decoder that is fed from an index.

    It belongs to one thread, which uses it again for the next video that fits.
    """

    def __init__(self, codec: str, index: PacketIndex) -> None:
        self._codec = codec
        self._made_for = self._needs(codec, index)
        self._context = make_context(codec, index)

    def fits(self, codec: str, index: PacketIndex) -> bool:
        """Whether it may decode by this index, too."""
        return self._made_for == self._needs(codec, index)

    @staticmethod
    def _needs(codec: str, index: PacketIndex) -> tuple:
        size = None if codec in _SELF_SIZED else index.size
        return codec, index.extradata, index.colorspace, index.color_range, size

    def frames(
        self, index: PacketIndex, read: ReadAt, wanted: Sequence[int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number, frame) of the wanted frames as they come.

        Frames that the stream does not give are left out.

        Args:
            index: of the video.
            read: the file's bytes.
            wanted: numbers of frames.

        Raises:
            av.FFmpegError: from a packet that the decoder does not take, if a wanted frame did not
                come.
        """
        for run in index.runs(wanted):
            # Each run needs a decoder as if it were new.
            if self._context.is_open and self._codec in KEEPS_STATE:
                self._context = make_context(self._codec, index)
            if self._context.is_open:
                self._context.flush_buffers()
            else:
                self._context.open()
            self._context.reorder_depth = index.reorder
            yield from decode_run(self._context, self._packets(index, read, run), run.frames)

    def _packets(self, index: PacketIndex, read: ReadAt, run: Run) -> Iterator[av.Packet]:
        """Yield the packets that a run needs, read in blocks."""
        packets = index.needed(run)
        for number, data in zip(packets.tolist(), index.read(packets, read), strict=True):
            packet = av.Packet(int(index.sizes[number]))
            packet.update(bytes(data))
            packet.pts = number
            yield packet
