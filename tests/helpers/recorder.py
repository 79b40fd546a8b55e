"""A training with a record of what it consumed: a file a rank, a line a step.

    python tests/helpers/recorder.py FOLDER --config c.yaml --resume auto      (torchrun starts it,
                                                                                too)
    python tests/helpers/recorder.py serve      (starts runs as copies of a process that has
                                                 imported everything)

A line is written before the loop gets its batch. OMNIDALI_SMALL_NETWORK=1 trains a network of three
layers: more kills in the same time.
"""

import functools
import gc
import json
import os
import sys
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from omnidali.cli import main as cli
from omnidali.models.build import build_model
from omnidali.models.recognizers import Head
from omnidali.models.resnet import Block, ConvBN
from omnidali.training import model_setup, train
from omnidali.training.hooks import Hooks


def consumed(samples, tables):
    """Planned samples as plain values, by slot; ``samples`` has one entry a source."""
    found = {}
    for part in samples:
        table = tables[part.source]
        attempts = np.broadcast_to(part.attempts, len(part)).tolist()
        for i in range(len(part)):
            paths = [
                Path(table.media(record).path).name
                for record in table.records[part.pieces[i]].tolist()
            ]
            motion = None if part.motions is None else zlib.crc32(part.motions[i].tobytes())
            blend = None
            if part.partners is not None:
                weight = float(part.own_weights[i])
                blend = [int(part.partners[i]), weight, float(part.partner_frames[i])]
            found[int(part.slots[i])] = [
                table.name,
                int(part.draws[i]),
                paths,
                part.frames[i].tolist(),
                part.boxes[i].tolist(),
                part.flips[i].tolist(),
                attempts[i],
                motion,
                blend,
            ]
    return found


def checksums(batch):
    """The checksum of a batch's clips and labels by slot; of all views where there are several."""
    found = {}
    for group in batch.groups:
        slots = group.slot.tolist()
        for clip, label, slot in zip(group.clips, group.labels, slots, strict=True):
            data = clip.contiguous().numpy().tobytes() + label.numpy().tobytes()
            found[slot] = zlib.crc32(data, found.get(slot, 0))
    return found


def recording(folder):
    """A hook ``wrap_loader``: write down every batch, before the loop gets it."""

    def wrap(loader):
        path = Path(folder) / f"rank{loader.rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = os.open(path, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY)
        for batch in loader:
            sums = checksums(batch)
            rows = consumed(batch.samples, loader.plan.tables)
            assert sums.keys() == rows.keys(), "a batch's samples are not what it holds"
            line = {
                "step": batch.step,
                "items": [[slot, *rows[slot], sums[slot]] for slot in sorted(rows)],
            }
            # one call, and no buffer that a kill could empty
            os.write(record, (json.dumps(line) + "\n").encode())
            yield batch

    return wrap


def small_model(config, classes, clip_len, **_):
    """The config's recognizer with a small backbone, which still has norms, dropout and time."""
    model = build_model(config, classes, clip_len)
    dims = 2 if config.name == "tsn" else 3
    pool = nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d((1, 2, 2))
    model.backbone = nn.Sequential(
        OrderedDict(
            conv1=ConvBN(3, 8, 3, 2, dims=dims),
            pool=pool,
            layer1=nn.Sequential(Block(8, 16, 2, bottleneck=False, dims=dims, time=2 * dims - 3)),
        )
    )
    model.cls_head = Head(16, classes, config.dropout)
    return model


def main(folder, arguments):
    """Train, and record into ``folder``, which no run used before."""
    if os.environ.get("OMNIDALI_SMALL_NETWORK"):
        model_setup.build_model = small_model
    train.train = functools.partial(train.train, hooks=Hooks(wrap_loader=recording(folder)))
    return cli.main(arguments, verb="train")


def serve():
    """Start a run for each line {"folder", "arguments", "environment", "log"} of stdin.

    A line {"wait": pid} waits for the end of one. A copy of this process starts at once, where
    importing torch takes seconds. A rank has a core of its own, and so one thread, as the sums of
    several threads may differ in their last bits.
    """
    import torch._dynamo  # noqa: F401  what the first optimizer imports

    gc.freeze()
    cores = sorted(os.sched_getaffinity(0))
    for line in sys.stdin:
        task = json.loads(line)
        if "wait" in task:
            print(os.waitstatus_to_exitcode(os.waitpid(task["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue

        os.setsid()
        os.sched_setaffinity(0, {cores[int(task["environment"]["RANK"]) % len(cores)]})
        os.environ.update(task["environment"])
        log = os.open(task["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            code = main(task["folder"], task["arguments"])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    sys.exit(serve() if sys.argv[1] == "serve" else main(sys.argv[1], sys.argv[2:]))
