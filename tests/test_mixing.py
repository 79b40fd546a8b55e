"""How steps are filled: fixed batches and alternation, against plain restatements."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SOURCES
from helpers.plans import flat, made_up_table
from omnidali.config.schema import ClipConfig, Config
from omnidali.config.sources import SourceConfig
from omnidali.config.train_settings import TrainConfig
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import Data
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.open_loader import open_loader
from omnidali.planning.mixing import AlternatingMixing, FixedBatchMixing
from omnidali.planning.train_plan import TrainPlan


def test_fixed_batches_fill_every_step_equally():
    assert [FixedBatchMixing([12, 64]).slots_before(step).tolist() for step in (0, 1, 5)] == [
        [0, 0],
        [12, 64],
        [60, 320],
    ]
    assert (
        FixedBatchMixing([12, 4]).steps_until(120) == 10
        and FixedBatchMixing([104, 80]).steps_until(104_000) == 1000
        and FixedBatchMixing([12, 4]).schedule_step(7) == 7
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
def test_alternating_order_equals_reference_runner(ratio, batches):
    batches = batches[: len(ratio)]
    mixing = AlternatingMixing(batches, ratio)
    order = plain_runner(23, ratio)
    period = ratio[0] + sum(ratio[1:])
    for step, (source, iteration) in enumerate(order):
        gained = mixing.slots_before(step + 1) - mixing.slots_before(step)
        assert gained.tolist() == [
            batches[source] if other == source else 0 for other in range(len(ratio))
        ]
        # the rate of the main iteration that it belongs to, on a schedule as long as all steps
        assert mixing.schedule_step(step) == pytest.approx(iteration * period / ratio[0])
    assert mixing.steps_until(batches[0] * ratio[0]) == pytest.approx(period)


def test_alternating_steps_hold_one_source_each_on_every_rank():
    tables = [made_up_table(50), made_up_table(300, "image", "i"), made_up_table(11, name="s")]
    sources = [
        SourceConfig(kind=table.kind, batch=batch)
        for table, batch in zip(tables, (4, 8, 6), strict=True)
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


def test_auxiliary_order_continues_across_epochs_of_target():
    """The reference restarts its other sources with every epoch of the target: it rarely draws late
    rows.
    """
    tables = [made_up_table(8), made_up_table(100, "image", "i")]
    plan = TrainPlan(
        tables, [SourceConfig(kind=table.kind, batch=4) for table in tables], ClipConfig(), 0, 0
    )
    rows = np.concatenate([plan(step)[1].rows for step in range(25)])
    assert sorted(rows) == list(range(100))  # ten epochs of the target, one of the images


def test_target_apart_has_groups_of_its_own(tables):
    plan = TrainPlan(tables, list(SOURCES.values()), ClipConfig(num_clips=4, size=32), 12, 5)
    with FusionIterator(plan, list(SOURCES.values()), target_apart=True, end=2) as batches:
        for batch in batches:
            assert [set(group.source.tolist()) for group in batch.groups] == [{0}, {1}, {2}]
            assert batch.auxiliary == (False, True, True)


def test_batches_that_ranks_do_not_divide_are_refused():
    data = Data((), None, (), False, ())
    for config, message in (
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
        with pytest.raises(UserError, match=message):
            open_loader(config, data, Ranks(world=2))
