"""File names that are not UTF-8, and locales of other encodings."""

import csv
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from helpers.odd_names import ODD
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.left_out_table import left_out_path
from omnidali.catalog.database.reader import CatalogReader
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.config.sources import SourceConfig
from omnidali.errors import UserError
from omnidali.testing.numbered_media import write_image, write_video

ROOT = Path(__file__).parent.parent


def photos(folder, *names):
    for number, name in enumerate(names):
        write_image(folder / "pics" / os.fsdecode(name), number, 40, 30)


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
    """Four images with good names and two with bad ones, in class folders."""
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
    assert summary.usable == 4 and summary.refused == {REASON: 2}
    assert "2 left out (2 name is not UTF-8: rename it, such as 0/caf\\xe9.jpg)" in str(summary)
    assert build(odd).probed == 0
    os.rename(odd / "pics/0" / os.fsdecode(b"caf\xe9.jpg"), odd / "pics/0/café.jpg")
    os.rename(odd / "pics/1" / os.fsdecode(b"sub\xff"), odd / "pics/1/sub")
    summary = build(odd)
    assert summary.usable == 6 and not summary.refused


def test_new_files_in_folder_with_bad_name_are_found(odd):
    build(odd)
    photos(odd, b"1/sub\xff/y.jpg")
    assert list(build(odd).refused.values()) == [3]


def test_class_folder_name_that_lists_cannot_hold_is_refused(odd):
    for name, got in (
        (b"\xff2", "a name that is not UTF-8"),
        (b"a\nb", "a name with a line break"),
    ):
        (odd / "pics" / os.fsdecode(name)).mkdir()
        with pytest.raises(
            UserError, match=f"a class folder whose name is a line of UTF-8, got {got}. Rename it"
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
def test_list_lines_with_bad_names_are_left_out(odd, form, rows):
    (odd / "l.txt").write_bytes(b"\n".join(rows))
    for settings in ({"format": form}, {}):
        summary = build(odd, list="l.txt", **settings)
        assert summary.usable == 2
        assert summary.refused == {REASON: 2}
        assert summary.examples[REASON] == "0/caf\\xe9.jpg"
        table = left_out_path(odd / "c.sqlite").read_text()
        assert f"0/caf\\xe9.jpg,{odd / 'l.txt'},2,{REASON}" in table


def test_frame_folders_and_long_videos_with_bad_names_are_left_out(tmp_path):
    for folder in (b"good", b"caf\xe9"):
        for number in (1, 2):
            write_image(
                tmp_path / "pics" / os.fsdecode(folder) / f"img_{number:05}.jpg", number, 40, 30
            )
    (tmp_path / "l.txt").write_bytes(b"caf\xe9 2 0\ngood 2 0\n")
    summary = build(tmp_path, kind="frames", list="l.txt")
    assert summary.usable == 1
    assert summary.refused == {REASON: 1} and summary.examples[REASON] == "caf\\xe9"
    for name in (b"a.mp4", b"b\xe9.mp4"):
        write_video(tmp_path / "pics" / os.fsdecode(name), 1, frames=9, width=64, height=48)
    (tmp_path / "l.txt").write_bytes(b"b\xe9.mp4 0 0.1 0\na.mp4 0 0.1 0\n")
    summary = build(tmp_path, kind="untrimmed", list="l.txt")
    assert summary.usable == 1
    assert summary.refused == {REASON: 1} and summary.examples[REASON] == "b\\xe9.mp4"


def test_list_in_another_encoding_is_refused_with_its_line(odd):
    """The file names are UTF-8 and only the list is wrong: no line is left out."""
    (odd / "l.txt").write_bytes("0/a.jpg 0\n0/naïve.jpg 0\n".encode("latin-1"))
    message = (
        r"l.txt, line 2: expected a readable list file in UTF-8, got '0/na\\xefve.jpg 0'. Save the"
        " file as UTF-8."
    )
    for settings in ({}, {"format": "path_label"}):
        with pytest.raises(UserError, match=message):
            build(odd, list="l.txt", **settings)
    (odd / "l.txt").write_bytes(b"0/a.jpg 0\n1/b.jpg caf\xe9\n")  # labels are not taken for paths
    with pytest.raises(UserError, match="line 2: expected a readable list file in UTF-8"):
        build(odd, list="l.txt")
    (odd / "l.txt").write_bytes(b"0/caf\xe9.jpg 0\n")
    with pytest.raises(
        UserError, match="line 1: expected a path in UTF-8, got one that is not, as in all lines"
    ):
        build(odd, list="l.txt")
    # nothing outside of the root is looked for
    (odd.parent / os.fsdecode(b"out\xff.jpg")).write_bytes(b"x")
    (odd / "l.txt").write_bytes(b"0/a.jpg 0\n../../out\xff.jpg 0\n")
    with pytest.raises(UserError, match="Save the file as UTF-8"):
        build(odd, list="l.txt")


def test_tars_and_members_with_bad_names_are_left_out(tmp_path):
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


def test_lint_reports_files_with_bad_names(odd, capsys):
    (odd / "l.txt").write_bytes(b"0/a.jpg 0\n0/caf\xe9.jpg 0\n1/b.jpg 1\n")
    (odd / "c.yaml").write_text(FOLDERS_AND_LIST)
    assert (
        cli.main(
            [
                "lint",
                "--config",
                str(odd / "c.yaml"),
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


def test_folders_and_settings_with_bad_names_are_refused(odd):
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
            match=rf"override {key}: expected text in UTF-8, got caf\\xe9, which is not",
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


def test_python_with_other_file_name_encoding_is_refused(odd, monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(
        UserError,
        match="Python's encoding of file names: expected utf-8, got ascii. Set PYTHONUTF8=1",
    ):
        build(odd)
