"""Small films that claim much are refused by the check of their boxes, before FFmpeg opens them."""

import resource
import struct
import time
import zlib

import av
import pytest

from conftest import media_of
from omnidali.catalog.probing.file_span import FileSpan, Region
from omnidali.catalog.probing.limits import MAX_VIDEO_FRAMES, UnsupportedMediaError
from omnidali.catalog.probing.mp4_boxes import MAX_BOXES, OVERLAP, check_boxes, check_compression
from omnidali.catalog.probing.video_container import open_video
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.decoding.demuxer import demuxed_frames, frames_from
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import write_video

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}


def box(name, *parts):
    data = b"".join(parts)
    return struct.pack(">I4s", 8 + len(data), name) + data


def edited(data, edit):
    """A film with ``edit(name, content)`` for each box; None keeps it."""
    parts, place = [], 0
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + size]
        if name in CONTAINERS:
            content = edited(content, edit)
        new = edit(name, content)
        parts.append(box(name, content) if new is None else new)
        place += size
    return b"".join(parts)


def numbers(*values):
    return struct.pack(f">{len(values)}I", *values)


def replacing(name, *content):
    return lambda found, _: box(name, *content) if found == name else None


def compressed(content, free=0, claim=None):
    """A compressed header that inflates to a number of zeros."""
    inflated = box(b"moov", content) + box(b"free", bytes(free))
    packed = zlib.compress(inflated, 9)
    return box(
        b"moov",
        box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", numbers(claim or len(inflated)), packed)),
    )


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    write_video(path, 1, frames=12, width=96, height=64, gop=4)
    return path.read_bytes()


@pytest.fixture(scope="module")
def in_fragments(tmp_path_factory, film):
    folder = tmp_path_factory.mktemp("fragments")
    (folder / "a.mp4").write_bytes(film)
    with (
        av.open(str(folder / "a.mp4")) as old,
        av.open(
            str(folder / "b.mp4"), "w", options={"movflags": "frag_keyframe+empty_moov"}
        ) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return (folder / "b.mp4").read_bytes()


def hidden(data, name):
    """The film with its compressed header in a box of another name, where FFmpeg finds it, too."""
    return edited(
        data,
        lambda found, content: (
            box(b"moov", box(b"trak", box(name, compressed(content, 1000)[8:])))
            if found == b"moov"
            else None
        ),
    )


FRAGMENT = [box(b"mfhd", bytes(8)), box(b"tfhd", numbers(0x20038, 1, 512, 10, 0))]
HOSTILE = {
    "compressed": (
        lambda film: edited(
            film, lambda name, content: compressed(content, 1 << 26) if name == b"moov" else None
        ),
        "a compressed header",
    ),
    "compressed, small": (
        lambda film: edited(
            film, lambda name, content: compressed(content) if name == b"moov" else None
        ),
        "a compressed header",
    ),
    "compressed, at the end of a read": (
        lambda film: edited(
            film,
            lambda name, content: (
                box(b"free", bytes((1 << 18) - 100)) + compressed(content)
                if name == b"moov"
                else None
            ),
        ),
        "a compressed header",
    ),
    "compressed, in a track": (lambda film: hidden(film, b"mdia"), "a compressed header"),
    "frames of one size": (
        lambda film: edited(film, replacing(b"stsz", numbers(0, 10, 1 << 31))),
        f"more than {MAX_VIDEO_FRAMES:,} frames",
    ),
    "frames for which there is no room": (
        lambda film: edited(film, replacing(b"stsz", numbers(0, 10, 1 << 20))),
        "claims 1,048,576 samples",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_false_claims_are_refused_before_ffmpeg_opens_the_file(tmp_path, monkeypatch, film, name):
    make, expected = HOSTILE[name]
    path = tmp_path / "a.mp4"
    path.write_bytes(make(film))
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsupportedMediaError, match=expected):
        probe_video(FileSpan(str(path)))
    assert (
        time.monotonic() - begun < 2
        and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
    )


def test_fragments_that_claim_too_many_samples_are_refused(tmp_path, in_fragments):
    path = tmp_path / "a.mp4"
    path.write_bytes(in_fragments)
    assert probe_video(FileSpan(str(path))).frames == 12
    for truns in ([1 << 26], [1000] * 2000):
        path.write_bytes(
            in_fragments
            + box(
                b"moof",
                FRAGMENT[0],
                box(b"traf", FRAGMENT[1], *(box(b"trun", numbers(0, count)) for count in truns)),
            )
        )
        with pytest.raises(
            UnsupportedMediaError, match="its fragments claim more samples than its"
        ):
            probe_video(FileSpan(str(path)))


@pytest.mark.parametrize("at", [0, 100, 1000])
def test_mp4_in_a_tar_is_checked_in_place(tmp_path, film, at):
    path = tmp_path / "a.tar"
    hostile = HOSTILE["compressed"][0](film)
    path.write_bytes(bytes(at) + film + bytes(99) + hostile)
    assert probe_video(FileSpan(str(path), at, len(film))).frames == 12
    with pytest.raises(UnsupportedMediaError, match="a compressed header"):
        probe_video(FileSpan(str(path), at + len(film) + 99, len(hostile)))


@pytest.mark.parametrize("name", HOSTILE)
def test_every_later_opening_checks_the_boxes(tmp_path, film, name):
    """A file that was changed after the probe must not be inflated by each thread of a training."""
    path = tmp_path / "a.mp4"
    path.write_bytes(film)
    media = media_of(path)
    path.write_bytes(HOSTILE[name][0](film))
    with pytest.raises(UnsupportedMediaError, match=HOSTILE[name][1]):
        list(demuxed_frames(media, None, [3]))
    with pytest.raises(DecodeError, match=HOSTILE[name][1]):
        list(frames_from(media))


def test_no_split_of_the_reads_hides_a_compressed_header(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(bytes(40) + b"cmov\0\0\0\x0cdcomzlib" + bytes(40))
    for first in range(1, 100):
        with Region(FileSpan(str(path)), check_compression, OVERLAP) as region:
            for count in (first, 3, 100):
                region.read(count)
        assert isinstance(region.error, UnsupportedMediaError), first
    check_compression(b"cmov dcomzlib dcomzli cmovdcomzlib")  # the names alone


def test_audio_in_chunks_may_have_any_number_of_samples(tmp_path):
    """An hour of PCM has 172 million samples of one size, of which FFmpeg makes a few thousand
    packets.
    """
    sound = box(
        b"mdia",
        box(b"hdlr", bytes(8), b"soun"),
        box(
            b"minf",
            box(
                b"stbl",
                box(b"stts", numbers(0, 1, 172_800_000, 1)),
                box(b"stsz", numbers(0, 4, 172_800_000)),
            ),
        ),
    )
    data = box(b"moov", box(b"trak", sound))
    check_boxes(lambda offset, count: data[offset : offset + count], len(data))
    data = data.replace(numbers(172_800_000, 1), numbers(172_800_000, 2))
    with pytest.raises(UnsupportedMediaError, match="claims 172,800,000 samples"):
        check_boxes(lambda offset, count: data[offset : offset + count], len(data))


@pytest.mark.parametrize(
    "data",
    [
        numbers(0, 1) * 9,
        b"\0\0\0\x08free" * 100_000,
        b"\0\0\0\x01free" + b"\xff" * 8,
        b"\0\0\0\x02moov" * 9,
        b"\0\0\0",
        struct.pack(">I4s", 1 << 31, b"moov") * 3000,
        struct.pack(">I4s", 0, b"trak") * 3000,
        box(b"moov", b"\0\0\0\x08free" * 100_000),
        box(b"moov", box(b"trak") * 100_000),
        box(b"moov", box(b"stsz"), box(b"stts", b"\0"), box(b"hdlr")),
    ],
)
def test_malformed_boxes_end_the_check(data):
    read = []

    def at(offset, count):
        read.append(count)
        return data[offset : offset + count]

    try:
        check_boxes(at, len(data), with_fragments=True)
    except UnsupportedMediaError as refusal:
        assert "boxes" in str(refusal)
    assert len(read) < 2 * MAX_BOXES


def test_fragments_are_checked_by_the_probe_alone(tmp_path, monkeypatch, in_fragments):
    """The probe checks all fragments, each later opening the header alone."""
    reads = []
    read_at = Region.read_at

    def counted(region, offset, count):
        reads.append(offset)
        return read_at(region, offset, count)

    monkeypatch.setattr(Region, "read_at", counted)
    path = tmp_path / "a.mp4"
    path.write_bytes(in_fragments + box(b"moof", box(b"mfhd", bytes(8))) * 1000)
    for checks, most in ((False, 100), (True, 5000)):
        reads.clear()
        with open_video(FileSpan(str(path)), "mov", checks_fragments=checks):
            pass
        assert most / 10 < len(reads) < most
