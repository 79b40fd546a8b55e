"""UCF101's, HMDB51's and Something-Something's lists, as they are downloaded."""

import json

import pytest

from helpers.list_files import names_in, read_file, read_text
from helpers.small_builds import write
from omnidali.catalog.listing.class_files import read_class_names
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_file import Entry
from omnidali.catalog.listing.list_reader import read_list
from omnidali.catalog.listing.list_recognition import recognise
from omnidali.config.sources import MediaConfig
from omnidali.curation.lint.findings import writing_issues
from omnidali.curation.lint.list_checks import check_list_lines
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind

VIDEO = MediaConfig(kind="video")
# the file of a class differs from its folder in UCF101 itself
UCF101 = [
    ("ApplyEyeMakeup", "v_ApplyEyeMakeup_g08_c01.avi", 1),
    ("HandstandPushups", "v_HandStandPushups_g09_c02.avi", 2),
    ("YoYo", "v_YoYo_g25_c05.avi", 3),
]
UCF101_NAMES = [name for name, _, _ in UCF101]


def ucf101(numbers=True, order=(0, 1, 2), ending="\r\n"):
    """The text of a list, which has Windows' line ends as the original has."""
    rows = (UCF101[place] for place in order)
    return "".join(
        f"{name}/{file}{f' {number}' if numbers else ''}{ending}" for name, file, number in rows
    )


@pytest.mark.parametrize("numbers", [True, False])
def test_ucf101_takes_the_class_from_the_folder(tmp_path, numbers):
    form, entries = read_text(tmp_path, ucf101(numbers), UCF101_NAMES)
    assert form == "ucf101"
    assert entries == [
        Entry(f"{name}/{file}", label) for label, (name, file, _) in enumerate(UCF101)
    ]
    # below the folder of the archive
    text = (
        ucf101(numbers).replace("\r\n", "\n").replace("\n", "\nUCF-101/").removesuffix("UCF-101/")
    )
    assert [entry.label for entry in read_text(tmp_path, text, UCF101_NAMES)[1]] == [0, 1, 2]


@pytest.mark.parametrize("numbers, order", [(True, (2, 0, 1)), (False, (1, 2, 0))])
def test_ucf101_names_its_classes_in_the_order_of_their_numbers(tmp_path, numbers, order):
    path = write(tmp_path / "trainlist01.txt", ucf101(numbers, order))
    assert names_in(path) == UCF101_NAMES
    reverse = ucf101().replace(" 1", " 9")  # sorted by number, not by name
    if numbers:
        names = names_in(write(path, reverse))
        assert names == [*UCF101_NAMES[1:], UCF101_NAMES[0]]


@pytest.mark.parametrize(
    "text, names, message",
    [
        (
            ucf101() + "YoYo/v_YoYo_g01_c01.avi 1\n",
            UCF101_NAMES,
            "line 4: expected one number for each class, and 1 with ApplyEyeMakeup, as in",
        ),
        (
            ucf101() + "YoYo/v_YoYo_g01_c01.avi 7\n",
            UCF101_NAMES,
            "line 4: expected one number for each class, and YoYo with 3, as in",
        ),
        (ucf101() + "YoYo/other.avi 3\n", UCF101_NAMES, "line 4: expected `class/v_class_g01_c01"),
        (ucf101(), ["YoYo"], "line 1: expected a class number of 0 or more, or one of 1 class"),
    ],
)
def test_wrong_lines_of_ucf101_are_named(tmp_path, text, names, message):
    with pytest.raises(UserError) as caught:
        read_text(tmp_path, text, names)
    assert f"list.txt, {message}" in str(caught.value)


def test_numbers_of_ucf101_are_those_of_its_class_file(tmp_path):
    names = read_class_names(write(tmp_path / "classInd.txt", "1 A\n2 B\n"))
    path = write(tmp_path / "l.txt", "A/v_A_g01_c01.avi 1\nB/v_B_g01_c01.avi 2\n")
    assert [entry.label for entry in read_file(path, names)] == [0, 1]
    write(path, "B/v_B_g01_c01.avi 1\n")
    with pytest.raises(UserError, match="l.txt, line 1: expected 2, the number of B in the file"):
        read_file(path, names)


@pytest.fixture
def splits(tmp_path):
    """Two classes of HMDB51 in two splits."""
    for name in ("ride_bike", "brush_hair"):
        for split in (1, 2):
            parts = (1, 2, 0) if split == 1 else (2, 1, 0)
            lines = [
                f"{mark}{name}_{part}.avi {part} \n"
                for mark, part in zip("#ab", parts, strict=True)
            ]
            write(tmp_path / f"{name}_test_split{split}.txt", "".join(lines))
    return tmp_path


@pytest.mark.parametrize("root", ["here", None])
def test_hmdb51_gives_one_part_of_each_class(splits, root):
    names = ["brush_hair", "ride_bike"]
    paths = sorted(splits.glob("*_test_split1.txt"))
    assert all(recognise(path, MediaKind.VIDEO) == "hmdb51" for path in paths)
    for split, files in {
        "train": ["brush_hair/#brush_hair_1.avi", "ride_bike/#ride_bike_1.avi"],
        "test": ["brush_hair/abrush_hair_2.avi", "ride_bike/aride_bike_2.avi"],
    }.items():
        form, entries = read_list(
            paths, VIDEO, Labels(names).number, "s", root=root and splits, split=split
        )
        assert form == "hmdb51"
        assert [(entry.path, entry.label) for entry in entries] == [(files[0], 0), (files[1], 1)]
        assert names_in(splits / "*_test_split1.txt", split=split) == names


def test_files_of_hmdb51_lie_where_the_pattern_says(splits):
    source = MediaConfig(kind="video", pattern="all/{id}")
    path = splits / "ride_bike_test_split2.txt"
    _, entries = read_list(path, source, Labels(["ride_bike"]).number, "s")
    assert [entry.path for entry in entries] == ["all/aride_bike_1.avi"]


def test_wrong_lists_of_hmdb51_are_named(splits):
    path = splits / "ride_bike_test_split1.txt"
    write(path, path.read_text() + "c.avi 3\n")
    with pytest.raises(UserError, match=r"split1.txt, line 4: expected `file 0\|1\|2`"):
        read_file(path, ["ride_bike"])
    other = write(splits / "bikes.txt", "a.avi 1\n")
    with pytest.raises(UserError, match="bikes.txt: expected a list of hmdb51, named such as"):
        read_file(other, ["ride_bike"], format="hmdb51")
    with pytest.raises(UserError, match="expected lines of the format hmdb51, got none"):
        read_file(write(path, "a.avi 0\n"), ["ride_bike"])


def test_lint_looks_through_all_lists_of_a_pattern(splits):
    source = MediaConfig(kind="video", list="*_test_split1.txt")
    with writing_issues(splits / "issues.csv") as issues:
        assert not check_list_lines("s", source, splits, ["brush_hair"], issues)
    assert issues.counts == {("s", "label"): 1}
    assert "ride_bike_test_split1.txt, line 1" in issues.examples["s", "label"][1]


SOMETHING = [
    {
        "id": "78687",
        "label": "holding potato next to vicks vaporub bottle",
        "template": "Holding [something] next to [something]",
        "placeholders": ["potato", "vicks vaporub bottle"],
    },
    {"id": 42, "label": "x", "template": "Putting [number of]  [something] onto [something]"},
]
SOMETHING_NAMES = [
    "Holding something next to something",
    "Putting number of something onto something",
]


@pytest.mark.parametrize("indent", [None, 1])
def test_something_something_takes_the_class_from_the_template(tmp_path, indent):
    text = json.dumps(SOMETHING, indent=indent)
    form, entries = read_text(tmp_path, text, SOMETHING_NAMES)
    assert form == "something_json"
    assert entries == [Entry("78687.webm", 0), Entry("42.webm", 1)]
    assert read_text(tmp_path, text, SOMETHING_NAMES, pattern="{label}/{id}.mp4")[1][1].path == (
        "Putting number of something onto something/42.mp4"
    )
    assert names_in(tmp_path / "list.txt") == SOMETHING_NAMES
    # its file of labels, as class names and as a label map
    labels = {name: str(1 - number) for number, name in enumerate(SOMETHING_NAMES)}
    names = read_class_names(write(tmp_path / "labels.json", json.dumps(labels)))
    assert names == SOMETHING_NAMES[::-1]
    assert [entry.label for entry in read_text(tmp_path, text, names)[1]] == [1, 0]
    assert [entry.label for entry in read_text(tmp_path, text, mapping=labels)[1]] == [1, 0]


def test_test_set_of_something_something_has_no_classes(tmp_path):
    with pytest.raises(UserError, match="line 1: expected an object with id and template, got"):
        read_text(tmp_path, '[{"id": "1420"}]', SOMETHING_NAMES)


@pytest.mark.parametrize("kind, path", [("frames", "12"), ("video", "12.webm")])
def test_first_something_something_is_a_csv(tmp_path, kind, path):
    form, entries = read_text(tmp_path, "12;Holding something\n", ["Holding something"], kind=kind)
    assert (form, entries) == ("something_csv", [Entry(path, 0)])
    # the pattern of a folder of frames names its images
    if kind == "frames":
        settings = {"kind": kind, "pattern": "{:05}.jpg"}
        assert read_text(tmp_path, "12;a\n", ["a"], **settings)[1] == [Entry("12", 0)]


def test_list_of_k400_may_have_a_header(tmp_path):
    text = "video_id, num_frames, label_index\n" + "abc, 300, 1\n" * 2
    assert read_text(tmp_path, text) == ("video_ids", [Entry("abc.mp4", 1)] * 2)
