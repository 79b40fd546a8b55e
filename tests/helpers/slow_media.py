"""Media that take their reader long, and processes whose time passes faster."""

import io
import struct
import threading
import zlib
from contextlib import contextmanager

import av
import cv2
import numpy as np

from omnidali.processes import isolated_process

PATIENCE = 240  # seconds until something hangs for sure, also on a machine that is starved


# the time of bad files passes 400 times as fast: good ones may need long on a machine that is
# starved
HURRIED = """
import omnidali.processes.isolated_child as isolated_child
answer = isolated_child._answer
def hurried(task):
    file = task["arguments"][0]["fields"]["path"]
    if "treacle" in file or "limbo" in file:
        task["seconds"] /= 400
        isolated_child.set_alarm(task["seconds"])
    return answer(task)
isolated_child._answer = hurried
isolated_child.main({memory}, {modules})
""".strip().replace("\n", "\\n")


def progressive_jpeg(scans, width=64, height=48):
    """A JPEG whose last scan is repeated; a scan of 20 bytes passes over the whole picture."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[:8, :8] = 200
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def inflating_png(width, height, packed_bytes):
    """Zeros, of which a few kilobytes become a picture of any size."""
    packer = zlib.compressobj(1)
    packed = (
        b"".join(packer.compress(bytes(1 << 20)) for _ in range(packed_bytes >> 20))
        + packer.flush()
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", packed),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def write_sliced(path, slices, width=1920, height=1080):
    """A video one of whose packets repeats a slice of 14 bytes, which takes a quarter of a
    millisecond each time.
    """
    plain = io.BytesIO()
    with av.open(plain, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264",
            rate=25,
            options={
                "preset": "ultrafast",
                "x264-params": "slices=2:sliced-threads=1:threads=2:keyint=250:bframes=0",
            },
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(
                np.full((height * 3 // 2, width), 128, np.uint8), format="yuv420p"
            )
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    plain.seek(0)
    with av.open(plain) as container, av.open(str(path), "w", format="mp4") as sliced:
        stream = sliced.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(video=0)):
            if not packet.size:
                continue
            data = bytes(packet)
            if number == 6:
                first = 4 + int.from_bytes(data[:4], "big")
                data += (
                    data[first : first + 4 + int.from_bytes(data[first : first + 4], "big")]
                    * slices
                )
            more = av.Packet(data)
            more.pts, more.dts, more.time_base = packet.pts, packet.dts, packet.time_base
            more.is_keyframe, more.stream = packet.is_keyframe, stream
            sliced.mux(more)


@contextmanager
def hurried_processes(monkeypatch):
    """Let the time of bad files pass 400 times as fast in processes that start within it."""
    isolated_process.end_idle_processes()
    monkeypatch.setattr(isolated_process, "_MAIN", f'exec("""{HURRIED}""")')
    monkeypatch.setattr(isolated_process, "SECONDS", 40.0)
    yield
    isolated_process.end_idle_processes()


def in_time(work):
    """What ``work`` gives, if it ends at all."""
    given = []
    thread = threading.Thread(target=lambda: given.append(work()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "hangs"
    return given[0]
