"""Names of strangers at every place where people read them, and names that are not UTF-8."""

import ast
import csv
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import traceback
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import evaluate
import train
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.store import CatalogReader
from omnidali.cli import main as cli
from omnidali.cli.error_report import run_reporting_errors
from omnidali.config.load import load_config
from omnidali.config.schema import SourceConfig
from omnidali.curation import cut as cutting
from omnidali.errors import DecodeError, UserError
from omnidali.loading.data import open_data
from omnidali.testing.numbered_media import write_photo, write_video
from omnidali.utils.atomic_write import csv_lines, table_lines
from omnidali.utils.log import LOG
from omnidali.utils.untrusted_text import (
    LONGEST,
    for_csv,
    for_markdown,
    for_picture,
    for_tensorboard,
    for_terminal,
    say,
)

ROOT = Path(__file__).parent.parent
ODD = "caf\udce9"  # what Python makes of b"caf\xe9"
# names that a file, and a folder of a class, may have
NAMES = [
    "=cmd|' C calc'!A0",
    "@SUM",
    "+1+cmd",
    "-2+3",
    "<script>alert(1)<",
    "[x](javascript:y)",
    "|pipe|",
    "naïve 猫",
    "\u202egpj.exe",
    "_x_ `y` *z*",
    "\x9b31m",
    "\u2028b",
    "![i](u)",
]
# of files: they are left out; as classes the first is one
REFUSED = ["\x1b[31mred", "a\nb", "a\rb", "\x07"]
LONG = "n" * 249  # with its ending as long as a name may be
SPACES = "\u00a0\u3000\u200c\u200d"


# One function a place


def fits_a_line(text):
    return all(char.isprintable() or char in SPACES for char in text)


ANY = st.characters() | st.sampled_from("\x1b\n\r\t\x00\u202e\ud800\udcff=+-@<>|`*_[]\\;\"'&#")


@given(st.text(ANY, max_size=400))
def test_any_text_is_harmless_everywhere(text):
    for found in (for_terminal(text), for_markdown(text), str(for_csv(text)), for_picture(text)):
        assert fits_a_line(found)
        found.encode()
    assert len(for_terminal(text)) <= LONGEST and for_terminal(for_terminal(text)) == for_terminal(
        text
    )
    assert not re.search(
        r"(^|;)\s*[=+@\-＝＋－＠](?![0-9.]*([eE][-+]?[0-9]+)?$)", str(for_csv(text))
    )
    assert not re.search(
        r"[<>|`*\[\]#]|^(\d+[.)]|[-+])\s|://", re.sub(r"\\.|&[a-z]+;", "", for_markdown(text))
    )
    assert for_picture(text).isascii() and re.fullmatch(r"[\w./ +-]*", for_tensorboard(text))


def test_harmless_names_stay_as_they_are():
    for name in (
        "naïve 猫",
        "a b.jpg",
        "👨‍👩‍👧",
        "نمی‌خواهم",
        "Ünïcödé",
        "a-b=c@d+e;f",
        "-1.5",
        "1e-3",
    ):
        assert for_terminal(name) == for_csv(name) == name
    assert for_csv(None) is None and for_csv(-1.5) == -1.5 and for_csv(True) is True


def test_what_is_shown_tells_names_apart():
    """Escapes name the very characters; bytes of names that are not UTF-8 are those bytes."""
    assert for_terminal(ODD) == "caf\\xe9"
    assert for_terminal("\x1b[31mred\n") == "\\x1b[31mred\\n"
    assert for_terminal("\u202egpj.exe") == "\\u202egpj.exe"
    shown = for_terminal("a" * 400 + "z")
    assert (
        len(shown) == LONGEST and shown.startswith("a") and "..." in shown and shown.endswith("z")
    )


def test_lists_keep_what_tables_change():
    row = ["=A1", "a\nb", -1]
    assert list(csv_lines([row])) == ['=A1,"a\nb",-1\n']
    assert list(table_lines([row])) == ["'=A1,a\\nb,-1\n"]


def test_errors_logs_and_tracebacks(capsys, caplog):
    error = UserError("\x1b]0;x\x07.jpg", "a\nb", ODD, "\u202e.")
    assert str(error) == "\\x1b]0;x\\x07.jpg: expected a\\nb, got caf\\xe9. \\u202e."
    assert (error.where, error.got) == ("\x1b]0;x\x07.jpg", ODD)
    with caplog.at_level("DEBUG", "omnidali"):
        try:
            raise ValueError("\x1b[31mred")
        except ValueError:
            LOG.warning("%s: %s", "a\nb", ODD, exc_info=True)
    assert (
        "a\\nb: caf\\xe9" in caplog.text
        and "\x1b" not in caplog.text
        and "\\x1b[31mred" in caplog.text
    )
    hook = sys.excepthook
    try:
        with pytest.raises(KeyError):
            run_reporting_errors(lambda: {}["\x1b[31mred"])
        sys.excepthook(OSError, OSError("\x1b[31mred " + ODD), None)
    finally:
        sys.excepthook = hook
    say("\x1b", ODD, error=True)
    told = capsys.readouterr().err
    assert (
        "OSError: \\x1b[31mred caf\\xe9" in told
        and told.endswith("\\x1b\ncaf\\xe9\n")
        and "\x1b" not in told
    )


# Who may print and write


def calls(name, tree):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name == ast.unparse(node.func)
    ]


def test_what_is_printed_and_written_goes_through_one_function_each():
    """Lines are printed by `say`, tables written by `table_lines`, and records logged by the logger
    that escapes.
    """
    allowed = {
        "print": ("omnidali/utils/untrusted_text.py", "benchmarks/measure_loader.py"),
        "csv.writer": ("omnidali/utils/atomic_write.py",),
        "csv.DictWriter": (),
        "logging.getLogger": ("omnidali/utils/log.py",),
        "csv_lines": ("omnidali/utils/atomic_write.py", "omnidali/curation/list_writer.py"),
        "warnings.warn": (),
        "sys.stdout.write": (),
        "sys.stderr.write": (),
        "traceback.print_exc": (),
        "traceback.print_exception": (),
        "cv2.putText": ("omnidali/utils/plots.py", "omnidali/loading/clip_images.py"),
        "argparse.ArgumentParser": (),
    }
    broken = []
    for path in [*ROOT.glob("omnidali/**/*.py"), ROOT / "train.py", ROOT / "evaluate.py"]:
        name, tree = str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))
        for function, places in allowed.items():
            for call in calls(function, tree):
                to = [
                    ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "file"
                ]
                if name not in places and to != ["answers"]:  # a worker's pipe
                    broken.append(f"{name}:{call.lineno}: {function}")
        for function in (
            "board.add_scalar",
            "board.add_image",
            "writer.add_image",
            "writer.add_scalar",
        ):
            broken += [
                f"{name}:{call.lineno}: {function}"
                for call in calls(function, tree)
                if not ast.unparse(call.args[0]).startswith("for_tensorboard(")
            ]
    assert not broken, "\n".join(broken)


# A crawl whose names are those of strangers, through all commands

CONFIG = """
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
CLASSES = sorted([*NAMES[:9], "\x1b[31mred"])


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """Every name stands for a file, a class, a member of a tar, a label of a list and a key of a
    label map.
    """
    root = tmp_path_factory.mktemp("crawl")
    small = {"frames": 16, "width": 64, "height": 48, "gop": 8, "options": {"preset": "ultrafast"}}
    lists = {"photos": [], "val": []}
    for number, name in enumerate(CLASSES):
        write_video(root / "clips" / name / f"{name}.mp4", number, **small)
        write_photo(root / "photos" / f"{name}.jpg", number, 64, 48)
        lists["photos"].append([f"{name}.jpg", f"{name} key"])
    for name in [*NAMES, *REFUSED, LONG]:
        write_photo(root / "photos" / "more" / f"{name}.jpg", 50, 64, 48)
        if "\n" not in name and "\r" not in name:
            lists["photos"] += [
                [f"more/{name}.jpg", f"{CLASSES[0]} key"],
                [f"gone {name}.jpg", f"{CLASSES[0]} key"],
            ]
    broken = root / "photos" / f"broken {NAMES[0]}\u202e.jpg"
    write_photo(broken, 60, 64, 48)
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
    cut_off = root / "long" / "|cut| <i>off.mp4"
    shutil.copy(root / "long" / f"{NAMES[0]}.mp4", cut_off)
    data = bytearray(cut_off.read_bytes())
    start = data.index(b"mdat")
    data[start + 3000 : start + 60_000] = bytes(min(57_000, len(data) - start - 3000))
    cut_off.write_bytes(data)
    rows.append(
        {"video_dir": cut_off.name, "label": NAMES[0], "num_clips": 3, "positive_clip_inds": [2]}
    )
    (root / "long.json").write_text(json.dumps(rows))
    (root / "c.yaml").write_text(CONFIG)
    return root


@pytest.fixture(scope="module")
def done(crawl, tmp_path_factory):
    """All that the commands printed and logged, and the folder of all that they wrote."""
    out = tmp_path_factory.mktemp("out")
    said = out.parent / "said.txt"
    config, sets = (
        ["--config", str(crawl / "c.yaml")],
        [f"data_root={crawl}", f"run_dir={out / 'run'}"],
    )
    codes = {}
    with (
        open(said, "w", encoding="utf-8", errors="surrogateescape") as stream,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(torch, "set_num_threads", lambda count: None)
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        patch.setattr(LOG, "handlers", [logging.StreamHandler(stream)])
        copy_piece = cutting.copy_piece

        def copy_most(media, path, *place):
            if "|pipe|" in media.path:
                raise DecodeError(f"<b>\x1b[31m {media.path}\nx")
            return copy_piece(media, path, *place)

        patch.setattr(cutting, "copy_piece", copy_most)

        def run(what, main, *arguments):
            print(f"\n$ {what}", file=stream)
            try:
                codes[what] = main([str(argument) for argument in arguments])
            except SystemExit as stop:
                codes[what] = stop.code
            except BaseException:
                traceback.print_exc(file=stream)
                raise

        few = ["--sources", "photos", "long"]
        run("lint", cli.main, "lint", *config, "--set", *sets)
        run("train", train.main, *config, *sets)
        run("evaluate", evaluate.main, *config, *sets)
        run("info", cli.main, "info", *config, "--set", *sets)
        run("json", cli.main, "info", "--json", *config, "--set", *sets)
        run("preview", cli.main, "preview", *config, "--samples", "3", "--set", *sets)
        run(
            "dedup",
            cli.main,
            "dedup",
            *config,
            "--within",
            "--out",
            out / "dedup",
            *few,
            "--set",
            *sets,
        )
        run(
            "filter",
            cli.main,
            "filter",
            *config,
            "--checkpoint",
            out / "run",
            "--out",
            out / "filter",
            *few,
            "--rule",
            "quantile",
            "--keep",
            "0.5",
            "--set",
            *sets,
        )
        run(
            "cut",
            cli.main,
            "cut",
            *config,
            "--out",
            out / "cut",
            "--set",
            "loader.max_bad_ratio=0",
            *sets,
        )
        run(
            "transcode",
            cli.main,
            "transcode",
            *config,
            "--out",
            out / "copy",
            "--short-side",
            "32",
            "--set",
            *sets,
        )
        run(
            "motion",
            cli.main,
            "motion",
            "estimate",
            *config,
            "--out",
            out / "motion.json",
            "--set",
            *sets,
        )
        run(
            "decode", cli.main, "lint", "--decode", *config, "--out", out / "decode", "--set", *sets
        )
        run("unknown", cli.main, "lint", *config, "--no-such-option=\x1b[31mred\nb")
        run("name", cli.main, "lint", *config, "--sources", "\x1b[31mred\nb", "--set", *sets)
        run("config", cli.main, "lint", "--config", "\x1b[31mred\nb.yaml")
        run("bytes", cli.main, "lint", "--config", f"{ODD}.yaml")
    return codes, said.read_text(encoding="utf-8", errors="surrogateescape"), out


def written(out, *endings):
    files = [
        path for path in sorted(out.rglob("*")) if path.is_file() and path.name.endswith(endings)
    ]
    assert files, endings
    return files


def lists_in(out):
    """Files that programs read back."""
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


def test_commands_go_through(done):
    codes, said, _ = done
    good = ("train", "evaluate", "info", "json", "preview", "dedup", "filter", "transcode")
    assert {what: codes[what] for what in good} == dict.fromkeys(good, 0), said
    assert codes["cut"] in (0, 1) and codes["motion"] in (0, 2) and codes["lint"] in (0, 1), said
    assert [codes[what] for what in ("unknown", "name", "config", "bytes")] == [2] * 4, said
    assert "this name is not UTF-8. Rename" in said


def test_nothing_printed_is_obeyed_by_a_terminal(done):
    _, said, _ = done
    bad = [line for line in re.split(r"[\n\r]", said) if not fits_a_line(line)]
    assert not bad, bad[:5]
    assert "\\x1b[31mred" in said and "\\u202e" in said and "naïve 猫" in said
    assert "photos: quarantined: " in said and "failed: " in said and "<b>\\x1b[31m " in said


def test_no_file_for_people_holds_control_characters(done):
    _, _, out = done
    exact, bad = lists_in(out), []
    for path in written(out, ".md", ".csv", ".json", ".jsonl", ".txt", ".yaml"):
        if path not in exact:
            lines = path.read_text(encoding="utf-8").split("\n")
            bad += [(path.name, line[:200]) for line in lines if not fits_a_line(line)]
    assert not bad, bad[:5]


def test_reports_hold_no_markup_of_strangers(done):
    _, _, out = done
    reports = written(out, ".md")
    assert len(reports) == 5  # of lint, twice, dedup, filter and cut
    for path in reports:
        text = re.sub(r"!\[[^\]]*\]\(pictures/[\w%.-]+\)", "", path.read_text(encoding="utf-8"))
        text = re.sub(r"`[^`\n]*`", "", text)
        text = re.sub(r"\\.", "", text)
        assert not re.search(r"<|\]\(|\*[a-z]|`", text), path
        for table in re.findall(r"(?:^\|.*\|$\n)+", text, re.MULTILINE):
            assert len({row.count("|") for row in table.splitlines()}) == 1, table
    assert "- " in (out / "cut" / "report.md").read_text(encoding="utf-8")
    text = (out / "filter" / "report.md").read_text(encoding="utf-8")
    assert (
        "| &lt;script&gt;alert(1)&lt; |" in text
        and "| \\|pipe\\| |" in text
        and "| naïve 猫 |" in text
    )


def test_no_cell_is_a_formula(done):
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


def test_tensorboard_gets_clean_tags(done):
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
    for name in ("dedup", "filter", "cut", "copy"):
        config = load_config(out / name / "config.yaml")
        data = open_data(config)
        assert data.class_names == tuple(CLASSES), name
        for table in data.tables:
            for record in table.records.tolist():
                media = table.media(record)
                assert os.path.exists(media.span.path) and "\\" not in media.path.replace(
                    str(out), ""
                )


def test_a_source_s_name_is_printable(tmp_path):
    (tmp_path / "c.yaml").write_text('sources: {"a\\nb": {kind: video}}\ntrain: {steps: 1}\n')
    with pytest.raises(UserError, match=r"sources: expected printable names, got 'a\\nb'"):
        load_config(tmp_path / "c.yaml")


# Names that are not UTF-8


def photos(folder, *names):
    for number, name in enumerate(names):
        write_photo(folder / "pics" / os.fsdecode(name), number, 40, 30)


def build(folder, **settings):
    source = SourceConfig(**{"kind": "image", "root": "pics", **settings})
    return build_catalog(folder / "c.sqlite", {"s": source}, folder, progress=False)[0]


REASON = "name is not UTF-8: rename it"
FOLDERS_AND_LIST = """
sources:
  f: {kind: image, root: pics}
  l: {kind: image, root: pics, list: l.txt}
train: {steps: 1}
"""


@pytest.fixture
def odd(tmp_path):
    """Four photos with good names and two with others, in class folders."""
    photos(
        tmp_path,
        b"0/a.jpg",
        "0/naïve.jpg",
        b"0/caf\xe9.jpg",
        b"1/b.jpg",
        "1/猫.jpg",
        b"1/sub\xff/x.jpg",
    )
    return tmp_path


def test_class_folders_leave_out_names_that_are_not_utf8(odd):
    summary = build(odd)
    assert summary.usable == 4 and summary.refused == {f"{REASON}, such as 0/caf\\xe9.jpg": 2}
    assert "2 left out (2 name is not UTF-8: rename it, such as 0/caf\\xe9.jpg)" in str(summary)
    assert build(odd).probed == 0
    os.rename(odd / "pics/0" / os.fsdecode(b"caf\xe9.jpg"), odd / "pics/0/café.jpg")
    os.rename(odd / "pics/1" / os.fsdecode(b"sub\xff"), odd / "pics/1/sub")
    summary = build(odd)
    assert summary.usable == 6 and not summary.refused


def test_new_files_below_an_odd_folder_are_seen(odd):
    build(odd)
    photos(odd, b"1/sub\xff/y.jpg")
    assert list(build(odd).refused.values()) == [3]


def test_a_class_folder_has_a_name_that_lists_can_hold(odd):
    for name, told in (
        (b"\xff2", "a name that is not UTF-8"),
        (b"a\nb", "a name with a line break"),
    ):
        (odd / "pics" / os.fsdecode(name)).mkdir()
        with pytest.raises(
            UserError, match=f"a class folder whose name is a line of UTF-8, got {told}. Rename it"
        ):
            build(odd)
        (odd / "pics" / os.fsdecode(name)).rmdir()


@pytest.mark.parametrize(
    "form, rows",
    [
        ("path_label", [b"0/a.jpg 0", b"0/caf\xe9.jpg 0", b"1/b.jpg 1", b"1/sub\xff/x.jpg 1"]),
        (
            "slowfast_csv",
            [b"0/a.jpg,0", b'"0/caf\xe9.jpg",0', b"1/b.jpg,1", b"pics/1/sub\xff/x.jpg,1"],
        ),
    ],
)
def test_lines_whose_file_has_an_odd_name_are_left_out(odd, form, rows):
    (odd / "l.txt").write_bytes(b"\n".join(rows))
    for settings in ({"format": form}, {}):
        summary = build(odd, list="l.txt", **settings)
        assert summary.usable == 2
        assert summary.refused == {f"{REASON}, such as 0/caf\\xe9.jpg ({odd / 'l.txt'}, line 2)": 2}


def test_folders_of_frames_and_long_videos_with_odd_names_are_left_out(tmp_path):
    for folder in (b"good", b"caf\xe9"):
        for number in (1, 2):
            write_photo(
                tmp_path / "pics" / os.fsdecode(folder) / f"img_{number:05}.jpg", number, 40, 30
            )
    (tmp_path / "l.txt").write_bytes(b"caf\xe9 2 0\ngood 2 0\n")
    summary = build(tmp_path, kind="frames", list="l.txt")
    assert summary.usable == 1
    assert list(summary.refused) == [f"{REASON}, such as caf\\xe9 ({tmp_path / 'l.txt'}, line 1)"]
    for name in (b"a.mp4", b"b\xe9.mp4"):
        write_video(tmp_path / "pics" / os.fsdecode(name), 1, frames=9, width=64, height=48)
    (tmp_path / "l.txt").write_bytes(b"b\xe9.mp4 0 0.1 0\na.mp4 0 0.1 0\n")
    summary = build(tmp_path, kind="untrimmed", list="l.txt")
    assert summary.usable == 1
    assert summary.refused == {f"{REASON}, such as b\\xe9.mp4 ({tmp_path / 'l.txt'}, line 1)": 1}


def test_a_list_in_another_encoding_is_refused_with_its_line(odd):
    """The files have names in UTF-8; only the list is wrong, and nothing of it is left out in
    silence.
    """
    (odd / "l.txt").write_bytes("0/a.jpg 0\n0/naïve.jpg 0\n".encode("latin-1"))
    told = r"l.txt, line 2: expected a readable list file in UTF-8, got '0/na\\xefve.jpg 0'. Save the file as UTF-8."
    for settings in ({}, {"format": "path_label"}):
        with pytest.raises(UserError, match=told):
            build(odd, list="l.txt", **settings)
    (odd / "l.txt").write_bytes(b"0/a.jpg 0\n1/b.jpg caf\xe9\n")  # nor are labels taken for paths
    with pytest.raises(UserError, match="line 2: expected a readable list file in UTF-8"):
        build(odd, list="l.txt")
    (odd / "l.txt").write_bytes(b"0/caf\xe9.jpg 0\n")
    with pytest.raises(
        UserError, match="line 1: expected a path in UTF-8, got one that is not, as in all lines"
    ):
        build(odd, list="l.txt")
    # outside of the root nothing is looked for
    (odd.parent / os.fsdecode(b"out\xff.jpg")).write_bytes(b"x")
    (odd / "l.txt").write_bytes(b"0/a.jpg 0\n../../out\xff.jpg 0\n")
    with pytest.raises(UserError, match="Save the file as UTF-8"):
        build(odd, list="l.txt")


def test_tars_and_members_with_odd_names_are_left_out(tmp_path):
    photos(tmp_path, b"a.jpg")
    for tar in (b"good.tar", b"b\xe9.tar"):
        with tarfile.open(
            tmp_path / "pics" / os.fsdecode(tar), "w", format=tarfile.GNU_FORMAT
        ) as file:
            for name in (b"0/a.jpg", b"0/caf\xe9.jpg", "0/naïve.jpg".encode()):
                file.add(tmp_path / "pics/a.jpg", os.fsdecode(name))
    summary = build(tmp_path, tars="*.tar")
    assert summary.usable == 2 and summary.refused == {
        f"member whose {REASON}": 1,
        f"tar whose {REASON}": 1,
    }


def test_lint_names_files_with_odd_names(odd, capsys):
    (odd / "l.txt").write_bytes(b"0/a.jpg 0\n0/caf\xe9.jpg 0\n1/b.jpg 1\n")
    (odd / "c.yaml").write_text(FOLDERS_AND_LIST)
    assert (
        cli.main(
            [
                "lint",
                "--config",
                str(odd / "c.yaml"),
                "--set",
                f"data_root={odd}",
                f"run_dir={odd}/run",
            ]
        )
        == 0
    )
    with open(odd / "run/lint/issues.csv", encoding="utf-8", newline="") as file:
        found = [tuple(row) for row in csv.reader(file) if row[2] == "not UTF-8"]
    assert sorted(found) == [
        ("f", "0/caf\\xe9.jpg", "not UTF-8", ""),
        ("f", "1/sub\\xff/x.jpg", "not UTF-8", ""),
        ("l", "0/caf\\xe9.jpg", "not UTF-8", f"{odd / 'l.txt'}, line 2"),
    ]
    said = capsys.readouterr().out
    assert "2 files have a name that is not UTF-8, such as 0/caf\\xe9.jpg. Rename them" in said
    assert "missing" not in said and "etch them again" not in said


def test_folders_and_settings_with_odd_names_are_refused(odd):
    folder = odd / os.fsdecode(b"data\xff")
    shutil.copytree(odd / "pics", folder / "pics")
    with pytest.raises(
        UserError, match=r"sources.s.root: expected a folder with a name in UTF-8, got .*data\\xff"
    ):
        build_catalog(
            odd / "d.sqlite", {"s": SourceConfig(kind="image", root="pics")}, folder, progress=False
        )
    (odd / "c.yaml").write_text("sources:\n  s: {kind: image, root: pics}\ntrain: {steps: 1}\n")
    for key in ("data_root", "run_dir", "catalog", "sources.s.list"):
        with pytest.raises(
            UserError,
            match=rf"override {key}: expected text in UTF-8, got caf\\xe9, a name that is",
        ):
            load_config(odd / "c.yaml", [f"{key}={ODD}"])
    summary = build_catalog(
        folder / "c.sqlite", {"s": SourceConfig(kind="image", root="pics")}, odd, progress=False
    )[0]
    assert summary.usable == 4 and len(CatalogReader(folder / "c.sqlite").table("s")) == 4


LOCALES = [
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=lambda locale: " ".join(locale))
def test_any_locale_finds_and_prints_any_name(tmp_path, locale):
    photos(tmp_path, "naïve/é.jpg", "naïve/gone.jpg", "猫/猫.jpg", b"\xe7\x8c\xab/caf\xe9.jpg")
    (tmp_path / "l.txt").write_text(
        "naïve/é.jpg naïve\n猫/猫.jpg 猫\n猫/missing.jpg 猫\n", encoding="utf-8"
    )
    (tmp_path / "c.yaml").write_text(FOLDERS_AND_LIST)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))
    }
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "omnidali",
            "lint",
            "--config",
            str(tmp_path / "c.yaml"),
            "--set",
            f"data_root={tmp_path}",
            f"run_dir={tmp_path}/läuft",
        ],
        cwd=ROOT,
        env={**kept, **locale},
        capture_output=True,
        timeout=120,
    )
    said = (run.stdout + run.stderr).decode("utf-8")
    assert run.returncode == 0 and "Traceback" not in said, said
    assert (
        "f: 3 samples" in said
        and "l: 2 samples" in said
        and "caf\\xe9.jpg" in said
        and "missing.jpg" in said
    ), said
    assert (tmp_path / "läuft" / "lint" / "report.md").exists()


def test_a_python_with_other_file_names_is_refused(odd, monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(
        UserError,
        match="Python's encoding of file names: expected utf-8, got ascii. Set PYTHONUTF8=1",
    ):
        build(odd)


def test_every_name_of_the_crawl_is_hostile_or_foreign():
    """The control of the fixture: what the tests above look for is in its names."""
    text = "".join([*NAMES, *REFUSED])
    assert {unicodedata.category(char) for char in text} >= {"Cc", "Cf", "Zl", "Lo"}
    assert {name[0] for name in NAMES} >= set("=@+-<[|")
