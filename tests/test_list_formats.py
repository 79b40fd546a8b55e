"""Every list format: recognised, read to the same entries, mistakes with file and line."""

import json
import os
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.list_files import read_file, read_text
from helpers.small_builds import write
from omnidali.catalog.database.listed_items import ListedItem
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_file import Entry
from omnidali.catalog.listing.list_formats import FORMATS
from omnidali.catalog.listing.list_reader import read_list
from omnidali.catalog.listing.list_recognition import recognise
from omnidali.config import schema as config
from omnidali.config.sources import MediaConfig
from omnidali.curation.list_lines import LINE_WRITERS
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind

JSON = [
    {"video_dir": "prefa/abc", "label": 3, "num_clips": 3, "positive_clip_inds": [0, 2]},
    {"video_dir": "prefb/bcd", "label": "1", "num_clips": 1, "positive_clip_inds": []},
]


KINETICS = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize(
    "kind, text, form, entries",
    [
        (
            "video",
            "a b/c.mp4 3\nd.mp4\t1\n",
            "path_label",
            [Entry("a b/c.mp4", 3), Entry("d.mp4", 1)],
        ),
        ("image", "x.jpg 0\n", "path_label", [Entry("x.jpg", 0)]),
        ("video", "a/c, d.mp4 3\n", "path_label", [Entry("a/c, d.mp4", 3)]),
        (
            "video",
            "/data/a.mp4,3\nb c.mp4,0\n",
            "slowfast_csv",
            [Entry("/data/a.mp4", 3), Entry("b c.mp4", 0)],
        ),
        (
            "video",
            KINETICS + "2,-abc_,5,15,train\n",
            "kinetics_csv",
            [Entry("-abc__000005_000015.mp4", 2)],
        ),
        (
            "untrimmed",
            KINETICS + "2,abc,5,15,train\n",
            "kinetics_csv",
            [Entry("abc.mp4", 2, "seconds", 5, 15, "abc.mp4")],
        ),
        (
            "video",
            "abc, 300, 7\nd-e, 250, 0\n",
            "video_ids",
            [Entry("abc.mp4", 7), Entry("d-e.mp4", 0)],
        ),
        ("frames", "some dir/a 30 2\n", "rawframes", [Entry("some dir/a", 2, "frames", 0, 30)]),
        ("frames", "a 5 30 2\n", "rawframes_offset", [Entry("a", 2, "frames", 5, 35)]),
        ("frames", "a 2\n", "path_label", [Entry("a", 2)]),
        ("untrimmed", "v.mp4 1.5 9 2\n", "pieces", [Entry("v.mp4", 2, "seconds", 1.5, 9, "v.mp4")]),
        ("untrimmed", "v.mp4 2\n", "path_label", [Entry("v.mp4", 2, "windows", 0, 10, "v.mp4")]),
        (
            "untrimmed",
            "a 1 2 0\n",
            "parts",
            [
                Entry("a/part_0.mp4", 1, video="a"),
                Entry("a/part_1.mp4", 1, video="a", positive=False),
            ],
        ),
        (
            "untrimmed",
            json.dumps(JSON),
            "parts_json",
            [
                Entry("prefa/abc/part_0.mp4", 3, video="prefa/abc"),
                Entry("prefa/abc/part_1.mp4", 3, video="prefa/abc", positive=False),
                Entry("prefa/abc/part_2.mp4", 3, video="prefa/abc"),
                Entry("prefb/bcd/part_0.mp4", 1, video="prefb/bcd", positive=False),
            ],
        ),
        (
            "untrimmed",
            "\n".join(map(json.dumps, JSON[:1])).replace("prefa/abc", "whole.mp4"),
            "parts_json",
            [
                Entry("whole.mp4", 3, "seconds", 10 * i, (10, 20, 35)[i], "whole.mp4", i != 1)
                for i in range(3)
            ],
        ),
    ],
)
def test_formats_are_recognised_and_read(tmp_path, kind, text, form, entries):
    assert recognise(write(tmp_path / "l", text), MediaKind(kind)) == form
    assert read_text(tmp_path, text, kind=kind) == (form, entries)
    assert read_text(tmp_path, text, kind=kind, format=form) == (form, entries)


def test_patterns_name_the_files(tmp_path):
    assert read_text(tmp_path, KINETICS + "2,abc,5,15,val\n", pattern="{split}/{id}_{start}.mkv")[
        1
    ] == [Entry("val/abc_5.mkv", 2)]
    assert read_text(tmp_path, "abc, 300, 7\n", pattern="val/{id}.webm")[1] == [
        Entry("val/abc.webm", 7)
    ]
    assert (
        read_text(tmp_path, "a 1 1 0\n", kind="untrimmed", pattern="{:03}.mkv")[1][0].path
        == "a/000.mkv"
    )
    with pytest.raises(
        UserError, match=r"sources.s.pattern: expected a pattern with \{id\}, \{label\}, got"
    ):
        read_text(tmp_path, "abc, 300, 7\n", pattern="{name}.mp4")


def test_every_format_of_the_schema_has_a_reader():
    named = get_args(get_type_hints(MediaConfig, vars(config))["format"])
    assert set(named) == {"auto", *FORMATS}


def test_whole_videos_may_be_listed_with_their_positive_windows(tmp_path):
    entries = read_text(tmp_path, "long.mp4 1 3 0 2\n", kind="untrimmed")[1]
    assert [(entry.label, entry.first, entry.positive) for entry in entries] == [
        (1, 0, True),
        (1, 10, False),
        (1, 20, True),
    ]
    assert read_text(tmp_path, "v.mp4 1 4 2\n", kind="untrimmed", format="pieces")[1] == [
        Entry("v.mp4", 2, "seconds", 1, 4, "v.mp4")
    ]
    with pytest.raises(
        UserError, match="line 1: expected start before end, in seconds, got 9 to 1."
    ):
        read_text(tmp_path, "v.mp4 9 1 0\n", kind="untrimmed", format="pieces")


ODD = [
    " first.mp4",
    "\u3000 a, b.mp4",
    "#x.mp4",
    "\ufeffx.mp4",
    "a  b.mp4",
    'a, "b".mp4',
    '"a.mp4',
    "a\u00a0.mp4",
    "a ,b",
]


# what a reader strips from the end of a path
LOST = {
    "path_label": ["take 1 ", "a, take ", "take 1,", "take, "],
    "white space": ["take 1 ", "a, take ", "take, ", "take\u00a0", " take\u2003"],
}


@pytest.mark.parametrize(
    "form, kind",
    [("path_label", "frames"), ("rawframes_offset", "frames"), ("pieces", "untrimmed")],
)
@pytest.mark.parametrize("path", dict.fromkeys(ODD + LOST["path_label"] + LOST["white space"]))
def test_odd_names_are_read_back_or_refused(tmp_path, path, form, kind):
    write_line = LINE_WRITERS[form]
    item = ListedItem(0, 1, 1, 1, 10, "h264", path, "", 0, 1, "", 1)
    if path in LOST.get(form, LOST["white space"]):
        with pytest.raises(UserError, match="expected a name that a list can hold") as caught:
            write_line(item, 3)
        assert str(caught.value).startswith(repr(path))
    else:
        (entry,) = read_text(tmp_path, write_line(item, 3), kind=kind, format=form)[1]
        assert (os.path.normpath(entry.path), entry.label) == (path, 3)


def test_part_patterns_need_a_number(tmp_path):
    with pytest.raises(
        UserError, match="sources.s.pattern: expected a pattern with one number, got 'part.mp4'"
    ):
        read_text(tmp_path, "a 1 2 0\n", kind="untrimmed", pattern="part.mp4")


@pytest.mark.parametrize(
    "kind, text, message",
    [
        (
            "untrimmed",
            '[{"video_dir": "a", "label": 0, "num_clips": 2, "positive_clip_inds": [0]},\n'
            '{"video_dir": "b", "label": 0, "num_clips": 2, "positive_clip_inds": [2]}]',
            "list.txt, line 2: expected positive pieces from 0 to 1, got 2.",
        ),
        (
            "untrimmed",
            "a 0 2 1\nb 0 2 5\n",
            "list.txt, line 2: expected positive pieces from 0 to 1, got 5.",
        ),
        (
            "untrimmed",
            "v.mp4 3 1 1\n",
            "line 1: expected start before end, in seconds, got 3 to 1.",
        ),
        ("untrimmed", "v.mp4 0:01 0:04 1\n", "line 1: expected `path start end label`"),
        (
            "untrimmed",
            '[{"video_dir": "a", "label": 0}]',
            "line 1: expected an object with video_dir",
        ),
        ("untrimmed", '[{"video_dir": "a",\n "label": 0,,}]', "list.txt, line 2: expected JSON"),
        ("untrimmed", '["a"]', "line 1: expected an object"),
        (
            "untrimmed",
            "long.mp4 1 4 2\n",
            "expected lines that are clearly `path start end label` or",
        ),
        ("frames", "a 0 1\n", "line 1: expected `folder num_frames label`"),
        (
            "video",
            KINETICS + "2,abc,x,15,train\n",
            "line 2: expected `label,youtube_id,time_start,time_end",
        ),
        ("video", KINETICS, "expected lines of the format kinetics_csv, got none"),
        ("video", "youtube_id,time_start\na,1\n", "line 1: expected `label,youtube_id"),
        (
            "video",
            "a.mp4 playing tennis\n",
            "line 1: expected a class number of 0 or more, got 'tennis'",
        ),
    ],
)
def test_wrong_lists_are_refused_with_file_and_line(tmp_path, kind, text, message):
    with pytest.raises(UserError) as caught:
        read_text(tmp_path, text, kind=kind)
    assert message in str(caught.value)


def test_format_of_another_kind_is_reported(tmp_path):
    with pytest.raises(
        UserError,
        match="a list format for kind video, got rawframes in .*list.txt. Use kind: frames.",
    ):
        read_text(tmp_path, "a 3 0\n", format="rawframes")


@given(st.text(max_size=80), st.sampled_from(["video", "image", "frames", "untrimmed"]))
def test_any_text_is_read_or_reported(tmp_path_factory, text, kind):
    path = tmp_path_factory.getbasetemp() / f"any-{kind}.txt"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        form, entries = read_list(path, MediaConfig(kind=kind), Labels().number, "s")
        for entry in entries:
            assert entry.path and (entry.label == -1 if form == "paths" else entry.label >= 0)
    except UserError as error:
        assert str(path) in str(error)


def test_labels_are_split_from_the_right(tmp_path):
    path = write(tmp_path / "l.txt", "a b/c d.mp4 3\n\n# a comment\nplain.mp4\t0\n  x.mp4  12  \n")
    assert read_file(path) == [Entry("a b/c d.mp4", 3), Entry("plain.mp4", 0), Entry("x.mp4", 12)]


@pytest.mark.parametrize(
    "text, names, message",
    [
        ("a.mp4 0\nb.mp4\n", None, "line 2: expected a label after the path, got 'b.mp4'"),
        ("a.mp4 0\nb.mp4 -1\n", None, "line 2: expected a class number of 0 or more, got '-1'"),
        ("a.mp4 x\n", None, "got 'x'"),
        ("a.mp4 2\n", ["p", "q"], "expected a label below 2, the number of class names, got 2"),
        ("\n\n", None, "got an empty list"),
    ],
)
def test_bad_list_reports_its_line(tmp_path, text, names, message):
    with pytest.raises(UserError, match="l.txt") as caught:
        read_file(write(tmp_path / "l.txt", text), names)
    assert message in str(caught.value)


def test_missing_list_is_reported(tmp_path):
    with pytest.raises(UserError, match="expected a list file, got no such file"):
        read_file(tmp_path / "none.txt")
