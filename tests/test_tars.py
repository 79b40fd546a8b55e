"""WebDataset tars: their members, classes and changes."""

import importlib
import io
import tarfile

import cv2
import pytest

from helpers.small_builds import read_members, write
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.listing.scan import source_class_names
from omnidali.catalog.listing.tars import HIDDEN, find_tars
from omnidali.config.sources import SourceConfig
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.testing.numbered_media import numbered_image


def photo(n):
    """The bytes of a JPEG image of the number n."""
    return cv2.imencode(".jpg", numbered_image(n, 0, 60, 40)[:, :, ::-1])[1].tobytes()


def make_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def device(name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.CHRTYPE
    return info


def test_odd_members_of_tars_are_left_out(tmp_path):
    make_tar(
        tmp_path / "a.tar",
        [
            ("1.jpg", photo(1)),
            ("1.cls", b"2"),
            ("2.jpg", photo(2)),
            ("2.json", b'{"label": 1, "x": []}'),
            ("dog/3.jpg", photo(3)),
            ("4.jpg", photo(4)),
            ("../5.jpg", photo(5)),
            ("/6.jpg", photo(6)),
            ("l.jpg", link("l.jpg", "/etc/passwd")),
            ("d.jpg", device("d.jpg")),
            ("7.mp4", b"x"),
            ("2.txt", b"a caption"),
            ("8.json", b"{broken"),
            ("9.jpg", b"no photo"),
            ("9.cls", b"0"),
        ],
    )
    members, left_out = read_members(tmp_path, "a.tar")
    assert [(name, text) for name, _, _, text, _ in members] == [
        ("1.jpg", "2"),
        ("2.jpg", "1"),
        ("dog/3.jpg", "dog"),
        ("4.jpg", None),
        ("9.jpg", "0"),
    ]
    assert left_out == {
        "member whose name leaves the tar": 2,
        "member that is a link": 1,
        "member that is no plain file": 1,
        "member that is no image": 1,
    }
    data = (tmp_path / "a.tar").read_bytes()
    name, offset, size, *_ = members[0]
    assert data[offset : offset + size] == photo(1)
    sources = {"w": SourceConfig(kind="image", root=".", tars="*.tar")}
    (summary,) = build_catalog(
        tmp_path / "c.sqlite", sources, tmp_path, ["cat", "dog", "eel"], progress=False
    )
    assert "read as webdataset tars" in str(summary) and summary.usable == 3
    assert (
        summary.refused["member without a class"] == 1 and summary.refused["not a photo: text"] == 1
    )
    assert CatalogReader(tmp_path / "c.sqlite").table("w").labels.tolist() == [2, 1, 1]
    assert (
        build_catalog(
            tmp_path / "c.sqlite", sources, tmp_path, ["cat", "dog", "eel"], progress=False
        )[0].probed
        == 0
    )
    # another tar with the same name
    make_tar(tmp_path / "a.tar", [("1.cls", b"0"), ("1.jpg", photo(7))])
    assert (
        build_catalog(
            tmp_path / "c.sqlite", sources, tmp_path, ["cat", "dog", "eel"], progress=False
        )[0].usable
        == 1
    )
    with pytest.raises(
        UserError, match="a.tar: 1.jpg: expected a label below 1, the number of class names, got 5"
    ):
        make_tar(tmp_path / "a.tar", [("1.cls", b"5"), ("1.jpg", photo(7))])
        build_catalog(tmp_path / "c.sqlite", sources, tmp_path, ["cat"], progress=False)


def test_broken_tars_do_not_stop_the_others(tmp_path):
    make_tar(tmp_path / "t-00.tar", [("a/1.jpg", photo(1)), ("b/2.jpg", photo(2))])
    data = (tmp_path / "t-00.tar").read_bytes()
    (tmp_path / "t-01.tar").write_bytes(b"garbage" * 300)
    (tmp_path / "t-02.tar").write_bytes(data[: data.index(b"b/2.jpg") + 700])
    assert find_tars(tmp_path, "t-{00..02}.tar", "x") == ["t-00.tar", "t-01.tar", "t-02.tar"]
    sources = {"w": SourceConfig(kind="image", root=".", tars="t-{00..02}.tar")}
    (summary,) = build_catalog(tmp_path / "c.sqlite", sources, tmp_path, ["a", "b"], progress=False)
    assert summary.usable == 3
    assert summary.refused == {
        "tar broken: invalid header": 1,
        "member cut off": 1,
        "tar broken: unexpected end of data": 1,
    }
    with pytest.raises(UserError, match="tars that exist, got no t-03.tar"):
        build_catalog(
            tmp_path / "c.sqlite",
            {"w": SourceConfig(kind="image", tars="t-{00..03}.tar")},
            tmp_path,
            progress=False,
        )


def test_new_tars_are_seen_and_flat_ones_take_their_labels_from_a_map(tmp_path):
    make_tar(tmp_path / "a.tar", [("1.jpg", photo(1))])
    write(tmp_path / "map.txt", "1 0\n2 1\n")
    sources = {"w": SourceConfig(kind="image", root=".", tars="*.tar", labels="map.txt")}
    assert build_catalog(tmp_path / "c.sqlite", sources, tmp_path, progress=False)[0].usable == 1
    make_tar(tmp_path / "b.tar", [("2.jpg", photo(2))])
    assert build_catalog(tmp_path / "c.sqlite", sources, tmp_path, progress=False)[0].usable == 2
    for pattern in ("/data/x.tar", "**.tar"):
        with pytest.raises(
            UserError, match="sources.w.tars: expected (a pattern of tars|tars that exist)"
        ):
            build_catalog(
                tmp_path / "c.sqlite",
                {"w": SourceConfig(kind="image", tars=pattern)},
                tmp_path,
                progress=False,
            )


def test_resumed_run_keeps_lost_tars_and_takes_no_new_ones(tmp_path):
    for name in "01":
        make_tar(tmp_path / f"{name}.tar", [(f"0/{name}{n}.jpg", photo(n)) for n in range(2)])
    sources, path = (
        {"w": SourceConfig(kind="image", root=".", tars="{0..1}.tar")},
        tmp_path / "c.sqlite",
    )
    build_catalog(path, sources, tmp_path, ["0"], progress=False)
    before = CatalogReader(path).table("w").fingerprint
    (tmp_path / "0.tar").unlink()
    make_tar(
        tmp_path / "1.tar",
        [("0/a note.txt", b"after which images lie elsewhere"), ("0/10.jpg", photo(0))],
    )
    for _ in range(2):
        (summary,) = build_catalog(path, sources, tmp_path, ["0"], progress=False, as_begun=True)
        assert (summary.usable, summary.lost) == (4, 4) and CatalogReader(path).table(
            "w"
        ).fingerprint == before
    assert "4 gone, changed or broken since the run began: substitutes replace them" in str(summary)
    with pytest.raises(UserError, match="tars that exist, got no 0.tar"):
        build_catalog(path, sources, tmp_path, ["0"], progress=False)


@pytest.mark.parametrize("first", ["x.jpg", "x.seg.png"])
def test_only_usual_endings_make_a_sample(tmp_path, first):
    masks = ("x.seg.png", "x.mask.0.png", "x.thumb.jpg")
    names = sorted(("x.jpg", *masks), key=lambda name: name != first)
    make_tar(tmp_path / "a.tar", [*((name, photo(1)) for name in names), ("x.cls", b"1")])
    members, left_out = read_members(tmp_path, "a.tar")
    assert [(member.name, member.label) for member in members] == [("x.jpg", "1")]
    assert left_out == {"member with more than an ending after the first dot of its name": 3}
    assert read_members(tmp_path, "a.tar", MediaKind.VIDEO)[0] == []


@pytest.mark.parametrize(
    "label, expected",
    [("1.0", "1"), ("1", "1"), ('"1"', "1"), ('"cat"', "cat"), ("1.5", "d"), ("true", "d")],
)
def test_whole_numbers_are_labels_however_they_are_written(tmp_path, label, expected):
    """Other values give no class, so that the folder does."""
    data = f'{{"label": {label}}}'.encode()
    make_tar(tmp_path / "a.tar", [("d/x.jpg", photo(1)), ("d/x.json", data)])
    assert [member.label for member in read_members(tmp_path, "a.tar")[0]] == [expected]


def test_words_in_tars_that_are_links_name_the_classes(tmp_path):
    make_tar(tmp_path / "far.tar", [("1.jpg", photo(1)), ("1.cls", b"cat")])
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.tar").symlink_to(tmp_path / "far.tar")
    for links, names in (("follow", ["cat"]), ("below", None)):
        source = SourceConfig(kind="image", root="web", tars="*.tar", links=links)
        assert source_class_names("w", source, tmp_path) == names


@pytest.mark.parametrize("ending, program", [("gz", "gzip"), ("xz", "lzma"), ("bz2", "bz2")])
def test_compressed_tars_say_so_and_what_to_do(tmp_path, ending, program):
    make_tar(tmp_path / "plain.tar", [("d/x.jpg", photo(1))])
    packed = importlib.import_module(program).compress((tmp_path / "plain.tar").read_bytes())
    name = f"web-00.tar.{ending}"
    write(tmp_path / "web" / name, packed)

    def build(pattern):
        sources = {"w": SourceConfig(kind="image", root="web", tars=pattern)}
        return build_catalog(tmp_path / "c.sqlite", sources, tmp_path, progress=False)

    with pytest.raises(UserError, match=rf"no {name[:-3]}.*, but {name}, which is compressed"):
        build(name.removesuffix(f".{ending}"))
    with pytest.raises(UserError, match=r"no \*\.tar in .*, but .* compressed\. Decompress"):
        build("*.tar")
    with pytest.raises(UserError, match=f"tar compressed with .*, such as {name}"):
        build("web-*")


@pytest.mark.parametrize("pattern", ["gone/**", "{1..1}/**", "."])
def test_patterns_that_fit_no_file_are_reported(tmp_path, pattern):
    with pytest.raises(UserError, match=r"w\.tars: expected"):
        find_tars(tmp_path, pattern, "w.tars")


def test_hidden_folders_of_a_tar_are_no_classes(tmp_path):
    names = ("./cat/1.jpg", "__MACOSX/cat/._1.jpg", ".hid/2.jpg", "cat/._3.jpg", "cat/@eaDir/4.jpg")
    members = [*((name, photo(1)) for name in names), ("dog/5.jpg", photo(5))]
    make_tar(tmp_path / "a.tar", [*members, ("dog/5.cls", b"\xef\xbb\xbfcat\n")])
    found, left_out = read_members(tmp_path, "a.tar")
    assert [(member.name, member.label) for member in found] == [
        ("./cat/1.jpg", "cat"),
        ("dog/5.jpg", "cat"),
    ]
    assert left_out == {HIDDEN: 4}
