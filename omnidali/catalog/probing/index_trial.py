"""Makes the packet index of a video and tries it out."""

from dataclasses import replace

import av
import numpy as np

from omnidali.catalog.probing.file_span import ReadAt
from omnidali.catalog.probing.frame_numbering import Frames
from omnidali.catalog.probing.frame_planes import frame_checksum
from omnidali.catalog.probing.packet_decoder import PacketDecoder
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.packet_scan import PacketScan

_MAX_SIDE = 65_535  # pixels, of the index's fields
_TRIED_KEYS = 8  # keyframes to decode from; if one of these fails, all others are tried as well
_TRIED_PACKETS = 64  # after each of them at most


def make_index(scan: PacketScan, frames: Frames, read: ReadAt) -> PacketIndex:
    """Make the packet index of a video.

    What decoding by it gives is compared with what the demuxer's packets gave.

    Args:
        scan: of the video.
        frames: of the video.
        read: the file's bytes.
    """
    index = _untried_index(scan, frames)
    if index.is_direct:
        trial = _Trial(scan, index, read)
        if trial.gives_first_frame():
            return replace(index, keys=trial.true_keys())
        index = replace(index, is_direct=False)

    # Without a trial: decoders of fields may need more than one keyframe to begin with.
    if scan.unclear is not None and scan.is_interlaced:
        return replace(index, keys=np.arange(len(index.keys)) == 0)
    return index


def _untried_index(scan: PacketScan, frames: Frames) -> PacketIndex:
    numbers = np.full(len(scan.packets), -1, np.int64)
    numbers[frames.packets] = np.arange(len(frames.packets))
    width, height = scan.coded_size
    is_h264 = scan.context.codec.canonical_name == "h264"
    return PacketIndex(
        offsets=np.array([packet.position for packet in scan.packets], np.int64),
        sizes=np.array([packet.size for packet in scan.packets], np.int32),
        numbers=numbers,
        keys=frames.keys,
        extradata=scan.context.extradata or b"",
        colorspace=scan.context.colorspace,
        color_range=scan.context.color_range,
        reorder=frames.reorder,
        is_direct=scan.is_direct,
        is_skippable=scan.unclear is None,
        size=(min(width, _MAX_SIDE), min(height, _MAX_SIDE)),
        has_fields=is_h264 and scan.is_interlaced and scan.unclear is not None,
    )


class _Trial:
    """Decodes by an index and compares the frames with those of the scan."""

    def __init__(self, scan: PacketScan, index: PacketIndex, read: ReadAt) -> None:
        self._scan = scan
        self._index = index
        self._read = read
        self._decoder: PacketDecoder | None = None

    def gives_first_frame(self) -> bool:
        assert self._scan.first is not None
        found = self._checksums([0])
        return found is not None and found.get(0) == frame_checksum(self._scan.first)

    def true_keys(self) -> np.ndarray:
        """The keyframes from which on all frames have the pixels that they have without a jump.

        A few are tried, and all others only if one of these fails. Where frames are reordered,
        those up to the next keyframe are compared, too: decoders may need more than a keyframe to
        begin with.
        """
        keys = self._index.keys.copy()
        known = [key for key in np.flatnonzero(keys).tolist() if key in self._scan.checksums]
        places = np.unique(np.linspace(0, len(known) - 1, _TRIED_KEYS).astype(int))
        chosen = [known[place] for place in places.tolist()] if known else []
        for tried in (chosen, known):
            for key in tried:
                keys[key] = self._is_true_key(key)
            if keys[chosen].all():
                break
        return keys

    def _is_true_key(self, key: int) -> bool:
        """Whether decoding from a keyframe on gives the frames up to the next one."""
        index = self._index
        following = index.key_packets[index.key_packets > key]
        end = int(following[0]) if len(following) else len(index.numbers)
        numbers = index.numbers[key : min(end, key + _TRIED_PACKETS)]
        expected = {}
        for number in numbers[numbers >= index.numbers[key]].tolist():
            packet = int(index.packet_of[number])
            if packet in self._scan.checksums:
                expected[number] = self._scan.checksums[packet]
        return self._checksums(list(expected)) == expected

    def _checksums(self, wanted: list[int]) -> dict[int, int] | None:
        """The checksums of frames by number; None where the packets do not decode."""
        try:
            if self._decoder is None:
                codec = self._scan.context.codec.canonical_name
                self._decoder = PacketDecoder(codec, self._index)
            return {
                number: frame_checksum(frame)
                for number, frame in self._decoder.frames(self._index, self._read, wanted)
            }
        except av.error.MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            return None
