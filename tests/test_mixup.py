"""Planned pairs of slots, and their blended clips and labels, against plain restatements."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import SOURCES
from helpers.batches import assert_restores_at_every_step
from helpers.plans import made_up_table
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import ResampleConfig, SourceConfig
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.mixup import Mixup, assign_ranks
from omnidali.planning.philox import Stream
from omnidali.planning.train_plan import TrainPlan


def resampled_plan(**options):
    tables = [made_up_table(60), made_up_table(400, "image", "i", classes=13)]
    sources = [
        SourceConfig(kind="video", weight=1),
        SourceConfig(kind="image", weight=2, resample=ResampleConfig(power=0.2)),
    ]
    return TrainPlan(tables, sources, ClipConfig(), 24, 5, **options)


def rows_by_slot(planned):
    """Row, and with mixup partner, weight and frame, of every slot."""
    return {
        int(slot): tuple(float(values[place]) for values in columns_of(samples))
        for samples in planned
        for place, slot in enumerate(samples.slots)
    }


def columns_of(samples):
    if samples.partners is None:
        return (samples.rows,)
    return samples.rows, samples.partners, samples.own_weights, samples.partner_frames


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("mixup", ["none", "intra", "cross"])
def test_resampled_and_mixed_steps_do_not_depend_on_ranks(world, mixup):
    """The reference's sampler is silently off unless training is distributed."""
    plan = resampled_plan(mixup=mixup)
    for step in range(8):
        whole = rows_by_slot(plan(step))
        parts = [rows_by_slot(plan(step, rank, world)) for rank in range(world)]
        assert {len(part) for part in parts} == {24 // world}
        assert {slot: values for part in parts for slot, values in part.items()} == whole
        if mixup != "none":
            # both of a pair on one rank, each the other's partner, with one weight
            for part in parts:
                for slot, (_, partner, weight, _) in part.items():
                    assert part[partner][1] == slot and part[partner][2] == pytest.approx(weight)


def test_intra_pairs_lie_in_target():
    plan = resampled_plan(mixup="intra")
    for step in range(20):
        target, images = plan(step)
        assert set(target.partners) == set(target.slots) and (images.partners == images.slots).all()
        assert (images.own_weights == 1).all()
        assert (target.partners != target.slots).sum() == len(target) // 2 * 2


def test_ranks_share_every_source_equally_with_mixup():
    tables = [made_up_table(50), made_up_table(300, "image", "i"), made_up_table(40, name="s")]
    plan = TrainPlan(
        tables,
        [SourceConfig(kind=table.kind, batch=8) for table in tables],
        ClipConfig(),
        0,
        0,
        mixup="intra",
    )
    counts = np.array(
        [
            [[len(samples) for samples in plan(step, rank, 4)] for rank in range(4)]
            for step in range(8)
        ]
    )
    assert (np.ptp(counts[:, :, 1:], axis=1) <= 1).all() and (counts[:, :, 0] == 2).all()


def test_cross_pairs_mix_sources():
    plan, mixed = resampled_plan(mixup="cross"), 0
    for step in range(50):
        target, images = plan(step)
        assert (target.partners != target.slots).all()
        mixed += np.isin(target.partners, images.slots).mean() / 50
    assert abs(mixed - 16 / 23) < 0.08  # of the other 23 slots 16 hold images


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 8.0])
def test_weights_follow_beta_distribution(alpha):
    mixup = Mixup(alpha, Stream(1, 0))
    blends = [mixup.blends(step, count=200, eligible=200) for step in range(300)]
    weights = np.concatenate([found.own_weights[found.pairs[:, 0]] for found in blends])
    assert abs(weights.mean() - 0.5) < 0.01
    assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    sample = np.sort(np.random.default_rng(0).beta(alpha, alpha, len(weights)))
    assert np.abs(np.sort(weights) - sample).mean() < 0.01


@given(
    count=st.integers(1, 20),
    world=st.integers(1, 6),
    pairs=st.integers(0, 60),
    step=st.integers(0, 9),
)
def test_assigned_ranks_are_even_and_keep_pairs_together(count, world, pairs, step):
    slots = 2 * world * count
    order = (
        np.random.default_rng(count).permutation(slots)[: 2 * min(pairs, slots // 2)].reshape(-1, 2)
    )
    ranks = assign_ranks(slots, order, step, world)
    assert np.bincount(ranks, minlength=world).tolist() == [2 * count] * world
    assert (ranks[order[:, 0]] == ranks[order[:, 1]]).all()


@pytest.fixture
def blended(tables):
    def make(**options):
        plan = TrainPlan(
            tables,
            list(SOURCES.values()),
            ClipConfig(num_clips=4, size=32),
            12,
            5,
            mixup="cross",
            mixup_alpha=1.0,
            classes=4,
        )
        return plan, FusionIterator(plan, list(SOURCES.values()), threads=2, **options)

    return make


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_gpu)])
def test_clips_and_labels_blend_as_planned(tables, blended, device):
    plan, batches = blended(end=4, device=device)
    plain = TrainPlan(tables, list(SOURCES.values()), ClipConfig(num_clips=4, size=32), 12, 5)
    kinds = set()
    with batches, FusionIterator(plain, list(SOURCES.values()), end=4, device=device) as single:
        for mixed, alone in zip(batches, single, strict=True):
            clips = {
                int(slot): (clip, int(label))
                for group in alone.groups
                for slot, clip, label in zip(group.slot, group.clips, group.labels, strict=True)
            }
            wanted = {
                int(slot): (int(partner), float(weight), float(frame))
                for samples in plan(mixed.step)
                for slot, partner, weight, frame in zip(
                    samples.slots,
                    samples.partners,
                    samples.own_weights,
                    samples.partner_frames,
                    strict=True,
                )
            }
            for group in mixed.groups:
                for slot, clip, label in zip(
                    group.slot.tolist(), group.clips, group.labels, strict=True
                ):
                    partner, weight, frame = wanted[slot]
                    own, (other, other_label) = clips[slot][0], clips[partner]
                    if own.shape[1] < other.shape[1]:  # an image stays one frame
                        other = other[:, int(frame * other.shape[1])][:, None]
                    kinds.add((own.shape[1], clips[partner][0].shape[1]))
                    assert torch.allclose(clip, weight * own + (1 - weight) * other, atol=1e-5)
                    soft = torch.zeros(4, device=device)
                    soft[clips[slot][1]] += weight
                    soft[other_label] += 1 - weight
                    assert torch.allclose(label, soft, atol=1e-6)
        assert (batches.stats()["photos"].by_dali > 0) == (device == "cuda")
    assert kinds == {(4, 4), (4, 1), (1, 4), (1, 1)}


def test_loader_with_mixup_restores_at_every_step(blended):
    assert_restores_at_every_step(lambda: blended(end=4)[1], 4)
