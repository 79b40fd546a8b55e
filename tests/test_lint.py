"""omnidali lint: everything planted is found, and nothing else."""

import csv
import os

import pytest

from helpers.lint_world import CLEAN, ID, lint_lists, make_lint_world
from omnidali.curation.lint.leak_checks import video_id
from omnidali.testing.numbered_media import write_image


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_lint_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def lint(world, tmp_path, capsys):
    """A function that lints lists; returns exit code, issues, and what was printed."""

    def run(*arguments, **lists):
        code, issues = lint_lists(world, tmp_path / "run", *arguments, **lists)
        printed = capsys.readouterr()
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
    ).read_text() == "label,class,videos,images,evaluation\n0,run,1,1,1\n1,jump,1,1,1\n"
    videos, images, _ = csv.DictReader((out / "sources.csv").open())
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
    assert int(videos["bytes"]) == size and images["gop_max"] == images["decoded_per_used"] == ""
    assert "| decoded per frame used |" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    "lists, planted, code",
    [
        ({"train": CLEAN["train"] + "gone.mp4 1\n"}, [("videos", "gone.mp4", "missing")], 0),
        ({"images": CLEAN["images"] + "page.jpg 1\n"}, [("images", "page.jpg", "refused")], 0),
        (
            {"images": "page.jpg 1\ngone.jpg 0\n"},  # nothing is left of the source
            [("images", "page.jpg", "refused"), ("images", "gone.jpg", "missing")],
            1,
        ),
        (
            {"images": CLEAN["images"] + "2.jpg 2\n3.jpg 1\n4.jpg walk\n"},
            [("images", "2.jpg", "label"), ("images", "4.jpg", "label")],
            1,
        ),
        ({"images": CLEAN["images"] + "1.jpg 1\n"}, [("images", "1.jpg", "repeated line")], 0),
        ({"images": CLEAN["images"] + "1.jpg 0\n"}, [("images", "1.jpg", "two labels")], 0),
        ({"images": CLEAN["images"] + "copy.jpg 1\n"}, [("images", "copy.jpg", "two labels")], 0),
        ({"images": CLEAN["images"] + "copy.jpg 0\n"}, [("images", "copy.jpg", "copy")], 0),
        ({"train": CLEAN["train"] + "short.mp4 0\n"}, [("videos", "short.mp4", "too short")], 0),
        (
            {"train": CLEAN["train"] + "leak.mp4 0\n"},
            [("videos", "leak.mp4", "leak by content")],
            1,
        ),
        (
            {
                "train": CLEAN["train"] + f"{ID}_000010_000020.mp4 0\n",
                "val": CLEAN["val"] + f"{ID}.mp4 0\n",
            },
            [("videos", f"{ID}_000010_000020.mp4", "leak by video id")],
            1,
        ),
        (
            {
                "train": CLEAN["train"] + "park interview.mp4 0\n",
                "val": CLEAN["val"] + "park interview.mp4 0\n",
            },
            [("videos", "park interview.mp4", "same name")],
            0,
        ),
    ],
)
def test_planted_issues_are_found_and_no_others(lint, lists, planted, code):
    found, issues, printed = lint(**lists)
    assert (found, issues) == (code, planted)
    assert printed.count("\nERROR") == code and (code or "\nWARN" in printed)
    assert lint(**lists)[1] == planted  # also with a complete catalog


@pytest.mark.parametrize(
    "lists, sets, text",
    [
        ({"classes": "run\njump\nwalk\n"}, (), "videos: 1 of 3 classes have no sample (walk)"),
        (
            {
                "images": "".join(f"{n}.jpg {int(n > 27)}\n" for n in range(29)),
                "classes": "run\njump\nwalk\n",
                "train": CLEAN["train"] + "short.mp4 2\n",
            },
            (),
            "images: 1 of 3 classes have no sample (walk)",
        ),
        (
            {"train": "rare.mp4 0\n" + CLEAN["train"]},
            ("clip.num_clips=3",),
            "keyframes are up to 120 frames apart",
        ),
        (
            {"images": "small.jpg 0\n" + CLEAN["images"]},
            ("clip.size=70",),
            "images: half of the files have a short side",
        ),
    ],
)
def test_unusual_figures_are_warnings(lint, lists, sets, text):
    code, _, printed = lint(sets=sets, **lists)
    assert code == 0 and any(
        line.startswith("WARN") and text in line for line in printed.splitlines()
    )


def test_uneven_source_is_reported_unless_it_is_resampled(lint):
    uneven = {
        "images": "".join(f"{n}.jpg {max(0, n - 27)}\n" for n in range(30)),
        "classes": "run\njump\nwalk\n",
    }
    assert "images: the largest class has 28 samples, the median one 1." in lint(**uneven)[2]
    assert (
        "the largest class" not in lint(sets=("sources.images.resample={power: 0.2}",), **uneven)[2]
    )


def test_missing_list_hides_no_other_issue(lint):
    code, issues, printed = lint(
        train=None, images=CLEAN["images"] + "page.jpg 1\n", val=CLEAN["val"] + "gone.mp4 0\n"
    )
    assert code == 1 and issues == [
        ("images", "page.jpg", "refused"),
        ("evaluation", "gone.mp4", "missing"),
    ]
    assert printed.index("ERROR videos: ") < printed.index("WARN  images: ")
    code, issues, printed = lint(classes=None, images="0.jpg run\n" + CLEAN["images"])
    assert (
        code == 1 and issues == [] and printed.count("ERROR") == 1 and "ERROR classes: " in printed
    )
    # the source of the class names
    code, issues, printed = lint(train="", sets=("classes=null",))
    assert code == 1 and printed.count("ERROR") == 1 and "ok    images: " in printed


def test_evaluation_labels_that_no_training_source_has_are_errors(lint):
    code, issues, _ = lint(sets=("classes=null",), val="clip_8.mp4 0\nclip_9.mp4 2\n")
    assert code == 1 and issues == [("evaluation", "clip_9.mp4", "label")]


def test_files_that_class_folders_leave_out_are_reported(lint, tmp_path):
    folder = tmp_path / "crawl"
    for n, name in enumerate(("jump", "run")):
        write_image(folder / name / f"{n}.jpg", n, 80, 60)
    assert lint(sets=("sources.images={kind: image, root: " + str(folder) + "}",))[:2] == (0, [])
    (folder / "run/picture.aspx").write_bytes((folder / "run/1.jpg").read_bytes())
    (folder / "run/page.aspx").write_text("<html>")
    code, issues, printed = lint(sets=("sources.images={kind: image, root: " + str(folder) + "}",))
    assert code == 0 and issues == [
        ("images", "run/page.aspx", "left out"),
        ("images", "run/picture.aspx", "copy"),
    ]
    assert "Correct the list, the folder or the tar; training goes on without them." in printed


def test_only_chosen_sources_are_checked(lint):
    leaking = {"train": CLEAN["train"] + "leak.mp4 0\n", "images": CLEAN["images"] + "page.jpg 0\n"}
    assert lint("--sources", "videos", **leaking)[:2] == (0, [])
    assert lint("--sources", "evaluation", "videos", **leaking)[1] == [
        ("videos", "leak.mp4", "leak by content")
    ]
    code, _, printed = lint("--sources", "nobody", **leaking)
    assert (
        code == 2
        and "--sources: expected some of videos, images, evaluation, got nobody" in printed
    )


def test_output_folder_that_cannot_be_written_is_refused(lint, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, printed = lint("--out", str(tmp_path / "file"))
    assert (
        code == 2
        and "expected a folder that can be written" in printed
        and not (tmp_path / "run/lint").exists()
    )


def test_full_disk_leaves_nothing_half_written(lint, tmp_path, monkeypatch):
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
def test_video_id_ignores_names_that_only_count(path, known):
    assert video_id(path) == known
