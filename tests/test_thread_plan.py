"""The threads of a loader, from the machine that it runs on."""

import pytest

from omnidali.loading.thread_plan import ThreadPlan, thread_plan


@pytest.mark.parametrize(
    ("machine", "plan"),
    [
        ((1, 1, 1), ThreadPlan(decode=1, readers=2, graph_runs=2, dali=1)),
        ((2, 2, 2), ThreadPlan(decode=1, readers=2, graph_runs=2, dali=1)),
        ((2, 1, 1), ThreadPlan(decode=2, readers=2, graph_runs=2, dali=1)),
        ((1, 8, 5), ThreadPlan(decode=1, readers=2, graph_runs=2, dali=1)),
        ((16, 1, 1), ThreadPlan(decode=16, readers=4, graph_runs=2, dali=6)),
        ((64, 8, 5), ThreadPlan(decode=8, readers=2, graph_runs=6, dali=1)),
        ((112, 8, 3), ThreadPlan(decode=14, readers=3, graph_runs=5, dali=2)),
        ((256, 8, 1), ThreadPlan(decode=32, readers=4, graph_runs=2, dali=8)),
    ],
)
def test_plan_of_a_machine(machine, plan):
    assert thread_plan(*machine) == plan


def test_cores_have_at_most_two_threads_each():
    for cores in (4, 8, 61, 64, 128, 256):
        for ranks in range(1, cores // 4 + 1):
            for sources in (1, 2, 5, 40):
                plan = thread_plan(cores, ranks, sources)
                assert ranks * plan.total <= 2 * cores, (cores, ranks, sources, plan)
                assert plan.decode == cores // ranks and min(plan.readers, plan.dali) >= 1
                assert 2 <= plan.graph_runs <= 2 * sources


def test_video_engines_of_a_gpu_are_busy():
    """An H200 has seven; machines with eight of them have at least 112 cores."""
    for cores in (14, 16, 24, 32):
        for sources in (1, 2, 3, 5, 8):
            plan = thread_plan(cores, 1, sources)
            assert plan.graph_runs * plan.dali >= 7, (cores, sources, plan)
