"""Excerpts: the packets of one clip as a small video in memory, for decoders that cannot seek.

DALI's decoder works through a stream from its first packet on. So it gets a stream that has only
what the clip needs: from the keyframe before each wanted frame up to it, without packets that no
other refers to. The runs are those by which the CPU decodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.file_span import ReadAt, Region
from omnidali.catalog.probing.packet_index import PacketIndex, Run
from omnidali.catalog.probing.run_checksums import checksum_of
from omnidali.decoding.coded_pictures import may_hide, one_picture_each
from omnidali.decoding.matroska import CODECS, write_matroska
from omnidali.decoding.nal_edits import NalEditor, has_units
from omnidali.errors import DecodeError

_MAX_BYTES = 1 << 30  # DALI counts the bytes of a stream in 31 bits
# Codecs whose decoders put frames into another order than that of their packets.
_REORDERED = {"h264", "hevc", "mpeg4"}


@dataclass(frozen=True)
class Excerpt:
    """A small video of which all packets are decoded, one after the other.

    Attributes:
        data: uint8 (bytes,), a Matroska file.
        places: int32 (F,), for each wanted frame, which of the frames that come out it is.
        packets: how many there are.
        colorspace: FFmpeg's number of the matrix by which the frames become RGB.
        is_full_range: whether black is 0 and white 255 in the decoded frames.
    """

    data: np.ndarray
    places: np.ndarray
    packets: int
    colorspace: int
    is_full_range: bool


def make_excerpt(media: Media, frames: np.ndarray, *, shows_hidden: bool = False) -> Excerpt:
    """Cut out what is needed to decode some frames of a video.

    Only the bytes of the wanted runs are read, and compared with the checksums of the probe.

    Args:
        media: the video.
        frames: int (F,), frame numbers, in any order, repeats allowed.
        shows_hidden: whether the decoder gives hidden pictures, too, as DALI's on a GPU does.

    Raises:
        DecodeError: if the file is not what the probe saw, or no excerpt of it can be made.
        OSError: if it cannot be read.

    Example::

        excerpt = make_excerpt(media, np.array([40, 3]))
        with av.open(io.BytesIO(excerpt.data)) as video:
            shown = list(video.decode(video=0))
        wanted = [shown[place] for place in excerpt.places]
    """
    codec = media.codec.partition(":")[0]
    index = PacketIndex.unpack(media.packets) if media.packets else None
    if index is None or not index.is_direct or codec not in CODECS:
        raise DecodeError("no excerpt can be made of such a file")
    numbers, places_in = np.unique(frames, return_inverse=True)

    builder = _Builder(codec, index, shows_hidden and may_hide(codec))
    with Region(media.span) as file:
        if file.stamp != media.stamp:
            raise DecodeError("the file changed after the probe")
        for run in index.runs(numbers.tolist()):
            builder.add(run, file.read_at)

    extradata = index.extradata
    size: tuple[int, int] | None = media.stored
    if builder.editor is not None:
        extradata = builder.editor.extradata
        # FFmpeg would cut the pictures to the size of the container
        size = builder.editor.coded_size
    if size is None:  # decoders disagree; NVIDIA's cuts at the right and at the bottom alone
        raise DecodeError("pictures that are cut at their left or top")
    data = write_matroska(
        codec,
        extradata,
        size,
        builder.packets,
        times=builder.times,
        keys=builder.keys,
        is_full_range=index.is_full_range,
    )
    places = np.array([builder.places[number] for number in numbers.tolist()], np.int32)
    return Excerpt(
        data=np.frombuffer(data, np.uint8),
        places=places[places_in],
        packets=len(builder.packets),
        colorspace=index.colorspace,
        is_full_range=index.is_full_range,
    )


class _Builder:
    """Collects the packets of an excerpt, run by run.

    Args:
        codec: name of the codec.
        index: of the video.
        shows_hidden: whether hidden pictures come out as well.

    Attributes:
        packets: in decoding order.
        times: by packet, its place if all of them were shown.
        keys: by packet, whether decoding may begin there.
        places: by frame number, its place among the frames that come out.
        editor: of a stream of NAL units.
    """

    def __init__(self, codec: str, index: PacketIndex, shows_hidden: bool) -> None:
        self.packets: list[bytes | memoryview] = []
        self.times: list[int] = []
        self.keys: list[bool] = []
        self.places: dict[int, int] = {}

        self.editor = NalEditor(codec, index.extradata) if has_units(codec) else None

        self._codec = codec
        self._index = index
        self._shows_hidden = shows_hidden
        self._shown = 0  # frames that come out of the runs before
        self._bytes = 0

    def add(self, run: Run, read: ReadAt) -> None:
        """Add the packets that a run needs."""
        packets = self._index.needed(run)
        keys = self._index.keys[packets]
        keys[0] = True
        begin = len(self.packets)
        self._bytes += int(self._index.sizes[packets].sum())
        if self._bytes > _MAX_BYTES:
            raise DecodeError("too many bytes from keyframe to keyframe for a decoder in memory")

        pictures = list(_read_checked(self._index, packets, read))
        numbers = self._index.numbers[packets]
        if self._shows_hidden:
            pictures, origins, is_shown = one_picture_each(self._codec, pictures)
            numbers = np.where(is_shown, numbers[origins], -1)
            keys = keys[origins] & (np.diff(origins, prepend=-1) > 0)
        self.packets += pictures
        self.keys += keys.tolist()
        if self.editor is not None:
            for place in range(begin, len(self.packets)):
                packet = self.packets[place]
                is_cut = place == begin > 0
                self.packets[place] = self.editor.edit_packet(packet, is_cut=is_cut)

        order = np.argsort(_show_order(numbers, self._codec in _REORDERED), kind="stable")
        self.times += (begin + np.argsort(order)).tolist()
        numbers = numbers[order]
        shown = numbers if self._shows_hidden else numbers[numbers != -1]
        for number in run.frames.values():
            self.places[number] = self._shown + int(np.flatnonzero(shown == number)[0])
        self._shown += len(shown)


def _show_order(numbers: np.ndarray, is_reordered: bool) -> np.ndarray:
    """Values that rise in the order in which frames come out, one a packet.

    Packets without a frame lie right before the next one; where frames are reordered, they are
    those that an edit list hides after the last shown one.
    """
    is_silent = numbers == -1
    if not is_silent.any():
        return numbers
    order = numbers.astype(float)
    if is_reordered:
        order[is_silent] = np.inf
        return order
    following = np.inf
    for place in range(len(order) - 1, -1, -1):
        if is_silent[place]:
            order[place] = following - 0.5
        else:
            following = order[place]
    return order


def _read_checked(
    index: PacketIndex, packets: np.ndarray, read: ReadAt
) -> Sequence[bytes | memoryview]:
    """Read packets, and compare the stretches that hold them with their checksums.

    Raises:
        DecodeError: if they differ.
    """
    if index.checked is None or index.checksums is None:
        raise DecodeError("the probe kept no checksums of its packets")
    parts = index.stretches(int(packets[0]), int(packets[-1]))
    begin, end = parts[0][1], parts[-1][2]
    data: list[bytes | memoryview] = list(index.read(np.arange(begin, end), read))
    for place, first, after in parts:
        if checksum_of(data[first - begin : after - begin]) != index.checksums[place]:
            raise DecodeError(f"packets {first} to {after - 1} changed after the probe")
    return [data[packet - begin] for packet in packets.tolist()]
