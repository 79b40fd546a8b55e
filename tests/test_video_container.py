"""Untrusted videos: they open no other file and no socket, and meet limits before a decoder."""

import contextlib
import ctypes
import gzip
import os
import shutil
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import av
import numpy as np
import pytest

from conftest import media_of
from helpers.small_builds import ROOT, write
from omnidali.catalog.probing import video_probe
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.video_container import open_video
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.decoding.video import decode_video
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import write_video


class Bait:
    """A file and a port that nobody may touch; the kernel reports also what native code does."""

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
        """Whether the file was opened or the port was called since the last call of this method."""
        found = False
        with contextlib.suppress(BlockingIOError):
            found = bool(os.read(self.events, 1 << 16))
        with contextlib.suppress(BlockingIOError):
            self.server.accept()[0].close()
            found = True
        return found


@pytest.fixture
def bait(tmp_path):
    return Bait(tmp_path)


def playlists(bait):
    """Names and contents of files that refer a reader to other files or hosts."""
    url = f"http://127.0.0.1:{bait.port}/a.ts"
    for place in (str(bait.file), f"file:{bait.file}", url, f"tcp://127.0.0.1:{bait.port}"):
        m3u8 = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{place}\n#EXT-X-ENDLIST\n".encode()
        concat = f"ffconcat version 1.0\nfile '{place}'\n".encode()
        mpd = (
            "<?xml version='1.0'?><MPD type='static'><Period><AdaptationSet><Representation>"
            f"<BaseURL>{place}</BaseURL></Representation></AdaptationSet></Period></MPD>"
        ).encode()
        sdp = (
            "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\n"
            f"m=video {bait.port} RTP/AVP 96\na=x:{place}\n"
        ).encode()
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
            # after a valid magic number, each of which has an admitted demuxer
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
    """A QuickTime film that refers to another file for its frames, by path and by alias."""
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


def test_bait_notices_each_kind_of_access(bait, tmp_path):
    """The control: without sniffing and limits, FFmpeg does what these files ask for."""
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


def test_playlists_open_neither_files_nor_sockets(bait, tmp_path):
    """Whatever their name: neither in the probe nor with a demuxer that is forced upon them."""
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
def test_kernel_logs_no_other_file_and_no_socket(bait, tmp_path):
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
        f"import sys; sys.path.insert(0, {ROOT!r})\n"
        "from omnidali.catalog.build import build_catalog\n"
        "from omnidali.config.schema import SourceConfig\n"
        "sources = {'s': SourceConfig(kind='video', root='pics', list='l.txt')}\n"
        "print(build_catalog('c.sqlite', sources, '.', progress=False)[0].usable)"
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


def test_videos_meet_limits_before_a_decoder_opens(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write_video(path, 1, frames=9, width=96, height=64)
    write_video(
        tmp_path / "b.mkv", 1, frames=3, width=96, height=64, times=[0, 40, 50 * 3600 * 1000]
    )
    with pytest.raises(UnsupportedMediaError, match="longer than 48 hours"):
        probe_video(FileSpan(str(tmp_path / "b.mkv")))
    monkeypatch.setattr("omnidali.catalog.probing.limits.MAX_VIDEO_FRAMES", 8)
    with pytest.raises(UnsupportedMediaError, match="more than 8 frames"):
        probe_video(FileSpan(str(path)))
    monkeypatch.undo()
    monkeypatch.setattr(video_probe, "MAX_VIDEO_PIXELS", 96 * 64 - 1)
    with pytest.raises(UnsupportedMediaError, match="too large: 96x64"):
        probe_video(FileSpan(str(path)))
    monkeypatch.undo()
    monkeypatch.setitem(video_probe.DECODERS_OF, "mov", ("vp9",))
    with pytest.raises(UnsupportedMediaError, match=r"video \(h264\): not read, convert"):
        probe_video(FileSpan(str(path)))


def test_images_that_grow_after_the_header_meet_a_limit(tmp_path, monkeypatch):
    """Both ways of decoding: the packets of a larger video follow the header of a smaller one."""
    write_video(tmp_path / "a.mp4", 1, frames=5, width=96, height=64)
    media = media_of(tmp_path / "a.mp4")
    out = np.zeros((1, 1, 32, 32, 3), np.uint8)
    decode_video(media, np.array([2]), np.array([[0, 0, 64, 96]]), 32, out)
    monkeypatch.setattr(video_probe, "MAX_VIDEO_PIXELS", 2000)
    monkeypatch.setattr("omnidali.catalog.probing.packet_decoder.MAX_VIDEO_PIXELS", 2000)
    for packets in (media.packets, b""):
        arguments = replace(media, packets=packets), np.array([2]), np.array([[0, 0, 64, 96]])
        # another thread: decoders are kept for each
        with ThreadPoolExecutor(1) as thread, pytest.raises(DecodeError):
            thread.submit(decode_video, *arguments, 32, out).result()
