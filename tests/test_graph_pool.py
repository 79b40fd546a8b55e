"""DALI's graphs, shared by the sources of a rank: turns, failures, and what is used again."""

import gc
import sys
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from omnidali.loading.graph_pool import GraphPool
from omnidali.loading.thread_plan import ThreadPlan
from omnidali.pipelines import FeedError, GraphBuildError, PipelineError

PLAN = ThreadPlan(decode=4, readers=1, graph_runs=3, dali=1)


class StandIn:
    """Stands in for a graph: what was fed comes out."""

    built: list["StandIn"]

    def __init__(self, size, views, *, batch, threads, device_id, frames):
        self.capacity = batch
        self.under_way = False
        self.is_usable = True
        self.feeds = None
        type(self).built.append(self)

    def start(self, feeds):
        assert not self.under_way
        if "untakable" in feeds:
            self.is_usable = False
            raise FeedError("untakable")
        self.under_way = True
        self.feeds = feeds

    def collect(self):
        assert self.under_way
        self.under_way = False
        if "broken" in self.feeds:
            raise PipelineError("broken")
        return [self.feeds]

    def run(self, feeds):
        self.start(feeds)
        return self.collect()


@pytest.fixture
def kind():
    return type("Kind", (StandIn,), {"built": []})


def shaped(size=8):
    return SimpleNamespace(
        size=size, boxes=np.zeros((4, 1, 4)), clip_frames=2, frames=np.zeros((4, 2))
    )


def submit(pool, source, kind, *, feeds=None, count=4, size=8):
    feeds = feeds or {source: []}
    return pool.submit(source, kind, samples=shaped(size), count=count, feeds=feeds)


def pool_of(plan=PLAN):
    return GraphPool(plan, torch.device("cpu"))


def begun(kind):
    return [next(iter(graph.feeds)) for graph in kind.built if graph.under_way]


def test_runs_take_turns_and_a_source_has_two_at_most(kind):
    pool = pool_of()
    runs = [submit(pool, "a", kind, feeds={f"a{n}": []}) for n in range(3)]
    assert begun(kind) == ["a0", "a1"]
    others = [submit(pool, "b", kind, feeds={f"b{n}": []}) for n in range(2)]
    assert begun(kind) == ["a0", "a1", "b0"]  # three at work in all

    assert runs[0].collect() == [{"a0": []}]
    runs[0].release()
    assert sorted(begun(kind)) == ["a1", "a2", "b0"]  # a's turn was before b's
    others[0].collect()
    others[0].release()
    assert sorted(begun(kind)) == ["a1", "a2", "b1"]
    assert len(kind.built) == 3

    for run in [*runs, *others]:
        run.release()
    assert not begun(kind)


def test_run_that_is_not_wanted_any_more_makes_room(kind):
    pool = pool_of()
    runs = [submit(pool, "a", kind, feeds={f"a{n}": []}) for n in range(3)]
    runs[2].release()  # it had not begun
    runs[0].release()  # it was at work, and nobody collected it
    assert begun(kind) == ["a1"] and not kind.built[0].under_way
    again = submit(pool, "a", kind, feeds={"a3": []})
    assert again.collect() == [{"a3": []}]
    assert len(kind.built) == 2


def test_graph_that_failed_is_used_again(kind):
    pool = pool_of()
    run = submit(pool, "a", kind, feeds={"broken": []})
    with pytest.raises(PipelineError, match="broken"):
        run.collect()
    assert run.again({"whole": []}) == [{"whole": []}]
    run.release()
    assert submit(pool, "a", kind).collect() == [{"a": []}]
    assert len(kind.built) == 1


@pytest.mark.parametrize("later", [False, True])
def test_graph_that_does_not_take_a_batch_is_not_used_again(kind, later):
    pool = pool_of()
    run = submit(pool, "a", kind, feeds={"broken" if later else "untakable": []})
    with pytest.raises(PipelineError):
        run.collect()
    if later:
        with pytest.raises(FeedError):
            run.again({"untakable": []})
    run.release()
    assert submit(pool, "a", kind).collect() == [{"a": []}]
    assert len(kind.built) == 2


def test_graph_that_cannot_be_built_is_tried_once(kind):
    tries = []

    class Missing(kind):
        def __init__(self, *_, **options):
            tries.append(options)
            raise GraphBuildError("no libnvcuvid")

    pool = pool_of()
    for _ in range(3):
        run = submit(pool, "a", Missing)
        with pytest.raises(GraphBuildError, match="no libnvcuvid"):
            run.collect()
        run.release()
    assert len(tries) == 1
    assert submit(pool, "a", kind).collect() == [{"a": []}]


def test_graph_is_built_with_room_and_replaced_once_outgrown(kind):
    pool = pool_of()
    for count, graphs in ((4, 1), (6, 1), (5, 1), (7, 2), (4, 2)):
        run = submit(pool, "a", kind, count=count)
        run.collect()
        run.release()
        assert len(kind.built) == graphs, count
    assert kind.built[1].capacity >= 7

    run = submit(pool, "a", kind, size=16)
    assert len(kind.built) == 3  # another shape


def test_closed_pool_frees_its_graphs(kind):
    pool = pool_of()
    run = submit(pool, "a", kind)
    run.collect()
    run.release()
    held = weakref.ref(kind.built.pop())
    del run
    assert held() is not None
    pool.close()
    gc.collect()
    assert held() is None


def test_sources_never_wait_for_each_other_for_ever(kind):
    """Each has more steps under way than graphs, and drops some of them."""
    pool = pool_of()
    most = []
    failed = []

    def work(source):
        try:
            under_way = []
            for step in range(60):
                under_way.append(submit(pool, source, kind, feeds={f"{source}{step}": []}))
                most.append(len(begun(kind)))
                if step % 7 == 6:
                    under_way.pop().release()
                if len(under_way) > 2:
                    run = under_way.pop(0)
                    (feeds,) = run.collect()
                    assert next(iter(feeds)).startswith(source)
                    run.release()
            for run in under_way:
                run.release()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in "abcde"]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert not failed and not any(thread.is_alive() for thread in threads)
    assert 1 < max(most) <= PLAN.graph_runs and len(kind.built) <= PLAN.graph_runs
    assert not begun(kind)
