"""From the packets of a video to its frames: their numbers, times and keyframes, and the packet
index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import av
import numpy as np

from omnidali.catalog.probing.frame_planes import frame_checksum, is_same_frame
from omnidali.catalog.probing.packet_index import PacketDecoder, PacketIndex
from omnidali.catalog.probing.packet_walk import PacketWalk

# usual steps that a clock goes back by where it starts again; reordered frames go back by 16 at
# most
_JUMP = 32
_MAX_SIDE = 65_535  # pixels, of the index's fields
_MAX_REORDER = 16  # frames, of H.264 and HEVC
_TRIED_KEYS = 8  # keyframes that decoding is tried from; all others are, too, if one of these fails
_TRIED_PACKETS = 64  # after each of them at most


@dataclass(frozen=True)
class Frames:
    """The frames of a video, N of them; frame k is the k-th that FFmpeg's sequential decoding
    gives.

    Attributes:
        packets: int64 (N,), the packet that each comes out of.
        times: int64 (N,), rising timestamps, ticks; None where the file has none.
        keys: bool (P,), packets where decoding may begin.
        reorder: frames that a decoder holds back at most.
        is_plain: whether timestamps tell the frames as well.
        is_damaged: whether the decoder had to make something up.
        notes: what a user should know of them.
    """

    packets: np.ndarray
    times: np.ndarray | None
    keys: np.ndarray
    reorder: int
    is_plain: bool = True
    is_damaged: bool = False
    notes: tuple[str, ...] = ()


def frames_by_headers(walk: PacketWalk, shown: np.ndarray) -> Frames:
    """The frames of a stream whose headers tell all; ``shown`` is
    :meth:`PacketWalk.order_by_headers`.
    """
    times = np.array([walk.times[packet] for packet in shown.tolist()], np.int64)
    return Frames(shown, times, np.array(walk.keys, bool), min(walk.delay, _MAX_REORDER))


def frames_by_decoding(walk: PacketWalk, order_by_times: np.ndarray) -> Frames | None:
    """The frames that a decoder gave before the picture size changed; None where packets do not
    tell them apart.

    Args:
        order_by_times: packets in the order of their timestamps.
    """
    count, notes = usable_frames(walk)
    shown = walk.shown[:count]
    if None in shown or len(set(shown)) < count:
        return None

    packets = np.array(shown, np.int64)
    came = np.zeros(len(walk.sizes), bool)
    came[packets] = True
    keys = np.array(walk.keys, bool) & (came | np.array(walk.hidden, bool))
    is_plain = np.array_equal(packets, order_by_times)
    reorder = max(
        walk.context.reorder_depth, int((np.arange(count) - np.argsort(np.argsort(packets))).max())
    )
    return Frames(
        packets,
        _shown_times(walk, packets),
        keys,
        min(reorder, _MAX_REORDER),
        is_plain,
        bool(walk.damaged),
        notes,
    )


def usable_frames(walk: PacketWalk) -> tuple[int, tuple[str, ...]]:
    """How many frames come before the picture size changes, and what a user should know of them."""
    notes, sizes = [], walk.frame_sizes
    if walk.damaged:
        first = min(walk.damaged)
        frame = sum(packet is not None and packet < first for packet in walk.shown)
        notes.append(
            f"{len(walk.damaged):,} of {len(walk.sizes):,} packets are damaged, the first about frame {frame}"
        )
    change = next((number for number, size in enumerate(sizes) if size != sizes[0]), None)
    if change is not None:
        old, new = ("x".join(map(str, sizes[number])) for number in (0, change))
        notes.append(
            f"the picture size changes from {old} to {new} at frame {change}: only those before it are used"
        )
    return len(sizes) if change is None else change, tuple(notes)


def _shown_times(walk: PacketWalk, packets: np.ndarray) -> np.ndarray | None:
    """Rising timestamps of the frames.

    Where presentation times are missing, decoding times are shared out in order. A clock that
    starts again goes on from where it was. Times in the order of decoding, as in copies from AVI,
    are sorted.
    """
    times = [walk.times[packet] for packet in packets.tolist()]
    if None in times:
        times = [walk.decode_times[packet] for packet in np.sort(packets).tolist()]
    if None in times:
        return None
    times = np.array(times, np.int64)
    steps = np.diff(times)
    usual = int(np.median(steps[steps > 0])) if (steps > 0).any() else 1
    places = np.flatnonzero(steps < -_JUMP * usual)
    if len(places):
        highest = np.maximum.reduceat(times, np.concatenate([[0], places + 1]))[:-1]
        shifts = np.zeros(len(times), np.int64)
        shifts[places + 1] = highest + usual - times[places + 1]
        times = times + np.cumsum(shifts)
    return np.sort(times)


def make_index(
    walk: PacketWalk, frames: Frames, read: Callable[[int, int], memoryview]
) -> PacketIndex:
    """The packet index, tried out: what decoding by it gives is compared with what the demuxer's
    packets gave.
    """
    numbers = np.full(len(walk.sizes), -1, np.int64)
    numbers[frames.packets] = np.arange(len(frames.packets))
    context = walk.context
    index = PacketIndex(
        np.array(walk.positions, np.int64),
        np.array(walk.sizes, np.int32),
        numbers,
        frames.keys,
        context.extradata or b"",
        context.colorspace,
        context.color_range,
        frames.reorder,
        is_direct=walk.is_direct,
        is_skippable=walk.unclear is None,
        size=tuple(min(side, _MAX_SIDE) for side in walk.coded_size),
        has_fields=context.codec.canonical_name == "h264"
        and walk.is_interlaced
        and walk.unclear is not None,
    )
    if not index.is_direct:
        return _untried(walk, index)
    try:
        decoder = PacketDecoder(context.codec.canonical_name, index)
        first = dict(decoder.frames(index, read, [0])).get(0)
    except av.error.MemoryError:
        raise
    except (av.FFmpegError, ValueError):
        first = None
    if first is None or not is_same_frame(first, walk.first):
        return _untried(walk, replace(index, is_direct=False))
    return replace(index, keys=_tried_keys(walk, index, decoder, read))


def _untried(walk: PacketWalk, index: PacketIndex) -> PacketIndex:
    """An index whose keyframes cannot be tried out; decoders of fields may need more than one of
    them to begin with.
    """
    if walk.unclear is None or not walk.is_interlaced:
        return index
    return replace(index, keys=np.arange(len(index.keys)) == 0)


def _tried_keys(walk: PacketWalk, index: PacketIndex, decoder: PacketDecoder, read) -> np.ndarray:
    """The keyframes from which on all frames have the pixels that they have without a jump.

    A few are tried, and all others only if one of these fails. Where frames are reordered, those up
    to the next keyframe are compared, too: decoders may need more than a keyframe to begin with.
    """
    known = np.array(
        [key for key in np.flatnonzero(index.keys).tolist() if key in walk.checksums], np.int64
    )
    chosen = (
        known[np.unique(np.linspace(0, len(known) - 1, _TRIED_KEYS).astype(int))]
        if len(known)
        else known
    )
    keys = index.keys.copy()
    for tried in (chosen, known):
        for key in tried.tolist():
            keys[key] = _is_true_key(walk, index, decoder, read, key)
        if keys[chosen].all():
            break
    return keys


def _is_true_key(
    walk: PacketWalk, index: PacketIndex, decoder: PacketDecoder, read, key: int
) -> bool:
    following = index.key_packets[index.key_packets > key]
    end = min(int(following[0]) if len(following) else len(index.numbers), key + _TRIED_PACKETS)
    packets = np.arange(key, end)
    wanted = [int(number) for number in index.numbers[packets] if number >= index.numbers[key]]
    wanted = [number for number in wanted if int(index.packet_of[number]) in walk.checksums]
    try:
        found = {
            int(index.packet_of[number]): frame_checksum(frame)
            for number, frame in decoder.frames(index, read, wanted)
        }
    except av.error.MemoryError:
        raise
    except av.FFmpegError:
        return False
    return found == {
        int(index.packet_of[number]): walk.checksums[int(index.packet_of[number])]
        for number in wanted
    }
