"""From the packets of a video to its frames: their numbers, times and keyframes."""

from dataclasses import dataclass

import numpy as np

from omnidali.catalog.probing.packet_scan import PacketScan

# Usual steps that a clock goes back by where it starts again; reordered frames go back by 16 at
# most.
_JUMP = 32
_MAX_REORDER = 16  # frames, of H.264 and HEVC


@dataclass(frozen=True)
class Frames:
    """The frames of a video, N of them.

    Frame k is the k-th that FFmpeg's sequential decoding gives.

    Attributes:
        packets: int64 (N,), the packet that each comes out of.
        times: int64 (N,), rising timestamps, ticks; None where the file has none.
        keys: bool (P,), packets where decoding may begin.
        reorder: frames that a decoder holds back at most.
        is_plain: whether timestamps tell the frames as well.
        is_damaged: whether the decoder had to make something up.
        notes: what a user should know about them.
    """

    packets: np.ndarray
    times: np.ndarray | None
    keys: np.ndarray
    reorder: int
    is_plain: bool = True
    is_damaged: bool = False
    notes: tuple[str, ...] = ()


def frames_by_headers(scan: PacketScan, shown: np.ndarray) -> Frames:
    """The frames of a stream whose headers tell all.

    Args:
        scan: of the stream.
        shown: as of :meth:`~omnidali.catalog.probing.packet_scan.PacketScan.order_by_headers`.
    """
    times = np.array([scan.packets[packet].time for packet in shown.tolist()], np.int64)
    keys = np.array([packet.is_key for packet in scan.packets], bool)
    return Frames(shown, times, keys, min(scan.delay, _MAX_REORDER))


def frames_by_decoding(scan: PacketScan, order_by_times: np.ndarray) -> Frames | None:
    """The frames that a decoder gave before the picture size changed.

    Args:
        scan: of the stream, which decoded all of it.
        order_by_times: packets in the order of their timestamps.

    Returns:
        None where packets do not tell the frames apart.
    """
    count, notes = usable_frames(scan)
    shown = scan.shown[:count]
    if None in shown or len(set(shown)) < count:
        return None

    packets = np.array(shown, np.int64)
    came = np.zeros(len(scan.packets), bool)
    came[packets] = True
    is_hidden = np.array([packet.is_hidden for packet in scan.packets], bool)
    is_key = np.array([packet.is_key for packet in scan.packets], bool)
    late = np.arange(count) - np.argsort(np.argsort(packets))
    reorder = max(scan.context.reorder_depth, int(late.max()))
    return Frames(
        packets=packets,
        times=_shown_times(scan, packets),
        keys=is_key & (came | is_hidden),
        reorder=min(reorder, _MAX_REORDER),
        is_plain=np.array_equal(packets, order_by_times),
        is_damaged=bool(scan.damaged),
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
    starts again goes on from where it was. Times in the order of decoding, as in copies from AVI,
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
