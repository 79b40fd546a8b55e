"""Colour jitter, RandAugment and random erasing: planned numbers, and the pixels they make."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from conftest import SMALL
from omnidali.config.augment_settings import (
    AugmentConfig,
    ColorJitterConfig,
    ErasingConfig,
    RandAugmentConfig,
)
from omnidali.config.load import load_config
from omnidali.loading.batch import ClipBatch, StepBatch
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import open_loader
from omnidali.planning.augmentation import OPERATIONS, AugmentPlan
from omnidali.planning.philox import philox as philox_of_plan
from omnidali.training.augmentation import Augmentation
from omnidali.training.device_philox import philox

SIZE = 30
JITTER = ColorJitterConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
ALL = AugmentConfig(
    color_jitter=JITTER,
    randaugment=RandAugmentConfig(count=2, magnitude=12, magnitude_std=1.5),
    erasing=ErasingConfig(probability=0.5, boxes=2),
)
SLOTS = np.arange(2000)


def make_group(slots, frames=2, dtype=torch.float32):
    """Clips of noise, each a function of its slot."""
    clips = torch.stack(
        [
            torch.randn(
                frames, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(int(slot))
            ).clamp(-2.1, 2.2)
            for slot in slots
        ]
    )
    slot = torch.as_tensor(slots)
    zeros = torch.zeros_like(slot)
    return ClipBatch(clips.to(dtype).permute(0, 4, 1, 2, 3), zeros, zeros, zeros, slot, zeros == 0)


def augment(config, *groups, seed=3):
    batch = StepBatch(0, groups)
    return Augmentation(config, seed, torch.device("cpu"))(batch).groups


def numbers_of(config, slots, seed=3):
    return AugmentPlan(config, seed)(np.asarray(slots), SIZE)


def test_numbers_depend_on_seed_and_slot_alone():
    whole = numbers_of(ALL, SLOTS)
    some = np.array([1999, 4, 700])
    part = numbers_of(ALL, some)
    assert np.array_equal(part.jitter.factors, whole.jitter.factors[some])
    assert np.array_equal(part.jitter.order, whole.jitter.order[some])
    assert np.array_equal(part.boxes.corners, whole.boxes.corners[some])
    assert np.array_equal(part.boxes.keys, whole.boxes.keys[some])
    for mine, all_of_them in zip(part.operations, whole.operations, strict=True):
        assert np.array_equal(mine.kinds, all_of_them.kinds[some])
        assert np.array_equal(mine.values, all_of_them.values[some])
    other = numbers_of(ALL, SLOTS, seed=4)
    assert not np.array_equal(other.jitter.factors, whole.jitter.factors)


def test_jitter_covers_its_ranges_in_any_order():
    jitter = numbers_of(ALL, SLOTS).jitter
    low, high = jitter.factors.min(axis=0), jitter.factors.max(axis=0)
    assert np.allclose(low, (0.6, 0.6, 0.6, -0.1), atol=0.01)
    assert np.allclose(high, (1.4, 1.4, 1.4, 0.1), atol=0.01)
    assert len({tuple(order) for order in jitter.order.tolist()}) == 24


def test_jitter_leaves_the_planned_share_alone():
    config = AugmentConfig(color_jitter=replace(JITTER, probability=0.25))
    is_plain = (numbers_of(config, SLOTS).jitter.factors == (1, 1, 1, 0)).all(axis=1)
    assert 0.7 < is_plain.mean() < 0.8


def test_every_operation_comes_equally_often():
    for operations in numbers_of(ALL, SLOTS).operations:
        counts = np.bincount(operations.kinds, minlength=len(OPERATIONS))
        assert counts.min() > 100 and counts.max() < 190


@pytest.mark.parametrize(
    ("magnitude", "shear", "bits", "threshold"), [(0, 0, 8, 1), (30, 0.3, 4, 0)]
)
def test_magnitudes_are_torchvisions(magnitude, shear, bits, threshold):
    config = AugmentConfig(randaugment=RandAugmentConfig(count=1, magnitude=magnitude))
    (operations,) = numbers_of(config, SLOTS).operations
    names = np.array(OPERATIONS)[operations.kinds]
    assert set(np.abs(operations.values[names == "shear_x"])) == {np.float32(shear)}
    assert set(operations.values[names == "posterize"]) == {bits}
    assert set(operations.values[names == "solarize"]) == {threshold}
    if magnitude:
        assert set(operations.values[names == "rotate"]) == {-30, 30}


def test_boxes_have_the_planned_areas_and_lie_inside():
    config = AugmentConfig(erasing=ErasingConfig(probability=0.5, area=(0.1, 0.2)))
    corners = AugmentPlan(config, 3)(SLOTS, 224).boxes.corners[:, 0]
    sides = corners[:, 2:] - corners[:, :2]
    areas = sides.prod(axis=1) / 224**2
    erased = areas > 0
    assert 0.45 < erased.mean() < 0.55
    assert areas[erased].min() > 0.095 and areas[erased].max() < 0.205
    ratios = sides[erased, 0] / sides[erased, 1]
    assert 0.29 < ratios.min() < 0.35 and 3.0 < ratios.max() < 3.4
    assert corners.min() >= 0 and corners.max() <= 224


def test_words_of_the_device_are_those_of_the_plan():
    counters = torch.arange(500)
    keys = torch.tensor([[0, 0], [0xFFFFFFFF, 0xDEADBEEF]])
    ours = philox(counters, keys[:, :, None])
    for row, key in enumerate(keys.tolist()):
        expected = philox_of_plan((np.arange(500), 0, 0, 0), tuple(key))
        assert np.array_equal(ours[row].numpy().T, expected.astype(np.int64))


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_pixels_do_not_depend_on_ranks_and_groups(mode):
    """A clip has the same bits beside any others, and at any place among them."""
    config = replace(ALL, erasing=replace(ALL.erasing, mode=mode))
    slots = np.arange(40, 72)
    (whole,) = augment(config, make_group(slots))
    parts = augment(config, *(make_group(slots[rank::3]) for rank in range(3)))
    for rank, part in enumerate(parts):
        assert torch.equal(part.clips, whole.clips[rank::3])
    (alone,) = augment(config, make_group(slots[7:8]))
    assert torch.equal(alone.clips[0], whole.clips[7])


def test_all_frames_of_a_clip_are_changed_alike():
    group = make_group(np.arange(64), frames=1)
    still = replace(
        group,
        clips=group.clips.repeat(1, 1, 3, 1, 1).contiguous(memory_format=torch.channels_last_3d),
    )
    (changed,) = augment(ALL, still)
    assert not torch.equal(changed.clips, still.clips)
    for frame in (1, 2):
        assert torch.equal(changed.clips[:, :, frame], changed.clips[:, :, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_clips_are_computed_in_float32(dtype):
    short = make_group(np.arange(32), dtype=dtype)
    (changed,) = augment(ALL, short)
    (long,) = augment(ALL, replace(short, clips=short.clips.float()))
    assert changed.clips.dtype == dtype
    assert torch.equal(changed.clips, long.clips.to(dtype))


def test_batch_of_the_loader_stays_as_it_is():
    group = make_group(np.arange(16))
    before = group.clips.clone()
    (changed,) = augment(ALL, group)
    assert torch.equal(group.clips, before)
    assert changed.clips.permute(0, 2, 3, 4, 1).is_contiguous()
    assert changed.labels is group.labels and changed.slot is group.slot


def test_settings_that_change_nothing_give_back_the_batch():
    batch = StepBatch(0, (make_group(np.arange(2)),))
    assert Augmentation(AugmentConfig(), 0, torch.device("cpu"))(batch) is batch


def test_erased_boxes_are_filled_and_the_rest_stays():
    slots = np.arange(64)
    group = make_group(slots)
    for mode, spread in (("const", 0), ("rand", 0), ("pixel", 1)):
        config = AugmentConfig(erasing=ErasingConfig(probability=1, mode=mode))
        (changed,) = augment(config, group)
        corners = numbers_of(config, slots).boxes.corners[:, 0]
        inside = []
        for clip, before, (top, left, bottom, right) in zip(
            changed.clips, group.clips, corners, strict=True
        ):
            box = clip[:, :, top:bottom, left:right]
            assert torch.equal(box[:, 0], box[:, 1])
            inside.append(box.flatten())
            outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
            outside[top:bottom, left:right] = False
            assert torch.equal(clip[:, :, outside], before[:, :, outside])
            if mode != "pixel":
                colours = box.reshape(3, -1)
                assert (colours == colours[:, :1]).all()
        noise = torch.cat(inside)
        assert (noise == 0).all() if mode == "const" else abs(float(noise.mean())) < 0.3
        assert not spread or 0.95 < float(noise.std()) < 1.05


def test_nothing_waits_for_the_device():
    """A tensor without content fails wherever the host would have to look at it."""
    group = make_group(np.arange(24))
    augment(ALL, group)  # what is made once is made
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        names = ("clips", "labels", "source", "record", "slot", "valid")
        empty = ClipBatch(**{name: fake.from_tensor(getattr(group, name)) for name in names})
        batch = StepBatch(0, (empty,), slots=(np.arange(24),))
        (changed,) = Augmentation(ALL, 3, torch.device("cpu"))(batch).groups
        assert changed.clips.shape == group.clips.shape
        with pytest.raises(DataDependentOutputException):
            changed.clips.sum().item()


def test_clips_of_a_loader_are_the_same_on_any_number_of_ranks(media_root, tmp_path):
    """Blended ones, too, from two shapes of clips."""
    (tmp_path / "c.yaml").write_text(SMALL)
    config = load_config(
        tmp_path / "c.yaml",
        [
            f"data_root={media_root}",
            f"run_dir={tmp_path}",
            *("train.steps=3", "train.batch=8", "train.mixup=cross"),
            "train.augment.randaugment.count=2",
            "train.augment.erasing.probability=0.5",
        ],
    )
    data = open_data(config)
    found = {}
    for world in (1, 2, 4):
        for rank in range(world):
            augment = Augmentation(config.train.augment, config.seed, torch.device("cpu"))
            with open_loader(config, data, rank=rank, world=world) as loader:
                for batch in map(augment, loader):
                    for group, slots in zip(batch.groups, batch.slots, strict=True):
                        assert group.slot.tolist() == slots.tolist()
                        for slot, clip in zip(slots.tolist(), group.clips, strict=True):
                            assert torch.equal(found.setdefault(slot, clip), clip)
    assert len(found) == 24


def test_clips_that_somebody_left_out_keep_the_numbers_of_the_rest():
    slots = np.arange(12)
    (whole,) = augment(ALL, make_group(slots))
    batch = StepBatch(0, (make_group(slots[3:]),), slots=(slots,))
    (part,) = Augmentation(ALL, 3, torch.device("cpu"))(batch).groups
    assert torch.equal(part.clips, whole.clips[3:])
