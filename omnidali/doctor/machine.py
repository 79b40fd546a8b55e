"""Cores, memory and shared memory, as far as this process may use them."""

import os
import platform
from pathlib import Path

from omnidali.doctor.findings import Findings

_GIB = 1 << 30
_LEAST_SHARED = _GIB  # bytes: NCCL exchanges through it where GPUs do not reach each other
_MEMORY_A_CORE = 1.5 * _GIB
_UNLIMITED = 1 << 60
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def look_at_machine(findings: Findings) -> None:
    """Cores, memory and shared memory."""
    _look_at_cores(findings)
    _look_at_memory(findings)
    _look_at_shared_memory(findings)


def _look_at_cores(findings: Findings) -> None:
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    findings.fact("cpu", _cpu_name())
    findings.fact("system", platform.platform())
    findings.fact("cores", {"machine": os.cpu_count(), "allowed": cores, "quota": quota})
    text = f"{cores} of {os.cpu_count()} cores, {_cpu_name()}"
    if quota is not None and quota < cores:
        findings.note(f"{text}, but the container may use {quota:g} at a time")
    else:
        findings.good(text)


def _look_at_memory(findings: Findings) -> None:
    total = _meminfo("MemTotal")
    free = _meminfo("MemAvailable")
    limit = memory_limit()
    findings.fact("memory", {"total": total, "available": free, "limit": limit})
    usable = min(value for value in (free or total or 0, limit or _UNLIMITED))
    text = f"{usable / _GIB:.1f} GiB of memory can be used"
    if limit is not None and total and limit < total:
        text += f" (the container's limit is {limit / _GIB:.1f} GiB)"
    if usable < _MEMORY_A_CORE * 2:
        findings.note(f"{text}: little for a training; use fewer loader.threads and a small batch")
    else:
        findings.good(text)


def _look_at_shared_memory(findings: Findings) -> None:
    try:
        status = os.statvfs("/dev/shm")
    except OSError as error:
        findings.note(f"no shared memory at /dev/shm: {error.strerror}")
        return
    size = status.f_blocks * status.f_frsize
    findings.fact("shared memory", {"size": size, "free": status.f_bavail * status.f_frsize})
    text = f"{size / _GIB:.2f} GiB of shared memory"
    if size < _LEAST_SHARED:
        findings.note(f"{text}: little for several GPUs; start the container with --shm-size=8g")
    else:
        findings.good(text)


def cpu_quota(root: Path = _GROUPS, own: Path = _OWN_GROUPS) -> float | None:
    """Cores that the control group may use at a time; None without a limit.

    Args:
        root: where control groups are mounted.
        own: the file that names this process's groups.
    """
    quotas = []
    for folder in _groups(root, own, "cpu"):
        words = read_text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdecimal():
            quotas.append(int(words[0]) / int(words[1]))
        quota = read_text(folder / "cpu.cfs_quota_us")
        period = read_text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit(root: Path = _GROUPS, own: Path = _OWN_GROUPS) -> int | None:
    """Bytes that the control group may take; None without a limit. Arguments as above."""
    limits = []
    for folder in _groups(root, own, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            text = read_text(folder / name)
            if text.isdecimal() and int(text) < _UNLIMITED:
                limits.append(int(text))
    return min(limits, default=None)


def _groups(root: Path, own: Path, controller: str) -> list[Path]:
    """The folders of this process's control groups, and of those around them."""
    folders = {root, root / controller}
    for line in read_text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / controller if controller in controllers.split(",") else root
        group = base / path.lstrip("/")
        while group != root and root in group.parents:
            folders.add(group)
            group = group.parent
    return sorted(folders)


def _meminfo(name: str) -> int | None:
    for line in read_text(Path("/proc/meminfo")).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _cpu_name() -> str:
    for line in read_text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def read_text(path: Path) -> str:
    """What a file of the kernel says; "" if there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
