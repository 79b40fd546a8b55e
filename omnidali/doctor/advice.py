"""What to set in a config, from what the checks have found."""

import math
from collections.abc import Mapping
from typing import TypedDict

LOADER = "whole loader"  # the check whose figures decide
_WORTH_SHARING = 0.15  # of the clips: below, the cores are better left to the training
_LEVEL = 0.9  # where the slower road is nearly as fast


class Advice(TypedDict):
    """Advice for people and for programs.

    Attributes:
        lines: for people.
        settings: by key of a config.
    """

    lines: list[str]
    settings: dict[str, object]


def advise(facts: Mapping[str, Mapping], on_gpu: bool) -> Advice:
    """Choose ``decode``, ``cpu_share`` and ``threads``.

    Args:
        facts: of each check, by its name.
        on_gpu: whether there is a GPU.
    """
    advice = Advice(lines=[], settings={})
    _advise_threads(advice, facts.get("machine", {}))
    if not on_gpu:
        _set(advice, "decode", "auto", "without a GPU it is the CPU, which decodes everything")
        return advice

    works = facts.get("driver", {}).get("libnvcuvid", {}).get("loads", False)
    rates = facts.get(LOADER, {})
    photos = {name: row for name, row in rates.items() if name.startswith("W1")}
    videos = {name: row for name, row in rates.items() if name[:2] in ("W2", "W3", "W4")}
    if not works:
        _set(advice, "decode", "auto", "without libnvcuvid the CPU decodes videos")
    else:
        _advise_road(advice, "videos", videos)
    _advise_road(advice, "photos", photos)
    return advice


def _advise_threads(advice: Advice, machine: Mapping) -> None:
    cores = machine.get("cores", {})
    quota = cores.get("quota")
    if quota is not None and quota < cores.get("allowed", 0):
        reason = f"the container may use {quota:g} cores at a time; divide it by the ranks in it"
        _set(advice, "loader.threads", max(1, math.floor(quota)), reason)
    else:
        _set(advice, "loader.threads", 0, "the cores divided by the ranks of this machine")


def _advise_road(advice: Advice, what: str, rates: Mapping[str, Mapping[str, float]]) -> None:
    """Compare the roads by the clips a second of the whole loader, all workloads alike."""
    ratios = [
        row["gpu"] / row["cpu"] for row in rates.values() if row.get("gpu") and row.get("cpu")
    ]
    if not ratios:
        advice["lines"].append(f"{what}: not measured; decode: auto until they are")
        return
    ratio = math.exp(sum(map(math.log, ratios)) / len(ratios))
    share = 1 / (1 + ratio)
    reason = f"{what}: the GPU makes {ratio:.2f} times the clips of the CPU here"
    if ratio < _LEVEL:
        _set(advice, f"decode of {what}", "cpu", reason)
    elif share < _WORTH_SHARING:
        _set(advice, f"decode of {what}", "auto", reason)
    else:
        _set(advice, f"decode of {what}", "hybrid", f"{reason}, so both together are faster")
        _set(advice, "loader.cpu_share", round(share, 2), "of the slots of hybrid sources")


def _set(advice: Advice, key: str, value: object, reason: str) -> None:
    advice["settings"][key] = value
    advice["lines"].append(f"{key}: {value} ({reason})")
