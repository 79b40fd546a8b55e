"""Images as clips: how the camera moves, and that every decoder shows the same."""

import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import media_of
from helpers.batches import assert_restores_at_every_step, pictures
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.decoding.image import decode_image
from omnidali.errors import UserError
from omnidali.loading.fusion import FusionIterator
from omnidali.pipelines import MovingImages
from omnidali.planning.camera_motion import load_motion, still, through_region, translated, warped
from omnidali.planning.philox import normals
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.numbered_media import numbered_image, write_image
from omnidali.utils.constants import MEAN, STD

CLIP = ClipConfig(num_clips=1, clip_len=6, frame_interval=8, size=64)


def numbers(count, width, seed=0):
    return np.random.default_rng(seed).random((count, width))


BOXES = np.array([[10, 20, 110, 90], [0, 0, 60, 80], [100, 40, 300, 400]])
WIDTHS, HEIGHTS = np.array([120, 80, 500]), np.array([200, 60, 375])


def test_still_camera_shows_the_box():
    matrix = still(BOXES, 3, 64)
    for box, frames in zip(BOXES, matrix, strict=True):
        for frame in frames:
            assert np.allclose(frame @ [0, 0, 1], [box[1], box[0], 1]) and np.allclose(
                frame @ [64, 64, 1], [box[3], box[2], 1]
            )


@pytest.mark.parametrize("constant", [False, True])
def test_translated_windows_stay_in_the_image_and_keep_their_size(constant):
    matrices = translated(BOXES, WIDTHS, HEIGHTS, 6, 64, numbers(3, 12), constant)
    corners = matrices @ np.array([[0, 0, 1], [64, 64, 1]]).T
    assert (corners[:, :, :2] >= 0).all()
    assert (corners[:, :, 0] <= WIDTHS[:, None, None] + 1e-9).all() and (
        corners[:, :, 1] <= HEIGHTS[:, None, None] + 1e-9
    ).all()
    sides = corners[..., 1] - corners[..., 0]
    assert np.allclose(sides[:, :, 0], (BOXES[:, 3] - BOXES[:, 1])[:, None])
    assert len(np.unique(matrices[2, :, 0, 2])) == 6  # it moves
    if constant:
        free = translated(
            np.array([[400, 400, 500, 500]]),
            np.array([999]),
            np.array([999]),
            5,
            64,
            numbers(1, 10),
            True,
        )
        assert np.allclose(np.diff(free[0, :, :2, 2], axis=0), np.diff(free[0, :2, :2, 2], axis=0))


def test_warped_composes_homographies_over_time():
    """J_1 = I, J_i = H_i(J_{i-1}), restated plainly for points."""
    motion, frames, uniform = load_motion(None, False), 5, numbers(3, 8 * 4, 7)
    mean, factor = motion.of_labels(np.zeros(3, int))
    matrices = warped(BOXES, WIDTHS, HEIGHTS, frames, 64, uniform, mean, factor)
    drawn = normals(uniform).clip(-2.5, 2.5).reshape(3, 4, 8)
    assert np.allclose(matrices[:, 0], still(BOXES, 1, 64)[:, 0])
    for n in range(3):
        short, middle = min(WIDTHS[n], HEIGHTS[n]), np.array([WIDTHS[n] / 2, HEIGHTS[n] / 2])
        point = np.array([13.0, 40.0])  # of the output
        for time in range(1, frames):
            seen = matrices[n, time] @ [*point, 1]
            # in the image; moved forwards it must reach the output point
            place = (seen[:2] / seen[2] - middle) / short
            for step in range(time):
                steps = np.append(mean[n] + factor[n] @ drawn[n, step], 0).reshape(3, 3) + np.eye(3)
                moved = steps @ [*place, 1]
                place = moved[:2] / moved[2]
            box = BOXES[n]
            wanted = np.array([box[1], box[0]]) + point / 64 * [box[3] - box[1], box[2] - box[0]]
            assert np.allclose(place * short + middle, wanted, atol=1e-6)


def test_camera_that_would_pass_through_the_image_stands_still():
    wild = np.full((3, 8, 8), 0.0)
    wild[:, 6, 6] = wild[:, 7, 7] = 3.0
    matrices = warped(BOXES, WIDTHS, HEIGHTS, 6, 64, numbers(3, 40), np.zeros((3, 8)), wild)
    calm = (matrices == still(BOXES, 6, 64)).all(axis=(1, 2, 3))
    assert calm.any() and np.isfinite(matrices).all()


@given(width=st.integers(2, 900), height=st.integers(2, 900), seed=st.integers(0, 500))
@settings(max_examples=120, deadline=None)
def test_regions_hold_all_pixels_that_are_seen(width, height, seed):
    rng = np.random.default_rng(seed)
    box = np.array([[0, 0, int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))]])
    motion = load_motion(None, False)
    matrices = warped(
        box,
        np.array([width]),
        np.array([height]),
        8,
        64,
        rng.random((1, 56)),
        *motion.of_labels(np.zeros(1, int)),
    )[0]
    region, sides, inner = through_region(matrices, width, height, 64)
    top, left, bottom, right = region
    assert (
        0 <= top < bottom <= height
        and 0 <= left < right <= width
        and top % 2 == left % 2 == 0
        and (sides > 0).all()
    )
    point = np.array([20.0, 50.0, 1])
    for outer, mine in zip(matrices, inner, strict=True):
        there, here = outer @ point, mine @ point
        back = here[:2] / here[2] / sides[::-1] * [right - left, bottom - top] + [left, top]
        assert np.allclose(back, there[:2] / there[2], atol=1e-6 * max(width, height))


def test_warp_that_does_not_move_shows_the_crop(tmp_path):
    write_image(tmp_path / "a.png", 3, 200, 150)
    media, box = media_of(tmp_path / "a.png", "image"), np.array([[10, 20, 138, 148]])
    plain, moved = np.empty((1, 1, 64, 64, 3), np.uint8), np.empty((1, 4, 64, 64, 3), np.uint8)
    decode_image(media, box, 64, plain)
    decode_image(media, box, 64, moved, still(box, 4, 64)[0])
    assert np.abs(moved.astype(int) - plain).max() <= 1


def test_warp_shows_the_pixels_that_its_matrix_names(tmp_path):
    write_image(tmp_path / "a.png", 3, 200, 150)
    media, source = media_of(tmp_path / "a.png", "image"), numbered_image(3, 0, 200, 150)
    matrices = np.array(
        [[[1, 0, 30], [0, 1, 16], [0, 0, 1]], [[0, 1, 40], [1, 0, 10], [0, 0, 1]]], float
    )
    out = np.empty((1, 2, 64, 64, 3), np.uint8)
    decode_image(media, np.zeros((1, 4), int), 64, out, matrices)
    assert (out[0, 0] == source[16:80, 30:94]).all()
    assert (out[0, 1] == source[10:74, 40:104].transpose(1, 0, 2)).all()


def test_pixels_outside_of_the_image_repeat_its_edge(tmp_path):
    """On the CPU and in DALI's graph."""
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((90, 120, 3), 200, np.uint8))
    matrices = np.array(
        [[[1, 0, -10], [0, 1, -30], [0, 0, 1]], [[1, 0, 80], [0, 1, 60], [0, 0, 1]]], float
    )
    out = np.empty((1, 2, 64, 64, 3), np.uint8)
    decode_image(media_of(tmp_path / "flat.png", "image"), np.zeros((1, 4), int), 64, out, matrices)
    assert (out == 200).all()
    region, sides, inner = through_region(matrices, 120, 90, 64)
    clips = MovingImages(64, 1, batch=1, threads=1, device_id=None, frames=2).run(
        {
            "data": [np.fromfile(tmp_path / "flat.png", np.uint8)],
            "sides": [sides.astype(np.float32)],
            "matrices": [inner.astype(np.float32)],
            "start0": [region[:2].astype(np.float32)],
            "end0": [region[2:].astype(np.float32)],
            "flip0": [np.array(0, np.int32)],
        }
    )[0]
    shown = np.asarray(clips) * STD + MEAN
    assert np.abs(shown - 200).max() < 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for n in range(6):
        write_image(root / f"p/{n}.jpg", n, (500, 140)[n % 2], (375, 100)[n % 2])
    (root / "l.txt").write_text("".join(f"{n}.jpg {n % 3}\n" for n in range(6)))
    return root


def open_photos(photos, tmp_path, inflate, decode="auto", clip=CLIP, **options):
    source = SourceConfig(kind="image", root="p", list="l.txt", inflate=inflate, decode=decode)
    build_catalog(tmp_path / "c.sqlite", {"p": source}, photos, progress=False)
    table = CatalogReader(tmp_path / "c.sqlite").table("p")
    plan = TrainPlan([table], [source], clip, 5, 2, motions={0: load_motion(None, False)})
    return plan, FusionIterator(plan, [source], **{"end": 4, **options})


@pytest.mark.parametrize("inflate", ["translate_random", "translate_constant", "warp"])
def test_dali_and_cpu_warp_alike(photos, tmp_path, inflate):
    _, cpu = open_photos(photos, tmp_path, inflate)
    plan, dali = open_photos(photos, tmp_path, inflate, "dali")
    with cpu, dali:
        assert dali.routes == [
            f"p: {len(plan.tables[0])} files (jpeg): DALI on the CPU (a damaged photo may crash"
            " DALI's own decoder on the CPU: prefer decode: auto)"
        ]
        for one, other in zip(cpu, dali, strict=True):
            mine, theirs = (pictures(batch.groups[0].clips) for batch in (one, other))
            assert mine.shape == (5, 6, 64, 64, 3) and np.abs(mine - theirs).mean() < 4
            # something moves
            assert (np.abs(mine[:, 1:] - mine[:, :1]).mean(axis=(1, 2, 3, 4)) > 0).all()
    again, _ = open_photos(photos, tmp_path, inflate)
    assert (plan(3)[0].motions == again(3)[0].motions).all() and (
        plan(3)[0].motions != plan(2)[0].motions
    ).any()


@pytest.mark.needs_gpu
@pytest.mark.parametrize("inflate", ["translate_constant", "warp"])
def test_gpu_and_cpu_warp_alike(photos, tmp_path, inflate):
    _, cpu = open_photos(photos, tmp_path, inflate)
    _, gpu = open_photos(photos, tmp_path, inflate, device="cuda", dtype=torch.float32)
    with cpu, gpu:
        assert "files (jpeg): DALI on the GPU" in gpu.routes[0]
        for one, other in zip(cpu, gpu, strict=True):
            mine, theirs = (pictures(batch.groups[0].clips.cpu()) for batch in (one, other))
            assert np.abs(mine - theirs).mean() < 4


def test_moving_images_restore_at_every_step(photos, tmp_path):
    assert_restores_at_every_step(lambda: open_photos(photos, tmp_path, "warp")[1], 4)


def test_flips_mirror_the_whole_clip(photos, tmp_path):
    sides = [
        open_photos(
            photos, tmp_path, "warp", clip=ClipConfig(num_clips=1, clip_len=6, size=64, flip=flip)
        )[1]
        for flip in (0.0, 1.0)
    ]
    with sides[0] as plain, sides[1] as mirrored:
        assert (next(plain).groups[0].clips.flip(-1) == next(mirrored).groups[0].clips).all()


def test_motion_files_are_read_by_class_and_mistakes_refused(tmp_path):
    assert load_motion(None, False).mean.shape == (1, 8)  # the shipped one
    row = {"mean": [0.0] * 8, "covariance": np.eye(8).tolist()}
    other = {"mean": [0.1] * 8, "covariance": (np.eye(8) * 4).tolist()}
    (tmp_path / "m.json").write_text(json.dumps({"all": row, "classes": {"b": other}}))
    motion = load_motion(tmp_path / "m.json", True, ["a", "b"])
    mean, factor = motion.of_labels(np.array([0, 1, 5, -1]))
    assert mean[:, 0].tolist() == [0, 0.1, 0, 0] and factor[:, 0, 0] == pytest.approx([1, 2, 1, 1])
    (tmp_path / "n.json").write_text(json.dumps({"all": row}))
    tripod = np.outer(*[np.array([1e-5, 0, 2e-5, 0, 0, 0, 0, 0])] * 2)  # one direction alone
    (tmp_path / "t.json").write_text(
        json.dumps({"all": {"mean": [0.0] * 8, "covariance": tripod.tolist()}})
    )
    factor = load_motion(tmp_path / "t.json", False).factor[0]
    assert np.allclose(factor @ factor.T, tripod, atol=1e-11)
    for path, per_class, message in (
        ("none.json", False, "got no such file"),
        ("n.json", True, "distributions of single classes, got none"),
        ("l.txt", False, "got no entry 'all'"),
        ("l.txt", False, "mean and covariance"),
    ):
        (tmp_path / "l.txt").write_text("{}")
        with pytest.raises(UserError, match=message):
            load_motion(tmp_path / path, per_class, ["a"])
