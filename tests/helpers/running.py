"""Short runs of train.py in this process, and disks that fill, for several test files."""

import contextlib
import io
import resource
import subprocess

import torch

import train
from conftest import SMALL
from omnidali.cli.error_report import run_reporting_errors
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.models.checkpoint_file import load_checkpoint

CONFIG = (
    SMALL
    + """
optimizer: {lr: 0.01, accumulate: 2}
train: {batch: 6, steps: 24, log_every: 2, checkpoint_every: 8}
"""
)
HELD_OUT = (
    "evaluation={source: {kind: video, root: shorts, list: shorts.txt}, every_steps: 4, batch: 1}"
)


def options_of(media_root, folder):
    (folder / "c.yaml").write_text(CONFIG)
    return [
        "--config",
        str(folder / "c.yaml"),
        f"data_root={media_root}",
        f"run_dir={folder / 'run'}",
    ]


def run(*arguments, wrap=lambda loader: loader):
    """A run in this process: exit code, what it printed, what it complained of."""
    out, err = io.StringIO(), io.StringIO()

    def story():
        config = load_config(arguments[1], [text for text in arguments[2:] if "=" in text])
        train.train(config, Ranks(), "auto" if "auto" in arguments else "none", wrap_loader=wrap)

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_reporting_errors(story)
    return code, out.getvalue(), err.getvalue()


def weights(folder):
    return load_checkpoint(folder / "checkpoints" / "last.pt")["state_dict"]


def step_of(folder, name="last.pt"):
    return load_checkpoint(folder / "checkpoints" / name)["loader"]["step"]


def assert_same(one, other):
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextlib.contextmanager
def small_disk(folder):
    """Gives a function that makes the disk under ``folder`` full, or free again."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder], capture_output=True
    ).returncode:
        with no_file_may_grow() as fill:  # as good as full, where nobody may mount
            yield fill
        return

    def fill(full):
        if not full:
            return (folder / "filler").unlink()
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def no_file_may_grow():
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda full: resource.setrlimit(resource.RLIMIT_FSIZE, (0, old[1]) if full else old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
