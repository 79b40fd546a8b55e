"""Media that are odd but whole, or that are not what their names say.

Every maker takes the path to write and the number to paint into the images; the name's ending does
not matter. Files that no encoder writes are made byte by byte.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> import omnidali
>>> with TemporaryDirectory() as folder:
...     make = odd_video("webm", "libvpx-vp9", size=(97, 73), frames=5)
...     make(Path(folder, "odd.mp4"), 3)
...     omnidali.count_frames(Path(folder, "odd.mp4"))
5
"""

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from omnidali.testing.numbered_media import add_stream, numbered_image, video_frame

MediaMaker = Callable[[Path, int], None]

FRAMES = 24  # of a video, as the sizes below
WIDTH = 96
HEIGHT = 72
GOP = 8
RATE = 30
IMAGE_WIDTH = 100
IMAGE_HEIGHT = 80

_QUICK = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    "mpeg4": {"b": "2000000"},
    "mjpeg": {"q": "4"},
}


def odd_video(
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
) -> MediaMaker:
    """A maker of numbered videos.

    Args:
        form: FFmpeg's name of the container.
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format.
        size: width and height, pixels.
        frames: how many are encoded.
        gop: frames from one keyframe to the next.
        b_frames: most of them in a row.
        options: of the encoder, besides those that make it fast.
        muxer: options of the container.
        rotation: degrees counter-clockwise by which players turn it.
        times: of the frames in milliseconds, for a variable frame rate.
        drop_first: packets that are left out at the start.
        begin: added to all timestamps, in frames; below 0 the container hides what lies before 0.
    """

    def make(path: Path, file: int) -> None:
        with av.open(str(path), "w", format=form, container_options=dict(muxer)) as container:
            stream = add_stream(
                container,
                codec,
                size,
                pixels=pixels,
                rate=RATE,
                gop=gop,
                b_frames=b_frames,
                options={**_QUICK[codec], **options},
                rotation=rotation,
                times=times,
            )
            packets = []
            for number in range(frames):
                milliseconds = None if times is None else times[number]
                packets += stream.encode(video_frame(file, number, *size, milliseconds))
            packets += stream.encode(None)  # the encoder has held some back
            container.mux(_shifted(packets[drop_first:], begin))

    return make


def _shifted(packets: Sequence[av.Packet], frames: int) -> Sequence[av.Packet]:
    """The packets, so many frames later."""
    for packet in packets:
        assert packet.pts is not None and packet.dts is not None
        shift = round(frames / RATE / packet.time_base)
        packet.pts += shift
        packet.dts += shift
    return packets


def write_audio_only(path: Path, file: int) -> None:
    """Write an MP4 with sound and no video."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        silence = np.zeros((1, 4096), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_headers_only(path: Path, file: int) -> None:
    """Write the first segment of a fragmented MP4: headers without a frame."""
    odd_video(muxer={"movflags": "frag_keyframe+empty_moov"})(path, file)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moof") - 4])


def odd_image(
    ending: str,
    *options: int,
    size: tuple[int, int] = (IMAGE_WIDTH, IMAGE_HEIGHT),
    grey: bool = False,
    deep: bool = False,
) -> MediaMaker:
    """A maker of numbered images.

    Args:
        ending: of the format, such as ``.png``.
        *options: cv2's flags and values for its encoder.
        size: width and height, pixels.
        grey: one channel instead of three.
        deep: 16 bits a value instead of 8.
    """

    def make(path: Path, file: int) -> None:
        image = numbered_image(file, 0, *size)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)
        if deep:
            image = image.astype(np.uint16) * 257
        _, data = cv2.imencode(ending, image, options)
        path.write_bytes(data.tobytes())

    return make


def write_cmyk_jpeg(path: Path, file: int) -> None:
    """Write a JPEG of four components, as Adobe's programs do: with a scan for each of them.

    The scans and tables are those of four grey JPEGs.
    """
    image = numbered_image(file, 0, IMAGE_WIDTH, IMAGE_HEIGHT)
    black = np.full_like(image[:, :, :1], 255)
    planes = np.concatenate([image, black], axis=2).transpose(2, 0, 1)
    parts = [_segments(cv2.imencode(".jpg", plane)[1].tobytes()) for plane in planes]

    tables = b"".join(body for marker, body in parts[0] if marker in (0xDB, 0xC4))
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    components = b"".join(bytes([number, 0x11, 0]) for number in range(1, 5))
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 20, 8, IMAGE_HEIGHT, IMAGE_WIDTH, 4) + components
    scans = []
    for number, part in enumerate(parts, 1):
        body = next(body for marker, body in part if marker == 0xDA)
        (length,) = struct.unpack_from(">H", body, 2)
        header = b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes([number, 0, 0, 63, 0])
        scans.append(header + body[2 + length :])
    path.write_bytes(b"\xff\xd8" + adobe + tables + frame + b"".join(scans) + b"\xff\xd9")


def turned_jpeg(orientation: int) -> MediaMaker:
    """A maker of JPEGs that are stored turned or mirrored, as cameras store them, with the EXIF
    orientation, 1 to 8, by which viewers show them upright.
    """
    # EXIF 2.3, tag 274: where the first row and the first column of what is stored belong
    is_turned = orientation >= 5
    flips_rows = orientation in (3, 4, 7, 8)
    flips_columns = orientation in (2, 3, 6, 7)

    def make(path: Path, file: int) -> None:
        picture = numbered_image(file, 0, IMAGE_WIDTH, IMAGE_HEIGHT)[:, :, ::-1]
        picture = picture[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]
        if is_turned:
            picture = picture.transpose(1, 0, 2)
        jpeg = cv2.imencode(".jpg", np.ascontiguousarray(picture))[1].tobytes()
        entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
        exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
        segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        path.write_bytes(jpeg[:2] + segment + jpeg[2:])

    return make


def _segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """(marker, segment with its marker) of a baseline JPEG; the scan extends to EOI."""
    found = []
    place = 2
    while jpeg[place + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", jpeg, place + 2)
        found.append((jpeg[place + 1], jpeg[place : place + 2 + length]))
        place += 2 + length
    return [*found, (0xDA, jpeg[place:-2])]


def animation(ending: str) -> MediaMaker:
    """A maker of animated images of three frames."""

    def make(path: Path, file: int) -> None:
        animation = cv2.Animation()
        animation.frames = [
            numbered_image(file, number, IMAGE_WIDTH, IMAGE_HEIGHT)[:, :, ::-1].copy()
            for number in range(3)
        ]
        animation.durations = [100] * 3
        _, data = cv2.imencodeanimation(ending, animation)
        path.write_bytes(data.tobytes())

    return make


def huge_png(side: int) -> MediaMaker:
    """A maker of PNGs of a few bytes with a header that claims ``side`` by ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return file_of(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))


def write_huge_jpeg(path: Path, file: int) -> None:
    """Write a small JPEG with a header that claims 65,535 by 65,535 pixels."""
    odd_image(".jpg")(path, file)
    data = bytearray(path.read_bytes())
    place = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, place + 5, 65535, 65535)
    path.write_bytes(data)


def write_huge_video(path: Path, file: int) -> None:
    """Write an IVF with a header that claims 65,535 by 65,535 pixels."""
    odd_video("ivf", "libvpx-vp9")(path, file)
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, 12, 65535, 65535)
    path.write_bytes(data)


def file_of(data: bytes) -> MediaMaker:
    """A maker of files of exactly these bytes."""

    def make(path: Path, file: int) -> None:
        path.write_bytes(data)

    return make


HTML = file_of(
    b"<!DOCTYPE html><html><head><title>404</title></head><body><p>No such page</p></body></html>"
    * 20
)
M3U8 = file_of(
    b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
)
FFCONCAT = file_of(b"ffconcat version 1.0\nfile '/etc/passwd'\n")
DASH = file_of(
    b"\xef\xbb\xbf <?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>"
)
