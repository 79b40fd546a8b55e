"""Runs of `train` and `evaluate`, in this process or on several ranks."""

import contextlib
import functools
import io
import json
import subprocess
import tempfile
from pathlib import Path

from conftest import SMALL
from helpers.warm_process import WarmProcess
from omnidali.cli import main as cli

CONFIG = (
    SMALL
    + """
optimizer: {lr: 0.01, warmup_epochs: 1, accumulate: 2}
train: {batch: 6, steps: 8, log_every: 2, checkpoint_every: 4, keep_every: 3, ema: 0.9}
evaluation:
  source: {kind: video, root: shorts, list: shorts.txt}
  every_epochs: 2
  batch: 2
  validation: {num_clips: 2, size: 32, short_side: 36}
  test: {num_clips: 3, crops: three, size: 32, short_side: 36}
"""
)


warm = functools.cache(WarmProcess)  # ends with this process, as its input does then


# the first one and every second; evaluations and checkpoints fall on the same ones here
STEPS = [1, 2, 4, 6, 8]


# the practices of joint training: B.6 of the reference, equation 1 of the paper
JOINT = {
    "alternating": [
        "train.step_mode=alternating",
        "train.ratio=[2,1]",
        "train.batch=null",
        "optimizer.accumulate=1",
        "sources.clips={kind: video, root: clips, list: clips.txt, batch: 4, loss_weight: 2}",
        "sources.photos={kind: image, root: photos, list: photos.txt, batch: 6,"
        " resample: {power: 0.2}}",
        "model.norm=target_only",
        "train.mixup=intra",
    ],
    "mixup": [
        "train.mixup=cross",
        "sources.photos.inflate=translate_constant",
        "sources.clips.fraction=0.9",
        "sources.photos.resample={clipped: 2}",
        "train.mixup_alpha=0.4",
        "train.batch=8",
    ],
    "warp": [
        "model={name: slowonly, depth: 18}",
        "clip={clip_len: 2, frame_interval: 4, num_clips: 1, size: 32}",
        "sources.photos.inflate=warp",
        "model.norm=target_only",
        "train.batch=8",
    ],
}


def run(program, *arguments, ranks=1, check=True):
    """Run a command: one rank in this process, several as copies of a warm one."""
    arguments = [str(argument) for argument in arguments]
    if ranks == 1:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(arguments, verb=program)
        done = subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
    else:
        with tempfile.TemporaryDirectory() as folder:
            processes = warm().start_ranks(
                Path(folder), "program", program, *arguments, world=ranks
            )
            codes = [process.wait(240) for process in processes]
            # the main rank's comes last
            output = "".join(process.output for process in reversed(processes))
        done = subprocess.CompletedProcess(arguments, max(map(abs, codes)), output, output)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def read_rows(path):
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_row(done):
    """The JSON object in the last line that a program printed."""
    return json.loads(done.stdout.splitlines()[-1])
