"""Lists, tars and catalogs with several labels an item."""

import io
import json
import tarfile

import numpy as np
import pytest

from helpers.small_builds import write
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.label_sets import LabelSets
from omnidali.catalog.database.listed_items import flatten, read_items
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_reader import read_list
from omnidali.catalog.listing.scan import source_class_names
from omnidali.config.sources import MediaConfig, SourceConfig
from omnidali.curation.list_writer import check_list_paths, write_list
from omnidali.errors import UserError
from omnidali.testing.numbered_media import write_image, write_video

NAMES = ["run", "high jump", "swim", "ski"]
FAST = {"width": 64, "height": 48, "gop": 8, "options": {"preset": "ultrafast"}}


def read(folder, text, names=None, mapping=None, multi_label=True, **settings):
    """The format, and path and labels of each entry."""
    source = MediaConfig(**{"kind": "video", **settings})
    map_path = None
    if mapping:
        map_path = write(folder / "map.json", json.dumps(mapping))
    form, entries = read_list(
        write(folder / "l.txt", text),
        source,
        Labels(names, map_path).number,
        "s",
        root=folder,
        multi_label=multi_label,
    )
    return form, [(entry.path, entry.labels or str(entry.label)) for entry in entries]


@pytest.mark.parametrize(
    "kind, text, form, expected",
    [
        ("video", "a.mp4 1 3 5\nb.mp4 2\n", "path_label", [("a.mp4", "1,3,5"), ("b.mp4", "2")]),
        ("video", "my clip 2.mp4 0 3\n", "path_label", [("my clip 2.mp4", "0,3")]),
        ("video", "a.mp4 1,3\nb.mp4 1;3\nc.mp4 1|3\n", "path_label", [(n, "1,3") for n in "abc"]),
        ("video", "a.mp4\t1 3\nb c\t1\t3\n", "path_label", [("a.mp4", "1,3"), ("b c", "1,3")]),
        ("video", "a.mp4;1;3\n", "path_label", [("a.mp4", "1,3")]),
        ("video", "a.mp4,1,3,,\nb.mp4,2,,,\n", "slowfast_csv", [("a", "1,3"), ("b", "2")]),
        ("video", 'a.mp4,"1,3"\n"b, c.mp4",1\n', "slowfast_csv", [("a", "1,3"), ("b, c", "1")]),
        ("image", "a.JPG 3 1 3\n", "path_label", [("a.JPG", "1,3")]),
        ("frames", "f 30 1 3\nmy f 8 2\n", "rawframes", [("f", "1,3"), ("my f", "2")]),
        ("frames", "f 0 30 1 3\ng 5 8 2\n", "rawframes_offset", [("f", "1,3"), ("g", "2")]),
        ("frames", "f,30,1,3\nmy f, 8, 2\n", "rawframes", [("f", "1,3"), ("my f", "2")]),
        ("frames", "f\t30\t1 3\nmy f\t8 2\n", "rawframes", [("f", "1,3"), ("my f", "2")]),
        ("video", "a.mp4 , 1, 3\nb.mp4, 2\n", "path_label", [("a.mp4", "1,3"), ("b.mp4", "2")]),
        ("untrimmed", "a.mp4 0.5 2 1 3\n", "pieces", [("a.mp4", "1,3")]),
        ("untrimmed", "a.mp4 1 3\nb.mp4 1 2 3\n", "path_label", [("a", "1,3"), ("b", "1,2,3")]),
        ("untrimmed", "a 1,3 2 0\n", "parts", [("a/part_0", "1,3"), ("a/part_1", "1,3")]),
    ],
)
def test_labels_of_a_line_are_read(tmp_path, kind, text, form, expected):
    found = read(tmp_path, text, kind=kind)
    with_endings = [
        (path if "." in path or kind == "frames" or path == "b c" else f"{path}.mp4", labels)
        for path, labels in expected
    ]
    assert found == (form, with_endings)


def test_names_and_maps_apply_to_each_label(tmp_path):
    text = "a.mp4 run swim\nb.mp4\thigh jump\tski\nc.mp4,high_jump,run\nd.mp4 high jump|swim\n"
    expected = [("a.mp4", "0,2"), ("b.mp4", "1,3"), ("c.mp4", "0,1"), ("d.mp4", "1,2")]
    assert read(tmp_path, text, NAMES, format="path_label")[1] == expected
    mapping = {"x": 3, "y": 0}
    assert read(tmp_path, "a.mp4 x y\n", NAMES, mapping)[1] == [("a.mp4", "0,3")]
    kinetics = "label,youtube_id,time_start,time_end\nrun|ski,abc,1,2\n"
    assert read(tmp_path, kinetics, NAMES)[1] == [("abc_000001_000002.mp4", "0,3")]
    rows = [{"video_dir": "v", "label": [3, "run"], "num_clips": 1, "positive_clip_inds": [0]}]
    found = read(tmp_path, json.dumps(rows), NAMES, kind="untrimmed")
    assert found == ("parts_json", [("v/part_0.mp4", "0,3")])


def test_label_given_twice_counts_once(tmp_path):
    assert read(tmp_path, "a.mp4 3 1 3\nb.mp4 2 2\n")[1] == [("a.mp4", "1,3"), ("b.mp4", "2")]


@pytest.mark.parametrize(
    "text, error",
    [
        ("a.mp4 1 2\nb.mp4 0 9\n", "l.txt, line 2: expected a label below 4, .* got 9"),
        ("a.mp4 run\nb.mp4 run fly\n", "line 2: expected .* one of 4 class names, got 'fly'"),
        ("a.mp4 1\nb.mp4\n", "line 2: expected a label after the path, got 'b.mp4'"),
        ("a.mp4 1\nb.mp4 1,,2\n", "line 2: expected .* got ''"),
    ],
)
def test_wrong_label_is_named_with_its_line(tmp_path, text, error):
    with pytest.raises(UserError, match=error):
        read(tmp_path, text, NAMES)


def test_whole_numbers_of_long_videos_need_a_format(tmp_path):
    text = "a.mp4 1 3 5\n"
    with pytest.raises(UserError, match="format: path_label or pieces"):
        read(tmp_path, text, kind="untrimmed")
    assert read(tmp_path, text, kind="untrimmed", format="path_label")[1] == [("a.mp4", "1,3,5")]
    assert read(tmp_path, text, kind="untrimmed", format="pieces")[1] == [("a.mp4", "5")]


@pytest.mark.parametrize(
    "kind, text",
    [
        ("video", "a.mp4 1 3\nb.mp4 2\n"),
        ("video", "a.mp4,1,3\nb.mp4,2\n"),
        ("video", "a.mp4 run ski\nb.mp4 swim\n"),
        ("frames", "f 2 1 3 0\nf 2 1\n"),
        ("frames", "f 2 1 3\n"),
    ],
)
def test_several_labels_without_the_setting_are_refused_with_advice(tmp_path, kind, text):
    for name in ("a.mp4", "b.mp4", "f/img_00001.jpg", "f/img_00002.jpg"):
        write(tmp_path / name, b"x")
    with pytest.raises(
        UserError, match="l.txt, line 1: expected one label a line.*Set `multi_label: true`"
    ):
        read(tmp_path, text, NAMES, kind=kind, multi_label=False)


def test_text_that_may_be_several_labels_is_an_error_with_the_same_advice(tmp_path):
    for text in ("a.mp4 1;3\n", "a.mp4 run|ski\n"):
        with pytest.raises(UserError, match="line 1: .*set `multi_label: true` if these are"):
            read(tmp_path, text, NAMES, multi_label=False)


@pytest.mark.parametrize("name", ["a.mp4 1", "v 1 2", "a, b", "a.mp4"])
def test_paths_with_spaces_and_numbers_are_read_as_ever(tmp_path, name):
    for path in ("a.mp4", "v", "a"):
        write(tmp_path / path, b"x")
    write(tmp_path / name, b"x")
    found = read(tmp_path, f"{name} 3\n", multi_label=False, format="path_label")
    assert found == ("path_label", [(name, "3")])


def test_few_lines_that_look_as_if_they_had_several_labels_are_no_reason(tmp_path):
    for name in ("v", *(f"{n}" for n in range(20))):
        write(tmp_path / name, b"x")
    text = "".join(f"{n} 1\n" for n in range(20)) + "v 2 3\n"  # "v 2" is missing
    assert read(tmp_path, text, multi_label=False)[1][-1] == ("v 2", "3")


def make_tar(path, samples):
    """A tar of pictures of a few colours, each with its JSON."""
    with tarfile.open(path, "w") as tar:
        for number, fields in enumerate(samples):
            image = path.with_name("i.jpg")
            write_image(image, number, 40, 30)
            for ending, data in ((".jpg", image.read_bytes()), (".json", json.dumps(fields))):
                data = data if isinstance(data, bytes) else data.encode()
                info = tarfile.TarInfo(f"{number}{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_tars_hold_lists_of_classes(tmp_path):
    fields = [{"label": [3, 1]}, {"labels": ["run", "ski"]}, {"label": "swim"}, {"label": []}]
    make_tar(tmp_path / "a.tar", fields)
    source = SourceConfig(kind="image", tars="a.tar")
    options = {"progress": False, "threads": 1}
    (summary,) = build_catalog(
        tmp_path / "c.sqlite", {"s": source}, tmp_path, NAMES, multi_label=True, **options
    )
    table = CatalogReader(tmp_path / "c.sqlite").table("s")
    assert [table.labels_at(row) for row in range(3)] == [(1, 3), (0, 3), (2,)]
    assert summary.refused == {"member without a class": 1}

    (summary,) = build_catalog(
        tmp_path / "d.sqlite", {"s": source}, tmp_path, NAMES, multi_label=False, **options
    )
    assert summary.usable == 1
    reason = "member with several classes, which `multi_label: true` reads"
    assert summary.refused == {reason: 2, "member without a class": 1}
    make_tar(tmp_path / "a.tar", [{"label": ["b", "a"]}, {"label": ["c"]}])
    assert source_class_names("s", source, tmp_path, multi_label=True) == ["a", "b", "c"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photos with an odd name, folders of frames, and long videos; and their lists."""
    root = tmp_path_factory.mktemp("world")
    for name in ("0.jpg", "1.jpg", "some photo 2.jpg", "a, b.jpg"):
        write_image(root / "pics" / name, 1, 40, 30)
    for n in (1, 2, 3):
        write_image(root / "frames/my f" / f"img_0000{n}.jpg", n, 40, 30)
    for n in (0, 1):
        write_video(root / f"long/{n}.mp4", n, frames=60, **FAST)
    write(
        root / "pics.txt",
        "0.jpg 0 2\n1.jpg 2\nsome photo 2.jpg 1 2 3\na, b.jpg\t3\n0.jpg 2 0\n1.jpg 1 2\n",
    )
    write(root / "frames.txt", "my f 3 1 2\nmy f 2 0\n")
    write(root / "whole.txt", "0.mp4 1 3\n1.mp4 2\n")
    write(root / "pieces.txt", "0.mp4 0.0 1.0 1 3\n0.mp4 1.0 2.0 1 3\n0.mp4 1.0 1.5 1\n")
    sources = {
        "pics": SourceConfig(kind="image", root="pics", list="pics.txt"),
        "frames": SourceConfig(kind="frames", root="frames", list="frames.txt"),
        "whole": SourceConfig(kind="untrimmed", root="long", list="whole.txt", window_seconds=1),
        "pieces": SourceConfig(kind="untrimmed", root="long", list="pieces.txt"),
    }
    build_catalog(root / "c.sqlite", sources, root, NAMES, progress=False, multi_label=True)
    return root, sources


def sets_of(table):
    return [table.labels_at(row) for row in range(len(table))]


def test_catalog_keeps_the_labels_of_each_row(world):
    root, _ = world
    reader = CatalogReader(root / "c.sqlite")
    assert sets_of(reader.table("pics")) == [(0, 2), (2,), (1, 2, 3), (3,), (1, 2)]
    assert sets_of(reader.table("frames")) == [(1, 2), (0,)]
    assert sets_of(reader.table("whole")) == [(1, 3), (2,)]
    assert sets_of(reader.table("pieces")) == [(1, 3), (1,)]
    assert reader.table("pics").labels.tolist() == [0, 2, 1, 3, 1]  # the rarest of each
    pieces = reader.table("pieces")
    assert sets_of(flatten(root / "c.sqlite", pieces)) == [(1, 3), (1, 3), (1,)]
    taken = reader.table("pics").take(np.array([2, 0]), "taken")
    assert sets_of(taken) == [(1, 2, 3), (0, 2)] and taken.labels.tolist() == [1, 0]


def test_fingerprint_changes_with_any_label(world):
    root, sources = world
    prints = set()
    for text in ("0.jpg 0 2\n1.jpg 2\n", "0.jpg 0 3\n1.jpg 2\n", "0.jpg 0\n1.jpg 2\n"):
        source = SourceConfig(kind="image", root="pics", list="other.txt")
        write(root / "other.txt", text)
        path = root / "fingerprints.sqlite"
        build_catalog(path, {"s": source}, root, NAMES, progress=False, multi_label=True)
        prints.add(CatalogReader(path).table("s").fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize("name", ["pics", "frames", "whole", "pieces"])
def test_written_lists_read_back(world, tmp_path, name):
    root, sources = world
    catalog = str(root / "c.sqlite")
    table = CatalogReader(catalog).table(name)
    flat = flatten(catalog, table) if table.kind.has_pieces else table
    kept = np.ones(sum(1 for _ in read_items(catalog, name)), bool)
    check_list_paths(catalog, name, sources[name], kept, multi_label=True)
    written, _ = write_list(
        tmp_path, catalog, name, sources[name], kept, flat.labels, label_sets=flat.label_sets
    )
    build_catalog(
        tmp_path / "c.sqlite", {name: written}, root, NAMES, progress=False, multi_label=True
    )
    again = CatalogReader(tmp_path / "c.sqlite").table(name)
    assert sets_of(again) == sets_of(table)
    assert again.frames.tolist() == table.frames.tolist()


def test_rarest_label_is_found_for_many_rows():
    rng = np.random.default_rng(0)
    rows = [tuple(np.flatnonzero(rng.random(12) < 0.3)) or (-1,) for _ in range(500)]
    sets = LabelSets.of_rows(rows)
    counts = np.bincount(sets.values[sets.values >= 0], minlength=12)
    counts = np.append(counts, (sets.values < 0).sum())  # of those without a label
    expected = [min(row, key=lambda label: (counts[label], label)) for row in rows]
    assert sets.rarest().tolist() == expected
    hot = sets.multi_hot(12)
    assert [tuple(np.flatnonzero(row)) or (-1,) for row in hot] == rows
