"""Loaders follow the plan after any operations, on any number of ranks."""

import dataclasses

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from conftest import SOURCES
from helpers.recorder import checksums, consumed
from omnidali.config.schema import ClipConfig, ViewsConfig
from omnidali.config.sources import ResampleConfig
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.train_plan import TrainPlan

# sources of one kind of plan each; slots divide by 8 ranks, and by 8 pairs
PLANS = {
    "weights": ({}, {}),
    "batches": ({"clips": {"batch": 8, "weight": 1}, "photos": {"batch": 8, "weight": 1}}, {}),
    "alternating": (
        {"clips": {"batch": 16, "weight": 1}, "photos": {"batch": 8, "weight": 1}},
        {"ratio": (2, 1), "mixup": "intra", "classes": 4},
    ),
    "mixup": (
        {"photos": {"inflate": "translate_random", "resample": ResampleConfig(power=0.5)}},
        {"mixup": "cross", "classes": 4},
    ),
}


WORLDS = st.sampled_from([1, 2, 4, 8])


def make_plan(name, tables):
    changes, options = PLANS[name]
    sources = [
        dataclasses.replace(SOURCES[source], **changes.get(source, {}))
        for source in ("clips", "photos")
    ]
    return TrainPlan(
        tables[:2], sources, ClipConfig(num_clips=2, size=24), 16, 7, **options
    ), sources


class Loaders(RuleBasedStateMachine):
    """All ranks of a job, and the operations that a user may apply to them.

    Every batch must be what the plan says, and a clip must have the same pixels whichever rank
    decodes it.
    """

    tables = None
    made = {}  # checksums of the clips by plan and slot, from the loader that decoded them first

    @initialize(name=st.sampled_from(sorted(PLANS)), step=st.integers(0, 400), world=WORLDS)
    def start(self, name, step, world):
        self.name = name
        self.step = step
        self.loaders = []
        self.plan, self.sources = make_plan(name, self.tables)
        self.saved = [{"step": step, "plan": self.plan.fingerprint()}]
        self.reopen(world, 2, 2)
        self.load(0)
        self.take(1)

    @rule(world=WORLDS, prefetch=st.integers(1, 6), threads=st.integers(1, 5))
    def reopen(self, world, prefetch, threads):
        """Start another process, on any number of ranks; it goes on where the last one was."""
        state = self.loaders[0].state_dict() if self.loaders else None
        self.teardown()
        self.loaders = [
            FusionIterator(
                self.plan, self.sources, rank=rank, world=world, prefetch=prefetch, threads=threads
            )
            for rank in range(world)
        ]
        for loader in self.loaders if state else ():
            loader.load_state_dict(state)

    @rule(count=st.integers(1, 4))
    def take(self, count):
        """Take the next batches on all ranks."""
        for _ in range(count):
            self.take_one()

    def take_one(self):
        batches = [next(loader) for loader in self.loaders]
        rows = [consumed(batch.samples, self.tables) for batch in batches]
        shown = {}
        for batch in batches:
            assert batch.step == self.step
            for slot, checksum in checksums(batch).items():
                shown[slot] = checksum
                assert self.made.setdefault((self.name, slot), checksum) == checksum
        together = {slot: row for part in rows for slot, row in part.items()}
        assert len(together) == sum(map(len, rows)) and shown.keys() == together.keys()
        assert together == consumed(self.plan(self.step), self.tables)
        assert len(set(map(len, rows))) == 1, "ranks with more slots than others"
        self.step += 1

    @rule()
    def take_alone(self):
        """Set the first rank back after a step: what it took before a crash does not count."""
        state = self.loaders[0].state_dict()
        assert next(self.loaders[0]).step == self.step
        self.loaders[0].load_state_dict(state)

    @rule()
    def save(self):
        self.saved.append(self.loaders[-1].state_dict())

    @rule(number=st.integers(0, 5))
    def load(self, number):
        state = self.saved[number % len(self.saved)]
        for loader in self.loaders:
            assert loader.load_state_dict(state) == []
            assert loader.next_step == state["step"]
        self.step = state["step"]

    @rule()
    def close(self):
        """Close the first loader: it stays closed, and ends nothing but itself."""
        state = self.loaders[0].state_dict()
        self.loaders[0].close()
        self.loaders[0].close()
        with pytest.raises(RuntimeError, match="was closed"):
            next(self.loaders[0])
        with pytest.raises(RuntimeError, match="was closed"):
            self.loaders[0].load_state_dict(state)
        assert self.loaders[0].state_dict() == state
        self.reopen(len(self.loaders), 1, 1)

    def teardown(self):
        """Close all loaders; hypothesis ends every example with this."""
        for loader in getattr(self, "loaders", ()):
            loader.close()


def test_loaders_follow_the_plan_after_any_operations(tables):
    Loaders.tables = tables
    Loaders.made = {}
    # without a search for the shortest failure, which takes minutes
    run_state_machine_as_test(
        Loaders,
        settings=settings(
            max_examples=20,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate],
        ),
    )


@settings(max_examples=60, deadline=None)
@given(
    world=st.sampled_from([1, 2, 3, 4, 8]),
    batch=st.integers(1, 9),
    source=st.integers(0, 2),
    crops=st.sampled_from(["center", "three", "ten"]),
)
def test_evaluation_plan_holds_every_item_once(tables, world, batch, source, crops):
    """The views are those of a single rank, and every rank runs the same number of steps."""
    plan = EvaluationPlan(
        tables[source], ClipConfig(), ViewsConfig(num_clips=2, crops=crops), batch
    )
    parts = [
        part.take(part.valid)
        for step in range(plan.steps(world))
        for rank in range(world)
        for part in plan(step, rank, world)
    ]
    rows = [row for part in parts for row in part.rows.tolist()]
    assert sorted(rows) == list(range(len(tables[source])))
    alone = EvaluationPlan(
        tables[source], ClipConfig(), ViewsConfig(num_clips=2, crops=crops), len(rows)
    )(0)
    found = {}
    for part in parts:
        found.update(consumed([part], tables[source:]))
    whole = consumed(alone, tables[source:])
    # the first two values name the source and the draw
    assert {slot: row[2:] for slot, row in found.items()} == {
        slot: row[2:] for slot, row in whole.items()
    }


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_loads_every_item_once(tables, world):
    views = ViewsConfig(num_clips=2, size=24, short_side=32)
    plan = EvaluationPlan(tables[1], ClipConfig(num_clips=2), views, 2)
    slots = []
    for rank in range(world):
        with FusionIterator(
            plan, [SOURCES["photos"]], rank=rank, world=world, threads=2
        ) as batches:
            slots += [
                slot
                for batch in batches
                for group in batch.groups
                for slot in group.slot[group.valid].tolist()
            ]
    assert sorted(slots) == list(range(len(tables[1])))
