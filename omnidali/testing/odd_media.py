"""Media that are odd but whole, or that only pretend: made by hand where no encoder writes such a
thing.

Every maker takes the path to write and the number to paint into the pictures; the name's ending
does not matter.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from omnidali.testing.numbered_media import add_stream, picture, video_frame

FRAMES, WIDTH, HEIGHT, GOP = 24, 96, 72, 8  # of a video
PHOTO_WIDTH, PHOTO_HEIGHT = 100, 80
Make = Callable[[Path, int], None]

_QUICK = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    "mpeg4": {"b": "2000000"},
    "mjpeg": {"q": "4"},
}


def video(
    form: str = "mp4",
    codec: str = "libx264",
    *,
    pixels: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    frames: int = FRAMES,
    gop: int = GOP,
    b_frames: int = 0,
    options: Mapping[str, str] = {},
    muxer: Mapping[str, str] = {},
    rotation: int = 0,
    times: Sequence[int] | None = None,
    drop_first: int = 0,
    begin: int = 0,
) -> Make:
    """A maker of numbered videos.

    Args:
        form: FFmpeg's name of the container. muxer: its options.
        times: of the frames in milliseconds. begin: added to all timestamps, frames; below 0 the
            container hides what lies before 0.
        drop_first: packets that are left out at the start.
    """

    def make(path: Path, file: int) -> None:
        with av.open(str(path), "w", format=form, container_options=dict(muxer)) as container:
            stream = add_stream(
                container,
                codec,
                size,
                pixels,
                30,
                gop,
                b_frames,
                {**_QUICK[codec], **options},
                rotation,
                times,
            )
            left_out = drop_first
            for number in range(frames + 1):
                frame = None  # at the end: what the encoder holds back
                if number < frames:
                    frame = video_frame(
                        file, number, *size, None if times is None else times[number]
                    )
                for packet in stream.encode(frame):
                    if begin:
                        shift = round(begin / 30 / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    if left_out:
                        left_out -= 1
                    else:
                        container.mux(packet)

    return make


def audio_only(path: Path, file: int) -> None:
    """An MP4 with sound and no picture."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4096), np.float32), format="fltp", layout="mono"
        )
        frame.rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frames(path: Path, file: int) -> None:
    """The first segment of a fragmented MP4: headers without a frame."""
    video(muxer={"movflags": "frag_keyframe+empty_moov"})(path, file)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moof") - 4])


def image(
    ending: str,
    *options: int,
    size: tuple[int, int] = (PHOTO_WIDTH, PHOTO_HEIGHT),
    grey: bool = False,
    deep: bool = False,
) -> Make:
    """A maker of numbered pictures. ending: the format. deep: 16 bits a value."""

    def make(path: Path, file: int) -> None:
        shown = picture(file, 0, *size)
        shown = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)
        path.write_bytes(
            cv2.imencode(ending, shown.astype(np.uint16) * 257 if deep else shown, options)[
                1
            ].tobytes()
        )

    return make


def cmyk_jpeg(path: Path, file: int) -> None:
    """A four-component JPEG as Adobe's programs write it, of four grey ones: a scan for each
    component.
    """
    shown = picture(file, 0, PHOTO_WIDTH, PHOTO_HEIGHT)
    planes = np.concatenate([shown, np.full_like(shown[:, :, :1], 255)], axis=2).transpose(2, 0, 1)
    parts = [_segments(cv2.imencode(".jpg", plane)[1].tobytes()) for plane in planes]
    tables = b"".join(body for marker, body in parts[0] if marker in (0xDB, 0xC4))
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    components = b"".join(bytes([number, 0x11, 0]) for number in range(1, 5))
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 20, 8, PHOTO_HEIGHT, PHOTO_WIDTH, 4) + components
    scans = []
    for number, part in enumerate(parts, 1):
        body = next(body for marker, body in part if marker == 0xDA)
        (length,) = struct.unpack_from(">H", body, 2)
        scans.append(
            b"\xff\xda"
            + struct.pack(">HB", 8, 1)
            + bytes([number, 0, 0, 63, 0])
            + body[2 + length :]
        )
    path.write_bytes(b"\xff\xd8" + adobe + tables + frame + b"".join(scans) + b"\xff\xd9")


def _segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """(marker, segment with its marker) of a baseline JPEG; the scan goes on to the end's mark."""
    found, place = [], 2
    while jpeg[place + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", jpeg, place + 2)
        found.append((jpeg[place + 1], jpeg[place : place + 2 + length]))
        place += 2 + length
    return [*found, (0xDA, jpeg[place:-2])]


def animated(ending: str) -> Make:
    """A maker of animated pictures of three frames."""

    def make(path: Path, file: int) -> None:
        animation = cv2.Animation()
        animation.frames = [
            picture(file, number, PHOTO_WIDTH, PHOTO_HEIGHT)[:, :, ::-1].copy()
            for number in range(3)
        ]
        animation.durations = [100] * 3
        path.write_bytes(cv2.imencodeanimation(ending, animation)[1].tobytes())

    return make


def png_bomb(side: int) -> Make:
    """A maker of PNGs of a few bytes whose header claims ``side`` by ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return text(
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def jpeg_bomb(path: Path, file: int) -> None:
    """A small JPEG whose header claims 65,535 by 65,535 pixels."""
    image(".jpg")(path, file)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, 65535, 65535)
    path.write_bytes(data)


def video_bomb(path: Path, file: int) -> None:
    """An IVF whose header claims 65,535 by 65,535 pixels."""
    video("ivf", "libvpx-vp9")(path, file)
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, 12, 65535, 65535)
    path.write_bytes(data)


def text(data: bytes) -> Make:
    """A maker of files with exactly these bytes."""
    return lambda path, file: path.write_bytes(data)


HTML = text(
    b"<!DOCTYPE html><html><head><title>404</title></head><body><p>No such page</p></body></html>"
    * 20
)
M3U8 = text(b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
FFCONCAT = text(b"ffconcat version 1.0\nfile '/etc/passwd'\n")
DASH = text(b"\xef\xbb\xbf <?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>")
