"""Killed and resumed, on any number of ranks, a run consumes what the uninterrupted one does.

OMNIDALI_KILLS=1000 goes on until so many runs were killed; OMNIDALI_RECORDS=FOLDER keeps the
figures.
"""

import contextlib
import dataclasses
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

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import train
from conftest import SOURCES, free_port
from helpers.program_runs import CONFIG, JOINT, run
from helpers.recorder import consumed, pixels, small_model
from omnidali.config.load import load_config
from omnidali.config.schema import ClipConfig, ResampleConfig, ViewsConfig
from omnidali.distributed.ranks import Ranks
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.plan import EvaluationPlan, TrainPlan
from omnidali.testing.numbered_media import write_photo
from omnidali.utils.run_record import write_record

RECORDER = Path(__file__).parent / "helpers" / "recorder.py"

# settings of a run, and its length in steps
SHORT = ["train.log_every=3", "train.keep_every=null", "loader.threads=2"]
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


# sources of one kind of plan each; slots divide by 8 ranks, and by 8 pairs
PLANS = {
    "weights": ({}, {}),
    "batches": ({"clips": {"batch": 8, "weight": 1}, "photos": {"batch": 8, "weight": 1}}, {}),
    "alternating": (
        {"clips": {"batch": 16, "weight": 1}, "photos": {"batch": 8, "weight": 1}},
        {"ratio": (2, 1), "mixup": "intra", "classes": 4},
    ),
    "mixup": (
        {"photos": {"inflate": "translate_random", "resample": ResampleConfig(power=0.5)}},
        {"mixup": "cross", "classes": 4},
    ),
}


WORLDS = st.sampled_from([1, 2, 4, 8])


def plan_of(name, tables):
    changes, options = PLANS[name]
    sources = [
        dataclasses.replace(SOURCES[source], **changes.get(source, {}))
        for source in ("clips", "photos")
    ]
    return TrainPlan(
        tables[:2], sources, ClipConfig(num_clips=2, size=24), 16, 7, **options
    ), sources


class Loaders(RuleBasedStateMachine):
    """All ranks of a job, under everything that one may do to them, against the plan and one rank
    alone.

    Every batch must be what the plan says, and every clip have the pixels that it has wherever else
    it is made.
    """

    # made: checksums of the clips by plan and slot, from whoever decoded them first
    tables, made = None, {}

    @initialize(name=st.sampled_from(sorted(PLANS)), step=st.integers(0, 400), world=WORLDS)
    def start(self, name, step, world):
        self.name, self.step, self.loaders = name, step, []
        self.plan, self.sources = plan_of(name, self.tables)
        self.saved = [{"step": step, "plan": self.plan.fingerprint()}]
        self.reopen(world, 2, 2)
        self.load(0)
        self.take(1)

    @rule(world=WORLDS, prefetch=st.integers(1, 6), threads=st.integers(1, 5))
    def reopen(self, world, prefetch, threads):
        """Another process, on any number of ranks; it goes on where the last one was."""
        state = self.loaders[0].state_dict() if self.loaders else None
        self.teardown()
        self.loaders = [
            FusionIterator(
                self.plan, self.sources, rank=rank, world=world, prefetch=prefetch, threads=threads
            )
            for rank in range(world)
        ]
        for loader in self.loaders if state else ():
            loader.load_state_dict(state)

    @rule(count=st.integers(1, 4))
    def take(self, count):
        """All ranks take their batches."""
        for _ in range(count):
            self.take_one()

    def take_one(self):
        batches = [next(loader) for loader in self.loaders]
        rows, shown = [consumed(batch.samples, self.tables) for batch in batches], {}
        for batch in batches:
            assert batch.step == self.step
            for slot, checksum in pixels(batch).items():
                shown[slot] = checksum
                assert self.made.setdefault((self.name, slot), checksum) == checksum
        together = {slot: row for part in rows for slot, row in part.items()}
        assert len(together) == sum(map(len, rows)) and shown.keys() == together.keys()
        assert together == consumed(self.plan(self.step), self.tables)
        assert len(set(map(len, rows))) == 1, "ranks with more slots than others"
        self.step += 1

    @rule()
    def take_alone(self):
        """The first rank is ahead of the others, and is set back: what was taken before a crash
        does not count.
        """
        state = self.loaders[0].state_dict()
        assert next(self.loaders[0]).step == self.step
        self.loaders[0].load_state_dict(state)

    @rule()
    def save(self):
        self.saved.append(self.loaders[-1].state_dict())

    @rule(number=st.integers(0, 5))
    def load(self, number):
        state = self.saved[number % len(self.saved)]
        for loader in self.loaders:
            assert loader.load_state_dict(state) == []
            assert loader.next_step == state["step"]
        self.step = state["step"]

    @rule()
    def close(self):
        """Closed loaders stay closed, and end nothing but themselves."""
        state = self.loaders[0].state_dict()
        self.loaders[0].close()
        self.loaders[0].close()
        with pytest.raises(RuntimeError, match="was closed"):
            next(self.loaders[0])
        with pytest.raises(RuntimeError, match="was closed"):
            self.loaders[0].load_state_dict(state)
        assert self.loaders[0].state_dict() == state
        self.reopen(len(self.loaders), 1, 1)

    def teardown(self):
        """What hypothesis ends every example with."""
        for loader in getattr(self, "loaders", ()):
            loader.close()


def test_loaders_follow_the_plan_whatever_is_done_to_them(tables):
    Loaders.tables, Loaders.made = tables, {}
    # a failure is told as it came: to look for the shortest one takes minutes
    run_state_machine_as_test(
        Loaders,
        settings=settings(
            max_examples=20,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate],
        ),
    )


@settings(max_examples=60, deadline=None)
@given(
    world=st.sampled_from([1, 2, 3, 4, 8]),
    batch=st.integers(1, 9),
    source=st.integers(0, 2),
    crops=st.sampled_from(["center", "three", "ten"]),
)
def test_evaluations_hold_every_item_once(tables, world, batch, source, crops):
    """On any number of ranks, with the views that it has on one; every rank runs as many steps."""
    plan = EvaluationPlan(
        tables[source], ClipConfig(), ViewsConfig(num_clips=2, crops=crops), batch
    )
    parts = [
        part.take(part.valid)
        for step in range(plan.steps(world))
        for rank in range(world)
        for part in plan(step, rank, world)
    ]
    rows = [row for part in parts for row in part.rows.tolist()]
    assert sorted(rows) == list(range(len(tables[source])))
    alone = EvaluationPlan(
        tables[source], ClipConfig(), ViewsConfig(num_clips=2, crops=crops), len(rows)
    )(0)
    strip = lambda found: {slot: row[2:] for slot, row in found.items()}  # noqa: E731
    whole = strip(consumed(alone, tables[source:]))
    assert {
        slot: row
        for part in parts
        for slot, row in strip(consumed([part], tables[source:])).items()
    } == whole


@pytest.mark.parametrize("world", [1, 3])
def test_evaluations_load_every_item_once(tables, world):
    plan, slots = (
        EvaluationPlan(
            tables[1], ClipConfig(num_clips=2), ViewsConfig(num_clips=2, size=24, short_side=32), 2
        ),
        [],
    )
    for rank in range(world):
        with FusionIterator(
            plan, [SOURCES["photos"]], rank=rank, world=world, threads=2
        ) as batches:
            slots += [
                slot
                for batch in batches
                for group in batch.groups
                for slot in group.slot[group.valid].tolist()
            ]
    assert sorted(slots) == list(range(len(tables[1])))


class Runner:
    """Starts trainings, as many ranks as asked for, and kills them."""

    def __init__(self, media_root, broken_root):
        self.roots = {"broken": break_behind_headers(media_root, broken_root)}
        self.media_root, self.figures, self.random = (
            media_root,
            Counter(),
            random.Random(os.environ.get("OMNIDALI_SEED")),
        )
        self.ports = contextlib.ExitStack()
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMNIDALI_SMALL_NETWORK": "1"}
        self.server = subprocess.Popen(
            [sys.executable, RECORDER, "serve"],
            text=True,
            bufsize=1,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, **job):
        self.server.stdin.write(json.dumps(job) + "\n")
        return int(self.server.stdout.readline())

    def train(self, folder, name, life, ranks=1, kill=None, torchrun=False):
        """One life of a run; ``kill(record, checkpoints)`` says when it ends. Returns whether it
        reached its end.
        """
        record, log = folder / f"life{life}", folder / f"life{life}.log"
        (folder / "c.yaml").write_text(CONFIG)
        log.touch()
        arguments = [
            "--config",
            f"{folder}/c.yaml",
            f"data_root={self.roots.get(name, self.media_root)}",
            f"run_dir={folder}/run",
            "--resume",
            "auto",
            *SETTINGS[name],
            *SHORT,
        ]
        if torchrun:
            with open(log, "a") as output:
                parent = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "torch.distributed.run",
                        "--standalone",
                        "--nproc-per-node",
                        str(ranks),
                        RECORDER,
                        str(record),
                        *arguments,
                    ],
                    stdout=output,
                    stderr=output,
                    env=self.environment,
                )
            wait_for = [lambda: parent.wait(600)]
            family = lambda: [parent.pid, *children(parent.pid)]  # noqa: E731
        else:
            port = self.ports.enter_context(free_port())
            started = [
                self.ask(
                    folder=str(record),
                    arguments=arguments,
                    log=str(log),
                    environment={
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                        "WORLD_SIZE": str(ranks),
                        "LOCAL_WORLD_SIZE": str(ranks),
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(port),
                    },
                )
                for rank in range(ranks)
            ]
            wait_for = [lambda pid=pid: self.ask(wait=pid) for pid in started]
            family = lambda: started  # noqa: E731
        if kill is not None:
            kill(record, folder / "run" / "checkpoints", family)
            members = family()
            # or those that are left would hear of the first one's end
            send(members, signal.SIGSTOP)
            send(members, signal.SIGKILL)
        codes = [wait() for wait in wait_for]
        assert kill is not None or set(codes) == {0}, log.read_text()[-3000:]
        assert set(codes) <= {0, -signal.SIGKILL}, log.read_text()[-3000:]
        killed = -signal.SIGKILL in codes
        resumed = [
            line for line in log.read_text().splitlines() if line.startswith("resumed from ")
        ]
        in_save = any((folder / "run" / "checkpoints").glob("*.part")) and killed
        self.figures.update(kills=killed, resumes=len(resumed), kills_in_saves=in_save)
        return not killed


def break_behind_headers(media_root, root):
    """A copy of the media: photos cut off in the middle, and videos of which some clips are gone
    and others are not.
    """
    shutil.copytree(media_root, root)
    for n in (2, 5, 6, 11):
        path = root / "photos" / f"{n}.jpg"
        path.write_bytes(path.read_bytes()[:-200])
    for n in (0, 2, 5):
        path = root / "clips" / f"class {n % 4}" / f"video {n}.mp4"
        data = bytearray(path.read_bytes())
        middle = data.index(b"mdat") + 4
        middle += (
            data.index(b"moov") - middle if data.index(b"moov") > middle else len(data) - middle
        ) // 2
        data[middle : middle + 6000] = bytes(6000)
        path.write_bytes(data)
    return root


def children(parent):
    """Every process below this one."""
    found = []
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            found += [int(child), *children(child)]
    return found


def send(family, number):
    """A signal to those of them that are left."""
    for process in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def alive(family):
    """Whether any of these processes still runs."""
    for process in family():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                return True
    return False


def lines_of(record):
    """How many steps the first rank was given."""
    path = record / "rank0.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def after_steps(count, then_seconds=0.0):
    """A kill when so many steps were consumed, and a moment later."""

    def wait(record, checkpoints, family):
        while alive(family) and lines_of(record) < count:
            time.sleep(0.001)
        time.sleep(then_seconds)

    return wait


def in_a_save(after, name="*.part"):
    """A kill while a checkpoint is being written."""

    def wait(record, checkpoints, family):
        while alive(family) and lines_of(record) < after:
            time.sleep(0.001)
        while alive(family):
            if any(checkpoints.glob(name)):
                members = family()
                send(members, signal.SIGSTOP)
                if any(checkpoints.glob(name)):
                    return
                send(members, signal.SIGCONT)  # the save was over before the signal came

    return wait


def after_seconds(seconds):
    """A kill at any moment, also before training begins."""
    return lambda record, checkpoints, family: time.sleep(seconds)


def read_life(record):
    """[{step: {slot: item}}], one a rank; a line that the kill cut off was not consumed."""
    ranks = []
    for path in sorted(record.glob("rank*.jsonl")):
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        steps = [row["step"] for row in rows]
        assert steps == list(range(steps[0], steps[0] + len(steps))) if steps else True
        ranks.append({row["step"]: {item[0]: item[1:] for item in row["items"]} for row in rows})
    return ranks


def compare(whole, lives, figures):
    """Every step of every life equals the whole run's, and the last time that a step was consumed
    it was complete.
    """
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
            assert not differing, (
                f"step {step}: {[(whole[step].get(slot), together[slot]) for slot in differing][:2]}"
            )
            last[step] = together.keys()
    assert {step: set(slots) for step, slots in last.items()} == {
        step: set(slots) for step, slots in whole.items()
    }


def differing_values(one, other, where="checkpoint"):
    """Every place at which two checkpoints differ by a bit."""
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


@pytest.fixture(scope="module")
def runner(media_root, request, tmp_path_factory):
    runner = Runner(media_root, tmp_path_factory.mktemp("broken") / "media")
    yield runner
    runner.server.stdin.close()
    runner.server.wait(300)
    runner.ports.close()
    if runner.figures["kills"]:
        figures = {
            name: runner.figures[name]
            for name in (
                "kills",
                "kills_in_saves",
                "resumes",
                "steps_compared",
                "steps_consumed_again",
                "steps_differing",
                "runs",
                "checkpoints_equal",
            )
        }
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\nexactness: {figures}")
        if os.environ.get("OMNIDALI_RECORDS"):
            write_record(os.environ["OMNIDALI_RECORDS"], {"reliability": figures})


@pytest.fixture(scope="module")
def whole_runs(runner, tmp_path_factory):
    """By settings and ranks: folder and consumed list of the run that nobody interrupted."""
    made = {}

    def whole(name, ranks=1):
        if (name, ranks) not in made:
            folder = tmp_path_factory.mktemp(f"whole-{name}-{ranks}")
            assert runner.train(folder, name, 0, ranks)
            life = read_life(folder / "life0")
            steps = {
                step: {slot: item for rank in life for slot, item in rank[step].items()}
                for step in life[0]
            }
            assert f"train.steps={len(steps)}" in SETTINGS[name]
            made[name, ranks] = folder, steps
        return made[name, ranks]

    return whole


def check(runner, whole_runs, folder, name, lives):
    """Live through ``lives`` [(ranks, kill)] and one more to the end, and compare with the
    uninterrupted run.
    """
    ended, every = False, []
    for number, (ranks, kill, *torchrun) in enumerate([*lives, (lives[-1][0], None)]):
        ended = runner.train(folder, name, number, ranks, kill, *torchrun)
        every.append(read_life(folder / f"life{number}"))
        if ended:
            break
    constant = {ranks for ranks, *_ in lives}
    whole, steps = whole_runs(name, lives[-1][0] if len(constant) == 1 else 1)
    compare(steps, every, runner.figures)
    runner.figures.update(runs=1)
    if len(constant) == 1:
        saved = sorted(path.name for path in (whole / "run" / "checkpoints").glob("*.pt"))
        assert saved == sorted(path.name for path in (folder / "run" / "checkpoints").glob("*.pt"))
        for file in saved:
            one, other = (
                torch.load(run / "run" / "checkpoints" / file, weights_only=True)
                for run in (whole, folder)
            )
            # the config names the run folder, and the digest is of that, too
            for state in (one, other):
                del state["config"], state["digest"]
            assert not differing_values(one, other), file
            runner.figures.update(checkpoints_equal=1)


def test_kills_in_one_epoch_and_in_saves(runner, whole_runs, tmp_path):
    """With accumulation, averaged weights, evaluations and prefetched batches; before the first
    save, too.
    """
    check(
        runner,
        whole_runs,
        tmp_path,
        "summed",
        [
            (1, after_seconds(0.3)),
            (1, after_steps(3)),
            (1, after_steps(3, 0.02)),
            (1, in_a_save(2)),
            (1, in_a_save(0, "best*.part")),
            (1, after_steps(7)),
            (1, in_a_save(1)),
        ],
    )
    assert runner.figures["kills_in_saves"] and runner.figures["resumes"] >= 2


def test_kills_of_alternating_steps(runner, whole_runs, tmp_path):
    check(
        runner,
        whole_runs,
        tmp_path,
        "alternating",
        [(1, after_steps(5)), (1, after_steps(3)), (1, in_a_save(2))],
    )


def test_kills_and_other_numbers_of_ranks(runner, whole_runs, tmp_path):
    """The second life is torchrun's, with blends of two sources."""
    check(
        runner,
        whole_runs,
        tmp_path,
        "mixup",
        [
            (1, after_steps(5)),
            (2, after_steps(5), True),
            (4, after_steps(4, 0.03)),
            (1, in_a_save(1)),
        ],
    )


def test_kills_and_broken_files(runner, whole_runs, tmp_path):
    """Substitutes are the same in every life, on any number of ranks, with a quarantine from before
    or without.
    """
    check(
        runner,
        whole_runs,
        tmp_path,
        "broken",
        [(1, after_steps(5)), (4, after_steps(6)), (2, after_steps(4, 0.03))],
    )
    _, steps = whole_runs("broken")
    attempts = [item[6] for slots in steps.values() for item in slots.values()]
    assert sum(map(bool, attempts)) > 5
    states = {}
    for folder in (tmp_path, whole_runs("broken")[0]):
        rows = [
            json.loads(line)
            for line in (folder / "run" / "quarantine.jsonl").read_text().splitlines()
        ]
        states[folder] = {row["path"]: row["state"] for row in rows}
        assert len(rows) == len(states[folder])
    assert states[tmp_path].keys() >= {
        str(runner.roots["broken"] / "photos" / f"{n}.jpg") for n in (2, 5, 6, 11)
    }
    assert "quarantined" in states[tmp_path].values()


class Seeing(FusionIterator):
    """A loader that keeps what it handed over, by slot."""

    def __next__(self):
        batch = super().__next__()
        self.seen.update(consumed(batch.samples, self.plan.tables))
        return batch


@pytest.mark.parametrize("photos", ["sources.photos.list=photos.txt", "sources.photos.list=null"])
def test_files_that_go_bad_between_two_lives(media_root, tmp_path, monkeypatch, photos):
    """A resumed run plans what the whole one would have, and substitutes stand for what is gone,
    changed or broken.
    """
    monkeypatch.setattr(train, "build_model", small_model)
    root, folders, bad = (
        tmp_path / "media",
        photos.endswith("null"),
        {"3.jpg", "5.jpg", "6.jpg", "video 2.mp4"},
    )
    shutil.copytree(media_root, root)
    # class folders, whose times change with their files
    for path in list((root / "photos").iterdir()) if folders else ():
        folder = root / "photos" / f"class {int(path.stem) % 4}"
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    (tmp_path / "c.yaml").write_text(CONFIG)
    (tmp_path / "classes.txt").write_text("".join(f"class {n}\n" for n in range(4)))

    def live(name, *options):
        config = load_config(
            str(tmp_path / "c.yaml"),
            [
                f"data_root={root}",
                f"run_dir={tmp_path / name}",
                f"classes={tmp_path / 'classes.txt'}",
                photos,
                "train.batch=8",
                "loader.threads=1",
                "evaluation.every_epochs=100",
                *options,
            ],
        )
        loaders = []

        def wrap(loader):
            loader.__class__, loader.seen = Seeing, {}
            loaders.append(loader)
            return loader

        train.train(config, Ranks(), "auto", wrap_loader=wrap)
        return loaders[0].seen

    whole = live("whole", "train.steps=12")
    before = live("killed", "train.steps=4")
    found = {path.name: path for path in root.rglob("*") if path.name in bad}
    found["3.jpg"].unlink()
    found["5.jpg"].write_text("<html>not found</html>")
    write_photo(found["6.jpg"], 106, 64, 48)
    found["video 2.mp4"].write_bytes(found["video 2.mp4"].read_bytes()[:100])
    write_photo(found["5.jpg"].with_name("new.jpg"), 1, 110, 90)  # a crawler that goes on
    if folders:
        (root / "photos" / "class 2").rename(root / "class 2")
        bad |= {"2.jpg", "6.jpg", "10.jpg"}
    after = live("killed", "train.steps=12")
    assert before.items() <= whole.items() and before.keys() | after.keys() == whole.keys()
    stood_for = {slot for slot, row in after.items() if row[6]}
    assert {
        slot: row for slot, row in after.items() if slot not in stood_for
    }.items() <= whole.items()
    assert {path for slot in stood_for for path in whole[slot][2]} == bad, (
        "too few steps for all of them"
    )
    assert not any(set(row[2]) & bad for row in after.values())
    rows = [
        json.loads(line)
        for line in (tmp_path / "killed" / "quarantine.jsonl").read_text().splitlines()
    ]
    assert sorted(
        Path(row["path"]).name for row in rows if row["source"] != "evaluation"
    ) == sorted(bad)


def test_four_ranks_go_on_with_the_same_bits(runner, whole_runs, tmp_path):
    check(runner, whole_runs, tmp_path, "warp", [(4, after_steps(5)), (4, after_steps(4))])


def test_a_resume_takes_the_optimizer_from_the_config(media_root, tmp_path, monkeypatch):
    """Momentum and weight decay do not touch the order; so a resume may change them, and must not
    pretend to.
    """
    monkeypatch.setattr(train, "build_model", small_model)
    (tmp_path / "c.yaml").write_text(CONFIG)
    options = [
        "--config",
        tmp_path / "c.yaml",
        f"data_root={media_root}",
        f"run_dir={tmp_path / 'run'}",
    ]
    run("train.py", *options, "train.steps=2")
    run(
        "train.py",
        *options,
        "--resume",
        "auto",
        "train.steps=4",
        "optimizer.weight_decay=0.25",
        "optimizer.momentum=0.5",
    )
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["optimizer"]
    assert (
        state["param_groups"][0]["weight_decay"] == 0.25
        and state["param_groups"][0]["momentum"] == 0.5
    )
    assert all("momentum_buffer" in row for row in state["state"].values())


@pytest.mark.skipif("OMNIDALI_KILLS" not in os.environ, reason="OMNIDALI_KILLS=N kills N runs")
def test_kills_at_random(runner, whole_runs, tmp_path):
    """As many as asked for, at any moment, on any number of ranks."""
    wanted, draw, number = int(os.environ["OMNIDALI_KILLS"]), runner.random, 0
    while runner.figures["kills"] < wanted:
        folder = tmp_path / str(number)
        folder.mkdir()
        name = draw.choice(list(SETTINGS))
        may = [1, 2, 4] if name in ("mixup", "warp", "broken") else [1]
        constant = draw.choice(may)
        changes = draw.random() < 0.5
        check(
            runner,
            whole_runs,
            folder,
            name,
            [
                (
                    draw.choice(may) if changes else constant,
                    draw.choice(
                        [
                            after_seconds(draw.uniform(0, 3)),
                            after_steps(draw.randint(1, 8), draw.uniform(0, 0.1)),
                            in_a_save(draw.randint(0, 3)),
                        ]
                    ),
                )
                for _ in range(draw.randint(1, 6))
            ],
        )
        shutil.rmtree(folder)
        number += 1
