"""From the packets of a video to its frames, and to a packet index that was tried out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import av
import numpy as np

from omnidali.catalog.probing.file_span import ReadAt
from omnidali.catalog.probing.frame_planes import frame_checksum, is_full_range
from omnidali.catalog.probing.packet_decoder import PacketDecoder
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.packet_scan import PacketScan

T = TypeVar("T")

# Usual steps that a clock goes back by where it starts again; reordered frames go back by 16 at
# most.
_JUMP = 32
_MAX_REORDER = 16  # frames, of H.264 and HEVC
_MAX_SIDE = 65_535  # pixels, of the index's fields
_TRIED_KEYS = 8  # keyframes to decode from; if one of these fails, all others are tried as well
_TRIED_PACKETS = 64  # after each of them at most
_TRIED_DISPOSABLE = 12  # packets from which those that no other refers to are left out
# Codecs of which each packet gives one frame, in order, and none refers to another.
_STILLS = {"mjpeg"}
# Codecs of which a packet gives no frame for reasons that decoders see differently.
_ONE_FRAME_EACH = {"h264", "hevc", "mpeg4"}


@dataclass(frozen=True)
class Frames:
    """The frames of a video, N of them.

    Frame k is the k-th that FFmpeg's sequential decoding outputs.

    Attributes:
        packets: int64 (N,), the packet of each frame.
        times: int64 (N,), rising timestamps, ticks; None if the file has none.
        keys: bool (P,), packets where decoding may begin.
        reorder: frames that a decoder holds back at most.
        is_plain: whether timestamps identify the frames as well.
        is_damaged: whether the decoder had to make something up.
        hidden: int64 (H,), packets of the frames that an edit list hides before frame 0, in the
            order in which they come out.
        is_edited: whether an edit list hides other frames than those before the first and after
            the last, or nobody knows.
        notes: what a user should know about them.
    """

    packets: np.ndarray
    times: np.ndarray | None
    keys: np.ndarray
    reorder: int
    hidden: np.ndarray
    is_plain: bool = True
    is_damaged: bool = False
    is_edited: bool = False
    notes: tuple[str, ...] = ()


def frames_by_headers(scan: PacketScan, order: np.ndarray) -> Frames:
    """The frames of a stream whose headers suffice.

    Args:
        scan: of the stream.
        order: as of :meth:`~omnidali.catalog.probing.packet_scan.PacketScan.order_by_headers`.
    """
    is_hidden = scan.is_hidden[order]
    shown = order[~is_hidden]
    first, last = np.flatnonzero(~is_hidden)[[0, -1]]
    times = np.array([scan.packets[packet].time for packet in shown.tolist()], np.int64)
    return Frames(
        packets=shown,
        times=times,
        keys=np.array([packet.is_key for packet in scan.packets], bool),
        reorder=min(scan.delay, _MAX_REORDER),
        hidden=order[:first],
        is_edited=bool(is_hidden[first:last].any()),
    )


def frames_by_decoding(scan: PacketScan, order_by_times: np.ndarray) -> Frames | None:
    """The frames that a decoder gave before the picture size changed.

    Args:
        scan: of the stream, which decoded all of it.
        order_by_times: packets in the order of their timestamps.

    Returns:
        None if packets do not tell the frames apart.
    """
    count, notes = usable_frames(scan)
    shown = scan.shown[:count]
    if None in shown or len(set(shown)) < count:
        return None

    packets = np.array(shown, np.int64)
    came = np.zeros(len(scan.packets), bool)
    came[packets] = True
    is_hidden = scan.is_hidden
    is_key = np.array([packet.is_key for packet in scan.packets], bool)
    hidden = np.zeros(0, np.int64)
    codec = scan.context.codec.canonical_name
    if codec in _STILLS:
        hidden = np.arange(packets[0])
        is_edited = bool(is_hidden[packets[0] : packets[-1]].any())
    else:  # a decoder that is told to drop frames does not say where they would have come
        gives_one_each = came.all() and not scan.has_packed_pictures
        is_edited = bool(is_hidden.any()) or (codec in _ONE_FRAME_EACH and not gives_one_each)

    late = np.arange(count) - np.argsort(np.argsort(packets))
    reorder = max(scan.context.reorder_depth, int(late.max()))
    return Frames(
        packets=packets,
        times=_shown_times(scan, packets),
        keys=is_key & (came | is_hidden),
        reorder=min(reorder, _MAX_REORDER),
        is_plain=np.array_equal(packets, order_by_times),
        hidden=hidden,
        is_damaged=bool(scan.damaged),
        is_edited=is_edited,
        notes=notes,
    )


def usable_frames(scan: PacketScan) -> tuple[int, tuple[str, ...]]:
    """How many frames come before the picture size changes, and what a user should know."""
    notes = []
    if scan.damaged:
        first = min(scan.damaged)
        frame = sum(packet is not None and packet < first for packet in scan.shown)
        notes.append(
            f"{len(scan.damaged):,} of {len(scan.packets):,} packets are damaged,"
            f" the first about frame {frame}"
        )

    sizes = scan.frame_sizes
    change = next((number for number, size in enumerate(sizes) if size != sizes[0]), None)
    if change is None:
        return len(sizes), tuple(notes)
    old, new = ("x".join(map(str, sizes[number])) for number in (0, change))
    notes.append(
        f"the picture size changes from {old} to {new} at frame {change}:"
        " only those before it are used"
    )
    return change, tuple(notes)


def _shown_times(scan: PacketScan, packets: np.ndarray) -> np.ndarray | None:
    """Rising timestamps of the frames, int64 (N,).

    Where presentation times are missing, decoding times are shared out in order. A clock that
    starts again continues from where it was. Times in the order of decoding, as in copies from AVI,
    are sorted.
    """
    known = [scan.packets[packet].time for packet in packets.tolist()]
    if None in known:
        known = [scan.packets[packet].decode_time for packet in np.sort(packets).tolist()]
    if None in known:
        return None

    times = np.array(known, np.int64)
    steps = np.diff(times)
    usual = int(np.median(steps[steps > 0])) if (steps > 0).any() else 1
    restarts = np.flatnonzero(steps < -_JUMP * usual) + 1
    if len(restarts):
        highest = np.maximum.reduceat(times, np.concatenate([[0], restarts]))[:-1]
        shifts = np.zeros(len(times), np.int64)
        shifts[restarts] = highest + usual - times[restarts]
        times = times + np.cumsum(shifts)
    return np.sort(times)


def make_index(scan: PacketScan, frames: Frames, read: ReadAt) -> PacketIndex:
    """Make the packet index of a video.

    The frames decoded by it are compared with those of the demuxer's packets.

    Args:
        scan: of the video.
        frames: of the video.
        read: the file's bytes.
    """
    numbers = np.full(len(scan.packets), -1, np.int64)
    numbers[frames.packets] = np.arange(len(frames.packets))
    numbers[frames.hidden] = np.arange(len(frames.hidden)) - len(frames.hidden) - 1
    width, height = scan.coded_size
    codec = scan.context.codec.canonical_name
    assert scan.first is not None
    index = PacketIndex(
        offsets=np.array([packet.position for packet in scan.packets], np.int64),
        sizes=np.array([packet.size for packet in scan.packets], np.int32),
        numbers=numbers,
        keys=frames.keys,
        extradata=scan.context.extradata or b"",
        colorspace=scan.context.colorspace,
        color_range=scan.context.color_range,
        reorder=frames.reorder,
        is_direct=scan.is_direct,
        size=(min(width, _MAX_SIDE), min(height, _MAX_SIDE)),
        has_fields=codec == "h264" and scan.is_interlaced and scan.unclear is not None,
        is_full_range=is_full_range(scan.first),
        drops_leading=codec == "hevc",
        disposable=_disposable(scan),
        checked=np.array(scan.run_checksums.begins, bool),
        checksums=np.array(scan.run_checksums.values, np.uint32),
    )
    if index.is_direct:
        trial = _Trial(scan, index, read)
        if trial.gives_first_frame():
            if codec == "hevc" and not trial.needs_no_disposable():
                index = replace(index, disposable=None)
                trial = _Trial(scan, index, read)
            return replace(index, keys=trial.true_keys())
        index = replace(index, is_direct=False)

    # Without a trial: decoders of fields may need more than one keyframe to begin with.
    if scan.unclear is not None and scan.is_interlaced:
        return replace(index, keys=np.arange(len(index.keys)) == 0)
    return index


def _disposable(scan: PacketScan) -> np.ndarray:
    """Packets that may be left out, bool (P,): none if the headers of others are unclear, or some
    are known to be damaged.
    """
    # what FFmpeg makes up for a damaged picture depends on all that it decoded before
    is_known = scan.unclear is None and not scan.damaged
    if scan.context.codec.canonical_name == "mpeg4":  # only a decoder counts its frames
        # FFmpeg takes the distance of fields from the first picture that no other refers to
        is_known = not (scan.has_packed_pictures or scan.is_interlaced or scan.damaged)
    return np.array([is_known and packet.is_disposable for packet in scan.packets], bool)


@dataclass
class _Trial:
    """Decodes by an index and compares the frames with those of the scan."""

    _scan: PacketScan
    _index: PacketIndex
    _read: ReadAt
    _decoder: PacketDecoder | None = None

    def gives_first_frame(self) -> bool:
        assert self._scan.first is not None
        return self._checksums([0]) == {0: frame_checksum(self._scan.first)}

    def needs_no_disposable(self) -> bool:
        """Whether the frames after the first keyframe decode whole without disposable packets.

        Those of HEVC are so by their own word alone: an encoder may be wrong.
        """
        assert self._index.disposable is not None
        is_tried = ~self._index.disposable[:_TRIED_DISPOSABLE]
        is_tried[[len(is_tried) // 2, -1]] = True  # a wanted one may refer to one that is not
        numbers = self._index.numbers[: len(is_tried)][is_tried]
        wanted = numbers[numbers >= max(0, self._index.numbers[0])].tolist()
        corrupt = self._decode(wanted, lambda frame: frame.is_corrupt)
        return corrupt is not None and len(corrupt) == len(wanted) and not any(corrupt.values())

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
        for number in numbers[numbers >= max(0, index.numbers[key])].tolist():
            packet = int(index.packet_of[number])
            if packet in self._scan.checksums:
                expected[number] = self._scan.checksums[packet]
        return self._checksums(list(expected)) == expected

    def _checksums(self, wanted: list[int]) -> dict[int, int] | None:
        """The checksums of frames by number; None if the packets do not decode."""
        return self._decode(wanted, frame_checksum)

    def _decode(self, wanted: list[int], look: Callable[[av.VideoFrame], T]) -> dict[int, T] | None:
        """What ``look`` finds in frames, by number; None if the packets do not decode."""
        try:
            if self._decoder is None:
                codec = self._scan.context.codec.canonical_name
                self._decoder = PacketDecoder(codec, self._index)
            return {
                number: look(frame)
                for number, frame in self._decoder.frames(self._index, self._read, wanted)
            }
        except av.error.MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            return None
