"""Lists of what is kept, read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.dedup_world import QUICK
from omnidali.catalog.database.listed_items import flatten
from omnidali.catalog.listing.class_files import read_class_names
from omnidali.config.load import load_config
from omnidali.curation.copies.copy_layout import lay_out
from omnidali.curation.list_writer import write_config, write_list
from omnidali.loading.data import open_data
from omnidali.testing.numbered_media import write_image, write_video


def test_written_list_of_every_format_reads_back(tmp_path):
    write_video(tmp_path / "root/long.mp4", 1, frames=65, width=96, height=64, rate=10, **QUICK)
    shutil.copy(tmp_path / "root/long.mp4", tmp_path / "root/odd")
    for number in range(8):
        write_image(tmp_path / f"root/frames, of it/img_{number:05}.jpg", 2, 64, 48, frame=number)
    for name in ("#first.jpg", "with\ttab.jpg", "a b.jpg", "gone.jpg"):
        write_image(tmp_path / f"root/{name}", 3, 64, 48)
    (tmp_path / "images.txt").write_text(
        "./#first.jpg\tfirst\nwith\ttab.jpg\tsecond\na b.jpg\tsecond\ngone.jpg\tfirst\n"
    )
    (tmp_path / "windows.txt").write_text("long.mp4 second\n")
    (tmp_path / "odd.txt").write_text("odd second\n")
    (tmp_path / "pieces.txt").write_text(
        "long.mp4 0 1.5 first\nlong.mp4 2 3.25 first\nlong.mp4 3.5 5 second\n"
    )
    (tmp_path / "whole.json").write_text(
        json.dumps(
            [
                {
                    "video_dir": "root/long.mp4",
                    "label": "second",
                    "num_clips": 3,
                    "positive_clip_inds": [0, 2],
                }
            ]
        )
    )
    (tmp_path / "frames.txt").write_text('"frames, of it",2,4,second\n"frames, of it",0,8,first\n')
    (tmp_path / "config.yaml").write_text(f"""
data_root: {tmp_path}
run_dir: {tmp_path / "run"}
sources:
  images: {{kind: image, root: root, list: images.txt}}
  windows: {{kind: untrimmed, root: root, list: windows.txt, window_seconds: 2}}
  odd: {{kind: untrimmed, root: root, list: odd.txt, window_seconds: 2}}
  pieces: {{kind: untrimmed, root: root, list: pieces.txt}}
  whole: {{kind: untrimmed, root: root, list: whole.json, window_seconds: 2}}
  frames: {{kind: frames, root: root, list: frames.txt, pattern: "img_{{:05}}.jpg"}}
train: {{batch: 6, steps: 1}}
""")
    config = load_config(tmp_path / "config.yaml", [])
    everything = [f"sources.{name}.pieces=all" for name in ("windows", "odd", "pieces", "whole")]
    data = open_data(load_config(tmp_path / "config.yaml", everything))
    tables = {
        table.name: table if not table.kind.has_pieces else flatten(config.catalog_path, table)
        for table in data.tables
    }

    def pieces(name, tables):
        table = tables[name]
        rows = np.arange(len(table))
        rows = rows if table.starts is None else np.repeat(rows, np.diff(table.starts))
        firsts = np.zeros(len(rows)) if table.firsts is None else table.firsts
        return [
            (Path(table.media(record).path).name, int(table.labels[row]), int(first), int(frames))
            for record, row, first, frames in zip(
                table.records, rows, firsts, table.frames, strict=True
            )
        ]

    assert pieces("windows", tables) == [
        ("long.mp4", 1, *piece) for piece in ((0, 20), (20, 20), (40, 25))
    ]
    assert pieces("odd", tables) == [("odd", 1, *piece) for piece in ((0, 20), (20, 20), (40, 25))]
    kept = {
        "images": [0, 1, 2],
        "windows": [0, 2],
        "odd": [1, 2],
        "pieces": [0, 2],
        "whole": [2],
        "frames": [0],
    }
    out, new = tmp_path / "out", {}
    for name, places in kept.items():
        marks = np.isin(np.arange(len(tables[name])), places)
        new[name], _ = write_list(
            out, config.catalog_path, name, config.sources[name], marks, tables[name].labels
        )
    write_config(out, config, new, data.class_names)
    assert new["odd"].format == "pieces" and new["windows"].format == "parts_json"
    made = open_data(load_config(out / "config.yaml", []))
    assert made.class_names == data.class_names == ("first", "second")
    assert not any("probed" in line for line in made.summary)
    left = {table.name: table for table in made.tables}
    for name, places in kept.items():
        # pieces between the kept ones come after them
        starts, counts = left[name].starts, left[name].positives
        shown = (
            pieces(name, left)
            if starts is None
            else [
                piece
                for first, count in zip(starts[:-1], counts, strict=True)
                for piece in pieces(name, left)[first : first + count]
            ]
        )
        assert shown == [pieces(name, tables)[place] for place in places]


@pytest.mark.parametrize("first", [0, 1])
def test_written_lists_count_as_the_other_lists_do(tmp_path, first):
    """The class file counts from 1. A line with 0, which says that the lists do not, may be cut."""
    for number in range(3):
        write_image(tmp_path / f"root/{number}.jpg", number, 64, 48)
    (tmp_path / "classInd.txt").write_text("1 b\n2 a\n3 c\n")
    for name in ("web", "rest"):
        lines = [f"{number}.jpg {number + first}\n" for number in range(3)]
        (tmp_path / f"{name}.txt").write_text("".join(lines[name == "rest" :]))
    (tmp_path / "config.yaml").write_text(f"""
data_root: {tmp_path}
run_dir: {tmp_path / "run"}
classes: classInd.txt
sources:
  web: {{kind: image, root: root, list: web.txt}}
  rest: {{kind: image, root: root, list: rest.txt}}
train: {{batch: 4, steps: 1}}
""")
    config = load_config(tmp_path / "config.yaml", [])
    data = open_data(config)
    assert data.first_label == first
    kept = np.array([False, True, True])
    new, _ = write_list(
        tmp_path / "out",
        config.catalog_path,
        "web",
        config.sources["web"],
        kept,
        data.tables[0].labels,
        first_label=data.first_label,
    )
    out = tmp_path / "out"
    write_config(out, config, {"web": new}, data.class_names, first_label=data.first_label)
    made = open_data(load_config(out / "config.yaml", []))
    assert made.class_names == ("b", "a", "c")
    assert [table.labels.tolist() for table in made.tables] == [[1, 2], [1, 2]]


@pytest.mark.parametrize("classes", [None, "1\n10\n2\n"])
def test_written_lists_name_the_classes_that_are_named_by_numbers(tmp_path, classes):
    """The list of the evaluation, which stays, calls them by the same numbers."""
    for name in ("1", "10", "2"):
        write_image(tmp_path / "root" / name / "0.jpg", 1, 64, 48)
    (tmp_path / "val.txt").write_text("10/0.jpg 10\n2/0.jpg 2\n")
    (tmp_path / "classes.txt").write_text(classes or "")
    (tmp_path / "config.yaml").write_text(
        f"data_root: {tmp_path}\nrun_dir: {tmp_path}/run\ntrain: {{batch: 4, steps: 1}}\n"
        + ("classes: classes.txt\n" if classes else "")
        + "sources: {s: {kind: image, root: root}}\n"
        "evaluation: {source: {kind: image, root: root, list: val.txt}}\n"
    )
    config = load_config(tmp_path / "config.yaml", [])
    data = open_data(config)
    new, _ = write_list(
        tmp_path / "out",
        config.catalog_path,
        "s",
        config.sources["s"],
        np.ones(3, bool),
        data.tables[0].labels,
        names=data.listed_names,
    )
    write_config(tmp_path / "out", config, {"s": new}, data.class_names)
    made = open_data(load_config(tmp_path / "out/config.yaml", []))
    assert made.class_names == ("1", "10", "2")
    assert made.tables[0].labels.tolist() == [0, 1, 2]
    assert made.evaluation.labels.tolist() == data.evaluation.labels.tolist() == [1, 2]


def test_written_numbers_beside_names_that_are_numbers_read_back(tmp_path):
    """The class file counts from 1 and the lists from 0: their numbers stay labels."""
    (tmp_path / "root").mkdir()
    (tmp_path / "classes.txt").write_text("1 10\n2 1\n")
    (tmp_path / "config.yaml").write_text(
        f"data_root: {tmp_path}\nrun_dir: {tmp_path}/run\ntrain: {{steps: 1}}\n"
        "classes: classes.txt\nsources: {s: {kind: image, root: root}}\n"
    )
    config = load_config(tmp_path / "config.yaml", [])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/catalog.sqlite").touch()  # an earlier start has copied it
    write_config(tmp_path / "out", config, {}, ["10", "1"], first_label=0)
    names = read_class_names(tmp_path / "out/classes.txt")
    assert names == ["10", "1"] and names.first == 0 and not names.are_numbers


@pytest.mark.parametrize("names", [["a", "b c"], ["1 a", "2 b"], ["take 1", "cut 2"], [" a", "a "]])
def test_written_class_names_read_back(tmp_path, names):
    for name in names:
        write_image(tmp_path / "root" / name / "0.jpg", 1, 64, 48)
    (tmp_path / "config.yaml").write_text(
        f"data_root: {tmp_path}\nrun_dir: {tmp_path}/run\ntrain: {{steps: 1}}\n"
        "sources: {s: {kind: image, root: root}}\n"
    )
    config = load_config(tmp_path / "config.yaml", [])
    names = open_data(config).class_names
    write_config(tmp_path / "out", config, {}, names)
    assert tuple(read_class_names(tmp_path / "out/classes.txt")) == names


def test_copies_take_all_lists_of_a_pattern(tmp_path):
    for split in ("a_test_split1.txt", "b_test_split1.txt", "b_test_split2.txt"):
        (tmp_path / "data/splits").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/splits" / split).write_text("x.avi 1\n")
    (tmp_path / "data/root").mkdir()
    (tmp_path / "config.yaml").write_text(
        f"data_root: {tmp_path}/data\ntrain: {{steps: 1}}\n"
        "sources: {s: {kind: video, root: root, list: splits/*_test_split1.txt}}\n"
        "evaluation: {source: {kind: video, root: root, list: splits/*_test_split1.txt}}\n"
    )
    layout = lay_out(load_config(tmp_path / "config.yaml", []), [], tmp_path / "out")
    assert layout.config.sources["s"].list == "splits/*_test_split1.txt"
    assert layout.config.evaluation.source.list == "splits/*_test_split1.txt"
    assert {str(place.relative_to(tmp_path / "out")) for place in layout.files.values()} == {
        "splits/a_test_split1.txt",
        "splits/b_test_split1.txt",
    }
