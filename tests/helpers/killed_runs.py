"""Trainings that are killed at chosen moments, and the comparison of what they consumed."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from conftest import free_port
from helpers.program_runs import CONFIG, JOINT
from helpers.warm_process import rank_environment, state_of

RECORDER = Path(__file__).with_name("recorder.py")
SHORT = ["train.log_every=3", "train.keep_every=null", "loader.threads=2"]

# settings of a run, and its length in steps
SETTINGS = {
    # nine steps an epoch, so that kills fall into one epoch
    "summed": [
        "train.batch=3",
        "sources.clips.weight=1",
        "sources.photos.weight=2",
        "train.checkpoint_every=1",
        "train.steps=24",
        "evaluation.every_steps=10",
        "loader.prefetch=4",
        "train.ema=0.9",
        "train.keep_best=1",
        "train.patience=9",
        "optimizer.name=adamw",
        "train.augment.randaugment.count=1",
    ],
    "alternating": [
        *JOINT["alternating"],
        "train.checkpoint_every=2",
        "train.steps=16",
        "evaluation.every_epochs=100",
    ],
    "mixup": [
        *JOINT["mixup"],
        "train.checkpoint_every=3",
        "train.steps=18",
        "evaluation.every_epochs=100",
    ],
    # with files that pass the probe and do not decode
    "broken": [
        "train.batch=8",
        "train.checkpoint_every=3",
        "train.steps=18",
        "evaluation.every_epochs=100",
        "loader.max_bad_ratio=1",
        "train.mixup=cross",
    ],
    "warp": [
        *JOINT["warp"],
        "optimizer.accumulate=1",
        "train.checkpoint_every=2",
        "train.steps=12",
        "evaluation.every_epochs=100",
    ],
}


class KilledRuns:
    """Starts trainings on as many ranks as asked for, and kills them.

    Attributes:
        figures: counts of kills, resumes, compared steps and the like.
    """

    def __init__(self, media_root, folder):
        self.roots = {"broken": damage_after_headers(media_root, folder / "media")}
        self.figures = Counter()
        self.random = random.Random(os.environ.get("OMNIDALI_SEED"))
        self._folder = folder
        self._media_root = media_root
        self._whole = {}  # folder and steps by settings and ranks
        self._ports = contextlib.ExitStack()
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMNIDALI_SMALL_NETWORK": "1"}
        self._server = subprocess.Popen(
            [sys.executable, RECORDER, "serve"],
            text=True,
            bufsize=1,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def close(self):
        self._server.stdin.close()
        self._server.wait(300)
        self._ports.close()

    def _ask(self, **task):
        self._server.stdin.write(json.dumps(task) + "\n")
        return int(self._server.stdout.readline())

    def train(self, folder, name, life, ranks=1, kill=None, torchrun=False):
        """Run one life of a training; returns whether it reached its end.

        Args:
            folder: of the run, and of the records of its lives.
            name: of its settings.
            life: number.
            ranks: how many.
            kill: a function (record, checkpoints, family) that returns when to kill the run.
            torchrun: whether that starts the ranks.
        """
        record = folder / f"life{life}"
        log = folder / f"life{life}.log"
        checkpoints = folder / "run" / "checkpoints"
        log.touch()
        (folder / "c.yaml").write_text(CONFIG)
        arguments = [
            *("--config", f"{folder}/c.yaml", "--resume", "auto"),
            f"data_root={self.roots.get(name, self._media_root)}",
            f"run_dir={folder}/run",
            *SETTINGS[name],
            *SHORT,
        ]
        start = self._start_torchrun if torchrun else self._start_ranks
        family, wait = start(record, log, arguments, ranks)

        if kill is not None:
            kill(record, checkpoints, family)
            members = family()
            # stopped first, or those that are left would learn of the first one's end
            signal_all(members, signal.SIGSTOP)
            signal_all(members, signal.SIGKILL)
        codes = wait()
        output = log.read_text()
        assert kill is not None or codes == {0}, output[-3000:]
        assert codes <= {0, -signal.SIGKILL}, output[-3000:]

        is_killed = -signal.SIGKILL in codes
        resumes = [line for line in output.splitlines() if line.startswith("resumed from ")]
        in_save = any(checkpoints.glob("*.part")) and is_killed
        self.figures.update(kills=is_killed, resumes=len(resumes), kills_in_saves=in_save)
        return not is_killed

    def whole(self, name, ranks=1):
        """The folder of a run that nobody interrupted, and what it consumed by step."""
        if (name, ranks) not in self._whole:
            folder = self._folder / f"whole-{name}-{ranks}"
            folder.mkdir()
            assert self.train(folder, name, 0, ranks)
            life = read_life(folder / "life0")
            steps = {
                step: {slot: item for rank in life for slot, item in rank[step].items()}
                for step in life[0]
            }
            assert f"train.steps={len(steps)}" in SETTINGS[name]
            self._whole[name, ranks] = folder, steps
        return self._whole[name, ranks]

    def check(self, folder, name, lives):
        """Run ``lives`` [(ranks, kill)] and one more to the end; compare with the whole run."""
        consumed = []
        last_ranks = lives[-1][0]
        for number, (ranks, kill, *torchrun) in enumerate([*lives, (last_ranks, None)]):
            has_ended = self.train(folder, name, number, ranks, kill, *torchrun)
            consumed.append(read_life(folder / f"life{number}"))
            if has_ended:
                break

        is_constant = len({ranks for ranks, *_ in lives}) == 1
        whole, steps = self.whole(name, last_ranks if is_constant else 1)
        compare_steps(steps, consumed, self.figures)
        self.figures.update(runs=1)
        if is_constant:  # only then are the weights the same
            self.figures.update(checkpoints_equal=compare_checkpoints(whole, folder))

    def _start_torchrun(self, record, log, arguments, ranks):
        """Start the ranks; returns a function that lists their ids, and one that waits."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(ranks), RECORDER, str(record), *arguments]
        with open(log, "a") as output:
            parent = subprocess.Popen(command, stdout=output, stderr=output, env=self._environment)
        return lambda: [parent.pid, *descendants(parent.pid)], lambda: {parent.wait(600)}

    def _start_ranks(self, record, log, arguments, ranks):
        """As :meth:`_start_torchrun`, without torchrun."""
        port = self._ports.enter_context(free_port())
        started = [
            self._ask(
                folder=str(record),
                arguments=arguments,
                log=str(log),
                environment=rank_environment(rank, ranks, port),
            )
            for rank in range(ranks)
        ]
        return lambda: started, lambda: {self._ask(wait=pid) for pid in started}


def damage_after_headers(media_root, root):
    """Copy the media, with images that are cut off and videos that lack some frames."""
    shutil.copytree(media_root, root)
    for n in (2, 5, 6, 11):
        path = root / "photos" / f"{n}.jpg"
        path.write_bytes(path.read_bytes()[:-200])
    for n in (0, 2, 5):
        path = root / "clips" / f"class {n % 4}" / f"video {n}.mp4"
        data = bytearray(path.read_bytes())
        begin = data.index(b"mdat") + 4
        end = data.index(b"moov")
        middle = (begin + (end if end > begin else len(data))) // 2
        data[middle : middle + 6000] = bytes(6000)
        path.write_bytes(data)
    return root


def descendants(parent):
    """The ids of all processes below this one."""
    found = []
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            found += [int(child), *descendants(child)]
    return found


def signal_all(family, number):
    """Send a signal to those processes that are left."""
    for process in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def any_alive(family):
    """Whether any of these processes still runs."""
    return any(state_of(process) not in "ZX" for process in family())


def consumed_steps(record):
    """The number of steps that the first rank was given."""
    path = record / "rank0.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def after_steps(count, then_seconds=0.0):
    """Kill when so many steps were consumed, and a moment later."""

    def wait(record, checkpoints, family):
        while any_alive(family) and consumed_steps(record) < count:
            time.sleep(0.001)
        time.sleep(then_seconds)

    return wait


def within_a_save(after, name="*.part"):
    """Kill while a checkpoint is being written."""

    def wait(record, checkpoints, family):
        while any_alive(family) and consumed_steps(record) < after:
            time.sleep(0.001)
        while any_alive(family):
            if any(checkpoints.glob(name)):
                members = family()
                signal_all(members, signal.SIGSTOP)
                if any(checkpoints.glob(name)):
                    return
                signal_all(members, signal.SIGCONT)  # the save was over before the signal came

    return wait


def after_seconds(seconds):
    """Kill at any moment, also before training begins."""
    return lambda record, checkpoints, family: time.sleep(seconds)


def read_life(record):
    """What each rank consumed, {step: {slot: item}}; a line that was cut off does not count."""
    ranks = []
    for path in sorted(record.glob("rank*.jsonl")):
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        steps = [row["step"] for row in rows]
        assert steps == list(range(steps[0], steps[0] + len(steps))) if steps else True
        ranks.append({row["step"]: {item[0]: item[1:] for item in row["items"]} for row in rows})
    return ranks


def compare_steps(whole, lives, figures):
    """Assert that every life's steps equal the whole run's, and the last time are complete."""
    last = {}
    for life in lives:
        for step in sorted({step for rank in life for step in rank}):
            parts = [rank[step] for rank in life if step in rank]
            together = {slot: item for part in parts for slot, item in part.items()}
            assert len(together) == sum(map(len, parts)), f"step {step}: a slot on two ranks"
            differing = {slot for slot, item in together.items() if whole[step].get(slot) != item}
            figures.update(
                steps_compared=1, steps_consumed_again=step in last, steps_differing=bool(differing)
            )
            pairs = [(whole[step].get(slot), together[slot]) for slot in differing]
            assert not differing, f"step {step}: {pairs[:2]}"
            last[step] = together.keys()
    assert {step: set(slots) for step, slots in last.items()} == {
        step: set(slots) for step, slots in whole.items()
    }


def compare_checkpoints(whole, folder):
    """Assert that all checkpoints of two runs are equal; returns how many."""
    saved = sorted(path.name for path in (whole / "run" / "checkpoints").glob("*.pt"))
    assert saved == sorted(path.name for path in (folder / "run" / "checkpoints").glob("*.pt"))
    for file in saved:
        one, other = (
            torch.load(run / "run" / "checkpoints" / file, weights_only=True)
            for run in (whole, folder)
        )
        # the config names the run folder, and the digest includes it
        for state in (one, other):
            del state["config"]
            del state["digest"]
        assert not differing_values(one, other), file
    return len(saved)


def differing_values(one, other, where="checkpoint"):
    """The places at which two checkpoints differ by a bit."""
    if isinstance(one, dict) and one.keys() == other.keys():
        return [
            found
            for key in one
            for found in differing_values(one[key], other[key], f"{where}.{key}")
        ]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        return [
            found
            for i in range(len(one))
            for found in differing_values(one[i], other[i], f"{where}.{i}")
        ]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [where]
