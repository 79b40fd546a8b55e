"""Recognition: odd lines, comments and separators do not change which format a list has."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.list_files import read_file
from helpers.small_builds import write
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_formats import FORMATS
from omnidali.catalog.listing.list_reader import read_list
from omnidali.catalog.listing.list_recognition import recognise
from omnidali.config.sources import MediaConfig
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind

# kind, a line by its number, and lines that are not of the format
LISTS = {
    "slowfast_csv": ("video", lambda n: f"/data/{n} a.mp4,{n % 3}", ["b.mp4", "b.mp4,1,2"]),
    "video_ids": ("video", lambda n: f"id{n}, {n + 30}, {n % 3}", ["id, 7", "id, 30, 1, 2"]),
    "ucf101": (
        "video",
        lambda n: f"Archery/v_Archery_g{n:02}_c01.avi 2",
        ["Archery/x.avi 2", "Archery/v_Archery_g01_c01.avi two"],
    ),
    "something_csv": ("frames", lambda n: f"{n};Holding something", ["12", "x;y"]),
    "rawframes": (
        "frames",
        lambda n: f"some dir/{n}x {n + 1} {n % 3}",
        ["data/rawframes/c 3", "c", "c 0 1"],
    ),
    "rawframes_offset": ("frames", lambda n: f"{n}x 5 {n + 1} {n % 3}", ["c 30 2", "c 2"]),
    "pieces": ("untrimmed", lambda n: f"{n}.mp4 1.5 9 {n % 3}", ["v.mp4 9", "v.mp4 a b 1"]),
    "parts": ("untrimmed", lambda n: f"v{n} {n % 3} 4 0 2", ["v 1", "v 1 4 x"]),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_odd_line_is_an_error_of_the_format_that_was_meant(tmp_path_factory, data):
    form = data.draw(st.sampled_from(sorted(LISTS)))
    kind, line, odd = LISTS[form]
    count = data.draw(st.integers(2, 40))
    place = data.draw(st.integers(0, count))
    lines = [line(n) for n in range(count)]
    path = write(tmp_path_factory.getbasetemp() / "odd.txt", "\n".join(lines))
    assert recognise(path, MediaKind(kind)) == form
    read_file(path, [""] * 5 if form not in ("ucf101", "something_csv") else NAMES, kind=kind)

    lines.insert(place, data.draw(st.sampled_from(odd)))
    write(path, "\n".join(lines))
    assert recognise(path, MediaKind(kind)) == form
    with pytest.raises(UserError) as caught:
        read_file(path, NAMES, kind=kind)
    assert f"odd.txt, line {place + 1}: expected" in str(caught.value)
    assert FORMATS[form].line in str(caught.value)


NAMES = ["ApplyEyeMakeup", "Archery", "Holding something"]


@pytest.mark.parametrize("form", sorted(LISTS))
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_comments_and_empty_lines_do_not_count(tmp_path, form, ending):
    kind, line, _ = LISTS[form]
    plain = write(tmp_path / "plain.txt", "\n".join(line(n) for n in range(6)))
    rows = ["\ufeff# made by hand", ""]
    for n in range(6):
        rows += [line(n), "# a comment", "#" * 20, ""]
    commented = tmp_path / "commented.txt"
    commented.write_bytes(ending.join(rows).encode())
    assert recognise(commented, MediaKind(kind)) == form
    assert read_file(commented, NAMES, kind=kind) == read_file(plain, NAMES, kind=kind)


def test_files_that_are_there_decide_between_formats(tmp_path):
    """Names may look like fields: most lines do here, and are not."""
    lines = "".join(f"clip {n} 0\n" for n in range(5)) + "other 3\n"
    path = write(tmp_path / "l.txt", lines)
    assert recognise(path, MediaKind.FRAMES, tmp_path) == "rawframes"
    (tmp_path / "clip 3").mkdir()
    assert recognise(path, MediaKind.FRAMES, tmp_path) == "path_label"

    path = write(tmp_path / "l.txt", "a 5 30 2\n" * 5 + "b 30 2\n")
    assert recognise(path, MediaKind.FRAMES, tmp_path) == "rawframes_offset"
    (tmp_path / "a 5").mkdir()
    assert recognise(path, MediaKind.FRAMES, tmp_path) == "rawframes"


def test_odd_line_of_ucf101_is_odd_though_its_file_is_there(tmp_path):
    lines = [f"Archery/v_Archery_g{n:02}_c01.avi 2\n" for n in range(5)]
    path = write(tmp_path / "l.txt", "".join(lines) + "Archery/other.avi 2\n")
    write(tmp_path / "Archery/other.avi", "")
    assert recognise(path, MediaKind.VIDEO, tmp_path) == "ucf101"


def test_half_and_half_asks_for_the_format(tmp_path):
    path = write(tmp_path / "l.txt", "a 10 0\nb 3\n")
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"l.txt: .*Name the list's format: rawframes or path_lab"):
        recognise(path, MediaKind.FRAMES, tmp_path)


def test_file_with_a_comma_in_its_name_makes_a_list_of_paths_with_labels(tmp_path):
    path = write(tmp_path / "l.txt", "a.mp4,3\nb.mp4,1\nc.mp4,1\nd, e.mp4,0\n")
    assert recognise(path, MediaKind.VIDEO, tmp_path) == "slowfast_csv"
    (tmp_path / "d, e.mp4").touch()
    assert recognise(path, MediaKind.VIDEO, tmp_path) == "path_label"


def test_commas_and_spaces_may_be_mixed_in_paths_with_labels(tmp_path):
    path = write(tmp_path / "l.txt", "a.mp4,3\nb.mp4 1\nc d.mp4,0\n")
    assert [(entry.path, entry.label) for entry in read_file(path)] == [
        ("a.mp4", 3),
        ("b.mp4", 1),
        ("c d.mp4", 0),
    ]


def test_labels_from_0_make_ucf101s_paths_mmaction2s_list(tmp_path):
    lines = [f"Archery/v_Archery_g{n:02}_c01.avi 1\n" for n in range(300)]
    path = write(tmp_path / "l.txt", "".join(lines))
    assert recognise(path, MediaKind.VIDEO) == "ucf101"
    write(path, "".join(lines) + "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 0\n")
    assert recognise(path, MediaKind.VIDEO) == "path_label"


def test_several_lists_of_a_source_have_one_format(tmp_path):
    source = MediaConfig(kind="video")
    one, two = write(tmp_path / "1.txt", "a.mp4 0\n\nb.mp4 1\n"), write(tmp_path / "2.txt", "c 1\n")
    form, entries = read_list([one, two], source, Labels().number, "s")
    assert form == "path_label"
    assert [(entry.path, entry.list, entry.line) for entry in entries] == [
        ("a.mp4", 0, 1),
        ("b.mp4", 0, 3),
        ("c", 1, 1),
    ]
    write(two, json.dumps([{"id": "1", "template": "x"}]))
    with pytest.raises(UserError) as caught:
        read_list([one, two], source, Labels().number, "s")
    assert "2.txt: expected the format path_label, as in" in str(caught.value)
    assert "1.txt, got something_json" in str(caught.value)


# kind, expected format, lines, and what lies below the root
PLAIN_BEFORE = {
    "pieces, mostly of whole seconds": (
        "untrimmed",
        "pieces",
        ["a.mp4 0 50 0", "b.mp4 3 60 1", "c.mp4 2.5 60 1", "d.mp4 7 99 0"],
        [],
    ),
    "parts, mostly with one positive": (
        "untrimmed",
        "parts",
        ["v.mp4 1 6 3"] * 8 + ["w.mp4 1 6 0 3"] * 2,
        [],
    ),
    "long videos with words": (
        "untrimmed",
        "path_label",
        ["a.mp4\triding a bike", "b.mp4\triding a horse", "c.mp4\tjumping"],
        [],
    ),
    "frames with words, names that end in numbers": (
        "frames",
        "path_label",
        ["a/take archery", "a/take 2 archery", "a/take 3 archery"],
        ["a/take/", "a/take 2/", "a/take 3/"],
    ),
    "frames, names that end in numbers": (
        "frames",
        "rawframes",
        ["a/clip 30 0", "a/clip 2 30 1", "b/clip 30 0", "b/clip 2 30 1"],
        ["a/clip/", "a/clip 2/", "b/clip/", "b/clip 2/"],
    ),
    "UCF101 without its folders": (
        "video",
        "path_label",
        ["videos/v_Archery_g01_c01.avi 1", "videos/v_Bowling_g01_c01.avi 2"],
        [],
    ),
    "UCF101 with merged classes": (
        "video",
        "path_label",
        [
            f"{name}/v_{name}_g01_c01.avi {number}"
            for name, number in zip("ABC", "112", strict=True)
        ],
        [],
    ),
    "UCF101 with a comment that has a 0": (
        "video",
        "ucf101",
        ["#A/v_A_g01_c01.avi 0", "A/v_A_g01_c01.avi 1", "B/v_B_g01_c01.avi 2"],
        [],
    ),
    "a comma in one folder below the root's own name": (
        "video",
        "path_label",
        ["root/a/x.mp4,0", "root/moving, child/z.mp4,1", "root/a/y.mp4,0"],
        ["a/x.mp4", "a/y.mp4", "moving, child/z.mp4"],
    ),
    "semicolons in names": (
        "video",
        "path_label",
        ["0;a.mp4 1", "1;b.mp4 0"],
        ["0;a.mp4", "1;b.mp4"],
    ),
    "semicolons in folders of frames": ("frames", "rawframes", ["7;0 30 1"], ["7;0/"]),
}


@pytest.mark.parametrize("case", PLAIN_BEFORE)
@pytest.mark.parametrize("is_absolute", [False, True])
def test_list_that_is_one_format_alone_is_that_format(tmp_path, case, is_absolute):
    kind, form, lines, files = PLAIN_BEFORE[case]
    root = tmp_path / "root"
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).mkdir() if name.endswith("/") else (root / name).touch()
    if is_absolute and files:
        lines = [f"{root}/{line.removeprefix('root/')}" for line in lines]
    path = write(tmp_path / "l.txt", "\n".join(lines))
    assert recognise(path, MediaKind(kind), root) == form


def test_wrong_number_of_ucf101_makes_no_other_format(tmp_path):
    lines = [f"A/v_A_g{n:02}_c01.avi 1\n" for n in range(5)] + ["B/v_B_g01_c01.avi 2\n"]
    path = write(tmp_path / "l.txt", "".join(lines) + "A/v_A_g09_c01.avi 2\n")
    assert recognise(path, MediaKind.VIDEO) == "ucf101"
    with pytest.raises(UserError, match="l.txt, line 7: expected one number for each class"):
        read_file(path, ["A", "B"])
