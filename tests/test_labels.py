"""Classes: files of names, label maps, and the labels of lists."""

import pytest

from helpers.list_files import read_file, read_text
from helpers.small_builds import write
from omnidali.catalog.listing.labels import read_class_names, read_label_map
from omnidali.catalog.listing.list_formats import Entry
from omnidali.catalog.listing.list_reader import find_class_names
from omnidali.config.sources import MediaConfig
from omnidali.errors import UserError


def test_class_names_are_read_one_a_line(tmp_path):
    assert read_class_names(write(tmp_path / "c.txt", "a b\nc\n\n")) == ["a b", "c"]
    for text in ("", "a\na\n", "a\n\nb\n"):
        with pytest.raises(UserError):
            read_class_names(write(tmp_path / "c.txt", text))


def test_huge_labels_are_reported(tmp_path):
    for text in ("2000000000", "9" * 5000):
        with pytest.raises(UserError, match="a label of at most 1,000,000"):
            read_file(write(tmp_path / "l.txt", f"a.mp4 {text}\n"))


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_labels_of_lists_may_be_class_names(tmp_path):
    names = ["riding a bike", "tennis"]
    assert read_text(tmp_path, "a.mp4 tennis\nb.mp4 0\n", names)[1] == [
        Entry("a.mp4", 1),
        Entry("b.mp4", 0),
    ]
    assert read_text(tmp_path, "a b.mp4\triding a bike\n", names)[1] == [Entry("a b.mp4", 0)]
    assert read_text(tmp_path, KINETICS + "riding a bike,x,0,10,train\n", names)[1][0].label == 0
    assert (
        read_text(
            tmp_path,
            '[{"video_dir": "a", "label": "tennis", "num_clips": 1, "positive_clip_inds": [0]}]',
            names,
            kind="untrimmed",
        )[1][0].label
        == 1
    )
    with pytest.raises(UserError, match="or one of 2 class names, got 'chess'"):
        read_text(tmp_path, "a.mp4 chess\n", names)
    path = write(tmp_path / "k.csv", KINETICS + "zoo,a,0,10,train\nant,b,0,10,train\n")
    assert find_class_names(path, MediaConfig(kind="video"), "s") == ["ant", "zoo"]
    assert (
        find_class_names(write(tmp_path / "l.txt", "a.mp4 3\n"), MediaConfig(kind="video"), "s")
        is None
    )


@pytest.mark.parametrize(
    "text, mapping",
    [
        ('{"archery": 0, "bowling": "3"}', {"archery": 0, "bowling": 3}),
        ('["archery", "bowling"]', {"archery": 0, "bowling": 1}),
        ("archery\nbowling a ball\n", {"archery": 0, "bowling a ball": 1}),
        ("archery 4\nbowling a ball 2\n", {"archery": 4, "bowling a ball": 2}),
        ("id,name\n0,archery\n1,bowling\n", {"archery": 0, "bowling": 1}),
        ("12 0\n17 1\n", {"12": 0, "17": 1}),
    ],
)
def test_label_map_formats_are_read(tmp_path, text, mapping):
    assert read_label_map(write(tmp_path / "map", text)) == mapping


def test_label_map_gives_the_labels_of_a_list(tmp_path):
    assert read_text(tmp_path, "a.mp4 12\n", mapping={"12": 3})[1] == [Entry("a.mp4", 3)]
    # lists without labels: some users have the release's k200 lists in this form
    assert read_text(tmp_path, "x/a.mp4\nb.mp4\n", mapping={"a": 3, "b.mp4": 4})[1] == [
        Entry("x/a.mp4", 3),
        Entry("b.mp4", 4),
    ]
    with pytest.raises(
        UserError,
        match=r"list.txt, line 2: expected a class that the label map .*map.json holds, got '13'",
    ):
        read_text(tmp_path, "a.mp4 12\nb.mp4 13\n", mapping={"12": 3})
    for text, message in (
        ('{"a": -1}', "a class number"),
        ("{", "JSON"),
        ("", "an empty file"),
        ('{"a": [1]}', "a class number"),
        ("a 1\na 2\n", "every key once"),
    ):
        with pytest.raises(UserError, match=message):
            read_label_map(write(tmp_path / "map", text))
