"""Untrusted names, through all commands, at every place where people read them."""

import csv
import json
import logging
import os
import re
import sys
import tarfile
import traceback
import unicodedata
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from helpers.odd_names import LONG, NAMES, ODD, REFUSED, fits_a_line
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.curation.copies.encode import ENCODERS
from omnidali.errors import DecodeError, UserError
from omnidali.loading.data import open_data
from omnidali.media_kind import MediaKind
from omnidali.testing.numbered_media import write_image, write_video
from omnidali.utils.atomic_write import csv_lines
from omnidali.utils.log import LOG
from omnidali.utils.untrusted_text import (
    for_csv,
)

ROOT = Path(__file__).parent.parent


CONFIG = """
device: cpu
classes: classes.json
sources:
  target: {kind: video, root: clips}
  photos: {kind: image, root: photos, list: photos.csv, format: slowfast_csv, labels: map.json}
  shards: {kind: image, root: shards, tars: "*.tar"}
  long: {kind: untrimmed, root: long, list: long.json, window_seconds: 0.5, pieces: positive}
clip: {num_clips: 1, size: 32}
model: {name: tsn, depth: 18, dropout: 0.0}
train: {batch: 8, steps: 2, log_every: 1, checkpoint_every: 100}
evaluation:
  source: {kind: video, root: clips, list: val.csv, format: slowfast_csv}
  validation: {num_clips: 1, size: 32, short_side: 32}
  test: {num_clips: 1, size: 32, short_side: 32}
loader: {threads: 2, max_bad_ratio: 1.0}
"""


ENCODE = ENCODERS[MediaKind.UNTRIMMED]
CLASSES = sorted([*NAMES[:9], "\x1b[31mred"])


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """Media in which each name is one of a file, a class, a tar's member, a label and a key."""
    root = tmp_path_factory.mktemp("crawl")
    small = {"frames": 16, "width": 64, "height": 48, "gop": 8, "options": {"preset": "ultrafast"}}
    lists = {"photos": [], "val": []}
    for number, name in enumerate(CLASSES):
        write_video(root / "clips" / name / f"{name}.mp4", number, **small)
        write_image(root / "photos" / f"{name}.jpg", number, 64, 48)
        lists["photos"].append([f"{name}.jpg", f"{name} key"])
    for name in [*NAMES, *REFUSED, LONG]:
        write_image(root / "photos" / "more" / f"{name}.jpg", 50, 64, 48)
        if "\n" not in name and "\r" not in name:
            lists["photos"] += [
                [f"more/{name}.jpg", f"{CLASSES[0]} key"],
                [f"gone {name}.jpg", f"{CLASSES[0]} key"],
            ]
    broken = root / "photos" / f"broken {NAMES[0]}\u202e.jpg"
    write_image(broken, 60, 64, 48)
    broken.write_bytes(broken.read_bytes()[:-400])
    lists["photos"].append([broken.name, f"{CLASSES[1]} key"])
    for number, name in enumerate(["@SUM", "naïve 猫", "\u202egpj.exe"]):
        write_video(root / "clips" / name / f"held out {name}.mp4", 90 + number, **small)
        lists["val"].append([f"{name}/held out {name}.mp4", name])
    for name, rows in lists.items():
        (root / f"{name}.csv").write_text("".join(csv_lines(rows)), encoding="utf-8")
    (root / "map.json").write_text(
        json.dumps({f"{name} key": number for number, name in enumerate(CLASSES)})
    )
    (root / "classes.json").write_text(json.dumps(CLASSES))
    (root / "shards").mkdir()
    with tarfile.open(root / "shards" / "=1+1 <b>\u202e.tar", "w") as tar:
        for number, name in enumerate([*NAMES[:8], "\x1b[31mred", "bidi\u202e"]):
            (root / "text").write_text("\x1b[31mred" if number % 2 else name)
            tar.add(root / "photos" / f"{CLASSES[1]}.jpg", f"{name}.jpg")
            tar.add(root / "text", f"{name}.cls")
        (root / "text").write_text("two\nlines")
        tar.add(root / "photos" / f"{CLASSES[1]}.jpg", "x.jpg")
        tar.add(root / "text", "x.cls")
    rows = []
    for number, name in enumerate(NAMES[:9]):
        write_video(root / "long" / f"{name}.mp4", 70 + number, **{**small, "frames": 45})
        rows.append(
            {
                "video_dir": f"{name}.mp4",
                "label": name,
                "num_clips": 3,
                "positive_clip_inds": [0, 1],
            }
        )
    (root / "long.json").write_text(json.dumps(rows))
    (root / "c.yaml").write_text(CONFIG)
    return root


@pytest.fixture(scope="module")
def done(crawl, tmp_path_factory):
    """Exit codes of the commands, all that they printed, and the folder of their files."""
    out = tmp_path_factory.mktemp("out")
    printed = out.parent / "printed.txt"
    with (
        open(printed, "w", encoding="utf-8", errors="surrogateescape") as stream,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(torch, "set_num_threads", lambda count: None)
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        patch.setattr(LOG, "handlers", [logging.StreamHandler(stream)])
        patch.setitem(ENCODERS, MediaKind.UNTRIMMED, encode_most)
        codes = {
            name: run(main, arguments, stream)
            for name, (main, *arguments) in commands(crawl, out).items()
        }
    return codes, printed.read_text(encoding="utf-8", errors="surrogateescape"), out


def encode_most(media, *options):
    """Fail at one of the long videos, with a hostile message."""
    if "|pipe|" in media.path:
        raise DecodeError(f"<b>\x1b[31m {media.path}\nx")
    return ENCODE(media, *options)


def commands(crawl, out):
    """Each command's main function and arguments, by a name."""
    config = ["--config", crawl / "c.yaml"]
    settings = [f"data_root={crawl}", f"run_dir={out / 'run'}"]
    few = ["--sources", "photos", "long"]

    def command(words, *arguments):
        return [cli.main, *words.split(), *config, *arguments, *settings]

    return {
        "lint": command("lint"),
        "train": [cli.main, "train", *config, *settings],
        "evaluate": [cli.main, "evaluate", *config, *settings],
        "info": command("info"),
        "json": command("info --json"),
        "preview": command("preview", "--samples", "3"),
        "dedup": command("dedup", "--within", "--out", out / "dedup", *few),
        "filter": command(
            "filter --rule quantile --keep 0.5",
            *("--checkpoint", out / "run", "--out", out / "filter", *few),
        ),
        "transcode": command("transcode", "--out", out / "copy", "--short-side", "32"),
        "motion": command("motion estimate", "--out", out / "motion.json"),
        "decode": command("lint --decode", "--out", out / "decode"),
        "unknown": [cli.main, "lint", *config, "--no-such-option=\x1b[31mred\nb"],
        "name": command("lint", "--sources", "\x1b[31mred\nb"),
        "config": [cli.main, "lint", "--config", "\x1b[31mred\nb.yaml"],
        "bytes": [cli.main, "lint", "--config", f"{ODD}.yaml"],
    }


def run(main, arguments, stream):
    """Run one of the commands; returns its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except BaseException:
        traceback.print_exc(file=stream)
        raise


def written(out, *endings):
    files = [
        path for path in sorted(out.rglob("*")) if path.is_file() and path.name.endswith(endings)
    ]
    assert files, endings
    return files


def lists_in(out):
    """The files that programs read back."""
    named = {path for path in out.rglob("*") if path.name in ("config.yaml", "classes.txt")}
    for path in out.rglob("config.yaml"):
        config = load_config(path)
        for source in [*config.sources.values(), config.evaluation.source]:
            named |= {
                Path(config.data_root, file)
                for file in (source.list, getattr(source, "labels", None))
                if file
            }
    return named


def test_commands_succeed(done):
    codes, said, _ = done
    good = ("train", "evaluate", "info", "json", "preview", "dedup", "filter", "transcode")
    assert {what: codes[what] for what in good} == dict.fromkeys(good, 0), said
    assert codes["motion"] in (0, 2) and codes["lint"] in (0, 1), said
    assert [codes[what] for what in ("unknown", "name", "config", "bytes")] == [2] * 4, said
    assert "which is not. Rename" in said


def test_output_has_no_control_characters(done):
    _, said, _ = done
    bad = [line for line in re.split(r"[\n\r]", said) if not fits_a_line(line)]
    assert not bad, bad[:5]
    assert "\\x1b[31mred" in said and "\\u202e" in said and "naïve 猫" in said
    assert "photos: quarantined: " in said and "1 failed (1 <b>\\x1b[31m " in said


def test_files_for_people_have_no_control_characters(done):
    _, _, out = done
    exact, bad = lists_in(out), []
    for path in written(out, ".md", ".csv", ".json", ".jsonl", ".txt", ".yaml"):
        if path not in exact:
            lines = path.read_text(encoding="utf-8").split("\n")
            bad += [(path.name, line[:200]) for line in lines if not fits_a_line(line)]
    assert not bad, bad[:5]


def test_reports_have_no_untrusted_markup(done):
    _, _, out = done
    reports = written(out, ".md")
    assert len(reports) == 4  # of lint, twice, dedup and filter
    for path in reports:
        text = re.sub(r"!\[[^\]]*\]\(pictures/[\w%.-]+\)", "", path.read_text(encoding="utf-8"))
        text = re.sub(r"`[^`\n]*`", "", text)
        text = re.sub(r"\\.", "", text)
        assert not re.search(r"<|\]\(|\*[a-z]|`", text), path
        for table in re.findall(r"(?:^\|.*\|$\n)+", text, re.MULTILINE):
            assert len({row.count("|") for row in table.splitlines()}) == 1, table
    text = (out / "filter" / "report.md").read_text(encoding="utf-8")
    assert (
        "| &lt;script&gt;alert(1)&lt; |" in text
        and "| \\|pipe\\| |" in text
        and "| naïve 猫 |" in text
    )


def test_table_cells_are_no_formulas(done):
    _, _, out = done
    exact, seen = lists_in(out), 0
    for path in written(out, ".csv"):
        if path in exact:
            continue
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                seen += 1
                for cell in row:
                    assert not cell.startswith(tuple("=+-@\t\r")) or re.fullmatch(
                        r"[-+]?[0-9.]+", cell
                    ), (path, row)
    assert seen > 100
    names = [
        row[1]
        for row in csv.reader((out / "run/lint/classes.csv").open(encoding="utf-8", newline=""))
    ]
    assert (
        names == ["class", *map(for_csv, CLASSES)] and "'@SUM" in names and "\\x1b[31mred" in names
    )


def test_tensorboard_tags_are_escaped(done):
    _, _, out = done
    tags = {
        value.tag
        for path in (out / "run/tb").iterdir()
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }
    assert {"preview/long/clips", "clips/photos"} <= tags and all(
        re.fullmatch(r"[\w./ +-]+", tag) for tag in tags
    )


def test_lists_and_classes_are_read_back_exactly(done, crawl):
    _, _, out = done
    for name in ("dedup", "filter", "copy"):
        config = load_config(out / name / "config.yaml")
        data = open_data(config)
        assert data.class_names == tuple(CLASSES), name
        for table in data.tables:
            for record in table.records.tolist():
                media = table.media(record)
                assert os.path.exists(media.span.path) and "\\" not in media.path.replace(
                    str(out), ""
                )


def test_unprintable_source_name_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text('sources: {"a\\nb": {kind: video}}\ntrain: {steps: 1}\n')
    with pytest.raises(UserError, match=r"sources: expected printable names, got 'a\\nb'"):
        load_config(tmp_path / "c.yaml")


def test_names_of_the_crawl_are_hostile_or_foreign():
    """A check of the fixture: its names have what the tests above look for."""
    text = "".join([*NAMES, *REFUSED])
    assert {unicodedata.category(char) for char in text} >= {"Cc", "Cf", "Zl", "Lo"}
    assert {name[0] for name in NAMES} >= set("=@+-<[|")
