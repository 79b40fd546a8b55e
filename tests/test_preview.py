"""The images of a preview show the planned clips of the training, by their painted numbers."""

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import SMALL
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.curation.preview import PlannedClip, _outlines, preview
from omnidali.loading.clip_images import LINE, captioned, clip_pixels, tile
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import make_plan, open_loader
from omnidali.planning.camera_motion import still
from omnidali.planning.samples import Samples
from omnidali.testing.numbered_media import read_numbers

SIZE = 56
HEAD = 3 * LINE  # the caption


@pytest.fixture
def config(media_root, tmp_path):
    (tmp_path / "c.yaml").write_text(
        SMALL + "train: {batch: 6, steps: 20}\nevaluation:\n"
        "  source: {kind: video, root: shorts, list: shorts.txt}\n"
    )
    return tmp_path / "c.yaml", [
        f"data_root={media_root}",
        f"run_dir={tmp_path}",
        f"clip.size={SIZE}",
        "clip.crop=center",
        "clip.flip=0",
        "clip.num_clips=4",
    ]


def cells(path, columns, length, marks):
    """The strips of an image without their captions: (T, S, S, 3) each."""
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    head = HEAD + LINE * marks
    height, width = head + SIZE, picture.shape[1] // columns
    assert picture.shape[0] % height == 0
    for top in range(0, picture.shape[0], height):
        for left in range(0, picture.shape[1], width):
            strip = picture[top + head : top + height, left : left + length * SIZE]
            yield strip.reshape(SIZE, length, SIZE, 3).swapaxes(0, 1)


def box_columns(picture):
    """Where a box begins and ends, pixels from the left."""
    columns = np.flatnonzero(
        (np.abs(picture.astype(int) - (255, 220, 0)).sum(axis=2) < 30).sum(axis=0) > 100
    )
    return columns.min(), columns.max()


def test_images_show_the_planned_frames(config, tmp_path, capsys):
    path, sets = config
    assert cli.main(["preview", "--config", str(path), "--samples", "6", "--step", "3", *sets]) == 0
    assert "clips: 6 clips of the steps 3 to 4" in capsys.readouterr().out
    loaded = load_config(path, sets)
    plan = make_plan(loaded, open_data(loaded))
    planned = [
        [samples for step in (3, 4, 5) for samples in [plan(step)[source]]] for source in (0, 1)
    ]
    videos = [
        (int(row), frames.tolist())
        for samples in planned[0]
        for row, frames in zip(samples.rows, samples.frames, strict=True)
    ]
    shown = [
        [read_numbers(frame) for frame in clip]
        for clip in cells(tmp_path / "preview/clips.png", 2, 4, True)
    ]
    assert shown == [[(row, frame) for frame in frames] for row, frames in videos[:6]]
    photos = [int(row) for samples in planned[1] for row in samples.rows]
    shown = [
        read_numbers(clip[0])[0] for clip in cells(tmp_path / "preview/photos.png", 6, 1, False)
    ]
    assert shown == [100 + row for row in photos[:6]]


def test_images_show_the_clips_of_the_training(config, tmp_path):
    path, sets = config
    sets = [*sets[:3], "clip.num_clips=4", "train.mixup=cross"]  # random crops and flips, blended
    assert (
        cli.main(
            [
                "preview",
                "--config",
                str(path),
                "--sources",
                "clips",
                "--samples",
                "4",
                *sets,
            ]
        )
        == 0
    )
    assert not (tmp_path / "preview/photos.png").exists()
    loaded = load_config(path, sets)
    with open_loader(loaded, open_data(loaded)) as batches:
        batch = next(batches)
        group = next(group for group in batch.groups if (group.source == 0).any())
        wanted = clip_pixels(group.clips[group.source == 0])[:4]
    shown = list(cells(tmp_path / "preview/clips.png", 2, 4, True))
    assert len(wanted) == 4 and np.array_equal(np.stack(shown), wanted)


def test_evaluation_is_shown_in_its_views(config, tmp_path):
    path, sets = config
    sets = [*sets, "evaluation.validation={num_clips: 2, crops: three, size: 56, short_side: 56}"]
    assert (
        cli.main(
            [
                "preview",
                "--config",
                str(path),
                "--sources",
                "evaluation",
                "--samples",
                "6",
                *sets,
            ]
        )
        == 0
    )
    picture = cv2.imread(str(tmp_path / "preview/evaluation.png"))
    assert picture.shape[0] == 2 * (HEAD + LINE + SIZE)
    *_, fourth, middle = (
        clip
        for number, clip in enumerate(cells(tmp_path / "preview/evaluation.png", 4, 2, True))
        if number in (2, 5)
    )  # of three crops the last is the middle
    assert [read_numbers(frame) for frame in middle] == [(201, 3), (201, 9)]
    assert [read_numbers(frame)[0] for frame in fourth] == [200, 200]
    frames = cv2.cvtColor(
        cv2.imread(str(tmp_path / "preview/evaluation-frames.png")), cv2.COLOR_BGR2RGB
    )
    first = [
        box_columns(frames[HEAD : HEAD + 256, 320 * place : 320 * place + 320])
        for place in range(3)
    ]
    # of 80 pixels as 320: left, right
    assert first[0][0] < 4 < 60 < first[1][0] and first[0][1] < 260 < first[1][1]
    assert 28 < first[2][0] < 36 and 284 < first[2][1] < 292


def test_boxes_are_drawn_on_whole_frames_and_logged_to_tensorboard(config, tmp_path):
    path, sets = config
    assert (
        cli.main(
            [
                "preview",
                "--config",
                str(path),
                "--sources",
                "clips",
                "--samples",
                "1",
                "--out",
                str(tmp_path / "there"),
                *sets,
            ]
        )
        == 0
    )
    loaded = load_config(path, sets)
    data = open_data(loaded)
    samples = make_plan(loaded, data)(0)[0]
    top, left, bottom, right = samples.boxes[0, 0].tolist()
    row = samples.rows[0]
    scale = 320 / max(int(data.tables[0].widths[row]), int(data.tables[0].heights[row]))
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "there/clips-frames.png")), cv2.COLOR_BGR2RGB)[
        HEAD:
    ]
    yellow = np.abs(picture.astype(int) - (255, 220, 0)).sum(axis=2) < 30
    middle = round((top + bottom) / 2 * scale)
    for x in (left, right):
        assert yellow[middle, max(0, round(x * scale) - 2) : round(x * scale) + 2].any()
    assert not yellow[middle, round(left * scale) + 4 : round(right * scale) - 4].any()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert events.Tags()["images"] == ["preview/clips/clips", "preview/clips/frames"]


def test_step_after_the_end_is_refused(config, capsys):
    path, sets = config
    assert cli.main(["preview", "--config", str(path), "--step", "20", *sets]) == 2
    assert (
        "--step: expected a step below 20, the length of the training, got 20"
        in capsys.readouterr().err
    )


def test_source_without_a_clip_in_a_short_training_is_reported(config, capsys):
    path, sets = config
    assert (
        cli.main(
            [
                "preview",
                "--config",
                str(path),
                "--samples",
                "2",
                "--step",
                "18",
                *sets,
                "sources.photos.weight=0.001",
            ]
        )
        == 0
    )
    assert "photos: no clip in the 2 steps that were looked at" in capsys.readouterr().out


def test_outlines_of_a_moving_clip_follow_its_motions():
    boxes = np.array([[[10, 20, 40, 70]]])
    samples = Samples(
        0,
        32,
        3,
        *[np.zeros(1, int)] * 3,
        np.zeros((1, 1), int),
        np.zeros((1, 1), int),
        boxes,
        np.zeros((1, 1), bool),
        np.ones(1, bool),
        np.zeros(1, int),
        still(boxes[:, 0], 3, 32),
    )
    samples.motions[0, -1] = np.array([[1, 0, 5], [0, 1, 0], [0, 0, 1]]) @ samples.motions[0, -1]
    (end, _), (begin, _) = _outlines(PlannedClip(None, "", None, "", 0, samples, 0, 0))
    assert np.allclose(begin, [[20, 10], [70, 10], [70, 40], [20, 40]]) and np.allclose(
        end, begin + (5, 0)
    )


def test_cells_hold_captions_and_images_of_any_size():
    large, small = (
        captioned(np.full((20, 30, 3), 9, np.uint8), "a"),
        captioned(np.full((5, 6, 3), 7, np.uint8), "ü\nb"),
    )
    assert large.shape == (20 + LINE, 30, 3) and (large[LINE:] == 9).all() and large[:LINE].any()
    grid = tile([large, small, small], 2)
    assert (
        grid.shape == (2 * (20 + LINE), 60, 3) and (grid[2 * LINE : 2 * LINE + 5, 30:36] == 7).all()
    )


def test_clips_are_augmented_as_in_the_training(config, tmp_path):
    """Those of a validation stay as they are."""
    path, sets = config
    erased = "train.augment.erasing={probability: 1, area: [0.4, 0.5], mode: const}"
    names = ["clips", "evaluation"]
    for folder, more in (("plain", []), ("erased", [erased])):
        preview(load_config(path, [*sets, *more]), tmp_path / folder, names, count=2)
    pictures = {
        name: [(tmp_path / folder / f"{name}.png").read_bytes() for folder in ("plain", "erased")]
        for name in names
    }
    assert pictures["clips"][0] != pictures["clips"][1]
    assert pictures["evaluation"][0] == pictures["evaluation"][1]
