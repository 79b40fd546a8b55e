"""Every list format: told apart from its first lines, read to the same samples, mistakes with file
and line.
"""

import dataclasses
import io
import json
import os
import tarfile
from typing import get_args, get_type_hints

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.listed_items import Item, read_items
from omnidali.catalog.database.store import CatalogReader
from omnidali.catalog.listing.labels import Labels, read_label_map
from omnidali.catalog.listing.list_formats import (
    FORMATS,
    Entry,
    find_class_names,
    read_list,
    recognise,
)
from omnidali.catalog.listing.tars import find_tars, read_tar
from omnidali.config import schema as config
from omnidali.config.schema import Config, MediaConfig, SourceConfig
from omnidali.curation.list_writer import _folder, _path_label, _piece, write_list
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.planning.resampling import parts_of
from omnidali.testing.numbered_media import picture, write_photo, write_video


def read(tmp_path, text, names=None, mapping=None, **settings):
    path = tmp_path / "list.txt"
    path.write_text(text)
    labels = Labels(names, mapping, tmp_path / "map.json" if mapping else None)
    form, entries = read_list(path, MediaConfig(**{"kind": "video", **settings}), labels, "s")
    return form, list(entries)


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
    assert recognise(write(tmp_path / "l", text), kind) == form
    assert read(tmp_path, text, kind=kind) == (form, entries)
    assert read(tmp_path, text, kind=kind, format=form) == (form, entries)


def write(path, text):
    path.write_text(text)
    return path


def test_patterns_name_the_files(tmp_path):
    assert read(tmp_path, KINETICS + "2,abc,5,15,val\n", pattern="{split}/{id}_{start}.mkv")[1] == [
        Entry("val/abc_5.mkv", 2)
    ]
    assert read(tmp_path, "abc, 300, 7\n", pattern="val/{id}.webm")[1] == [Entry("val/abc.webm", 7)]
    assert (
        read(tmp_path, "a 1 1 0\n", kind="untrimmed", pattern="{:03}.mkv")[1][0].path == "a/000.mkv"
    )
    with pytest.raises(
        UserError, match=r"sources.s.pattern: expected a pattern with \{id\}, \{label\}, got"
    ):
        read(tmp_path, "abc, 300, 7\n", pattern="{name}.mp4")


def test_every_format_of_the_schema_has_a_reader():
    named = get_args(get_type_hints(MediaConfig, vars(config))["format"])
    assert set(named) == {"auto", *FORMATS}


def test_whole_videos_may_be_listed_with_their_positive_windows(tmp_path):
    entries = read(tmp_path, "long.mp4 1 3 0 2\n", kind="untrimmed")[1]
    assert [(entry.label, entry.first, entry.positive) for entry in entries] == [
        (1, 0, True),
        (1, 10, False),
        (1, 20, True),
    ]
    assert read(tmp_path, "v.mp4 1 4 2\n", kind="untrimmed", format="pieces")[1] == [
        Entry("v.mp4", 2, "seconds", 1, 4, "v.mp4")
    ]
    with pytest.raises(
        UserError, match="line 1: expected start before end, in seconds, got 9 to 1."
    ):
        read(tmp_path, "v.mp4 9 1 0\n", kind="untrimmed", format="pieces")


def test_written_windows_are_read_back_to_the_same_frames(tmp_path):
    """Also those of a video with fewer frames than windows."""
    for name, times in (("slow", 2000), ("fast", 300)):
        write_video(
            tmp_path / f"{name}.mp4",
            1,
            frames=9,
            width=64,
            height=48,
            times=[times * n for n in range(9)],
        )
    write(tmp_path / "l.txt", "slow.mp4 0\nfast.mp4 1\n")
    source = SourceConfig(
        kind="untrimmed", root=".", list="l.txt", window_seconds=1.0, pieces="all"
    )
    found = []
    for catalog in ("a.sqlite", "b.sqlite"):
        build_catalog(tmp_path / catalog, {"w": source}, tmp_path, progress=False)
        found.append(
            [
                (item.path, item.number, item.begin, item.frames, item.first, item.last)
                for item in read_items(tmp_path / catalog, "w")
            ]
        )
        every = np.ones(len(found[0]), bool)
        source, count = write_list(
            tmp_path, str(tmp_path / catalog), "w", source, every, every.astype(int)
        )
        assert count == 2 and source.format == "parts_json"
    assert found[0] == found[1]
    assert [row[1:4] for row in found[0][:9]] == [(2 * n, n, 1) for n in range(9)]
    assert [row[1:4] for row in found[0][9:]] == [(0, 0, 4), (1, 4, 3), (2, 7, 2)]


def test_more_windows_than_a_list_may_have_are_none(tmp_path):
    write_video(tmp_path / "day.mp4", 1, frames=2, width=64, height=48, times=[0, 250_000])
    write_video(
        tmp_path / "second.mp4",
        1,
        frames=10,
        width=64,
        height=48,
        times=[100 * n for n in range(10)],
    )
    write(tmp_path / "l.txt", "day.mp4 0\nsecond.mp4 0\n")
    source = SourceConfig(kind="untrimmed", root=".", list="l.txt", window_seconds=0.001)
    (summary,) = build_catalog(tmp_path / "c.sqlite", {"w": source}, tmp_path, progress=False)
    assert (
        summary.refused["video of more than 200,000 windows: raise window_seconds or --window"] == 1
    )
    assert summary.usable == 1 and {
        item.path for item in read_items(tmp_path / "c.sqlite", "w")
    } == {"second.mp4"}


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
# what a reader takes away from a path's end
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
    write_line = {"path_label": _path_label, "rawframes_offset": _folder, "pieces": _piece}[form]
    item = Item(path, 0, "", 0, 1, "", 0, True, 1, 0, 10, "h264", 1, 1)
    if path in LOST.get(form, LOST["white space"]):
        with pytest.raises(UserError, match="expected a name that a list can hold") as caught:
            write_line(item, 3)
        assert str(caught.value).startswith(repr(path))
    else:
        (entry,) = read(tmp_path, write_line(item, 3), kind=kind, format=form)[1]
        assert (os.path.normpath(entry.path), entry.label) == (path, 3)


def test_part_patterns_need_a_number(tmp_path):
    with pytest.raises(
        UserError, match="sources.s.pattern: expected a pattern with one number, got 'part.mp4'"
    ):
        read(tmp_path, "a 1 2 0\n", kind="untrimmed", pattern="part.mp4")


@pytest.mark.parametrize(
    "kind, text, told",
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
def test_mistakes_name_file_and_line(tmp_path, kind, text, told):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, kind=kind)
    assert told in str(caught.value)


def test_a_format_of_another_kind_is_told(tmp_path):
    with pytest.raises(
        UserError,
        match="a list format for kind video, got rawframes in .*list.txt. Use kind: frames.",
    ):
        read(tmp_path, "a 3 0\n", format="rawframes")


def test_labels_may_be_names(tmp_path):
    names = ["riding a bike", "tennis"]
    assert read(tmp_path, "a.mp4 tennis\nb.mp4 0\n", names)[1] == [
        Entry("a.mp4", 1),
        Entry("b.mp4", 0),
    ]
    assert read(tmp_path, "a b.mp4\triding a bike\n", names)[1] == [Entry("a b.mp4", 0)]
    assert read(tmp_path, KINETICS + "riding a bike,x,0,10,train\n", names)[1][0].label == 0
    assert (
        read(
            tmp_path,
            '[{"video_dir": "a", "label": "tennis", "num_clips": 1, "positive_clip_inds": [0]}]',
            names,
            kind="untrimmed",
        )[1][0].label
        == 1
    )
    with pytest.raises(UserError, match="or one of 2 class names, got 'chess'"):
        read(tmp_path, "a.mp4 chess\n", names)
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
def test_label_maps(tmp_path, text, mapping):
    assert read_label_map(write(tmp_path / "map", text)) == mapping


def test_label_maps_are_gone_through(tmp_path):
    assert read(tmp_path, "a.mp4 12\n", mapping={"12": 3})[1] == [Entry("a.mp4", 3)]
    # lists without labels: the release's k200 lists came so to some users
    assert read(tmp_path, "x/a.mp4\nb.mp4\n", mapping={"a": 3, "b.mp4": 4})[1] == [
        Entry("x/a.mp4", 3),
        Entry("b.mp4", 4),
    ]
    with pytest.raises(
        UserError,
        match=r"list.txt, line 2: expected a class that the label map .*map.json holds, got '13'",
    ):
        read(tmp_path, "a.mp4 12\nb.mp4 13\n", mapping={"12": 3})
    for text, told in (
        ('{"a": -1}', "a class number"),
        ("{", "JSON"),
        ("", "an empty file"),
        ('{"a": [1]}', "a class number"),
        ("a 1\na 2\n", "every key once"),
    ):
        with pytest.raises(UserError, match=told):
            read_label_map(write(tmp_path / "map", text))


@given(st.text(max_size=80), st.sampled_from(["video", "image", "frames", "untrimmed"]))
def test_any_text_is_read_or_told(tmp_path_factory, text, kind):
    path = tmp_path_factory.getbasetemp() / f"any-{kind}.txt"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        for entry in read_list(path, MediaConfig(kind=kind), Labels(), "s")[1]:
            assert entry.path and entry.label >= 0
    except UserError as error:
        assert str(path) in str(error)


def photo(n):
    """The bytes of a JPEG that shows n."""
    return cv2.imencode(".jpg", picture(n, 0, 60, 40)[:, :, ::-1])[1].tobytes()


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


def test_tars_keep_their_odd_members_out(tmp_path):
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
    tar = read_tar(str(tmp_path), "a.tar", "image")
    assert [(name, text) for name, _, _, text in tar.members] == [
        ("1.jpg", "2"),
        ("2.jpg", "1"),
        ("dog/3.jpg", "dog"),
        ("4.jpg", None),
        ("9.jpg", "0"),
    ]
    assert tar.left_out == {
        "member whose name leaves the tar": 2,
        "member that is a link": 1,
        "member that is no plain file": 1,
        "member that is no image": 1,
    }
    data = (tmp_path / "a.tar").read_bytes()
    name, offset, size, _ = tar.members[0]
    assert data[offset : offset + size] == photo(1)
    sources = {"w": SourceConfig(kind="image", root=".", tars="*.tar")}
    (summary,) = build_catalog(
        tmp_path / "c.sqlite", sources, tmp_path, ["cat", "dog", "eel"], progress=False
    )
    assert "read as webdataset tars" in str(summary) and summary.usable == 3
    assert (
        summary.refused["member without a class"] == 1
        and summary.refused["not a JPEG, PNG or WebP image: text"] == 1
    )
    assert CatalogReader(tmp_path / "c.sqlite").table("w").labels.tolist() == [2, 1, 1]
    assert (
        build_catalog(
            tmp_path / "c.sqlite", sources, tmp_path, ["cat", "dog", "eel"], progress=False
        )[0].probed
        == 0
    )
    # another tar by the same name
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


def test_a_run_that_goes_on_keeps_tars_that_are_lost_and_takes_no_new_ones(tmp_path):
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
        [("0/a note.txt", b"behind which photos lie elsewhere"), ("0/10.jpg", photo(0))],
    )
    for _ in range(2):
        (summary,) = build_catalog(path, sources, tmp_path, ["0"], progress=False, as_begun=True)
        assert (summary.usable, summary.lost) == (4, 4) and CatalogReader(path).table(
            "w"
        ).fingerprint == before
    assert "4 gone, changed or broken since the run began: substitutes stand for them" in str(
        summary
    )
    with pytest.raises(UserError, match="tars that exist, got no 0.tar"):
        build_catalog(path, sources, tmp_path, ["0"], progress=False)


def test_a_missing_first_file_does_not_hide_the_root_s_name(tmp_path):
    write_photo(tmp_path / "ins" / "2.jpg", 1, 60, 40)
    write(tmp_path / "l.txt", "ins/1.jpg 0\nins/2.jpg 0\n")
    sources = {"w": SourceConfig(kind="image", root="ins", list="l.txt")}
    assert build_catalog(tmp_path / "c.sqlite", sources, tmp_path, progress=False)[0].usable == 1
    (tmp_path / "ins/2.jpg").rename(tmp_path / "2.jpg")
    with pytest.raises(UserError):
        build_catalog(tmp_path / "d.sqlite", sources, tmp_path, progress=False)
    # and a start that found nothing is not believed for ever
    (tmp_path / "2.jpg").rename(tmp_path / "ins/2.jpg")
    assert build_catalog(tmp_path / "d.sqlite", sources, tmp_path, progress=False)[0].usable == 1


def test_class_names_come_from_the_target_alone(tmp_path):
    for name in ("t/a.jpg", "w/zebra/1.jpg", "w/ant/2.jpg"):
        write_photo(tmp_path / name, 1, 60, 40)
    write(tmp_path / "l.txt", "a.jpg 0\n")
    write(tmp_path / "names.txt", "zebra\nant\n")
    target, folders = (
        SourceConfig(kind="image", root="t", list="l.txt"),
        SourceConfig(kind="image", root="w"),
    )
    run = Config(
        data_root=str(tmp_path), run_dir=str(tmp_path), sources={"t": target, "w": folders}
    )
    with pytest.raises(
        UserError,
        match="classes: expected a file that names the classes, as sources.w is class folders",
    ):
        open_data(run)
    assert open_data(dataclasses.replace(run, classes="names.txt")).class_names == ("zebra", "ant")
    assert open_data(dataclasses.replace(run, sources={"w": folders})).class_names == (
        "ant",
        "zebra",
    )
    write(tmp_path / "w.txt", "zebra/1.jpg zebra\n")
    named = SourceConfig(kind="image", root="w", list="w.txt")
    with pytest.raises(
        UserError, match="w.txt, line 1: expected a class number of 0 or more, got 'zebra'"
    ):
        open_data(dataclasses.replace(run, sources={"t": target, "w": named}))


def test_loose_files_without_labels_are_told(tmp_path):
    write_photo(tmp_path / "p/a.jpg", 1, 60, 40)
    run = Config(
        data_root=str(tmp_path),
        run_dir=str(tmp_path),
        sources={"p": SourceConfig(kind="image", root="p", fraction=0.5)},
    )
    with pytest.raises(UserError, match="sources.p: expected a label for every file"):
        open_data(run)


def test_parts_that_are_held_out_are_those_of_the_files_in_any_list(tmp_path):
    for n in range(12):
        write_photo(tmp_path / f"p/{n}.jpg", n, 60, 40)
    for name, order in (
        ("all", range(12)),
        ("backwards", range(11, -1, -1)),
        ("some", range(3, 9)),
    ):
        start = "./" if name == "backwards" else ""  # as lists name files that begin with a #
        write(tmp_path / f"{name}.txt", "".join(f"{start}{n}.jpg {n % 2}\n" for n in order))

    def used(name, hold_out, **more):
        source = SourceConfig(kind="image", root="p", list=f"{name}.txt", hold_out=hold_out, **more)
        run = Config(
            data_root=str(tmp_path),
            run_dir=str(tmp_path),
            catalog=str(tmp_path / f"{name}.sqlite"),
            sources={"p": source},
        )
        data = open_data(run)
        assert data.class_names == ("0", "1")
        return list(data.tables[0].owners())

    every, parts = {f"{n}.jpg" for n in range(12)}, []
    for part in (1, 2, 3):
        found = used("all", (part, 3))
        parts.append(every - set(found))
        assert 0 < len(found) < 12 and used("backwards", (part, 3)) == found[::-1]
        assert set(used("some", (part, 3))) == {f"{n}.jpg" for n in range(3, 9)} - parts[-1]
    assert sum(map(len, parts)) == 12 and set.union(*parts) == every
    assert used("all", None) == [f"{n}.jpg" for n in range(12)]
    assert set(used("all", (1, 3), fraction=0.5)) <= set(used("all", None, fraction=0.5))
    (part,) = (number for number, held in enumerate(parts, 1) if "5.jpg" in held)
    write(tmp_path / "top.txt", "5.jpg 1\n" + "".join(f"{n}.jpg 0\n" for n in range(12) if n != 5))
    assert "5.jpg" not in used("top", (part, 3))  # and yet there are two classes
    write(tmp_path / "one.txt", "0.jpg 0\n")
    (part,) = (number for number, held in enumerate(parts, 1) if "0.jpg" in held)
    with pytest.raises(
        UserError, match="sources.p.hold_out: expected samples outside of that part, got none of 1"
    ):
        used("one", (part, 3))


def test_files_with_numbers_for_names_are_spread_over_parts():
    for form in ("{}.jpg", "class/{:06d}.mp4", "video {:03d}.png"):
        for parts in (2, 3, 4, 8):
            found = parts_of([form.format(n) for n in range(800)], parts)
            assert np.abs(np.bincount(found, minlength=parts + 1)[1:] - 800 / parts).max() < 60
            rows = found.reshape(-1, 8)
            # eight in a row are not of one part
            assert (rows == rows[:, :1]).all(axis=1).sum() <= 3


def test_lists_may_name_the_root_itself(tmp_path):
    write_photo(tmp_path / "googleimage_200" / "000" / "1.jpg", 1, 60, 40)
    write(tmp_path / "l.txt", "googleimage_200/000/1.jpg 0\n")
    for root in (".", "googleimage_200"):
        sources = {"w": SourceConfig(kind="image", root=root, list="l.txt")}
        assert (
            build_catalog(tmp_path / f"{len(root)}.sqlite", sources, tmp_path, progress=False)[
                0
            ].usable
            == 1
        )
