"""A short training, as users start it: on one device, and with two ranks."""

import json
from pathlib import Path
from typing import Any

import torch

from omnidali.config.load import load_config
from omnidali.distributed.devices import take_device
from omnidali.distributed.ranks import Ranks
from omnidali.doctor.device import Device
from omnidali.doctor.findings import Findings
from omnidali.doctor.loader_speed import make_world
from omnidali.doctor.world import Road
from omnidali.processes.launch import run_program
from omnidali.training.train import train

_ONE = "one rank"
_TWO = "two ranks"
_STALL = 10.0  # percent of the time that a training may wait


def look_at_training(findings: Findings) -> None:
    """Train in bf16 for a few steps and measure how long the loop waits for the loader."""
    device = Device(findings.context.device_id)
    path = write_config(findings, device)
    for case in findings.cases((_ONE, _TWO), reserve=10.0):
        if case == _TWO and not has_two(device):
            findings.note("two ranks: not tried, as this machine has no second GPU")
            continue
        try:
            figures = CASES[case](path)
        except Exception as error:
            findings.error(case, error)
            continue
        findings.fact(case, figures)
        _judge(findings, case, figures)


def has_two(device: Device) -> bool:
    """Whether two ranks can be tried: each on a GPU of its own, or both on the CPU."""
    return device.number is None or torch.cuda.device_count() >= 2


def _train_alone(path: Path) -> dict[str, Any]:
    config = load_config(path)
    figures = train(config, take_device(Ranks(), config.device), dry_run=config.train.steps)
    assert figures is not None  # those of its last line
    return figures


def _train_together(path: Path) -> dict[str, Any]:
    steps = load_config(path).train.steps
    figures = run_program("train", "--config", str(path), "--dry-run", str(steps), ranks=2)
    assert figures is not None  # the program ends with them
    return figures


CASES = {_ONE: _train_alone, _TWO: _train_together}


def _judge(findings: Findings, case: str, figures: dict[str, Any]) -> None:
    wait = figures["wait_percent"]
    text = (
        f"training with {case}: {figures['clips_per_second']:,.0f} clips/s,"
        f" {wait:.1f} % of the time waiting for the loader"
    )
    if wait > _STALL:
        findings.note(f"{text}: this network trains faster than the loader here")
    else:
        findings.good(text)


def write_config(findings: Findings, device: Device) -> Path:
    """A training of TSN on short videos and photos, small for the stand-in."""
    world = make_world(findings, device)
    road = Road(device, is_dali=True)
    is_small = device.number is None or findings.context.quick
    names = ("gop8", "photos")
    config = {
        "data_root": str(world.folder),
        "run_dir": str(world.folder / "run"),
        "device": device.torch_device.type,
        "sources": {
            name: {**world.kinds[name], "root": ".", "list": f"{name}.txt", "decode": road.decode}
            for name in names
        },
        "clip": {"num_clips": 2 if is_small else 8, "size": 32 if is_small else 224},
        "model": {"name": "tsn", "depth": 18 if is_small else 50},
        "train": {
            "batch": 4 if is_small else 32,
            "steps": 4 if is_small else 40,
            "log_every": 2 if is_small else 20,
            "precision": "bf16",
        },
        "loader": {"cpu_share": 0.0},
    }
    path = world.folder / "training.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path
