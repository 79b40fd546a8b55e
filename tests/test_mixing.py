"""How steps are filled: batches, alternation, class balance, few labels and mixup, against plain
restatements.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SOURCES
from helpers.batches import assert_restores_at_every_step
from helpers.plans import flat, made_up_table
from omnidali.config.schema import ClipConfig, Config, ResampleConfig, SourceConfig, TrainConfig
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import Data, open_loader
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.mixing import Alternating, Batches
from omnidali.planning.mixup import Mixup, deal
from omnidali.planning.philox import Stream
from omnidali.planning.plan import TrainPlan
from omnidali.planning.resampling import Rows, fraction_of, quotas


def test_fixed_batches_fill_every_step_alike():
    assert [Batches([12, 64]).before(step).tolist() for step in (0, 1, 5)] == [
        [0, 0],
        [12, 64],
        [60, 320],
    ]
    assert (
        Batches([12, 4]).steps(120) == 10
        and Batches([104, 80]).steps(104_000) == 1000
        and Batches([12, 4]).scheduled(7) == 7
    )


def plain_runner(iterations, ratio):
    """The reference's loop over main iterations: main batch, and at every ratio[0]-th the others in
    order.
    """
    order = []
    for iteration in range(iterations):
        order.append((0, iteration))
        if iteration % ratio[0] == 0:
            for source in range(1, len(ratio)):
                order += [(source, iteration)] * ratio[source]
    return order


@given(
    ratio=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    batches=st.lists(st.integers(1, 40), min_size=5, max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_alternating_order_is_the_runner_s(ratio, batches):
    batches = batches[: len(ratio)]
    mixing = Alternating(batches, ratio)
    order = plain_runner(23, ratio)
    period = ratio[0] + sum(ratio[1:])
    for step, (source, iteration) in enumerate(order):
        gained = mixing.before(step + 1) - mixing.before(step)
        assert gained.tolist() == [
            batches[source] if other == source else 0 for other in range(len(ratio))
        ]
        # the rate of the main iteration that it belongs to, on a schedule as long as all steps
        assert mixing.scheduled(step) == pytest.approx(iteration * period / ratio[0])
    assert mixing.steps(batches[0] * ratio[0]) == pytest.approx(period)


def test_alternating_steps_hold_one_source_each_on_every_rank():
    tables = [made_up_table(50), made_up_table(300, "image", "i"), made_up_table(11, name="s")]
    sources = [
        SourceConfig(kind=table.kind, batch=batch) for table, batch in zip(tables, (4, 8, 6))
    ]
    plan = TrainPlan(tables, sources, ClipConfig(), 0, 3, ratio=[2, 1, 1])
    for step in range(12):
        whole = plan(step)
        used = [i for i, samples in enumerate(whole) if len(samples)]
        assert used == [(0, 1, 2, 0)[step % 4]]
        parts = [plan(step, rank, 2) for rank in range(2)]
        assert {len(part[used[0]]) for part in parts} == {len(whole[used[0]]) // 2}
        assert flat(parts[0]) | flat(parts[1]) == flat(whole)
    assert plan.steps_per_epoch == 50 / 4 * 4 / 2


def test_auxiliary_streams_go_on_across_epochs_of_the_target():
    """The reference starts its other sources anew with every epoch of the target, so that late rows
    are rarely seen.
    """
    tables = [made_up_table(8), made_up_table(100, "image", "i")]
    plan = TrainPlan(
        tables, [SourceConfig(kind=table.kind, batch=4) for table in tables], ClipConfig(), 0, 0
    )
    rows = np.concatenate([plan(step)[1].rows for step in range(25)])
    assert sorted(rows) == list(range(100))  # ten epochs of the target, one of the images


def counts_of(labels, resample, epochs=1, seed=0):
    rows = Rows(labels, resample, Stream(seed, 0))
    return rows, rows(np.arange(epochs * rows.epoch))


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    power=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_realised_class_shares_are_the_planned_ones(sizes, power, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if not len(labels):
        return
    np.random.default_rng(seed).shuffle(labels)
    rows, drawn = counts_of(labels, ResampleConfig(power=power), seed=seed)
    counts = np.bincount(labels, minlength=len(sizes))
    wanted = np.where(counts > 0, counts**power if power else 1.0, 0)
    wanted = wanted / wanted.sum() * len(labels)
    realised = np.bincount(labels[drawn], minlength=len(sizes))
    assert rows.epoch == len(labels) and np.abs(realised - wanted).max() < 1
    assert (realised[counts > 0] > 0).all()


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8), most=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_clipped_classes_show_other_samples_in_every_epoch(sizes, most):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows, drawn = counts_of(labels, ResampleConfig(clipped=most), epochs=3)
    for epoch in drawn.reshape(3, -1):
        assert np.bincount(labels[epoch]).tolist() == np.minimum(sizes, most).tolist()
    for label, size in enumerate(sizes):
        seen = Counter(drawn[labels[drawn] == label].tolist())
        if size > most:  # nothing comes again before everything came once
            assert (
                max(seen.values())
                - min(seen.get(row, 0) for row in np.flatnonzero(labels == label))
                <= 1
            )


def test_a_power_of_one_and_none_are_the_natural_shares():
    counts = np.array([5, 0, 20])
    assert quotas(counts, ResampleConfig(power=1.0)).tolist() == [5, 0, 20]
    assert quotas(counts, ResampleConfig(power=0.0)).tolist() in ([13, 0, 12], [12, 0, 13])


def resampled_plan(**options):
    tables = [made_up_table(60), made_up_table(400, "image", "i", classes=13)]
    sources = [
        SourceConfig(kind="video", weight=1),
        SourceConfig(kind="image", weight=2, resample=ResampleConfig(power=0.2)),
    ]
    return TrainPlan(tables, sources, ClipConfig(), 24, 5, **options)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("mixup", ["none", "intra", "cross"])
def test_resampling_and_mixup_are_the_same_on_any_number_of_ranks(world, mixup):
    """The reference's sampler is silently off unless training is distributed."""
    plan = resampled_plan(mixup=mixup)
    for step in range(8):

        def told(samples):
            extra = (
                ()
                if mixup == "none"
                else (samples.partners, samples.own_weights, samples.partner_frames)
            )
            return {
                int(slot): tuple(float(array[k]) for array in (samples.rows, *extra))
                for k, slot in enumerate(samples.slots)
            }

        whole = {slot: what for samples in plan(step) for slot, what in told(samples).items()}
        parts = [
            {
                slot: what
                for samples in plan(step, rank, world)
                for slot, what in told(samples).items()
            }
            for rank in range(world)
        ]
        assert {len(part) for part in parts} == {24 // world}
        assert {slot: what for part in parts for slot, what in part.items()} == whole
        if mixup != "none":
            # both of a pair on one rank, each the other's partner, with one weight
            for part in parts:
                for slot, (_, partner, weight, _) in part.items():
                    assert part[partner][1] == slot and part[partner][2] == pytest.approx(weight)


def test_intra_pairs_stay_in_the_target():
    plan = resampled_plan(mixup="intra")
    for step in range(20):
        target, images = plan(step)
        assert set(target.partners) == set(target.slots) and (images.partners == images.slots).all()
        assert (images.own_weights == 1).all()
        assert (target.partners != target.slots).sum() == len(target) // 2 * 2


def test_no_rank_gets_more_of_a_source_where_the_target_is_mixed():
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


def test_cross_pairs_mix_the_sources():
    plan, mixed = resampled_plan(mixup="cross"), 0
    for step in range(50):
        target, images = plan(step)
        assert (target.partners != target.slots).all()
        mixed += np.isin(target.partners, images.slots).mean() / 50
    assert abs(mixed - 16 / 23) < 0.08  # of the other 23 slots 16 hold images


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 8.0])
def test_weights_follow_their_beta_distribution(alpha):
    mixup = Mixup(alpha, Stream(1, 0))
    weights = np.concatenate([mixup.pairs(step, np.arange(200))[1] for step in range(300)])
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
def test_dealing_is_even_and_keeps_pairs_together(count, world, pairs, step):
    slots = 2 * world * count
    order = (
        np.random.default_rng(count).permutation(slots)[: 2 * min(pairs, slots // 2)].reshape(-1, 2)
    )
    ranks = deal(slots, order, step, world)
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
def test_clips_and_labels_are_blended_as_planned(tables, blended, device):
    plan, batches = blended(end=4, device=device)
    plain = TrainPlan(tables, list(SOURCES.values()), ClipConfig(num_clips=4, size=32), 12, 5)
    kinds = set()
    with batches, FusionIterator(plain, list(SOURCES.values()), end=4, device=device) as single:
        for mixed, alone in zip(batches, single):
            clips = {
                int(slot): (clip, int(label))
                for group in alone.groups
                for slot, clip, label in zip(group.slot, group.clips, group.labels)
            }
            wanted = {
                int(slot): (int(partner), float(weight), float(frame))
                for samples in plan(mixed.step)
                for slot, partner, weight, frame in zip(
                    samples.slots, samples.partners, samples.own_weights, samples.partner_frames
                )
            }
            for group in mixed.groups:
                for slot, clip, label in zip(group.slot.tolist(), group.clips, group.labels):
                    partner, weight, frame = wanted[slot]
                    own, (other, other_label) = clips[slot][0], clips[partner]
                    if own.shape[1] < other.shape[1]:  # a photo stays one picture
                        other = other[:, int(frame * other.shape[1])][:, None]
                    kinds.add((own.shape[1], clips[partner][0].shape[1]))
                    assert torch.allclose(clip, weight * own + (1 - weight) * other, atol=1e-5)
                    soft = torch.zeros(4, device=device)
                    soft[clips[slot][1]] += weight
                    soft[other_label] += 1 - weight
                    assert torch.allclose(label, soft, atol=1e-6)
    assert kinds == {(4, 4), (4, 1), (1, 4), (1, 1)}


def test_mixup_restores_at_every_step(blended):
    assert_restores_at_every_step(lambda: blended(end=4)[1], 4)


@given(fraction=st.floats(0.01, 1), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_fractions_keep_every_class_and_nest(fraction, seed):
    table = made_up_table(200, classes=9)
    part = fraction_of(table, fraction, seed)
    counts, kept = np.bincount(table.labels, minlength=9), np.bincount(part.labels, minlength=9)
    assert kept.tolist() == np.ceil(fraction * counts).astype(int).tolist()
    assert (
        set(fraction_of(table, fraction / 2, seed).records)
        <= set(part.records)
        <= set(table.records)
    )
    assert part.fingerprint != table.fingerprint or fraction == 1


def test_a_table_of_long_videos_can_be_taken_apart():
    table = replace(
        made_up_table(6),
        labels=np.arange(3),
        starts=np.array([0, 1, 4, 6]),
        positives=np.array([1, 2, 1]),
        firsts=np.arange(6) * 10,
    )
    part = table.take(np.array([0, 2]), "a part")
    assert (
        part.starts.tolist() == [0, 1, 3]
        and part.firsts.tolist() == [0, 40, 50]
        and part.positives.tolist() == [1, 1]
    )
    assert len(part) == 2 and part.first_record(1) == table.records[4]


def test_target_apart_makes_groups_of_its_own(tables):
    plan = TrainPlan(tables, list(SOURCES.values()), ClipConfig(num_clips=4, size=32), 12, 5)
    with FusionIterator(plan, list(SOURCES.values()), target_apart=True, end=2) as batches:
        for batch in batches:
            assert [set(group.source.tolist()) for group in batch.groups] == [{0}, {1}, {2}]
            assert batch.auxiliary == (False, True, True)


def test_batches_that_do_not_suit_the_ranks_are_told():
    data = Data((), None, (), False, ())
    for config, told in (
        (
            Config(sources=SOURCES, train=TrainConfig(steps=1, batch=6, mixup="cross")),
            "train.batch: expected a multiple of 4",
        ),
        (
            Config(
                sources={
                    "a": SourceConfig(kind="video", batch=96),
                    "b": SourceConfig(kind="video", batch=3),
                }
            ),
            "sources, sum of their batches: expected a multiple of 2 for 2 ranks, got 99",
        ),
        (
            Config(
                sources={"a": SourceConfig(kind="video", batch=3)},
                train=TrainConfig(steps=1, step_mode="alternating"),
            ),
            "sources.a.batch: expected a multiple of 2 for 2 ranks, got 3. Use 2",
        ),
    ):
        with pytest.raises(UserError, match=told):
            open_loader(config, data, Ranks(world=2))
