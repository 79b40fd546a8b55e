"""FusionIterator: the planned clips in the planned order, restorable at every step."""

import threading

import numpy as np
import pytest
import torch

from conftest import SOURCES
from helpers.batches import (
    assert_decoded_by_dali,
    assert_restores_at_every_step,
    content,
    pictures,
)
from helpers.image_source import CENTER, RANDOM, make_plan
from omnidali.config.schema import ViewsConfig
from omnidali.config.sources import SourceConfig
from omnidali.errors import UserError
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.testing.numbered_media import read_numbers


def open_fusion(tables, clip=RANDOM, seed=5, sources=SOURCES, **options):
    return FusionIterator(
        make_plan(tables, sources, clip, seed=seed),
        list(sources.values()),
        **{"threads": 2, **options},
    )


def test_every_clip_shows_what_was_planned(tables):
    plan = make_plan(tables, SOURCES, CENTER)
    with open_fusion(tables, CENTER, end=6) as batches:
        for batch in batches:
            planned = {
                int(slot): (samples.source, row, frames)
                for samples in plan(batch.step)
                for slot, row, frames in zip(
                    samples.slots, samples.rows, samples.frames.tolist(), strict=True
                )
            }

            assert [tuple(group.clips.shape[1:]) for group in batch.groups] == [
                (3, 4, 56, 56),
                (3, 1, 56, 56),
            ]

            seen = set()
            for group in batch.groups:
                for clip, slot, source, label, record in zip(
                    pictures(group.clips),
                    group.slot.tolist(),
                    group.source.tolist(),
                    group.labels.tolist(),
                    group.record.tolist(),
                    strict=True,
                ):
                    number, row, frames = planned[slot]
                    assert (source, label) == (number, tables[source].labels[row])
                    assert record == tables[source].records[row]
                    file = (0, 100, 200)[source] + row  # as the fixture numbers its files
                    assert [read_numbers(shown) for shown in clip] == [
                        (file, frame) for frame in frames
                    ]
                    seen.add(slot)
            assert seen == planned.keys() and len(batch) == 12


def test_memory_is_channels_last(tables):
    with open_fusion(tables, end=1) as batches:
        for group in next(batches).groups:
            assert group.clips.is_contiguous(memory_format=torch.channels_last_3d)
            frames = group.clips.transpose(1, 2).flatten(0, 1)
            # a 2D network reads it without a copy
            assert frames.data_ptr() == group.clips.data_ptr()
            assert frames.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "options", [{"threads": 1}, {"threads": 5}, {"prefetch": 1}, {"prefetch": 6}]
)
def test_order_and_pixels_do_not_depend_on_speed(tables, options):
    with open_fusion(tables, end=5) as plain, open_fusion(tables, end=5, **options) as other:
        assert [content(batch) for batch in plain] == [content(batch) for batch in other]


def test_kept_batches_stay_unchanged(tables):
    """Clips may lie in DALI's memory, which must not be used again while a consumer holds them."""
    with open_fusion(tables, end=8) as batches:
        kept = list(batches)
    with open_fusion(tables, end=8) as batches:
        assert [content(batch) for batch in kept] == [content(batch) for batch in batches]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_steps_of_one_rank(tables, world):
    with open_fusion(tables, end=4) as batches:
        whole = [
            sorted(zip(batch.groups[0].slot.tolist(), batch.groups[0].record.tolist(), strict=True))
            for batch in batches
        ]

    parts = [[] for _ in whole]

    for rank in range(world):
        with open_fusion(tables, end=4, rank=rank, world=world) as batches:
            for batch in batches:
                parts[batch.step] += zip(
                    batch.groups[0].slot.tolist(), batch.groups[0].record.tolist(), strict=True
                )

    assert [sorted(part) for part in parts] == whole


def test_state_restores_at_every_step(tables):
    assert_restores_at_every_step(lambda: open_fusion(tables, end=5), 5)


def test_state_restores_while_running(tables):
    with open_fusion(tables, end=6) as batches:
        first = [content(next(batches)) for _ in range(2)]
        state = batches.state_dict()
        rest = [content(next(batches)) for _ in range(2)]
        batches.load_state_dict(state)
        assert [content(next(batches)) for _ in range(2)] == rest != first


def test_state_of_another_plan_is_refused_with_every_difference(tables):
    with open_fusion(tables) as batches:
        state = batches.state_dict()
    other = {
        **SOURCES,
        "photos": SourceConfig(kind="image", root="photos", list="photos.txt", weight=1),
    }
    with open_fusion(tables, seed=6, sources=other) as batches, pytest.raises(UserError) as caught:
        batches.load_state_dict(state)

    assert "seed: 5 became 6" in str(caught.value)
    assert "sources.photos.weight: 3 became 1" in str(caught.value)


def test_state_survives_a_checkpoint(tables, tmp_path):
    with open_fusion(tables, end=3) as batches:
        next(batches)
        torch.save(batches.state_dict(), tmp_path / "s.pt")
        batches.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))


def test_still_images_fill_the_clip(tables):
    sources = {
        **SOURCES,
        "photos": SourceConfig(kind="image", root="photos", list="photos.txt", inflate="still"),
    }
    with open_fusion(tables, sources=sources, end=1) as batches:
        (group,) = next(batches).groups
        photos = group.clips[group.source == 1]
        assert len(photos) and (photos == photos[:, :, :1]).all() and group.clips.shape[2] == 4


@pytest.mark.parametrize(
    "decode, said",
    [
        ("dali", "photos: {} files (jpeg): DALI on the CPU"),
        (
            "hybrid",
            "photos: {} files (jpeg): DALI on the CPU and, of every 100 slots, 40 by nvImageCodec"
            " and OpenCV on the CPU",
        ),
    ],
)
def test_dali_decodes_where_the_config_asks(tables, decode, said):
    sources = {
        **SOURCES,
        "photos": SourceConfig(
            kind="image", root="photos", list="photos.txt", weight=3, decode=decode
        ),
        "shorts": SourceConfig(kind="video", root="shorts", list="shorts.txt", decode=decode),
    }
    differ = []

    with (
        open_fusion(tables, CENTER, sources=sources, end=4, cpu_share=0.4) as dali,
        open_fusion(tables, CENTER, end=4) as cpu,
    ):
        warning = " (a damaged photo may crash DALI's own decoder on the CPU: prefer decode: auto)"
        assert dali.routes[1] == said.format(len(tables[1])) + warning
        assert cpu.routes[0] == f"clips: {len(tables[0])} files (h264): PyAV on the CPU"
        for one, other in zip(dali, cpu, strict=True):
            for mine, theirs in zip(one.groups, other.groups, strict=True):
                assert mine.slot.tolist() == theirs.slot.tolist()
                assert np.abs(pictures(mine.clips) - pictures(theirs.clips)).mean() < 4
                differ += (mine.clips != theirs.clips).flatten(1).any(1)[mine.source == 1].tolist()
        assert_decoded_by_dali(dali, "photos")
        assert cpu.stats()["photos"].by_dali == 0

    # DALI scales with another filter
    assert np.mean(differ) == (1 if decode == "dali" else pytest.approx(0.6, abs=0.1))


@pytest.mark.needs_gpu
def test_clips_are_whole_on_a_busy_gpu(tables):
    """Batches pass from one stream to another: one that is used late still shows the plan."""
    with (
        open_fusion(tables, CENTER, end=60, device="cuda", prefetch=3) as busy,
        open_fusion(tables, CENTER, end=60) as calm,
    ):
        weights = torch.randn(4096, 4096, device="cuda")
        sums = []
        for batch in busy:
            weights = (weights @ weights).clamp(-1, 1)  # the consumer's stream falls behind
            sums.append([group.clips.float().mean(dim=(1, 2, 3, 4)) for group in batch.groups])
        assert_decoded_by_dali(busy, "clips", "photos")
        for batch, mine in zip(calm, sums, strict=True):
            for group, means in zip(batch.groups, mine, strict=True):
                assert (group.clips.mean(dim=(1, 2, 3, 4)) - means.cpu()).abs().max() < 0.1


def test_stats_count_every_clip(tables):
    with open_fusion(tables, end=20) as batches:
        assert batches.stats()["clips"].clips == 0
        for _ in batches:
            pass
        stats = batches.stats()

    assert sum(row.clips for row in stats.values()) == 240

    for row, share in zip(stats.values(), (2 / 6, 3 / 6, 1 / 6), strict=True):
        assert (
            row.planned_share == pytest.approx(share) and abs(row.realised_share - share) < 2 / 240
        )
        assert row.clips_per_second > 0 and row.wait_seconds >= 0 and 0 <= row.occupancy <= 1
        assert row.replaced_frames == 0


def test_end_stays_the_end(tables):
    with open_fusion(tables, end=2) as batches:
        assert len(list(batches)) == 2
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(batches)


def test_close_is_idempotent_and_ends_use(tables):
    before = threading.active_count()
    batches = open_fusion(tables)
    next(batches)
    batches.close()
    batches.close()
    assert threading.active_count() <= before
    with pytest.raises(RuntimeError, match="this FusionIterator .* was closed"):
        next(batches)
    with pytest.raises(RuntimeError, match="closed"):
        batches.load_state_dict({})


def test_evaluation_shows_every_view(tables):
    plan = EvaluationPlan(
        tables[0], CENTER, ViewsConfig(num_clips=3, crops="ten", size=48, short_side=64), batch=4
    )
    slots = []

    with FusionIterator(plan, [SOURCES["clips"]]) as batches:
        for batch in batches:
            (group,) = batch.groups
            assert group.clips.shape == (40, 3, 3, 48, 48)
            slots += group.slot[group.valid].tolist()
            first = group.clips[0]
            flipped = group.clips[5]
            assert torch.equal(first.flip(-1), flipped)

    assert sorted(slots) == sorted(list(range(len(tables[0]))) * 10)


@pytest.mark.needs_gpu
def test_gpu_clips_equal_cpu_clips(tables):
    with (
        open_fusion(tables, CENTER, end=3, device="cuda", dtype=torch.float32) as gpu,
        open_fusion(tables, CENTER, end=3) as cpu,
    ):
        assert "files (h264): DALI on the GPU" in gpu.routes[0]
        for one, other in zip(gpu, cpu, strict=True):
            for mine, theirs in zip(one.groups, other.groups, strict=True):
                assert (
                    mine.clips.device.type == "cuda" and mine.slot.tolist() == theirs.slot.tolist()
                )
                assert np.abs(pictures(mine.clips.cpu()) - pictures(theirs.clips)).mean() < 4
        assert_decoded_by_dali(gpu, "clips", "photos")
