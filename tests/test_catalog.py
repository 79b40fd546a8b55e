"""Lists, folders, the gate, the probe, and the SQLite file that is built once."""

import errno
import os
import sqlite3
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.exif import exif
from omnidali.catalog import build
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.store import CatalogReader
from omnidali.catalog.database.teacher_scores import Scorer, ScoreStore
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.listing.folders import escape_reason, scan_folder
from omnidali.catalog.listing.labels import Labels, read_class_names
from omnidali.catalog.listing.list_formats import Entry, read_list
from omnidali.catalog.probing.probe import pack_numbers, probe_image, probe_video, unpack_numbers
from omnidali.catalog.probing.sniff import UnsupportedMediaError, read_image_header, sniff_video
from omnidali.config.schema import MediaConfig, SourceConfig
from omnidali.curation.lint.findings import Issues
from omnidali.curation.lint.list_checks import check_names
from omnidali.errors import UserError
from omnidali.testing.numbered_media import write_photo, write_video


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def read(path, names=None, **settings):
    return list(
        read_list(path, MediaConfig(**{"kind": "video", **settings}), Labels(names), "s")[1]
    )


def test_labels_are_split_from_the_right(tmp_path):
    path = write(tmp_path / "l.txt", "a b/c d.mp4 3\n\n# a comment\nplain.mp4\t0\n  x.mp4  12  \n")
    assert read(path) == [Entry("a b/c d.mp4", 3), Entry("plain.mp4", 0), Entry("x.mp4", 12)]


@pytest.mark.parametrize(
    "text, names, told",
    [
        ("a.mp4\n", None, "line 1: expected a label behind the path, got 'a.mp4'"),
        ("a.mp4 0\nb.mp4 -1\n", None, "line 2: expected a class number of 0 or more, got '-1'"),
        ("a.mp4 x\n", None, "got 'x'"),
        ("a.mp4 2\n", ["p", "q"], "expected a label below 2, the number of class names, got 2"),
        ("\n\n", None, "got an empty list"),
    ],
)
def test_bad_lists_are_told_with_their_line(tmp_path, text, names, told):
    with pytest.raises(UserError, match="l.txt") as caught:
        read(write(tmp_path / "l.txt", text), names)
    assert told in str(caught.value)


def test_missing_list_is_told(tmp_path):
    with pytest.raises(UserError, match="expected a list file, got no such file"):
        read(tmp_path / "none.txt")


def test_class_names(tmp_path):
    assert read_class_names(write(tmp_path / "c.txt", "a b\nc\n\n")) == ["a b", "c"]
    for text in ("", "a\na\n", "a\n\nb\n"):
        with pytest.raises(UserError):
            read_class_names(write(tmp_path / "c.txt", text))


def test_class_folders(tmp_path):
    for name in ("dog/2.jpg", "dog/deep/1.JPG", "ant/9.png", "dog/notes.txt", "loose.jpg"):
        write(tmp_path / name, "x")
    entries, folders = scan_folder(tmp_path, "image", None)
    assert entries == [("ant/9.png", 0), ("dog/2.jpg", 1), ("dog/deep/1.JPG", 1)]
    assert len(folders) == 4
    with pytest.raises(UserError, match="a folder named like a class"):
        scan_folder(tmp_path, "image", ["ant", "cat"])


def test_plain_folder_is_unlabelled(tmp_path):
    write(tmp_path / "b.mp4", "x")
    write(tmp_path / "a.webm", "x")
    assert [tuple(entry)[:2] for entry in scan_folder(tmp_path, "video", None)[0]] == [
        ("a.webm", -1),
        ("b.mp4", -1),
    ]


def test_paths_stay_below_the_root(tmp_path):
    root = tmp_path / "root"
    write(root / "in.jpg", "x")
    write(tmp_path / "out.jpg", "x")
    (root / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (root / "fine.jpg").symlink_to(root / "in.jpg")
    real = os.path.realpath(root)
    assert escape_reason(real, "in.jpg") is None and escape_reason(real, "fine.jpg") is None
    assert escape_reason(real, "../out.jpg") == "path leaves the root"
    assert escape_reason(real, "a/../../out.jpg") == "path leaves the root"
    assert escape_reason(real, "link.jpg") == "path leaves the root"
    assert escape_reason(real, "/etc/passwd") == "path is absolute"
    assert escape_reason(real, "a\0b") == "path holds a NUL byte"


@pytest.mark.parametrize(
    "head",
    [
        b"ffconcat version 1.0\nfile a.mp4\n",
        b"#EXTM3U\nhttp://x/a.ts\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
        b"<?xml version='1.0'?><MPD/>",
        b"",
        b"\xff\xd8\xff",
    ],
)
def test_playlists_and_other_bytes_reach_no_demuxer(head):
    with pytest.raises(UnsupportedMediaError, match="not a video"):
        sniff_video(head)


@given(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"RIFF\0\0\0\0WEBPVP8X",
            b"\xff\xd8\xff\xe1\x00\x20Exif\0\0II*\0",
        ]
    ),
)
def test_the_header_parser_survives_any_bytes(data, start):
    try:
        header = read_image_header(start + data)
        assert header.width > 0 and header.height > 0
    except UnsupportedMediaError as refusal:
        assert str(refusal)


def test_image_headers(tmp_path):
    for ending in ("jpg", "png", "webp"):
        write_photo(tmp_path / f"a.{ending}", 1, width=90, height=60)
        probe = probe_image(FileSpan(str(tmp_path / f"a.{ending}")))
        assert (probe.width, probe.height, probe.frames) == (90, 60, 1)
        assert probe.codec == {"jpg": "jpeg"}.get(ending, ending)
    jpeg = (tmp_path / "a.jpg").read_bytes()
    for orientation in range(1, 9):
        header = read_image_header(jpeg[:2] + exif(orientation) + jpeg[2:])
        assert (header.width, header.height) == ((90, 60) if orientation < 5 else (60, 90))
    huge = b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + struct.pack(">II", 65536, 65536)
    with pytest.raises(UnsupportedMediaError, match="too large: 65536x65536"):
        read_image_header(huge)
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><p>404")
    with pytest.raises(UnsupportedMediaError, match="a web page"):
        probe_image(FileSpan(str(tmp_path / "page.jpg")))


@given(st.lists(st.integers(-(2**40), 2**40), max_size=50))
def test_packed_numbers_come_back(numbers):
    assert unpack_numbers(pack_numbers(np.array(numbers, np.int64))).tolist() == numbers


def test_video_probe(tmp_path):
    write_video(tmp_path / "a.mp4", 1, frames=50, width=90, height=62, gop=12, rate=25)
    probe = probe_video(FileSpan(str(tmp_path / "a.mp4")))
    assert (
        probe.container,
        probe.codec,
        probe.width,
        probe.height,
        probe.frames,
        probe.rotation,
    ) == ("mov", "h264", 90, 62, 50, 0)
    assert probe.frame_rate == 25 and unpack_numbers(probe.keyframes).tolist() == [
        0,
        12,
        24,
        36,
        48,
    ]
    write_video(tmp_path / "phone.mp4", 1, frames=5, width=90, height=62, rotation=90)
    probe = probe_video(FileSpan(str(tmp_path / "phone.mp4")))
    assert (probe.codec, probe.width, probe.height, probe.rotation) == ("h264:rotated", 62, 90, 90)


def test_broken_videos_get_a_reason(tmp_path):
    write_video(tmp_path / "a.mp4", 1, frames=20, width=64, height=48)
    whole = (tmp_path / "a.mp4").read_bytes()
    for name, data, told in (
        ("empty.mp4", b"", "empty file"),
        ("text.mp4", b"hello\n" * 9, "not a video: text"),
        ("cut.mp4", whole[: len(whole) // 2], "broken"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnsupportedMediaError, match=told):
            probe_video(FileSpan(str(tmp_path / name)))


PHOTOS = {"s": SourceConfig(kind="image", root="pics", list="l.txt")}


def make_photos(tmp_path, count=6):
    for n in range(count):
        write_photo(tmp_path / "pics" / f"{n}.jpg", n, 40, 30)
    write(tmp_path / "l.txt", "".join(f"{n}.jpg {n % 2}\n" for n in range(count)))


def run_build(tmp_path, sources=PHOTOS):
    return build_catalog(tmp_path / "c.sqlite", sources, tmp_path, progress=False)


def test_catalog_leaves_bad_files_out_and_says_why(tmp_path):
    make_photos(tmp_path)
    write(tmp_path / "pics/text.jpg", "hello")
    with open(tmp_path / "l.txt", "a") as file:
        file.write("text.jpg 0\ngone.jpg 1\n../l.txt 0\n0.jpg 0\n")
    (summary,) = run_build(tmp_path)
    assert (summary.usable, summary.probed, summary.repeated) == (6, 9, 1)
    assert summary.refused == {
        "missing file": 1,
        "not a JPEG, PNG or WebP image: text": 1,
        "path leaves the root": 1,
    }
    assert "1 missing file, such as gone.jpg" in str(
        summary
    ) and "1 repeated lines counted once" in str(summary)
    reasons = sqlite3.connect(tmp_path / "c.sqlite").execute(
        "SELECT path, state FROM media WHERE state <> 'ok'"
    )
    assert ("gone.jpg", "missing file") in reasons.fetchall()
    table = CatalogReader(tmp_path / "c.sqlite").table("s")
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1] and table.media(
        table.records[3]
    ).path.endswith("pics/3.jpg")
    assert set(table.widths) == {40} and set(table.heights) == {30}


def test_second_start_probes_nothing_and_changes_are_seen(tmp_path):
    make_photos(tmp_path)
    run_build(tmp_path)
    old = CatalogReader(tmp_path / "c.sqlite").table("s")
    assert run_build(tmp_path)[0].probed == 0
    assert CatalogReader(tmp_path / "c.sqlite").table("s").fingerprint == old.fingerprint
    write_photo(tmp_path / "pics/2.jpg", 9, 44, 30)  # a file is replaced
    assert run_build(tmp_path)[0].probed == 1
    table = CatalogReader(tmp_path / "c.sqlite").table("s")
    assert table.widths[2] == 44 and table.fingerprint != old.fingerprint
    os.remove(tmp_path / "pics/1.jpg")  # one goes
    assert run_build(tmp_path)[0].refused == {"missing file": 1}
    write_photo(tmp_path / "pics/1.jpg", 1, 40, 30)  # and comes back
    assert run_build(tmp_path)[0].usable == 6
    write(tmp_path / "l.txt", "3.jpg 1\n4.jpg 1\n")  # the list shrinks, and one label is another
    (summary,) = run_build(tmp_path)
    assert (summary.usable, summary.probed) == (2, 0)
    assert CatalogReader(tmp_path / "c.sqlite").table("s").labels.tolist() == [1, 1]


def test_what_other_lists_take_out_of_a_catalog_is_missed_not_mistaken(tmp_path):
    make_photos(tmp_path)
    path, photos = (
        tmp_path / "c.sqlite",
        {
            name: MediaConfig(kind="image", root="pics", list=f"{name}.txt")
            for name in ("older", "newer")
        },
    )
    write(tmp_path / "older.txt", "0.jpg 0\n5.jpg 0\n")
    write(tmp_path / "newer.txt", "0.jpg 0\n1.jpg 0\n2.jpg 0\n")
    build_catalog(path, {"web": photos["older"]}, tmp_path, progress=False)
    running = CatalogReader(path).table("web")
    build_catalog(path, {"web": photos["newer"]}, tmp_path, progress=False)
    assert running.media(running.records[0]).path.endswith("0.jpg")
    with pytest.raises(UserError, match="another run has read other lists into this catalog"):
        running.media(running.records[1])
    with ScoreStore(path, Scorer("digest", "teacher", ("a", "b"), "settings")) as scores:
        with pytest.raises(UserError, match="another run has read other lists into this catalog"):
            scores.missing(running)


def test_new_files_in_class_folders_are_seen(tmp_path):
    write_photo(tmp_path / "pics/a/0.jpg", 0, 40, 30)
    sources = {"s": SourceConfig(kind="image", root="pics")}
    assert run_build(tmp_path, sources)[0].usable == 1
    write_photo(tmp_path / "pics/a/1.jpg", 0, 40, 30)
    assert run_build(tmp_path, sources)[0].usable == 2


@pytest.fixture
def failing(monkeypatch):
    """A function that lets the listing of one folder fail."""

    def fail(folder, error):
        def scandir(path="."):
            if os.fspath(path) == str(folder):
                raise OSError(error, os.strerror(error), str(path))
            return listing(path)

        monkeypatch.setattr(os, "scandir", scandir)

    listing = os.scandir
    return fail


@pytest.mark.parametrize("folder", ["pics", "pics/b", "pics/b/deep"])
@pytest.mark.parametrize("error", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_a_folder_that_cannot_be_read_is_told(tmp_path, failing, folder, error):
    for name in ("a/0.jpg", "b/1.jpg", "b/deep/2.jpg"):
        write_photo(tmp_path / "pics" / name, 0, 40, 30)
    sources = {"s": SourceConfig(kind="image", root="pics")}
    assert run_build(tmp_path, sources)[0].usable == 3
    write_photo(tmp_path / "pics/b/3.jpg", 0, 40, 30)  # so that the folders are read again
    failing(tmp_path / folder, error)
    for read_again in (
        lambda: run_build(tmp_path, sources),
        lambda: check_names("s", sources["s"], tmp_path, Issues(tmp_path / "issues.csv")),
    ):
        with pytest.raises(
            UserError,
            match=f"{folder}: expected a folder that can be read, got {os.strerror(error)}",
        ):
            read_again()
    failing("no folder", errno.EIO)
    assert run_build(tmp_path, sources)[0].usable == 4


def test_folders_that_vanish_or_are_of_no_use_may_fail(tmp_path, failing):
    for name in ("a/0.jpg", "b/1.jpg", ".trash/2.jpg"):
        write_photo(tmp_path / "pics" / name, 0, 40, 30)
    failing(tmp_path / "pics/b", errno.ENOENT)
    assert scan_folder(tmp_path / "pics", "image", None)[0] == [("a/0.jpg", 0)]
    failing(tmp_path / "pics/.trash", errno.EACCES)
    assert scan_folder(tmp_path / "pics", "image", None)[0] == [("a/0.jpg", 0), ("b/1.jpg", 1)]


def test_a_killed_probe_goes_on_where_it_was(tmp_path, monkeypatch):
    make_photos(tmp_path, 12)
    original = build.ProbePool.probe

    def dies_late(self, *arguments):
        for number, outcome in enumerate(original(self, *arguments)):
            if number == 7:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(build.ProbePool, "probe", dies_late)
    monkeypatch.setattr(build, "_COMMIT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        build_catalog(tmp_path / "c.sqlite", PHOTOS, tmp_path, threads=1, progress=False)
    monkeypatch.setattr(build.ProbePool, "probe", original)
    done = (
        sqlite3.connect(tmp_path / "c.sqlite")
        .execute("SELECT COUNT(*) FROM media WHERE state = 'ok'")
        .fetchone()[0]
    )
    assert 0 < done < 12
    (summary,) = run_build(tmp_path)
    assert (summary.usable, summary.probed) == (12, 12 - done)


def test_files_that_are_probed_in_parts_make_the_same_table(tmp_path, monkeypatch):
    names = ["b.jpg", "c.jpg", "a.jpg", "gone.jpg", "e.jpg", "bad.jpg", "d.jpg"]
    for number, name in enumerate(names):
        if name == "bad.jpg":
            write(tmp_path / name, "no picture")
        elif name != "gone.jpg":
            write_photo(tmp_path / name, number, width=40 + number, height=40)
    write(tmp_path / "l.txt", "".join(f"{name} {number}\n" for number, name in enumerate(names)))
    source = SourceConfig(kind="image", root=".", list="l.txt")

    tables = []
    for count in (100, 3, 2):  # of seven files
        monkeypatch.setattr(build, "_PROBED_TOGETHER", count)
        monkeypatch.setattr("omnidali.catalog.database.columns._FETCHED", count)
        path = tmp_path / f"{count}.sqlite"
        (summary,) = build_catalog(path, {"s": source}, tmp_path, progress=False)
        assert summary.probed == 7 and summary.usable == 5 and sum(summary.refused.values()) == 2
        assert build_catalog(path, {"s": source}, tmp_path, progress=False)[0].probed == 0
        tables.append(CatalogReader(path).table("s"))

    assert len({table.fingerprint for table in tables}) == 1
    for table in tables:
        assert table.labels.tolist() == [0, 1, 2, 4, 6] and table.widths.tolist() == [
            40,
            41,
            42,
            44,
            46,
        ]


def test_errors_of_sources(tmp_path):
    make_photos(tmp_path)
    with pytest.raises(UserError, match=r"sources.s.root: expected a folder, got .*nowhere"):
        run_build(tmp_path, {"s": SourceConfig(kind="image", root="nowhere", list="l.txt")})
    with pytest.raises(UserError, match="at least one usable file for kind video"):
        run_build(tmp_path, {"s": SourceConfig(kind="video", root="pics", list="l.txt")})
    write(tmp_path / "bad.sqlite", "this is no database, however long it goes on")
    with pytest.raises(UserError, match="a catalog file that can be opened"):
        build_catalog(tmp_path / "bad.sqlite", PHOTOS, tmp_path, progress=False)


def test_a_corrected_kind_is_probed_again(tmp_path):
    make_photos(tmp_path)
    with pytest.raises(UserError):
        run_build(tmp_path, {"s": SourceConfig(kind="video", root="pics", list="l.txt")})
    assert run_build(tmp_path)[0].usable == 6


def test_pipes_and_strange_names_do_not_stop_the_probe(tmp_path):
    for folder in ("a", "b"):
        write_photo(tmp_path / "pics" / folder / "0.jpg", 0, 40, 30)
    os.mkfifo(tmp_path / "pics/a/pipe.jpg")
    (tmp_path / "pics/a").joinpath(os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    (summary,) = run_build(tmp_path, {"s": SourceConfig(kind="image", root="pics")})
    assert summary.usable == 2 and summary.refused == {
        "name is not UTF-8: rename it, such as a/\\xff.jpg": 1,
        "not a regular file": 1,
    }


def test_huge_labels_are_told(tmp_path):
    for text in ("2000000000", "9" * 5000):
        with pytest.raises(UserError, match="a label of at most 1,000,000"):
            read(write(tmp_path / "l.txt", f"a.mp4 {text}\n"))


def test_the_first_exif_counts(tmp_path):
    write_photo(tmp_path / "a.jpg", 1, width=90, height=60)
    jpeg = (tmp_path / "a.jpg").read_bytes()
    header = read_image_header(jpeg[:2] + exif(1) + exif(6) + jpeg[2:])
    assert (header.width, header.height) == (90, 60)
