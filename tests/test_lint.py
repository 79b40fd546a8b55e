"""omnidali lint and info: everything planted is found, and nothing else."""

import csv
import json
import os
import shutil
import sqlite3
import tarfile

import pytest

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.store import CatalogReader, connect
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.config.schema import MediaConfig
from omnidali.curation.dedup.exact_duplicates import find_equal, video_id
from omnidali.curation.source_selection import all_sources
from omnidali.testing.numbered_media import write_photo, write_video

ID = "dQw4w9WgXcQ"
CONFIG = """
classes: classes.txt
sources:
  videos: {kind: video, root: train, list: train.txt}
  photos: {kind: image, root: photos, list: photos.txt}
clip: {num_clips: 4, size: 32}
train: {batch: 4, steps: 2}
evaluation:
  source: {kind: video, root: val, list: val.txt}
  validation: {num_clips: 4}
"""
CLEAN = {
    "classes": "run\njump\n",
    "train": "clip_0.mp4 0\nclip_1.mp4 1\n",
    "photos": "0.jpg 0\n1.jpg 1\n",
    "val": "clip_8.mp4 0\nclip_9.mp4 1\n",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Good media, and beside them what lists may name by mistake."""
    root = tmp_path_factory.mktemp("world")
    fast = {"width": 96, "height": 64, "gop": 8, "options": {"preset": "ultrafast"}}
    for n, name in enumerate(
        (
            "train/clip_0",
            "train/clip_1",
            "val/clip_8",
            "val/clip_9",
            f"train/{ID}_000010_000020",
            f"val/{ID}",
            "train/park interview",
            "val/park interview",
        )
    ):
        write_video(root / f"{name}.mp4", n, frames=20 + n, **fast)
    write_video(root / "train/short.mp4", 20, frames=3, **fast)
    write_video(root / "train/rare.mp4", 21, frames=120, **{**fast, "gop": 250})
    shutil.copy(root / "val/clip_8.mp4", root / "train/leak.mp4")
    for n in range(30):
        write_photo(root / f"photos/{n}.jpg", n, 80, 60)
    write_photo(root / "photos/small.jpg", 30, 30, 20)
    shutil.copy(root / "photos/0.jpg", root / "photos/copy.jpg")
    (root / "photos/page.jpg").write_text("<html>not found</html>")
    (root / "c.yaml").write_text(CONFIG)
    for name in ("train", "val", "photos"):  # all is probed once, whatever lists name later
        (root / f"{name}.txt").write_text(
            "".join(f"{path.name} 0\n" for path in (root / name).iterdir())
        )
    config = load_config(root / "c.yaml")
    build_catalog(root / "catalog.sqlite", all_sources(config), root, progress=False)
    for name in ("train", "val", "photos"):
        (root / f"{name}.txt").unlink()
    return root


@pytest.fixture
def lint(world, tmp_path, capsys):
    """A function that lints lists, each as in CLEAN unless it is given: exit code, issues, and what
    was printed.
    """
    (tmp_path / "run").mkdir()
    shutil.copy(world / "catalog.sqlite", tmp_path / "run")

    def run(*arguments, sets=(), **lists):
        files = {name: tmp_path / f"{name}.txt" for name in CLEAN}
        for name, text in {**CLEAN, **lists}.items():
            files[name].unlink(missing_ok=True)
            if text is not None:
                files[name].write_text(text)
        before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
        named = (
            f"classes={files['classes']}",
            f"sources.videos.list={files['train']}",
            f"sources.photos.list={files['photos']}",
            f"evaluation.source.list={files['val']}",
        )
        code = cli.main(
            [
                "lint",
                "--config",
                str(world / "c.yaml"),
                *arguments,
                "--set",
                f"data_root={world}",
                f"run_dir={tmp_path / 'run'}",
                *named,
                *sets,
            ]
        )
        assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before
        printed = capsys.readouterr()
        path = tmp_path / "run/lint/issues.csv"
        issues = (
            []
            if not path.exists()
            else [
                (row["source"], row["path"], row["problem"]) for row in csv.DictReader(path.open())
            ]
        )
        return code, issues, printed.out + printed.err

    return run


def test_clean_lists_have_no_issue(lint, world, tmp_path):
    code, issues, printed = lint()
    assert (code, issues) == (0, []) and "WARN" not in printed and "ERROR" not in printed
    assert printed.count("\nok ") == 4 and "0 errors, 0 warnings" in printed
    out = tmp_path / "run/lint"
    assert sorted(os.listdir(out)) == ["classes.csv", "issues.csv", "report.md", "sources.csv"]
    assert (
        out / "classes.csv"
    ).read_text() == "label,class,videos,photos,evaluation\n0,run,1,1,1\n1,jump,1,1,1\n"
    videos, photos, _ = csv.DictReader((out / "sources.csv").open())
    assert (videos["codecs"], videos["containers"], videos["sizes"]) == (
        "h264 2",
        "mov 2",
        "96x64 2",
    )
    assert (videos["gop_min"], videos["gop_median"], videos["gop_max"]) == ("4", "8", "8")
    assert (
        float(videos["hours"]) == pytest.approx(41 / 30 / 3600, abs=1e-4)
        and videos["frame_rate_max"] == "30.0"
    )
    assert 1 <= float(videos["decoded_per_used"]) <= 8
    size = sum((world / f"train/clip_{n}.mp4").stat().st_size for n in (0, 1))
    assert int(videos["bytes"]) == size and photos["gop_max"] == photos["decoded_per_used"] == ""
    assert "| decoded per frame used |" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    "lists, planted, code",
    [
        (dict(train=CLEAN["train"] + "gone.mp4 1\n"), [("videos", "gone.mp4", "missing")], 0),
        (dict(photos=CLEAN["photos"] + "page.jpg 1\n"), [("photos", "page.jpg", "refused")], 0),
        (
            dict(photos="page.jpg 1\ngone.jpg 0\n"),  # nothing is left of the source
            [("photos", "page.jpg", "refused"), ("photos", "gone.jpg", "missing")],
            1,
        ),
        (
            dict(photos=CLEAN["photos"] + "2.jpg 2\n3.jpg 1\n4.jpg walk\n"),
            [("photos", "2.jpg", "label"), ("photos", "4.jpg", "label")],
            1,
        ),
        (dict(photos=CLEAN["photos"] + "1.jpg 1\n"), [("photos", "1.jpg", "repeated line")], 0),
        (dict(photos=CLEAN["photos"] + "1.jpg 0\n"), [("photos", "1.jpg", "two labels")], 0),
        (dict(photos=CLEAN["photos"] + "copy.jpg 1\n"), [("photos", "copy.jpg", "two labels")], 0),
        (dict(photos=CLEAN["photos"] + "copy.jpg 0\n"), [("photos", "copy.jpg", "copy")], 0),
        (dict(train=CLEAN["train"] + "short.mp4 0\n"), [("videos", "short.mp4", "too short")], 0),
        (
            dict(train=CLEAN["train"] + "leak.mp4 0\n"),
            [("videos", "leak.mp4", "leak by content")],
            1,
        ),
        (
            dict(
                train=CLEAN["train"] + f"{ID}_000010_000020.mp4 0\n",
                val=CLEAN["val"] + f"{ID}.mp4 0\n",
            ),
            [("videos", f"{ID}_000010_000020.mp4", "leak by video id")],
            1,
        ),
        (
            dict(
                train=CLEAN["train"] + "park interview.mp4 0\n",
                val=CLEAN["val"] + "park interview.mp4 0\n",
            ),
            [("videos", "park interview.mp4", "same name")],
            0,
        ),
    ],
)
def test_planted_issues_are_found_and_no_others(lint, lists, planted, code):
    found, issues, printed = lint(**lists)
    assert (found, issues) == (code, planted)
    assert printed.count("\nERROR") == code and (code or "\nWARN" in printed)
    assert lint(**lists)[1] == planted  # also where the catalog knows it all


@pytest.mark.parametrize(
    "lists, sets, text",
    [
        (dict(classes="run\njump\nwalk\n"), (), "videos: 1 of 3 classes have no sample (walk)"),
        (
            dict(
                photos="".join(f"{n}.jpg {int(n > 27)}\n" for n in range(29)),
                classes="run\njump\nwalk\n",
                train=CLEAN["train"] + "short.mp4 2\n",
            ),
            (),
            "photos: 1 of 3 classes have no sample (walk)",
        ),
        (
            dict(train="rare.mp4 0\n" + CLEAN["train"]),
            ("clip.num_clips=3",),
            "keyframes are up to 120 frames apart",
        ),
        (
            dict(photos="small.jpg 0\n" + CLEAN["photos"]),
            ("clip.size=70",),
            "photos: half of the files have a short side",
        ),
    ],
)
def test_figures_become_warnings(lint, lists, sets, text):
    code, _, printed = lint(sets=sets, **lists)
    assert code == 0 and any(
        line.startswith("WARN") and text in line for line in printed.splitlines()
    )


def test_an_uneven_source_is_told_unless_it_is_resampled(lint):
    uneven = dict(
        photos="".join(f"{n}.jpg {max(0, n - 27)}\n" for n in range(30)),
        classes="run\njump\nwalk\n",
    )
    assert "photos: the largest class has 28 samples, the middle one 1." in lint(**uneven)[2]
    assert (
        "the largest class" not in lint(sets=("sources.photos.resample={power: 0.2}",), **uneven)[2]
    )


def test_a_missing_list_hides_nothing(lint):
    code, issues, printed = lint(
        train=None, photos=CLEAN["photos"] + "page.jpg 1\n", val=CLEAN["val"] + "gone.mp4 0\n"
    )
    assert code == 1 and issues == [
        ("photos", "page.jpg", "refused"),
        ("evaluation", "gone.mp4", "missing"),
    ]
    assert printed.index("ERROR videos: ") < printed.index("WARN  photos: ")
    code, issues, printed = lint(classes=None, photos="0.jpg run\n" + CLEAN["photos"])
    assert (
        code == 1 and issues == [] and printed.count("ERROR") == 1 and "ERROR classes: " in printed
    )
    # where the names would have come from
    code, issues, printed = lint(train="", sets=("classes=null",))
    assert code == 1 and printed.count("ERROR") == 1 and "ok    photos: " in printed


def test_labels_that_the_training_lacks_are_errors(lint):
    code, issues, _ = lint(sets=("classes=null",), val="clip_8.mp4 0\nclip_9.mp4 2\n")
    assert code == 1 and issues == [("evaluation", "clip_9.mp4", "label")]


def test_class_folders_leave_nothing_out_in_silence(lint, tmp_path):
    folder = tmp_path / "crawl"
    for n, name in enumerate(("jump", "run")):
        write_photo(folder / name / f"{n}.jpg", n, 80, 60)
    assert lint(sets=("sources.photos={kind: image, root: " + str(folder) + "}",))[:2] == (0, [])
    (folder / "run/picture.jfif").write_bytes((folder / "run/1.jpg").read_bytes())
    code, issues, _ = lint(sets=("sources.photos={kind: image, root: " + str(folder) + "}",))
    assert code == 0 and issues == [("photos", "run/picture.jfif", "ending")]


def test_only_chosen_sources_are_looked_at(lint):
    leaking = dict(train=CLEAN["train"] + "leak.mp4 0\n", photos=CLEAN["photos"] + "page.jpg 0\n")
    assert lint("--sources", "videos", **leaking)[:2] == (0, [])
    assert lint("--sources", "evaluation", "videos", **leaking)[1] == [
        ("videos", "leak.mp4", "leak by content")
    ]
    code, _, printed = lint("--sources", "nobody", **leaking)
    assert (
        code == 2
        and "--sources: expected some of videos, photos, evaluation, got nobody" in printed
    )


def test_a_folder_that_cannot_be_written_is_the_users(lint, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, printed = lint("--out", str(tmp_path / "file"))
    assert (
        code == 2
        and "expected a folder that can be written" in printed
        and not (tmp_path / "run/lint").exists()
    )


def test_a_full_disk_leaves_nothing_half_written(lint, tmp_path, monkeypatch):
    import omnidali.curation.lint.lint as module

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_tables", full)
    code, _, printed = lint()
    assert (
        code == 2
        and "No space left on device" in printed
        and os.listdir(tmp_path / "run/lint") == []
    )


def test_equal_bytes_are_found_in_tars_and_folders_of_frames(tmp_path):
    for n in range(3):
        write_photo(tmp_path / f"photos/{n}.jpg", n, 80, 60)
    with tarfile.open(tmp_path / "web.tar", "w") as tar:
        for n, name in enumerate(("a", "b")):
            tar.add(tmp_path / f"photos/{n + 1}.jpg", f"0/{name}.jpg")
    for folder, file in (("one", 5), ("two", 6), ("three", 5)):
        for frame in range(4):
            write_photo(
                tmp_path / f"frames/{folder}/img_{frame + 1:05}.jpg", file, 80, 60, frame=frame
            )
    # as long as another one, with the same middle
    data = bytearray((tmp_path / "photos/0.jpg").read_bytes())
    data[-1] ^= 1
    (tmp_path / "photos/3.jpg").write_bytes(bytes(data) + bytes(1 << 14))
    (tmp_path / "photos/4.jpg").write_bytes(
        (tmp_path / "photos/0.jpg").read_bytes() + bytes(1 << 14)
    )
    for name, lines in (
        ("photos", [f"{n}.jpg 0" for n in range(5)]),
        ("frames", ["one 4 0", "two 4 0", "three 4 0"]),
    ):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    sources = {
        "photos": MediaConfig(kind="image", root="photos", list="photos.txt"),
        "web": MediaConfig(kind="image", tars="web.tar"),
        "frames": MediaConfig(kind="frames", root="frames", list="frames.txt"),
    }
    build_catalog(tmp_path / "catalog.sqlite", sources, tmp_path, progress=False)
    reader, db = (
        CatalogReader(tmp_path / "catalog.sqlite"),
        connect(tmp_path / "catalog.sqlite", read_only=True),
    )
    numbers = dict(db.execute("SELECT id, name FROM sources"))
    groups = find_equal(
        db, reader, {number: sources[name].kind for number, name in numbers.items()}
    )
    named = {
        tuple(sorted(os.path.relpath(reader.media(record).path, tmp_path) for record in group))
        for group in groups
    }
    assert named == {
        ("photos/1.jpg", "web.tar:0/a.jpg"),
        ("photos/2.jpg", "web.tar:0/b.jpg"),
        ("frames/one", "frames/three"),
    }


@pytest.mark.parametrize(
    "path, known",
    [
        (f"a/{ID}.mp4", (ID, True)),
        (f"{ID}_000001_000011.webm", (ID, True)),
        ("a/interview.mp4", None),
        ("shard.tar:0/park interview.mp4", ("park interview", False)),
        ("frames/the long walk/", ("the long walk", False)),
        ("backhand345.mp4", None),
        ("video_00001.mp4", None),
        ("a/00012.mp4", None),
        ("x y.mp4", None),
    ],
)
def test_names_that_only_count_are_no_ids(path, known):
    assert video_id(path) == known


def test_info_shows_a_catalog_and_leaves_it_alone(lint, tmp_path, capsys):
    lint(photos=CLEAN["photos"] + "page.jpg 1\ngone.jpg 0\n")
    catalog = tmp_path / "run/catalog.sqlite"
    fault = {"source": "photos", "path": "1.jpg", "state": "failed", "reason": "cut off"}
    (tmp_path / "run/quarantine.jsonl").write_text(json.dumps(fault | {"step": 3}) + "\n{cut of")
    before = catalog.read_bytes()
    assert cli.main(["info", "--catalog", str(catalog), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    photos = found["sources"][1]
    assert [source["name"] for source in found["sources"]] == ["videos", "photos", "evaluation"]
    assert (photos["kind"], photos["samples"], photos["files"], photos["codecs"]) == (
        "image",
        2,
        2,
        {"jpeg": 2},
    )
    assert photos["refused"] == {"missing file": 1, "not a JPEG, PNG or WebP image: a web page": 1}
    assert found["scores"] is None and found["quarantine"] == [fault | {"trouble": "file"}]
    assert cli.main(["info", "--catalog", str(catalog)]) == 0
    shown = capsys.readouterr().out
    assert "photos: 2 samples of kind image" in shown and photos["fingerprint"] in shown
    assert "quarantine: 1 lines\n  photos: 1.jpg: failed: file: cut off\n" in shown
    assert catalog.read_bytes() == before
    with sqlite3.connect(catalog) as db:
        db.execute("CREATE TABLE scores (media INTEGER, score REAL)")
        db.executemany("INSERT INTO scores VALUES (?, ?)", [(1, 0.5), (2, 0.25)])
    cli.main(["info", "--catalog", str(catalog), "--json"])
    assert json.loads(capsys.readouterr().out)["scores"] == 2


def test_info_names_sources_that_are_not_there_yet(world, tmp_path, capsys):
    shutil.copytree(
        world, tmp_path / "run", ignore=lambda *_: ["train", "val", "photos", "train.txt"]
    )
    options = [
        "info",
        "--config",
        str(world / "c.yaml"),
        "--set",
        "sources.web={kind: image}",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert cli.main(options) == 0
    assert (
        "\nweb: not in the catalog yet\nteacher scores: none\nquarantine: nothing\n"
        in capsys.readouterr().out
    )
    faults = [
        {"source": "photos", "path": f"{n}.jpg", "state": "failed", "reason": "cut off"}
        for n in range(2)
    ]
    (tmp_path / "other").mkdir()
    # beside the catalog, as commands leave it, and of the run
    for folder, fault in zip(("run", "other"), faults):
        (tmp_path / folder / "quarantine.jsonl").write_text(json.dumps(fault) + "\n")
    elsewhere = [*options[:-1], f"run_dir={tmp_path / 'other'}"]
    assert cli.main([*elsewhere, f"catalog={tmp_path / 'run/catalog.sqlite'}"]) == 0
    assert (
        "quarantine: 2 lines\n  photos: 1.jpg: failed: file: cut off\n  photos: 0.jpg: "
        in capsys.readouterr().out
    )
    (tmp_path / "other/quarantine.jsonl").unlink()
    (tmp_path / "other").rmdir()
    assert cli.main(elsewhere) == 2
    assert (
        "expected a catalog, got no file" in capsys.readouterr().err
        and not (tmp_path / "other").exists()
    )
    (tmp_path / "text.sqlite").write_bytes(b"SQLite format 3\0" + bytes(200))
    assert cli.main(["info", "--catalog", str(tmp_path / "text.sqlite")]) == 2
