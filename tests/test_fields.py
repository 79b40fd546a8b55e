"""H.264 whose fields lie in packets of their own, as of interlaced broadcasts; no encoder here
makes them.
"""

import subprocess

import numpy as np
import pytest

import omnidali
from conftest import media_of, needs_tool
from omnidali.catalog.probing.packet_index import PacketIndex

SIDE = 64  # pixels of the picture
_BLOCKS = SIDE // 16
_FRAMES, _GOP = 30, 10
_I_SLICE, _P_SLICE = 7, 5
_PCM = 25  # macroblock type


class Writer:
    """Bits of an H.264 unit (7.2)."""

    def __init__(self):
        self.bits = ""

    def fixed(self, count, value):
        """An unsigned number."""
        self.bits += format(value, f"0{count}b")

    def golomb(self, *values):
        """Exp-Golomb codes."""
        for value in values:
            code = format(value + 1, "b")
            self.bits += "0" * (len(code) - 1) + code

    def align(self):
        """Zeros up to a whole byte."""
        self.bits += "0" * (-len(self.bits) % 8)

    def unit(self, kind):
        """The whole unit, with start code and escapes."""
        self.bits += "1"
        self.align()
        data, zeros = bytearray(), 0
        for byte in (int(self.bits[place : place + 8], 2) for place in range(0, len(self.bits), 8)):
            if zeros >= 2 and byte <= 3:
                data.append(3)
                zeros = 0
            data.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return b"\0\0\0\1" + bytes([kind]) + bytes(data)


def parameter_sets():
    sps = Writer()
    sps.fixed(24, 77 << 16 | 30)  # main profile, level 3
    # number, 4 bits of a frame's number, order of type 0 in 6 bits, 2 references
    sps.golomb(0, 0, 0, 2, 2)
    sps.fixed(1, 0)
    sps.golomb(_BLOCKS - 1, _BLOCKS // 2 - 1)
    sps.fixed(5, 0b00100)  # fields may come, not by macroblock; direct 8x8; no cropping, no VUI
    pps = Writer()
    pps.golomb(0, 0)
    pps.fixed(2, 0)
    pps.golomb(0, 0, 0)
    pps.fixed(3, 0)
    pps.golomb(0, 0, 0)
    pps.fixed(3, 0)
    return sps.unit(0x67) + pps.unit(0x68)


def picture(number, order, is_field, is_bottom, starts, repeats):
    """A slice of flat blocks, their brightness the frame's number, or one that repeats the picture
    before.
    """
    out = Writer()
    out.golomb(0, _P_SLICE if repeats else _I_SLICE, 0)
    out.fixed(4, number % _GOP)
    out.fixed(1, is_field)
    if is_field:
        out.fixed(1, is_bottom)
    if starts:
        out.golomb(number // _GOP % 2)
    out.fixed(6, order % 64)
    if repeats:
        out.fixed(2, 0)
    out.fixed(2 if starts else 1, 0)  # no marking of references
    out.golomb(0)  # quantiser; no control of filters
    blocks = _BLOCKS * _BLOCKS // (2 if is_field else 1)
    if repeats:
        out.golomb(blocks)
    else:
        for _ in range(blocks):
            out.golomb(_PCM)
            out.align()
            out.bits += format(30 + 6 * number, "08b") * 256 + format(128, "08b") * 128
    return out.unit(0x65 if starts else 0x41)


def stream(has_fields):
    """A raw stream; ``has_fields`` decides for each frame whether it comes as two fields."""
    data = b""
    for number in range(_FRAMES):
        place = number % _GOP
        starts = place == 0
        data += parameter_sets() if starts else b""
        data += picture(number, 2 * place, has_fields(number), False, starts, False)
        if has_fields(number):
            data += picture(number, 2 * place + 1, True, True, False, False)
    return data


@pytest.mark.parametrize("ending", ["ts", "mp4", "mkv", "avi", "mpg"])
@pytest.mark.parametrize(
    "has_fields",
    [lambda number: True, lambda number: number % _GOP >= 3, lambda number: number > 14],
    ids=["all", "some", "late"],
)
def test_frames_of_two_packets_are_whole(tmp_path, ending, has_fields):
    needs_tool("ffmpeg")
    (tmp_path / "a.h264").write_bytes(stream(has_fields))
    path = tmp_path / f"a.{ending}"
    subprocess.run(
        [
            "ffmpeg",
            "-v",
            "error",
            "-r",
            "25",
            "-fflags",
            "+genpts",
            "-i",
            tmp_path / "a.h264",
            "-c",
            "copy",
            path,
        ],
        check=True,
    )
    assert omnidali.count_frames(path) == _FRAMES
    whole = omnidali.read_frames(path, range(_FRAMES))
    alone = np.concatenate([omnidali.read_frames(path, [number]) for number in range(_FRAMES)])
    wanted = (30 + 6 * np.arange(_FRAMES) - 16) * 255 / 219
    assert np.abs(whole.mean(axis=(1, 2, 3)) - wanted).max() < 2 and np.array_equal(whole, alone)


def test_a_run_ends_with_the_second_field():
    index = PacketIndex(
        np.arange(6) * 10,
        np.full(6, 10),
        np.array([0, -1, 1, -1, 2, -1]),
        np.array([True, False, False, False, True, False]),
        b"",
        2,
        0,
        0,
        has_fields=True,
    )
    assert index.runs([0, 2]) == [(0, 1, {0: 0}), (4, 5, {4: 2})]


def test_fields_are_never_skipped(tmp_path):
    needs_tool("ffmpeg")
    (tmp_path / "a.h264").write_bytes(stream(lambda number: True))
    subprocess.run(
        [
            "ffmpeg",
            "-v",
            "error",
            "-r",
            "25",
            "-fflags",
            "+genpts",
            "-i",
            tmp_path / "a.h264",
            "-c",
            "copy",
            tmp_path / "a.mp4",
        ],
        check=True,
    )
    assert not PacketIndex.unpack(media_of(tmp_path / "a.mp4").packets).disposable.any()
