"""Short trainings in this process, disks that fill, and damaged checkpoints."""

import contextlib
import io
import resource
import subprocess

import torch

from conftest import SMALL
from omnidali.cli.error_report import run_reporting_errors
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.training.hooks import Hooks
from omnidali.training.train import train

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
    """Write a config into ``folder``; returns the arguments of a run there."""
    (folder / "c.yaml").write_text(CONFIG)
    return [
        "--config",
        str(folder / "c.yaml"),
        f"data_root={media_root}",
        f"run_dir={folder / 'run'}",
    ]


def run(*arguments, **hooks):
    """Run a training with hooks in this process; returns its exit code, stdout and stderr."""
    out = io.StringIO()
    err = io.StringIO()

    def work():
        config = load_config(arguments[1], [text for text in arguments[2:] if "=" in text])
        resume = "auto" if "auto" in arguments else "none"
        train(config, Ranks(), resume, hooks=Hooks(**hooks))

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_reporting_errors(work)
    return code, out.getvalue(), err.getvalue()


def weights(folder):
    """The network's state dict in a run folder's last.pt."""
    return load_checkpoint(folder / "checkpoints" / "last.pt")["state_dict"]


def step_of(folder, name="last.pt"):
    """The steps done in a run folder's checkpoint."""
    return load_checkpoint(folder / "checkpoints" / name)["loader"]["step"]


def assert_same(one, other):
    """Assert that two state dicts have the same names and bits."""
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@contextlib.contextmanager
def small_disk(folder):
    """Yield a function that makes the disk under ``folder`` full, or free again."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder]
    if subprocess.run(command, capture_output=True).returncode:
        with no_file_may_grow() as fill:  # as good as full, where nobody may mount
            yield fill
        return

    def fill(full):
        if not full:
            (folder / "filler").unlink()
            return
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def no_file_may_grow():
    """Yield a function that keeps this process from writing files, or lets it again."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda full: resource.setrlimit(resource.RLIMIT_FSIZE, (0, old[1]) if full else old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def failing(error):
    """A function that raises ``error``."""

    def fail(*_, **__):
        raise error

    return fail


def damage_checkpoint(path, how):
    """Flip bits of a tensor, which torch.load does not notice; or cut or empty the file."""
    data = bytearray(path.read_bytes())
    if how == "flipped":
        for place in range(len(data) // 2, len(data) // 2 + 400, 40):
            data[place] ^= 1  # one place alone may be padding
    path.write_bytes({"flipped": data, "truncated": data[:-100], "empty": b""}[how])
