"""Files of strangers: what each tries, and that it costs itself alone. SECURITY.md names these
tests.
"""

import ctypes
import gzip
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from conftest import media_of
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database import integrity
from omnidali.catalog.database.store import CatalogReader
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.listing import tars
from omnidali.catalog.listing.folders import escape_reason
from omnidali.catalog.listing.labels import Labels, read_label_map
from omnidali.catalog.listing.list_formats import read_list
from omnidali.catalog.listing.tars import read_tar
from omnidali.catalog.probing import probe
from omnidali.catalog.probing import probe_pool as workers
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.probe import open_video, probe_video
from omnidali.catalog.probing.sniff import UnsupportedMediaError, read_image_header
from omnidali.config.load import load_config
from omnidali.config.schema import MediaConfig, SourceConfig
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.errors import DecodeError, UserError
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.models.weights import read_weights
from omnidali.planning.camera_motion import load_motion
from omnidali.testing.numbered_media import write_photo, write_video

ROOT = str(Path(__file__).parent.parent)
PHOTOS = {"s": SourceConfig(kind="image", root="pics", list="l.txt")}
VIDEOS = {"s": SourceConfig(kind="video", root="pics", list="l.txt")}


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))
    return path


def run_build(folder, sources=PHOTOS, **options):
    return build_catalog(folder / "c.sqlite", sources, folder, progress=False, **options)[0]


def make_photos(folder, count=6):
    for n in range(count):
        write_photo(folder / "pics" / f"{n}.jpg", n, 40, 30)
    write(folder / "l.txt", "".join(f"{n}.jpg {n % 2}\n" for n in range(count)))


# Playlists and other files that name files


class Bait:
    """A file and a port that nobody may touch; the kernel says who does, also from native code."""

    def __init__(self, folder):
        self.file = folder / "bait.ts"
        write_video(self.file, 1, frames=3, width=64, height=48)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(0)
        self.port = self.server.getsockname()[1]
        libc = ctypes.CDLL(None, use_errno=True)
        self.events = libc.inotify_init1(os.O_NONBLOCK)
        # opened, read
        assert libc.inotify_add_watch(self.events, os.fsencode(self.file), 0x20 | 0x1) >= 0

    def touched(self):
        """Whether the file was opened or the port was called since the last question."""
        found = False
        try:
            found = bool(os.read(self.events, 1 << 16))
        except BlockingIOError:
            pass
        try:
            self.server.accept()[0].close()
            found = True
        except BlockingIOError:
            pass
        return found


@pytest.fixture
def bait(tmp_path):
    return Bait(tmp_path)


def playlists(bait):
    """Name and content of files that send a reader elsewhere."""
    url = f"http://127.0.0.1:{bait.port}/a.ts"
    for place in (str(bait.file), f"file:{bait.file}", url, f"tcp://127.0.0.1:{bait.port}"):
        m3u8 = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{place}\n#EXT-X-ENDLIST\n".encode()
        concat = f"ffconcat version 1.0\nfile '{place}'\n".encode()
        mpd = (
            f"<?xml version='1.0'?><MPD type='static'><Period><AdaptationSet><Representation><BaseURL>{place}"
            "</BaseURL></Representation></AdaptationSet></Period></MPD>"
        ).encode()
        sdp = f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {bait.port} RTP/AVP 96\na=x:{place}\n".encode()
        for text in (m3u8, concat, mpd, sdp, f"[playlist]\nFile1={place}\n".encode()):
            yield from (
                text,
                b" \n\t" + text,
                b"\xef\xbb\xbf" + text,
                b"ID3\4\0\0\0\0\0\0" + text,
                bytes(600) + text,
                gzip.compress(text),
                text.decode().encode("utf-16"),
            )
            # behind a valid magic, each of which has a demuxer that is let in
            yield from (
                b"\0\0\0\x18ftypisom\0\0\2\0isom" + text,
                b"\x1aE\xdf\xa3\x80" + text,
                b"FLV\1\5\0\0\0\x09" + text,
                b"RIFF\xff\0\0\0AVI LIST" + text,
                b"\0\0\1\xba" + text,
                b"DKIF\0\0\x20\0" + text,
                b"".join(b"G" + text.ljust(187, b"\n")[:187] for _ in range(8)),
            )
    yield external_reference(bait.file)


def box(name, *parts):
    data = b"".join(parts)
    return struct.pack(">I4s", 8 + len(data), name) + data


def external_reference(target):
    """A QuickTime film whose frames are said to lie in another file, by path and by alias."""
    path = str(target).encode()
    alias = (
        bytes(4)
        + struct.pack(">HH", 150, 2)
        + bytes(10 + 28 + 12 + 64 + 16)
        + struct.pack(">hh", 1, 1)
        + bytes(16)
        + struct.pack(">hH", 2, len(path))
        + path
        + bytes(len(path) % 2)
        + struct.pack(">hH", 18, len(path))
        + path
        + struct.pack(">hh", -1, 0)
    )
    dref = box(b"dref", bytes(4), struct.pack(">I", 1), box(b"alis", alias))
    entry = (
        bytes(6)
        + struct.pack(">H", 1)
        + bytes(16)
        + struct.pack(">HH", 64, 48)
        + bytes(14)
        + b"\0" * 32
        + struct.pack(">Hh", 24, -1)
    )
    table = [
        box(b"stsd", bytes(4), struct.pack(">I", 1), box(b"mp4v", entry)),
        box(b"stts", bytes(4), struct.pack(">III", 1, 3, 10)),
        box(b"stsc", bytes(4), struct.pack(">IIII", 1, 1, 3, 1)),
        box(b"stsz", bytes(4), struct.pack(">II", 100, 3)),
        box(b"stco", bytes(4), struct.pack(">II", 1, 0)),
    ]
    media = box(
        b"mdia",
        box(b"mdhd", bytes(12), struct.pack(">II", 30, 30), bytes(4)),
        box(b"hdlr", bytes(8), b"vide", bytes(13)),
        box(b"minf", box(b"vmhd", bytes(12)), box(b"dinf", dref), box(b"stbl", *table)),
    )
    header = box(
        b"tkhd",
        bytes(3),
        b"\7",
        bytes(8),
        struct.pack(">I", 1),
        bytes(64),
        struct.pack(">II", 64 << 16, 48 << 16),
    )
    return box(b"ftyp", b"qt  ", bytes(4), b"qt  ") + box(
        b"moov",
        box(b"mvhd", bytes(12), struct.pack(">II", 30, 30), bytes(80)),
        box(b"trak", header, media),
    )


def test_the_bait_is_seen_when_something_bites(bait, tmp_path):
    """The control: without the gate and the limits, FFmpeg does what these files ask for."""
    assert not bait.touched()
    free = {
        "protocol_whitelist": "file,http,tcp,crypto,data,concat",
        "safe": "0",
        "allowed_extensions": "ALL",
        "extension_picky": "0",
        "enable_drefs": "1",
        "use_absolute_path": "1",
    }
    for form, text in (
        ("concat", f"ffconcat version 1.0\nfile '{bait.file}'\n".encode()),
        (
            "hls",
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{bait.file}\n#EXT-X-ENDLIST\n".encode(),
        ),
        ("mov", external_reference(bait.file)),
    ):
        try:
            with av.open(
                str(write(tmp_path / "list", text)), format=form, options=free
            ) as container:
                list(container.demux())
        except (av.FFmpegError, ValueError):
            pass
        assert bait.touched(), form
    with pytest.raises(av.FFmpegError):  # the socket, too
        av.open(f"tcp://127.0.0.1:{bait.port}", format="mpegts", timeout=2)
    assert bait.touched()


def test_playlists_open_no_file_and_no_socket(bait, tmp_path):
    """In any disguise: not in the probe, and not in a demuxer that is forced upon them."""
    count = 0
    for count, data in enumerate(playlists(bait), 1):
        path = write(tmp_path / f"x{('.mp4', '.ts', '.mkv')[count % 3]}", data)
        with pytest.raises(UnsupportedMediaError):
            probe_video(FileSpan(str(path)))
        with pytest.raises(UnsupportedMediaError):
            probe_image(FileSpan(str(path)))
        for form in ("mov", "matroska", "mpegts", "avi", "flv", "mpeg", "ivf"):
            try:
                with open_video(FileSpan(str(path)), form) as container:
                    list(container.demux())
            except (av.FFmpegError, ValueError):
                pass
        assert not bait.touched(), data[:200]
    assert count == 281
    member = write(tmp_path / "t.tar", bytes(512) + external_reference(bait.file))
    with pytest.raises(UnsupportedMediaError):
        probe_video(FileSpan(str(member), 512, member.stat().st_size - 512))
    assert not bait.touched()


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed; the two tests above watch, too"
)
def test_the_kernel_sees_no_other_file_and_no_socket(bait, tmp_path):
    """The workers under strace: what they open outside of the installation is what the list names,
    and no socket.
    """
    names = []
    for number, data in enumerate(playlists(bait)):
        if number % 20 == 0 or number == 280:
            names.append(f"{number}.mp4")
            write(tmp_path / "pics" / names[-1], data)
    write_video(tmp_path / "pics/good.mp4", 1, frames=5, width=64, height=48)
    write(tmp_path / "l.txt", "".join(f"{name} 0\n" for name in [*names, "good.mp4"]))
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r}); from omnidali.catalog.build import build_catalog;"
        " from omnidali.config.schema import SourceConfig; print(build_catalog('c.sqlite',"
        " {'s': SourceConfig(kind='video', root='pics', list='l.txt')}, '.', progress=False)[0].usable)"
    )
    done = subprocess.run(
        [
            "strace",
            "-f",
            "-qq",
            "-o",
            "trace",
            "-e",
            "trace=openat,open,socket,connect",
            sys.executable,
            "-c",
            code,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "1\n", done.stderr
    trace = (tmp_path / "trace").read_text()
    assert "good.mp4" in trace and "bait" not in trace
    assert not [line for line in trace.splitlines() if "AF_INET" in line]


# Pictures


def png(width, height, depth=8, colour=2):
    import zlib

    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize(
    "data, told",
    [
        (png(65535, 65535), "too large: 65535x65535"),
        (png(0, 9), "no picture: 0x9"),
        (b"GIF89a" + bytes(50), "GIF"),
        (b"BM" + bytes(60), "BMP"),
        (b"II*\0" + bytes(60), "TIFF"),
        (b"\x1f\x8b" + bytes(60), "gzip"),
        (b"\0\0\0\x1cftypavif" + bytes(20), "ISO media"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "PNG without a header"),
        (b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\2" + bytes(20), "animated WebP"),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(20), "without a picture"),
        (b"\xff\xd8\xff\xc3\0\x11\x08\0\x20\0\x20\3" + bytes(9), "JPEG of a rare kind: process 3"),
        (b"\xff\xd8\xff\xc1\0\x11\x0c\0\x20\0\x20\3" + bytes(9), "12 bits"),
        (b"\xff\xd8" + b"\xff\xe2\0\2" * 5000, "more than 4,096 segments"),
        (b"\xff\xd8" + b"\xff" * 9000, "cut off"),
    ],
)
def test_pictures_are_refused_before_a_decoder(tmp_path, data, told):
    with pytest.raises(UnsupportedMediaError, match=told):
        probe_image(FileSpan(str(write(tmp_path / "x.jpg", data))))


def test_endless_headers_take_no_time_and_no_memory(tmp_path):
    for filler in (b"\0", b"\xff", b"\xff\x00", b"\xff\xd0"):
        began = time.thread_time()
        with pytest.raises(UnsupportedMediaError):
            read_image_header(b"\xff\xd8\xff" + filler * (1 << 23))
        assert time.thread_time() - began < 2
    with open(tmp_path / "x.jpg", "wb") as file:  # a sparse file of half a gigabyte
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(1 << 29)
    with pytest.raises(UnsupportedMediaError, match="larger than 256 MiB"):
        probe_image(FileSpan(str(tmp_path / "x.jpg")))


def test_rare_pictures_decode_or_are_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 65536, (60, 90, 3), np.uint16)
    files = {
        "deep.png": cv2.imencode(".png", image)[1].tobytes(),
        "grey.png": cv2.imencode(".png", image[:, :, 0])[1].tobytes(),
        "alpha.png": cv2.imencode(".png", np.dstack([image, image[:, :, 0]]))[1].tobytes(),
        "grey.jpg": cv2.imencode(".jpg", (image[:, :, 0] >> 8).astype(np.uint8))[1].tobytes(),
    }
    for name, data in files.items():
        media = media_of(write(tmp_path / name, data), "image")
        out = np.zeros((1, 1, 56, 56, 3), np.uint8)
        decode_image(media, np.array([[0, 0, 60, 90]]), 56, out)
        assert out.std() > 5, name


# Videos


def test_videos_are_limited_before_a_decoder(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write_video(path, 1, frames=9, width=96, height=64)
    write_video(
        tmp_path / "b.mkv", 1, frames=3, width=96, height=64, times=[0, 40, 50 * 3600 * 1000]
    )
    with pytest.raises(UnsupportedMediaError, match="longer than 48 hours"):
        probe_video(FileSpan(str(tmp_path / "b.mkv")))
    monkeypatch.setattr("omnidali.catalog.probing.sniff.MAX_VIDEO_FRAMES", 8)
    with pytest.raises(UnsupportedMediaError, match="more than 8 frames"):
        probe_video(FileSpan(str(path)))
    monkeypatch.undo()
    monkeypatch.setattr(probe, "MAX_VIDEO_PIXELS", 96 * 64 - 1)
    with pytest.raises(UnsupportedMediaError, match="too large: 96x64"):
        probe_video(FileSpan(str(path)))
    monkeypatch.undo()
    monkeypatch.setattr(probe, "VIDEO_DECODERS", ("vp9",))
    with pytest.raises(
        UnsupportedMediaError, match="a codec that the gate does not let through: h264"
    ):
        probe_video(FileSpan(str(path)))


def test_pictures_that_grow_behind_the_header_meet_a_limit(tmp_path, monkeypatch):
    """Both ways of decoding: the packets of a larger video behind the header of a smaller one."""
    write_video(tmp_path / "a.mp4", 1, frames=5, width=96, height=64)
    media = media_of(tmp_path / "a.mp4")
    out = np.zeros((1, 1, 32, 32, 3), np.uint8)
    decode_video(media, np.array([2]), np.array([[0, 0, 64, 96]]), 32, out)
    monkeypatch.setattr(probe, "MAX_VIDEO_PIXELS", 2000)
    monkeypatch.setattr("omnidali.catalog.probing.packet_index.MAX_VIDEO_PIXELS", 2000)
    for packed in (media.packets, b""):
        threading.Thread(target=lambda: None).start()
        failed = []

        def decode():  # another thread: decoders are kept for each
            try:
                decode_video(
                    media_with(media, packed), np.array([2]), np.array([[0, 0, 64, 96]]), 32, out
                )
            except DecodeError as error:
                failed.append(error)

        thread = threading.Thread(target=decode)
        thread.start()
        thread.join()
        assert failed


def media_with(media, packets):
    from dataclasses import replace

    return replace(media, packets=packets)


# What kills, hangs or starves the probe

HOSTILE = """
import os, signal, time, omnidali.catalog.probing.probe_child as worker
original = worker.probe_file
def time_flies():  # what is left to the alarm passes 40 times as fast: a starved machine needs the rest for good files
    signal.setitimer(signal.ITIMER_REAL, signal.getitimer(signal.ITIMER_REAL)[0] / 40)
    time.sleep(1000)
def probe_file(kind, pattern, root, path, *place):
    if "segfault" in path or ("later" in path and os.path.exists(os.path.join(root, "poisoned"))):
        os.kill(os.getpid(), signal.SIGSEGV)
    if "poison" in path:
        open(os.path.join(root, "poisoned"), "w")
    if "hang" in path:
        while True: time.sleep(1)
    if "slow" in path:
        time_flies()
    if "hog" in path:
        held = [bytearray(1 << 26) for _ in range(1000)]
    if "lie" in path:
        os.write(1, b"[]")
        os._exit(0)
    return original(kind, pattern, root, path, *place)
worker.probe_file = probe_file
worker.main({memory})
""".strip().replace("\n", "\\n")


@pytest.fixture
def hostile_worker(monkeypatch):
    monkeypatch.setattr(workers, "_MAIN", f'exec("""{HOSTILE}""")')
    monkeypatch.setattr(workers, "SECONDS", 40.0)
    monkeypatch.setattr(workers, "MEMORY", 1 << 29)


def test_what_crashes_hangs_or_starves_the_probe_costs_itself_alone(tmp_path, hostile_worker):
    make_photos(tmp_path, 12)
    names = ["segfault", "slow", "hog", "lie"]
    for name in names:
        write_photo(tmp_path / f"pics/{name}.jpg", 1, 40, 30)
    lines = (tmp_path / "l.txt").read_text().splitlines()
    for place, name in enumerate(names):
        lines.insert(3 * place + 1, f"{name}.jpg 0")
    write(tmp_path / "l.txt", "\n".join(lines))
    summary = run_build(tmp_path, threads=2)
    assert summary.usable == 12 and summary.refused == {
        "crashes the probe": 2,
        "takes more than 40 s to probe": 1,
        "needs too much memory": 1,
    }
    assert run_build(tmp_path).probed == 0  # and the next start does not try them again


def test_a_mount_that_hangs_at_the_size_holds_no_build(tmp_path, hostile_worker, monkeypatch):
    make_photos(tmp_path, 3)
    stall = 'real = worker.stamp_of\\nworker.stamp_of = lambda path: time_flies() if "1.jpg" in path else real(path)\\n'
    monkeypatch.setattr(
        workers, "_MAIN", workers._MAIN.replace("worker.main(", stall + "worker.main(")
    )
    monkeypatch.setattr(workers, "stamp_of", lambda path: time.sleep(60))
    monkeypatch.setattr(workers, "STAMP_SECONDS", 0.2)
    summary = run_build(tmp_path)
    assert summary.usable == 2 and summary.refused == {"takes more than 40 s to probe": 1}
    monkeypatch.undo()
    assert run_build(tmp_path).usable == 3


def test_the_mates_of_a_file_that_kills_are_probed_again(tmp_path, hostile_worker):
    """A worker that dies of what an earlier file left behind: its victim is not blamed."""
    make_photos(tmp_path, 3)
    write(tmp_path / "l.txt", "0.jpg 0\nonce.jpg 0\n1.jpg 1\n2.jpg 1\n")
    marker = tmp_path / "died"
    code = HOSTILE.replace(
        'if "segfault" in path',
        f'if "once" in path and not os.path.exists({str(marker)!r}):'
        f'\\n        open({str(marker)!r}, "w")\\n        os.kill(os.getpid(), 11)\\n    if "segfault" in path',
    )
    write_photo(tmp_path / "pics/once.jpg", 1, 40, 30)
    workers._MAIN = f'exec("""{code}""")'  # the fixture puts the old one back
    assert run_build(tmp_path).usable == 4 and marker.exists()


OUTAGE = """
import errno, os, omnidali.catalog.probing.probe_child as worker
original = worker.probe_image
def probe_image(span):
    if "1.jpg" in span.path and os.path.exists(os.path.join(os.path.dirname(span.path), "outage")):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return original(span)
worker.probe_image = probe_image
worker.main({memory})
""".strip().replace("\n", "\\n")


def test_what_could_not_be_read_is_tried_at_each_start(tmp_path, monkeypatch):
    make_photos(tmp_path, 4)
    monkeypatch.setattr(workers, "_MAIN", f'exec("""{OUTAGE}""")')
    write(tmp_path / "pics/outage", "")
    summary = run_build(tmp_path)
    assert (summary.usable, summary.probed, summary.refused) == (
        3,
        4,
        {"unreadable: Stale file handle": 1},
    )
    before = CatalogReader(tmp_path / "c.sqlite").table("s").fingerprint
    assert run_build(tmp_path).probed == 0  # nothing is made anew for what stays as it is
    assert CatalogReader(tmp_path / "c.sqlite").table("s").fingerprint == before
    (tmp_path / "pics/outage").unlink()
    summary = run_build(tmp_path)
    assert (summary.usable, summary.probed, summary.refused) == (4, 1, {})
    assert run_build(tmp_path).probed == 0


def test_a_worker_that_cannot_start_is_told(tmp_path, monkeypatch):
    make_photos(tmp_path, 2)
    monkeypatch.setattr(workers, "_MAIN", "raise ImportError('no such library')")
    with pytest.raises(UserError, match="its end at the start: ImportError: no such library"):
        run_build(tmp_path)


def test_workers_start_only_for_new_files_and_are_used_again(tmp_path, monkeypatch):
    make_photos(tmp_path, 6)
    started, original = [], workers._Worker.__init__
    monkeypatch.setattr(
        workers._Worker, "__init__", lambda self: (started.append(self), original(self))[1]
    )
    sources = {
        name: SourceConfig(kind="image", root="pics", list="l.txt") for name in ("a", "b", "c")
    }
    run_build(tmp_path, sources, threads=2)
    # few files need one, and all sources share it
    assert len(started) == 1 and not started[0].alive
    run_build(tmp_path, sources, threads=2)
    assert len(started) == 1


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_build_leaves_no_worker_and_goes_on(tmp_path):
    make_photos(tmp_path, 30)
    write_photo(tmp_path / "pics/hang.jpg", 1, 40, 30)
    with open(tmp_path / "l.txt", "a") as file:
        file.write("hang.jpg 0\n")
    main = f'exec("""{HOSTILE}""")'
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\nfrom omnidali.catalog import build, workers\n"
        f"from omnidali.config.schema import SourceConfig\nworkers._MAIN = {main!r}\nbuild._COMMIT_SECONDS = 0\n"
        "build.build_catalog('c.sqlite', {'s': SourceConfig(kind='image', root='pics', list='l.txt')}, '.', threads=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    probed, db = 0, None
    for _ in range(900):
        time.sleep(0.1)
        if (tmp_path / "c.sqlite").exists():
            try:
                db = sqlite3.connect(tmp_path / "c.sqlite", timeout=0)
                (probed,) = db.execute("SELECT COUNT(*) FROM media WHERE state = 'ok'").fetchone()
                db.close()
            except sqlite3.OperationalError:
                pass
        if probed >= 30:
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() or [
        child
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    assert probed == 30 and children and all(map(alive, children))
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(50):
        if not any(map(alive, children)):
            break
        time.sleep(0.1)
    assert not any(map(alive, children))  # though the last one hangs in its file
    summary = run_build(tmp_path)
    assert summary.usable == 31 and summary.probed == 31 - probed


# Lists


def entries(path, **settings):
    return list(read_list(path, MediaConfig(**{"kind": "video", **settings}), Labels(), "s")[1])


@pytest.mark.parametrize(
    "text, settings, told",
    [
        (
            "a.mp4 0\nb.mp4 " + "1" * 10_000_000,
            {},
            "line 2: expected a line of at most 65,536 characters",
        ),
        ("a.mp4 0\nb\udcff.mp4 1\n", {}, "line 2: expected a readable list file in UTF-8"),
        ("1 " * 3_000_000, {"kind": "untrimmed"}, "line 1: expected a line of at most"),
        (
            "a.mp4,1\n" + '"' + "x" * 60_000 + ",1\n" + "\0,\n",
            {"format": "slowfast_csv"},
            "line 2: expected",
        ),
        (
            "d 0 999999999999 0\n",
            {"kind": "untrimmed", "format": "parts"},
            "at most 200,000 pieces",
        ),
        (
            f"d 0 {'9' * 5000} 0\n",
            {"kind": "untrimmed", "format": "parts"},
            "line 1: expected `folder label num_clips",
        ),
        (
            "d \u00b2 0\n",
            {"kind": "frames", "format": "rawframes"},
            "line 1: expected `folder num_frames label`",
        ),
        (
            "label,youtube_id,time_start,time_end,split\nx,y,inf,nan,t\n",
            {},
            "line 2: expected `label,youtube_id",
        ),
        (
            "label,youtube_id,time_start,time_end,split\nx,y,0,1e300,t\n",
            {},
            "line 2: expected `label,youtube_id",
        ),
        ('[{"video_dir": ' + "[" * 100_000, {"kind": "untrimmed"}, "hundreds of levels"),
        ('[{"video_dir": "a", "label": NaN}]', {"kind": "untrimmed"}, "NaN, which is no number"),
        (
            '[{"video_dir": "a", "label": ' + "9" * 5000 + "}]",
            {"kind": "untrimmed"},
            "a number of 5,000 digits",
        ),
        (
            '[{"video_dir": "\\ud800", "label": 0, "num_clips": 1, "positive_clip_inds": []}]',
            {"kind": "untrimmed"},
            "line 1",
        ),
        (
            '[{"video_dir": "a", "label": 0, "num_clips": 1e999, "positive_clip_inds": []}]',
            {"kind": "untrimmed"},
            "no number",
        ),
    ],
)
def test_hostile_lists_are_told_with_their_line(tmp_path, text, settings, told):
    path, began = write(tmp_path / "l.txt", text), time.thread_time()
    with pytest.raises(UserError) as caught:
        entries(path, **settings)
    assert (
        "l.txt" in str(caught.value) and told in str(caught.value) and len(str(caught.value)) < 1000
    )
    assert time.thread_time() - began < 5


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"a": 0, "b": NaN}', "NaN"),
        ("[" * 50_000, "hundreds of levels"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ("a " + "9" * 5000 + "\n", "a class number from 0"),
        ("a" + " " * 60_000 + "b\n1,c\n", "1"),
        ('{"a": [[1]]}', "a class number"),
    ],
)
def test_hostile_label_maps(tmp_path, text, told):
    path, began = write(tmp_path / "m.json", text), time.thread_time()
    try:
        assert told in str(read_label_map(path))
    except UserError as error:
        assert told in str(error) and len(str(error)) < 1000
    assert time.thread_time() - began < 5


def test_hostile_motion_files(tmp_path):
    good = json.loads((Path(ROOT) / "omnidali/planning/motion.json").read_text())
    bad = json.dumps({"all": {**good["all"], "mean": [float("nan")] * 8}})
    for text, told in (
        (bad, "NaN, which is no number"),
        ("[" * 50_000, "hundreds of levels"),
        ("{}", "no entry"),
    ):
        with pytest.raises(UserError, match=told):
            load_motion(write(tmp_path / "m.json", text), False)


def test_paths_of_lists_lead_nowhere_else(tmp_path, capsys):
    make_photos(tmp_path, 2)
    outside = tmp_path / "outside"
    write_photo(outside / "x.jpg", 1, 40, 30)
    (tmp_path / "pics/link.jpg").symlink_to(outside / "x.jpg")
    (tmp_path / "pics/folder").symlink_to(outside)
    (tmp_path / "pics/circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(tmp_path / "pics/pipe.jpg")
    lines = [
        "0.jpg",
        "1.jpg",
        "../outside/x.jpg",
        str(outside / "x.jpg"),
        "link.jpg",
        "folder/x.jpg",
        "circle.jpg",
        "pipe.jpg",
        "http://127.0.0.1/x.jpg",
        "s3://bucket/x.jpg",
        f"file:{outside}/x.jpg",
        "concat:0.jpg|1.jpg",
        "pipe:0",
        "data:image/jpeg,x",
        "a\0b.jpg",
        "\x1b]0;hello\x07.jpg",
        "a/" * 3000 + "x.jpg",
        "0.jpg/x.jpg",
        "n" * 300 + ".jpg",
    ]
    write(tmp_path / "l.txt", "".join(f"{line} 0\n" for line in lines))
    summary = run_build(tmp_path)
    assert (
        summary.usable == 2
        and summary.refused
        == {
            "path leaves the root": 3,
            "path is absolute": 1,
            "path is a URL": 6,
            "not a regular file": 1,
            "path holds a NUL byte": 1,
            "path holds control characters": 1,
            "path is too long": 1,
            "unreadable: Too many levels of symbolic links": 1,
            "unreadable: File name too long": 1,
            "unreadable: Not a directory": 1,
        }
        and "\x1b" not in str(summary)
    )
    assert escape_reason(str(tmp_path), "a: story.mp4") is None  # a colon alone is no scheme


def test_frames_that_are_links_or_pipes(tmp_path):
    for name in ("plain", "inside", "out", "pipe"):
        for number in range(1, 4):
            write_photo(tmp_path / f"pics/{name}/img_{number:05}.jpg", number, 40, 30)
        (tmp_path / f"pics/{name}/img_00002.jpg").unlink()
    write_photo(tmp_path / "secret.jpg", 1, 40, 30)
    write_photo(tmp_path / "pics/plain/img_00002.jpg", 1, 40, 30)
    (tmp_path / "pics/inside/img_00002.jpg").symlink_to("../plain/img_00002.jpg")
    (tmp_path / "pics/out/img_00002.jpg").symlink_to(tmp_path / "secret.jpg")
    os.mkfifo(tmp_path / "pics/pipe/img_00002.jpg")
    write(tmp_path / "l.txt", "plain 3 0\ninside 3 0\nout 3 0\npipe 3 0\n")
    summary = run_build(tmp_path, {"s": SourceConfig(kind="frames", root="pics", list="l.txt")})
    assert summary.usable == 2 and summary.refused == {
        "a frame is a link that leaves the root": 1,
        "a frame is not a regular file": 1,
    }


# Tars


def make_tar(path, members, form=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, data, *kind in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if kind:
                member.type, member.linkname, member.size = kind[0], "../secret", 0
            tar.addfile(member, io.BytesIO(data))
    return path


def test_hostile_tars(tmp_path):
    photo = png(8, 8)
    make_tar(
        tmp_path / "a.tar",
        [
            ("0/a.png", photo),
            ("0/../../b.png", photo),
            ("/abs.png", photo),
            ("0/link.png", b"", tarfile.SYMTYPE),
            ("0/hard.png", b"", tarfile.LNKTYPE),
            ("0/dev.png", b"", tarfile.CHRTYPE),
            ("0/fifo.png", b"", tarfile.FIFOTYPE),
            ("0/sparse.png", b"", tarfile.GNUTYPE_SPARSE),
            ("0/a.png", photo),
            ("0/\x1b.png", photo),
        ],
    )
    tar = read_tar(str(tmp_path), "a.tar", "image")
    assert [member[0] for member in tar.members] == ["0/a.png"]
    assert (
        tar.left_out["member whose name leaves the tar"] == 2
        and tar.left_out["member that is a link"] == 2
    )
    assert (
        tar.left_out["member with the name of another"] == 1
        and tar.left_out["member with an odd name"] == 1
    )
    assert tar.left_out["member that is no plain file"] >= 2
    whole = (tmp_path / "a.tar").read_bytes()
    for name, data, told in (
        ("gz.tar", gzip.compress(whole), "tar compressed with gzip: decompress it"),
        ("cut.tar", whole[:540], "member cut off"),
        ("text.tar", b"hello" * 200, "tar broken"),
    ):
        tar = read_tar(str(tmp_path), write(tmp_path / name, data).name, "image")
        assert not tar.members and any(reason.startswith(told) for reason in tar.left_out), tar
    os.mkfifo(tmp_path / "pipe.tar")
    assert read_tar(str(tmp_path), "pipe.tar", "image").left_out == {
        "tar that is no regular file": 1
    }
    (tmp_path / "root").mkdir()
    (tmp_path / "root/out.tar").symlink_to(tmp_path / "a.tar")
    assert read_tar(str(tmp_path / "root"), "out.tar", "image").left_out == {
        "tar whose path leaves the root": 1
    }


def test_a_tar_that_could_not_be_read_is_tried_at_the_next_start(tmp_path, monkeypatch):
    for name in "ab":
        make_tar(tmp_path / f"{name}.tar", [(f"0/{n}.png", png(8, 8)) for n in range(2)])
    source, read = {"s": SourceConfig(kind="image", root=".", tars="*.tar")}, tars._Headers.read

    def fail(headers, count=-1):
        if headers.name.endswith("b.tar"):
            raise OSError(5, "Input/output error")
        return read(headers, count)

    with monkeypatch.context() as outage:
        outage.setattr(tars._Headers, "read", fail)
        summary = run_build(tmp_path, source)
    assert (summary.usable, summary.refused) == (2, {"unreadable tar: Input/output error": 1})
    summary = run_build(tmp_path, source)
    assert (summary.usable, summary.probed, summary.refused) == (4, 2, {})


def test_headers_of_tars_that_lie(tmp_path):
    """Sizes below zero and beyond the file, endless chains of headers, and headers of gigabytes."""

    def header(size, kind=b"0", name=b"0/a.png"):
        block = bytearray(512)
        block[: len(name)], block[100:108], block[124:136], block[156:157] = (
            name,
            b"0000644\0",
            size,
            kind,
        )
        block[257:265] = b"ustar  \0"
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    negative, huge = b"\xff" * 11 + b"\0", b"\x80" + b"\x7f" * 11
    for data in (
        header(negative) * 4,
        header(huge),
        header(b"77777777777\0"),
        header(negative, b"L"),
        header(huge, b"x"),
        header(b"%011o\0" % 512, b"L") * 4000,
        (header(b"%011o\0" % 512, b"L") + b"x" * 512) * 3000,
        (header(b"%011o\0" % 512, b"x") + b"20 a=b\n".ljust(512)) * 3000,
        header(b"77777777777\0", b"x"),
    ):
        began = time.thread_time()
        tar = read_tar(str(tmp_path), write(tmp_path / "h.tar", data + bytes(1024)).name, "image")
        assert not tar.members and time.thread_time() - began < 5


def test_a_tar_that_ends_early_is_told(tmp_path):
    """Cut off while it was copied, or with a damaged header: what is behind that is not lost in
    silence.
    """
    make_tar(
        tmp_path / "a.tar", [(f"0/{n}.png", b"x" * 1000) for n in range(4)], tarfile.USTAR_FORMAT
    )
    whole, header = (tmp_path / "a.tar").read_bytes(), 2 * 1536  # of the third member
    flipped, emptied = bytearray(whole), bytearray(whole)
    flipped[header + 5] ^= 1
    emptied[header : header + 512] = bytes(512)
    for data, members, told in (
        (whole, 4, {}),
        (whole[: 4 * 1536 + 512], 4, {}),
        (whole + bytes(1 << 21), 4, {}),
        (bytes(10240), 0, {}),
        (whole[:header], 2, {"tar broken: ends at byte 3,072 of 3,072": 1}),
        (whole[: header + 300], 2, {"tar broken: ends at byte 3,072 of 3,372": 1}),
        (whole[: 4 * 1536 + 100], 4, {"tar broken: ends at byte 6,144 of 6,244": 1}),
        (flipped, 2, {"tar broken: ends at byte 3,072 of 10,240": 1}),
        (emptied, 2, {"tar broken: ends at byte 3,072 of 10,240": 1}),
        (whole + whole, 4, {"tar broken: ends at byte 6,144 of 20,480": 1}),
    ):
        tar = read_tar(str(tmp_path), write(tmp_path / "t.tar", bytes(data)).name, "image")
        assert (len(tar.members), tar.left_out) == (members, told)


# Checkpoints


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w')",)


def test_checkpoints_run_no_code(tmp_path):
    """For training from weights, resuming, evaluating and exporting, which all read by these two."""
    marker = tmp_path / "marker"
    import pickle

    for name, data in (
        ("evil.pth", None),
        ("raw.pt", pickle.dumps(Evil(marker))),
        ("evil.safetensors", pickle.dumps(Evil(marker))),
    ):
        if data is None:
            torch.save(
                {"state_dict": {"a": torch.zeros(2)}, "epoch": Evil(marker)}, tmp_path / name
            )
        else:
            write(tmp_path / name, data)
        for read in (read_weights, load_checkpoint):
            with pytest.raises(UserError, match="can be read safely"):
                read(tmp_path / name)
    shutil.copytree(tmp_path, tmp_path / "run/checkpoints", ignore=shutil.ignore_patterns("run"))
    os.rename(tmp_path / "run/checkpoints/evil.pth", tmp_path / "run/checkpoints/last.pt")
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "run")
    assert not marker.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # the control
    assert marker.exists()


def test_checkpoints_that_claim_terabytes(tmp_path):
    claim = torch.zeros(1).expand(1 << 40)
    states = {
        "claim": {"a": claim},
        "number": {"a": 3},
        "name": {1: torch.zeros(2)},
        "meta": {"a": torch.zeros(9, device="meta")},
        "sparse": {"a": torch.zeros(9).to_sparse()},
    }
    for name, state in states.items():
        torch.save({"state_dict": state}, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match="expected weights by name|can be read safely"):
            read_weights(tmp_path / f"{name}.pth")
    torch.save({"state_dict": {"a": torch.zeros(1 << 22)}}, tmp_path / "big.pth")
    with (
        zipfile.ZipFile(tmp_path / "big.pth") as full,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in full.infolist():
            packed.writestr(entry.filename, full.read(entry))
    with pytest.raises(UserError, match="entries of 16,.* bytes in a file of"):
        read_weights(tmp_path / "bomb.pth")
    lie = json.dumps(
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    ).encode()
    for data in (
        struct.pack("<Q", len(lie)) + lie,
        struct.pack("<Q", 1 << 62) + b"{}",
        b"\xff" * 8,
        struct.pack("<Q", 50_000) + b"[" * 50_000,
    ):
        with pytest.raises(UserError, match="can be read safely"):
            read_weights(write(tmp_path / "x.safetensors", data))
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(UserError, match="got no regular file"):
        read_weights(tmp_path / "pipe.pth")


# YAML

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
SMALL = "sources: {k: {kind: video}}\ntrain: {steps: 5}\n"


@pytest.mark.parametrize(
    "text, told",
    [
        (
            LAUGHS,
            "c.yaml, line 6: expected at most 100,000 values, got more, by aliases of aliases. Write the values out",
        ),
        (
            LAUGHS.replace("[x,x,x,x,x,x,x,x,x]", "{x: 1}")
            .replace("[*", "{<<: [*")
            .replace("]", "]}")
            .replace("}]}", "}"),
            "c.yaml",
        ),
        ("a: &a [*a]", "an alias of what it stands in"),
        ("a: &a {b: *a}", "an alias of what it stands in"),
        ("a: " + "{a: " * 5000, "hundreds of levels"),
        ("a:\n\tb: 1", "c.yaml, line 2: expected YAML"),
        (SMALL + "seed: " + "9" * 5000, "expected YAML, got Exceeds the limit"),
        (SMALL + "run_dir: a\0b", "expected YAML"),
        (SMALL + 'run_dir: "a\\0b"', "run_dir: expected printable text"),
        (SMALL + 'run_dir: "\\uD800"', "run_dir: expected printable"),
        (SMALL + "seed: 0x" + "f" * 50_000, "seed: expected a number of at most 9,223"),
        (SMALL + "seed: 2001-99-99", "expected YAML"),
        (SMALL + "model: {depth: 0x" + "f" * 50_000 + "}", "the number of 200,000 bits"),
        ("#" * 300_000, "at most 262,144 characters"),
        ("a: !!python/object/apply:os.system ['true']", "expected YAML"),
        (SMALL + 'base: "\\0"', "expected a readable config file"),
        (SMALL + "? !!python/name:os.system\n: 1", "expected YAML"),
        (SMALL + "base: [c.yaml, c.yaml]", "expected other config files"),
        (
            SMALL.replace("video", "'frames', pattern: '{:999999999}'"),
            "sources.k.pattern: expected numbers of a few digits",
        ),
    ],
)
def test_hostile_configs_fail_within_a_second(tmp_path, text, told):
    began = time.thread_time()
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path / "c.yaml", text))
    assert told in str(caught.value) and len(str(caught.value)) < 2000
    assert time.thread_time() - began < 1


def test_bases_that_multiply(tmp_path):
    for n in range(30):
        write(tmp_path / f"{n}.yaml", f"base: [{n + 1}.yaml, {n + 1}.yaml]\n")
    write(tmp_path / "30.yaml", SMALL)
    with pytest.raises(UserError, match="at most 100 config files"):
        load_config(tmp_path / "0.yaml")


# Catalogs


def content(path):
    """Everything that training takes from a catalog."""
    reader = CatalogReader(path)
    table = reader.table("s")
    arrays = [
        getattr(table, name).tolist()
        for name in ("labels", "widths", "heights", "frames", "codecs")
    ]
    files = []
    for record in table.records:
        media = table.media(record)
        files.append(
            (
                media.path,
                media.container,
                media.codec,
                media.width,
                media.height,
                media.frames,
                media.rotation,
                media.timing,
                media.keyframes,
                media.packets,
                media.stamp,
                media.span,
            )
        )
        PacketIndex.unpack(media.packets) if media.packets else None
    return arrays, files, table.fingerprint, table.codec_names


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    make_photos(folder, 20)
    write_video(folder / "pics/v.mp4", 1, frames=4, width=64, height=48)
    run_build(folder)
    return folder, (folder / "c.sqlite").read_bytes(), content(folder / "c.sqlite")


def rebuild(folder, data):
    """The content after a start with this catalog; None where the start or the reader says that it
    is damaged.
    """
    for path in folder.glob("c.sqlite*"):
        path.unlink()
    write(folder / "c.sqlite", data)
    try:
        run_build(folder)
        return content(folder / "c.sqlite")
    except UserError as error:
        assert (
            "damaged" in str(error)
            or "as it was written" in str(error)
            or "version" in str(error)
            or "can be opened" in str(error)
            or "Delete the file" in str(error)
        ), error
        return None


def test_a_catalog_cut_off_anywhere_is_built_anew(catalog, capsys):
    folder, data, wanted = catalog
    for length in (
        0,
        1,
        50,
        99,
        100,
        4095,
        4096,
        5000,
        len(data) // 2,
        len(data) - 4096,
        len(data) - 1,
    ):
        assert rebuild(folder, data[:length]) == wanted, length
        if length:
            assert (folder / "c.sqlite.damaged").exists() == (length >= 16), length
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 9 and all("is damaged" in line and "built anew" in line for line in said)
    assert rebuild(folder, bytes(len(data))) == wanted  # zeros, as after a loss of power
    page = data[:8192] + bytes(4096) + data[12288:]
    assert rebuild(folder, page) == wanted


def test_a_catalog_that_is_being_written_is_not_damaged(tmp_path, monkeypatch):
    """Its length may be that of a moment before, and what its head says that of a moment later."""
    make_photos(tmp_path, 2)
    run_build(tmp_path)
    path, naps = tmp_path / "c.sqlite", []
    data = path.read_bytes()

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            path.write_bytes(data)

    monkeypatch.setattr(time, "sleep", nap)
    write(path, data + bytes(4096))
    integrity.check_length(path)
    assert len(naps) == 2
    write(path, data[:-1])
    with pytest.raises(
        integrity.DamagedCatalogError, match=f"{len(data) - 1:,} bytes instead of {len(data):,}"
    ):
        integrity.check_length(path)
    assert sum(naps) < 0.2


def test_flipped_bits_are_never_silent(catalog):
    folder, data, wanted = catalog
    rng, told = np.random.default_rng(0), 0
    for place in np.concatenate([rng.integers(100, len(data), 60), rng.integers(0, 100, 6)]):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        found = rebuild(folder, bytes(flipped))
        told += found is None
        assert found is None or found == wanted, place
    assert told < 30  # most are mended


def test_a_changed_column_or_row_is_seen(catalog):
    """What SQLite takes for right: values that somebody changed."""
    folder, data, wanted = catalog
    for change in (
        "UPDATE packed SET data = zeroblob(LENGTH(data)) WHERE name = 'labels'",
        "DELETE FROM packed WHERE name = 'widths'",
        "UPDATE sources SET fingerprint = 'x'",
        "UPDATE sources SET left_out = '{'",
        "UPDATE sources SET root = '/'",
        "UPDATE entries SET label = 1; UPDATE media SET state = 'new' WHERE id = 3",
    ):
        write(folder / "edit.sqlite", data)
        db = sqlite3.connect(folder / "edit.sqlite")
        db.executescript(change)
        db.close()
        assert rebuild(folder, (folder / "edit.sqlite").read_bytes()) == wanted, change
    write(folder / "edit.sqlite", data)
    db = sqlite3.connect(folder / "edit.sqlite")
    db.executescript(
        "UPDATE media SET path = '2.jpg ' WHERE path = '2.jpg'; UPDATE media SET width = 41 WHERE id = 5"
    )
    db.close()
    assert rebuild(folder, (folder / "edit.sqlite").read_bytes()) is None


def test_the_journal_of_a_killed_writer(catalog):
    """A change that was not finished is taken back; a journal of another file does not spoil the
    new catalog.
    """
    folder, data, wanted = catalog
    for path in folder.glob("c.sqlite*"):
        path.unlink()
    write(folder / "c.sqlite", data)
    code = (
        "import os, sqlite3; db = sqlite3.connect('c.sqlite'); db.execute('PRAGMA cache_size = 1');"
        " db.execute('UPDATE packed SET data = zeroblob(LENGTH(data))');"
        " db.execute('UPDATE media SET packets = zeroblob(20000)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder)
    assert (folder / "c.sqlite-journal").stat().st_size > 0 and (
        folder / "c.sqlite"
    ).read_bytes() != data
    run_build(folder)
    assert content(folder / "c.sqlite") == wanted and not (folder / "c.sqlite.damaged").exists()
    write(folder / "c.sqlite-journal", b"\xd9\xd5\x05\xf9 \xa1c\xd7" + bytes(9000))
    write(folder / "c.sqlite", data[:9000] + os.urandom(len(data) - 9000))
    run_build(folder)
    assert content(folder / "c.sqlite") == wanted


def test_two_builds_at_once(tmp_path, capfd):
    make_photos(tmp_path, 40)
    found = []
    builds = [
        threading.Thread(target=lambda: found.append(run_build(tmp_path, threads=1)))
        for _ in range(3)
    ]
    for thread in builds:
        thread.start()
    for thread in builds:
        thread.join()
    assert sorted(summary.probed for summary in found) == [0, 0, 40] and {
        summary.usable for summary in found
    } == {40}
    assert "another process is building" in capfd.readouterr().err


def test_a_catalog_that_others_own(tmp_path):
    """Read by a user who may not write it; as root, by another user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photos(folder, 3)
        run_build(folder)
        (folder / "c.sqlite.lock").unlink()
        for path in (folder, folder / "c.sqlite"):
            path.chmod(0o555)
        code = (
            f"import os, sys\nsys.path.insert(0, {ROOT!r})\nfrom omnidali.catalog.build import build_catalog\n"
            "from omnidali.catalog.database.store import CatalogReader\nfrom omnidali.config.schema import SourceConfig\n"
            "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
            "print(build_catalog('c.sqlite', {'s': SourceConfig(kind='image', root='pics', list='l.txt')}, '.',"
            " progress=False)[0].usable, len(CatalogReader('c.sqlite').table('s')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
        )
        assert done.stdout == "3 3\n", done.stderr[-2000:]
        os.utime(folder / "pics/1.jpg", (1, 1))
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
        )
        assert "no permission to write" in done.stderr and "UserError" in done.stderr
        folder.chmod(0o755)


def test_what_is_no_catalog_stays_where_it_is(tmp_path):
    make_photos(tmp_path, 2)
    write(tmp_path / "c.sqlite", "somebody's notes, which are no database")
    with pytest.raises(UserError, match="a catalog file that can be opened"):
        run_build(tmp_path)
    assert (tmp_path / "c.sqlite").read_text().startswith("somebody") and not (
        tmp_path / f"c.sqlite{integrity.DAMAGED}"
    ).exists()
