"""Workloads of a few small files, for tests of the benchmarks."""

from benchmarks import compare_loaders, workloads


def shrink_workloads(monkeypatch):
    """Let the workloads have few files and short videos, and the measurements few steps."""
    monkeypatch.setattr(workloads, "_IMAGES", 6)
    monkeypatch.setattr(workloads, "_VIDEOS", 2)
    monkeypatch.setattr(workloads, "_FRAMES", 40)
    monkeypatch.setattr(compare_loaders, "_STEPS", (5, 5))
