"""Predictions: the numbers of an evaluation, for whatever is named."""

import errno
import os
import tarfile
import threading

import numpy as np
import pytest

import omnidali
from conftest import SOURCES
from helpers.prediction_world import CLASSES, FAST, evaluated, make_files, train_run
from omnidali.cli import main as cli
from omnidali.config.schema import (
    ClipConfig,
    Config,
    EvaluationConfig,
    LoaderConfig,
    ViewsConfig,
)
from omnidali.decoding.decoders import DECODERS
from omnidali.distributed.ranks import Ranks
from omnidali.errors import ConfigError, UserError
from omnidali.media_kind import MediaKind
from omnidali.models.recognizers import Recognizer
from omnidali.prediction.predictor import Predictor
from omnidali.prediction.scorer import Scorer
from omnidali.testing.numbered_media import write_image, write_video


@pytest.fixture(scope="module")
def run(media_root, tmp_path_factory):
    """A run folder with its evaluation."""
    return train_run(media_root, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run, ["loader.threads=2"], window=1.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("files"))


def by_name(predictions):
    return {os.path.basename(found.path): found for found in predictions}


def test_predictor_gives_the_scores_of_evaluate(run, predictor, media_root):
    expected = evaluated(run)
    assert len(expected) == 9
    found = predictor.predict(expected)
    assert [prediction.path for prediction in found] == list(expected)
    for prediction, (labels, scores) in zip(found, expected.values(), strict=True):
        assert list(prediction.labels) == labels[:4]
        assert np.allclose(prediction.probabilities, scores, atol=1e-6, rtol=0)
        assert prediction.probabilities.sum() == pytest.approx(1)


def test_averaged_probabilities_are_those_of_evaluate(run, tmp_path, capsys):
    averaged = "evaluation.test.average=prob"
    words = ["evaluate", "--config", str(run / "config.yaml"), "--checkpoint", str(run)]
    assert cli.main([*words, f"run_dir={tmp_path}/run", averaged]) == 0
    expected = evaluated(tmp_path / "run")
    found = Predictor(run, [averaged, "loader.threads=2"]).predict(expected)
    for prediction, (labels, scores) in zip(found, expected.values(), strict=True):
        assert list(prediction.labels) == labels
        assert np.allclose(prediction.probabilities, scores, atol=1e-6, rtol=0)
    assert [one[1] for one in expected.values()] != [one[1] for one in evaluated(run).values()]


def test_classes_of_several_labels_have_a_probability_each(run, predictor, files):
    several = Predictor(run, ["multi_label=true", "loader.threads=2"]).predict(files / "clip.mp4")
    one = predictor.predict(files / "clip.mp4")[0]
    assert several[0].labels == one.labels
    logits = np.log(several[0].probabilities / (1 - several[0].probabilities))
    assert np.allclose(np.diff(logits), np.diff(np.log(one.probabilities)), atol=1e-5)


def test_each_kind_is_predicted_and_broken_files_have_a_reason(predictor, files):
    before = sorted(os.walk(files))
    found = by_name(predictor.predict(files))
    assert sorted(os.walk(files)) == before, "nothing is written beside the files"

    kinds = {name: one.kind for name, one in found.items() if one.is_predicted}
    assert kinds == {
        "clip.mp4": "video",
        "frames": "frames",
        "long.mp4": "video",
        "photo.jpg": "image",
    }
    assert set(found) - set(kinds) == {"broken.mp4", "link.mp4"}  # notes.md is no medium
    assert found["link.mp4"].error == "a link to a file that is not there"
    assert found["broken.mp4"].error and not found["broken.mp4"].labels
    assert all(set(one.labels) == set(CLASSES) for one in found.values() if one.is_predicted)


def test_windows_cover_a_long_video(predictor, files):
    found = by_name(predictor.predict(files))
    assert [one for one in found if found[one].windows] == ["long.mp4"]
    windows = found["long.mp4"].windows
    starts = [window.start for window in windows]
    ends = [window.end for window in windows]
    assert starts[0] == 0 and starts[1:] == ends[:-1]
    assert ends[-1] == pytest.approx(104 / 30, abs=0.01)
    assert len(windows) == 3, "the rest of half a second belongs to the last one"
    assert all(set(window.labels) == set(CLASSES) for window in windows)


def test_window_has_the_scores_of_a_clip_of_its_frames(predictor, tmp_path):
    # 10 frames of one picture, then others; a window of its own file has the same frames
    write_video(tmp_path / "long.mp4", 7, frames=60, **FAST)
    write_video(tmp_path / "begin.mp4", 7, frames=30, **FAST)
    long, begin = predictor.predict([tmp_path / "long.mp4", tmp_path / "begin.mp4"])
    assert (long.windows[0].start, long.windows[0].end) == (0.0, pytest.approx(1.0))
    assert long.windows[0].labels == begin.labels
    assert np.allclose(long.windows[0].probabilities, begin.probabilities, atol=0.05)


def test_paths_are_found_in_every_form(predictor, files, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    monkeypatch.setenv("HOME", str(files))
    os.symlink(files / "photo.jpg", tmp_path / "link.jpg")
    given = [
        "photo.jpg",
        "~/photo.jpg",
        f"../{files.name}/photo.jpg",
        str(tmp_path / "link.jpg"),
        "phot?.jpg",
        "photo.jpg",
        "none.jpg",
        "*.none",
    ]
    found = predictor.predict(given)
    assert [one.is_predicted for one in found] == [True] * 6 + [False] * 2
    assert all(np.array_equal(one.probabilities, found[0].probabilities) for one in found[:6])
    assert [one.error for one in found[6:]] == [
        "no such file or folder",
        "no file or folder of this pattern",
    ]


def test_odd_names_are_predicted(predictor, tmp_path):
    names = [b"line\nbreak.jpg", b"caf\xe9.jpg", b" blank .jpg", b"a=b.jpg", b"[x]*.jpg"]
    for name in names:
        write_image(tmp_path / os.fsdecode(name), 3, 64, 48)
    found = predictor.predict(tmp_path / os.fsdecode(name) for name in names)
    assert [os.fsencode(os.path.basename(one.path)) for one in found] == names
    assert [one.error for one in found] == [""] * 5


def test_content_counts_where_an_ending_is_wrong(predictor, files, tmp_path):
    (tmp_path / "video.jpg").write_bytes((files / "clip.mp4").read_bytes())
    (tmp_path / "photo.mp4").write_bytes((files / "photo.jpg").read_bytes())
    (tmp_path / "no_ending").write_bytes((files / "photo.jpg").read_bytes())
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><title>404</title>")
    found = by_name(predictor.predict(tmp_path))
    kinds = {name: one.kind for name, one in found.items() if one.is_predicted}
    assert kinds == {"no_ending": "image", "photo.mp4": "image", "video.jpg": "video"}
    assert "a web page" in found["page.jpg"].error


def test_members_of_tars_are_predicted(predictor, files, tmp_path):
    with tarfile.open(tmp_path / "[web].tar", "w") as tar:
        tar.add(files / "photo.jpg", "some class/photo.jpg")
        tar.add(files / "clip.mp4", "clip.mp4")
        tar.add(files / "broken.mp4", "broken.mp4")
        tar.add(files / "notes.md", "notes.txt")
    (tmp_path / "bad.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    found = by_name(predictor.predict([tmp_path / "[web].tar", tmp_path / "bad.tar"]))
    single = by_name(predictor.predict(files))
    names = {"[web].tar:clip.mp4": "clip.mp4", "photo.jpg": "photo.jpg"}
    assert set(found) == {*names, "[web].tar:broken.mp4", "bad.tar"}
    for member, name in names.items():
        assert np.array_equal(found[member].probabilities, single[name].probabilities)
    assert "compressed" in found["bad.tar"].error and found["[web].tar:broken.mp4"].error


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("paths.txt", "clip.mp4\nphoto.jpg\nframes\n"),
        ("labelled.txt", "clip.mp4 7\nphoto.jpg 3\n"),
        ("words.csv", "clip.mp4,some word\n"),
        ("pieces.txt", "long.mp4 0.5 1.5 3\nlong.mp4 2 3 4\n"),
        ("frames.txt", "frames 1 4 3\n"),
        ("several.txt", "clip.mp4 0 3\nlong.mp4 4 0\nphoto.jpg 1\n"),
        ("counts.txt", "clip.mp4 4 0\nlong.mp4 4 2\n"),
    ],
)
def test_lists_are_read_with_or_without_labels(predictor, files, tmp_path, name, text):
    listed = tmp_path / name
    listed.write_text("".join(f"{files}/{line}\n" for line in text.splitlines()))
    found = predictor.predict(listed)
    assert [one.error for one in found] == [""] * len(found)
    assert len(found) == len({line.split()[0].split(",")[0] for line in text.splitlines()})
    if name != "frames.txt":
        assert all(bool(one.windows) <= one.path.endswith("long.mp4") for one in found)
    if name in ("several.txt", "counts.txt"):
        windows = [one.windows for one in found if one.path.endswith("long.mp4")]
        assert len(windows[0]) == 3 and all(window.is_predicted for window in windows[0])
    if name == "pieces.txt":
        spans = [(window.start, window.end) for window in found[0].windows]
        assert np.allclose(spans, [(0.5, 1.5), (2, 3)], atol=0.05)


def test_windows_are_those_of_each_list(predictor, files, tmp_path):
    for name, span in (("one.txt", "0.0 1.0"), ("two.txt", "2.0 3.0")):
        (tmp_path / name).write_text(f"{files}/long.mp4 {span} 1\n")
    one, two, whole = predictor.predict(
        [tmp_path / "one.txt", tmp_path / "two.txt", files / "long.mp4"]
    )
    starts = [[round(window.start) for window in found.windows] for found in (one, two, whole)]
    assert starts == [[0], [2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("header.csv", "path,label\nX/clip.mp4,1\nX/long.mp4,2\n"),
        ("quoted.csv", '"X/clip.mp4"\n"X/long.mp4"\n'),
        ("list.json", '["X/clip.mp4", "X/long.mp4"]'),
        ("lines.jsonl", '{"path": "X/clip.mp4"}\n{"path": "X/long.mp4", "label": 3}\n'),
    ],
)
def test_lists_of_programs_are_read(predictor, files, tmp_path, name, text):
    (tmp_path / name).write_text(text.replace("X", str(files)))
    found = predictor.predict(tmp_path / name)
    assert [os.path.basename(one.path) for one in found] == ["clip.mp4", "long.mp4"]
    assert all(one.is_predicted for one in found)


def test_pictures_of_other_formats_in_a_folder_are_named(predictor, tmp_path):
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
    (tmp_path / "notes.md").write_text("nothing to see\n")
    (found,) = predictor.predict(tmp_path)
    assert "HEIC" in found.error


def test_classes_of_one_name_keep_their_numbers(run, files, tmp_path):
    (tmp_path / "names.txt").write_text('["a", "b", "c", "d"]')
    named = Predictor(run, [f"classes={tmp_path}/names.txt", "loader.threads=2"])
    named.classes = ("a", "b", "a", "b")
    (found,) = named.predict(files / "clip.mp4")
    (plain,) = Predictor(run, ["loader.threads=2"]).predict(files / "clip.mp4")
    assert found.numbers.tolist() == plain.numbers.tolist()
    assert found.labels == tuple("abab"[number] for number in found.numbers)


def test_list_starts_at_its_own_folder_or_the_current_one(predictor, files, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("photo.jpg\n")
    assert not predictor.predict(tmp_path / "list.txt")[0].is_predicted
    monkeypatch.chdir(files)
    assert predictor.predict(tmp_path / "list.txt")[0].is_predicted


def test_numbered_photos_of_several_sizes_are_no_frames(predictor, tmp_path):
    for number in range(1, 6):
        write_image(tmp_path / f"{number:06}.jpg", number, 64 + 2 * number, 48)
    assert [one.kind for one in predictor.predict(tmp_path)] == ["image"] * 5


def test_file_that_breaks_after_the_probe_is_named(predictor, files, monkeypatch):
    from omnidali.prediction import predictor as module

    opened = module.MediaCatalog.probe

    def probe(self, wanted):
        probed = opened(self, wanted)
        (files / "late.mp4").write_bytes(b"\0" * 2000)
        return probed

    (files / "late.mp4").write_bytes((files / "clip.mp4").read_bytes())
    monkeypatch.setattr(module.MediaCatalog, "probe", probe)
    found = predictor.predict([files / "late.mp4", files / "photo.jpg"])
    (files / "late.mp4").unlink()
    assert [one.is_predicted for one in found] == [False, True]
    assert found[0].error


def test_file_that_hangs_is_named_and_the_rest_goes_on(run, files, monkeypatch):
    released = threading.Event()
    decode = DECODERS[MediaKind.VIDEO]

    def hang(media, *arguments):
        if media.path.endswith("long.mp4"):
            released.wait(60)
        return decode(media, *arguments)

    monkeypatch.setitem(DECODERS, MediaKind.VIDEO, hang)
    hasty = Predictor(run, ["loader.threads=2", "loader.hang_seconds=1"], window=0)
    found = hasty.predict([files / "long.mp4", files / "clip.mp4", files / "photo.jpg"])
    released.set()
    assert [one.is_predicted for one in found] == [False, True, True]
    assert "not read and decoded within 1 s" in found[0].error


def test_folder_that_may_not_be_read_is_named(predictor, files, monkeypatch):
    listdir = os.listdir

    def refuse(path):
        if os.fspath(path).endswith("frames"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    found = by_name(predictor.predict(files))
    assert found["frames"].error == "cannot be read: Permission denied"
    assert found["photo.jpg"].is_predicted


def test_odd_trees_of_folders_end(predictor, tmp_path):
    write_image(tmp_path / "a/photo.jpg", 1, 64, 48)
    os.symlink(tmp_path, tmp_path / "a/up")
    os.symlink(tmp_path / "a", tmp_path / "b")
    assert [one.is_predicted for one in predictor.predict(tmp_path)] == [True]
    deep = tmp_path.joinpath("deep", *["d"] * 150)
    deep.mkdir(parents=True)
    (too_deep,) = predictor.predict(tmp_path / "deep")
    assert too_deep.error == "more than 100 folders deep"
    (tmp_path / "empty").mkdir()
    (empty,) = predictor.predict(tmp_path / "empty")
    assert empty.error == "a folder without a video, a photo or frames"


def test_piece_outside_of_its_file_has_no_classes(predictor, files, tmp_path):
    (tmp_path / "l.txt").write_text(f"{files}/long.mp4 0 1 3\n{files}/long.mp4 90 99 3\n")
    (found,) = predictor.predict(tmp_path / "l.txt")
    assert [window.is_predicted for window in found.windows] == [True, False]
    assert (found.windows[1].start, found.windows[1].end) == (90, 99)


def test_nothing_is_left_behind(predictor, files, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    predictor.predict(files / "photo.jpg")
    assert list(tmp_path.iterdir()) == []


def test_kept_catalog_is_used_again(run, files, tmp_path):
    kept = Predictor(run, ["loader.threads=2"], catalog=tmp_path / "kept.sqlite")
    first = kept.predict(files / "clip.mp4")
    from omnidali.catalog.probing import probe_pool

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_pool.ProbePool, "probe", None)
        again = kept.predict(files / "clip.mp4")
    assert np.array_equal(first[0].probabilities, again[0].probabilities)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("sources.x.kind=video", "a setting that a prediction uses"),
        ("evaluation.test.num_clip=3", "num_clips"),
        ("evaluation.test.size=99", "at most short_side"),
        ("evaluation.batch=0", "evaluation.batch"),
    ],
)
def test_wrong_settings_are_refused(run, setting, reason):
    with pytest.raises(ConfigError, match=reason):
        Predictor(run, [setting])


def test_names_of_another_number_are_refused(run, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="4 names"):
        Predictor(run, [f"classes={tmp_path}/names.txt"])


def test_predictor_is_public():
    assert omnidali.Predictor is Predictor


class OfFourFrames(Recognizer):
    """An external network, which takes clips of four frames alone."""

    clip_len = 4
    is_3d = True
    classes = 2
    description = {}
    stages = ()

    def forward(self, clips, auxiliary=()):
        assert clips.shape[2] == 4
        return clips.mean(dim=(3, 4))[:, :2].mean(dim=2)


def test_photo_stands_still_for_networks_of_a_fixed_length(tables, tmp_path):
    views = ViewsConfig(num_clips=2, size=16, short_side=16)
    config = Config(
        clip=ClipConfig(clip_len=4),
        evaluation=EvaluationConfig(test=views),
        loader=LoaderConfig(threads=2),
    )
    scorer = Scorer(OfFourFrames().eval(), config, Ranks())
    for place, name in enumerate(("clips", "photos")):
        rows = tables[place].take(np.arange(2), "few")
        scored = scorer.score(rows, SOURCES[name], tmp_path / name)
        assert [one.error for one in scored] == ["", ""]
        assert np.allclose([one.probabilities.sum() for one in scored], 1)
