"""Opens videos with FFmpeg so that a file can ask neither for other files nor for much memory."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import av
from av.stream import Disposition

from omnidali.catalog.probing.file_span import FileSpan, Region
from omnidali.catalog.probing.formats import DECODERS_OF
from omnidali.catalog.probing.limits import MAX_STREAMS, MAX_VIDEO_PIXELS, check_size
from omnidali.catalog.probing.mp4_boxes import OVERLAP, check_boxes, check_compression
from omnidali.catalog.probing.packet_decoder import decoder_options

_BUFFER_BYTES = 1 << 18
_INVENTS_TIMES = 0x0001  # AVFMT_FLAG_GENPTS
_NO_VIDEOS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


@contextmanager
def open_video(
    span: FileSpan, container: str, invents_times: bool = False, checks_fragments: bool = False
) -> Iterator[av.container.InputContainer]:
    """Open a video with exactly one demuxer and few decoders.

    FFmpeg gets an opened file instead of a name, and may use that alone: what a file says about
    other places, as QuickTime's external references do, names protocols that are not there.

    Args:
        span: the file.
        container: FFmpeg's name of the demuxer.
        invents_times: whether FFmpeg makes up presentation times if a file has none, as PyAV
            asks it to: wrong ones if frames are reordered.
        checks_fragments: whether to check all fragments of an MP4 first; its header is checked in
            any case.

    Raises:
        UnsupportedMediaError: if its boxes claim more than they can hold, or hide its header;
            if a GIF is too large.
        OSError: if the file could not be read, whatever FFmpeg made of it; at the latest at the
            end.
        av.FFmpegError: if its content is not as it must be.
    """
    options = {
        "protocol_whitelist": "none",
        "format_whitelist": container,
        "codec_whitelist": ",".join(DECODERS_OF[container]),
        "max_streams": str(MAX_STREAMS),
        "enable_drefs": "0",
    }
    is_mp4 = container == "mov"
    with Region(span, check_compression if is_mp4 else None, OVERLAP) as file:
        if is_mp4:
            check_boxes(file.read_at, file.size, with_fragments=checks_fragments)
        if container == "gif":  # whose pictures are as large as its canvas
            check_canvas(file.read_at(0, 10))
        try:
            with av.open(
                file, mode="r", format=container, options=options, buffer_size=_BUFFER_BYTES
            ) as opened:
                if not invents_times:
                    opened.flags &= ~_INVENTS_TIMES
                for stream in opened.streams.video:
                    context = stream.codec_context
                    if context is not None:
                        context.options = decoder_options(context.codec.canonical_name)
                yield opened
        except Exception as error:
            if file.error is not None:  # the cause; the error that followed adds nothing
                raise file.error from error
            raise
        if file.error is not None:
            raise file.error


def packets_of(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet]:
    """Yield the packets of a stream, and at its end the empty one that flushes a decoder.

    A stream that begins in the middle of the file, as in Ogg, FLV and MPEG-TS, does not disturb
    the one that was chosen.

    Raises:
        av.FFmpegError: from the demuxer.
    """
    # PyAV takes the list of streams once. At the end, after the empty packet of `stream`, it may
    # look up a later one there.
    with suppress(IndexError):
        yield from container.demux(stream)


def check_canvas(head: bytes) -> None:
    """Raise UnsupportedMediaError for a GIF that is larger than a video may be.

    Source: GIF89a specification, 18.
    """
    width, height = (int.from_bytes(head[place : place + 2], "little") for place in (6, 8))
    check_size(width, height, MAX_VIDEO_PIXELS)


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The default video stream; of several, or without one, that with the largest picture.

    Covers and thumbnails are none.
    """

    def rank(stream: av.VideoStream) -> tuple[bool, int]:
        context = stream.codec_context
        area = context.width * context.height if context is not None else 0
        return bool(stream.disposition & Disposition.default), area

    streams = [stream for stream in container.streams.video if not stream.disposition & _NO_VIDEOS]
    return max(streams, key=rank, default=None)
