"""The benchmark of planning and of a warm start."""

from benchmarks.plan_cost import bench_plan


def test_plan_cost_by_size(tmp_path):
    small, large = bench_plan(tmp_path, [100, 100_000])
    assert (
        large["rows"] == 100_000 and large["warm_start_seconds"] < 10 and small["ms_per_step"] > 0
    )
    assert large["first_batch_seconds"] > large["warm_start_seconds"] and large["table_mb"] > 1
