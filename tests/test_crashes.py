"""Crashes on purpose: killed in mid-save, full disks, signals, dead ranks, two runs in one folder."""

import contextlib
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from omnidali.errors import UserError, exit_with_advice
from omnidali.ranks import Ranks
from omnidali.settings import load_config
from omnidali.training.around import closing_behind
from omnidali.training.checkpoint import load_checkpoint, load_newest, save_checkpoint
from omnidali.training.run_lock import RunLock

ROOT = Path(__file__).parent.parent
CONFIG = """
sources:
  clips: {kind: video, root: clips, list: clips.txt, weight: 2}
  photos: {kind: image, root: photos, list: photos.txt, weight: 1}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
optimizer: {lr: 0.01, accumulate: 2}
train: {batch: 6, steps: 24, log_every: 2, checkpoint_every: 8}
"""


@pytest.fixture
def options(media_root, tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    return ["--config", str(tmp_path / "c.yaml"), f"data_root={media_root}", f"run_dir={tmp_path / 'run'}"]


def run(*arguments, wrap=lambda loader: loader):
    """A run in this process: exit code, what it printed, what it complained of."""
    out, err = io.StringIO(), io.StringIO()

    def story():
        config = load_config(arguments[1], [text for text in arguments[2:] if "=" in text])
        train.train(config, Ranks(), "auto" if "auto" in arguments else "none", wrap_loader=wrap)

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = exit_with_advice(story)
    return code, out.getvalue(), err.getvalue()


def start(*command, **environment):
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                                                         **{key: str(value) for key, value in environment.items()}})


def start_ranks_by_hand(*command, world=2):
    """The ranks of a job without torchrun, as srun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(*command, RANK=rank, WORLD_SIZE=world, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=world,
                  MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for rank in range(world)]


def read_until(process, text):
    """Everything that a process prints until ``text`` is in a line."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"ended without {text!r}: {process.stderr.read()[-2000:]}")


def ended(process, seconds=150):
    """Exit code and stderr; what is left of stdout is read so that the pipe does not fill."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def weights(folder):
    return load_checkpoint(folder / "checkpoints" / "last.pt")["state_dict"]


def assert_same(one, other):
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- checkpoints

STAGES = ("save", "fsync", "link", "replace 1", "replace 2", "fsync folder", "nothing")
KILLED = """
import os, signal, sys, torch
from pathlib import Path
from omnidali.training.checkpoint import save_checkpoint
folder = Path(sys.argv[1])
def state(step):
    return {"state_dict": {"w": torch.full((300_000,), float(step))}, "loader": {"step": step}}
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def on_call(name, count):
    real, calls = getattr(os, name), []
    def call(*arguments):
        calls.append(1)
        return die() if len(calls) == count else real(*arguments)
    setattr(os, name, call)
for stage in sys.argv[2:]:
    place = folder / stage
    for step in (1, 2):
        save_checkpoint(place / "last.pt", state(step), place / "previous.pt")
    if os.fork() == 0:
        if stage == "save":
            torch.save = lambda state, file: (file.write(b"half"), file.flush(), die())
        elif stage != "nothing":
            name, _, more = stage.partition(" ")
            on_call(name, 2 if more in ("2", "folder") else 1)
        save_checkpoint(place / "last.pt", state(3), place / "previous.pt")
        os._exit(0)
    os.wait()
"""


def test_a_kill_at_any_moment_of_saving_leaves_a_good_checkpoint(tmp_path):
    code, _, err = ended(start("-c", KILLED, tmp_path, *STAGES))
    assert code == 0, err
    steps = {stage: load_newest(tmp_path / stage)[1]["loader"]["step"] for stage in STAGES}
    assert steps == {**dict.fromkeys(STAGES, 2), "fsync folder": 3, "nothing": 3}
    for stage in STAGES:
        assert load_checkpoint(tmp_path / stage / "previous.pt")["loader"]["step"] in (1, 2)
    assert load_checkpoint(tmp_path / "nothing" / "previous.pt")["loader"]["step"] == 2


def test_without_hard_links_the_old_file_moves(tmp_path, monkeypatch):
    state = {"state_dict": {"w": torch.zeros(3)}, "loader": {"step": 1}}
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    for step in (1, 2):
        state["loader"]["step"] = step
        save_checkpoint(tmp_path / "last.pt", state, tmp_path / "previous.pt")
    (tmp_path / "last.pt").unlink()  # a crash between the two renames
    path, state, told = load_newest(tmp_path)
    assert state["loader"]["step"] == 1 and told == f"last.pt is missing: going on from {path}, behind step 1"


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1  # in the tensor, which torch.load takes as it is
    path.write_bytes({"flipped": data, "truncated": data[:-100], "empty": b""}[how])


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_damaged_checkpoints_are_passed_over(tmp_path, how):
    for name, step in (("last.pt", 30), ("previous.pt", 20), ("step-9.pt", 9), ("step-10.pt", 10)):
        save_checkpoint(tmp_path / "checkpoints" / name, {"state_dict": {"w": torch.zeros(9000)}, "loader": {"step": step}})
    for name, step in (("last.pt", 20), ("previous.pt", 10), ("step-10.pt", 9)):
        damage(tmp_path / "checkpoints" / name, how)
        path, state, told = load_newest(tmp_path / "checkpoints")
        assert state["loader"]["step"] == step
        assert f"{name} is damaged (" in told and told.endswith(f"going on from {path}, behind step {step}")
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(tmp_path / "checkpoints" / name)
    damage(tmp_path / "checkpoints" / "step-9.pt", how)
    with pytest.raises(UserError) as caught:
        load_newest(tmp_path / "checkpoints")
    assert all(f"{name} is damaged" in str(caught.value) for name in ("last.pt", "previous.pt", "step-9.pt", "step-10.pt"))


def test_old_files_without_a_checksum_load_with_a_word(tmp_path, capsys):
    torch.save({"state_dict": {"w": torch.zeros(3)}, "loader": {"step": 1}}, tmp_path / "last.pt")
    assert load_newest(tmp_path)[1]["loader"]["step"] == 1
    assert "last.pt was saved without a checksum" in capsys.readouterr().err


def test_a_run_goes_on_behind_a_damaged_checkpoint(options, tmp_path):
    run(*options, "train.steps=16")
    whole, checkpoints = weights(tmp_path / "run"), tmp_path / "run" / "checkpoints"
    damage(checkpoints / "last.pt", "flipped")
    (checkpoints / "last.pt.part").write_bytes(b"left by a crash")
    code, out, _ = run(*options, "train.steps=16", "auto")
    assert code == 0 and "last.pt is damaged" in out and "previous.pt, behind step 8" in out
    assert_same(whole, weights(tmp_path / "run"))
    assert not list(checkpoints.glob("*.part"))
    assert load_checkpoint(checkpoints / "previous.pt")["loader"]["step"] == 8  # the damaged one never took its place


# --- full disks

class Hooked:
    """A loader that calls ``before`` with the step that comes next."""

    def __init__(self, loader, before):
        self._loader, self._before = loader, before

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def __setattr__(self, name, value):
        setattr(self.__dict__.get("_loader", self), name, value) if name == "end" else super().__setattr__(name, value)

    def __iter__(self):
        return self

    def __next__(self):
        self._before(self._loader.next_step)
        return next(self._loader)


@contextlib.contextmanager
def small_disk(folder):
    """Gives a function that makes the disk under ``folder`` full, or free again."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder], capture_output=True).returncode:
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


def test_a_full_disk_does_not_end_a_run(options, tmp_path):
    with small_disk(tmp_path / "run") as fill:
        def before(step):
            if step in (5, 11):  # the checkpoint of step 8 fails, and its retry at step 10
                fill(step == 5)

        code, out, err = run(*options, "train.steps=14", wrap=lambda loader: Hooked(loader, before))
        assert code == 0, err
        assert err.count("last.pt: expected a place to write a checkpoint, got") == 1
        assert err.count("checkpoints can be written again") == 1
        assert "Free space" in err and "Traceback" not in err
        rows = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert rows == [2, 4, 6, 8, 10, 12, 14]  # what could not be written came later
        checkpoints = tmp_path / "run" / "checkpoints"
        assert load_checkpoint(checkpoints / "previous.pt")["loader"]["step"] == 12  # the retry that worked
        assert load_checkpoint(checkpoints / "last.pt")["loader"]["step"] == 14


def test_only_the_last_save_ends_the_run_and_the_old_one_stays(options, tmp_path):
    run(*options, "train.steps=2")
    with no_file_may_grow() as fill:
        code, _, err = run(*options, "train.steps=6", "auto", wrap=lambda loader: Hooked(
            loader, lambda step: fill(True)))
    assert code == 2 and "error:\n" in err and "last.pt: expected a place to write a checkpoint" in err
    for name in ("metrics.jsonl", "tb"):
        assert err.count(f"run/{name}: expected a file that can be written, got File too large. Free space") == 1
    assert "Traceback" not in err
    checkpoints = tmp_path / "run" / "checkpoints"
    assert load_checkpoint(checkpoints / "last.pt")["loader"]["step"] == 2 and not list(checkpoints.glob("*.part"))


# --- signals

def test_a_signal_saves_and_the_rest_gives_the_same_weights(options, tmp_path):
    process = start("train.py", *options)
    read_until(process, "step 2/24")
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGTERM)  # a scheduler's and torchrun's: one and the same
    code, out, err = ended(process)
    assert code == 0 and "Traceback" not in err
    step = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["loader"]["step"]
    assert f"stopped by SIGTERM behind step {step}; go on with --resume auto" in out and step < 24 and step % 2 == 0
    process = start("train.py", *options, "--resume", "auto")
    assert ended(process)[0] == 0
    stopped = weights(tmp_path / "run")
    # in a process of its own, too: it has the same number of threads, on which the last bits depend
    assert ended(start("train.py", *[text.replace("/run", "/whole") for text in options]))[0] == 0
    assert_same(weights(tmp_path / "whole"), stopped)


def test_a_second_signal_ends_at_once():
    process = start("-c", "import time; from omnidali.ranks import Ranks; from omnidali.training.stopping import *\n"
                    "with StopSignals(Ranks()): print('listens', flush=True); time.sleep(60)")
    read_until(process, "listens")
    os.kill(process.pid, signal.SIGUSR1)
    time.sleep(3.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process, seconds=2)[::2] == (128 + signal.SIGTERM, "SIGTERM again: ends without saving\n")


def test_an_interrupt_ends_quietly(options):
    code, _, err = run(*options, wrap=lambda loader: Hooked(loader, lambda step: os.kill(os.getpid(), signal.SIGINT)))
    assert code == 130 and "Traceback" not in err and "error" not in err


@pytest.mark.slow
def test_ranks_stop_behind_the_same_step(options, tmp_path):
    """A signal to one rank alone, then one to torchrun; what is left ends as a run that nobody stopped."""
    main, other = start_ranks_by_hand("train.py", *options)
    read_until(main, "step 2/24")
    os.kill(other.pid, signal.SIGUSR1)
    (code, out, err), (other_code, _, other_err) = ended(main), ended(other)
    assert (code, other_code) == (0, 0), err + other_err
    first = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["loader"]["step"]
    assert f"stopped by a signal to another rank behind step {first}" in out and first < 20
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "train.py", *options)
    process = start(*torchrun, "--resume", "auto")
    read_until(process, f"step {first + 2}/24")
    os.kill(process.pid, signal.SIGTERM)
    _, out, err = ended(process)
    assert "stopped by SIGTERM behind step" in out, err
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["loader"]["step"] > first
    previous = load_checkpoint(tmp_path / "run" / "checkpoints" / "previous.pt")["loader"]["step"]
    damage(tmp_path / "run" / "checkpoints" / "last.pt", "flipped")  # all ranks take the previous one
    code, out, err = ended(start(*torchrun, "--resume", "auto"))
    assert code == 0 and f"previous.pt, behind step {previous}" in out, err
    code, _, err = ended(start(*[str(text).replace("/run", "/whole") for text in torchrun]))
    assert code == 0, err
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_signal_in_an_evaluation_abandons_it_and_saves(options, tmp_path):
    held_out = "evaluation={source: {kind: video, root: shorts, list: shorts.txt}, every_steps: 4, batch: 1}"
    seen = []

    def signal_soon(loader):
        def before(step):
            if step == 3:  # the evaluation behind step 4 opens a loader of its own
                from omnidali.evaluation import score
                real = score._one_clip_a_row

                def slow(*arguments):
                    score._one_clip_a_row = real
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(0.3)
                    seen.append(step)
                    return real(*arguments)

                score._one_clip_a_row = slow
        return Hooked(loader, before)

    code, out, _ = run(*options, held_out, wrap=signal_soon)
    assert code == 0 and seen == [3]
    assert "evaluation at step 4 abandoned" in out and "stopped by SIGTERM behind step 4" in out
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["loader"]["step"] == 4
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# --- ranks that die

DYING = """
import json, os, signal, socket, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from omnidali import watch
from omnidali.errors import UserError, exit_with_advice
from omnidali.ranks import end_ranks, start_ranks
watch._SILENT_BEATS = watch._GRACE_SECONDS = 3

def story(how, who):
    ranks = start_ranks()
    for step in range(4):
        dist.all_reduce(torch.zeros(1))
        if step == 2 and ranks.rank == who:
            if how == "user": raise UserError("sources.web", "one", "two", "Mend it.")
            if how == "bug": raise KeyError("oops")
            if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
            if how == "exit": os._exit(3)
            if how == "stop": os.kill(os.getpid(), signal.SIGSTOP)
            if how == "busy": time.sleep(8)
    end_ranks()

running = {}
for case in sys.argv[2:]:
    how, who = case.split(".")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for rank in range(3):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(f"{sys.argv[1]}/{case}.{rank}", os.O_CREAT | os.O_WRONLY), 2)
            os.environ.update(RANK=str(rank), WORLD_SIZE="3", LOCAL_WORLD_SIZE="3", MASTER_ADDR="127.0.0.1",
                              MASTER_PORT=port)
            os._exit(exit_with_advice(lambda: story(how, int(who)), rank))
        running[child] = (case, rank)
codes = {}
while running:
    child, status = os.wait()
    case, rank = running.pop(child)
    codes[f"{case}.{rank}"] = os.waitstatus_to_exitcode(status)
    stopped = [pid for pid, (other, number) in running.items() if other == case == f"stop.{number}"]
    if stopped and sum(other == case for other, _ in running.values()) == 1:
        os.kill(stopped[0], signal.SIGKILL)  # what nobody but torchrun or a person can do
print(json.dumps(codes))
"""
KILLED_TEXT = "it was killed, or left without a word"
ENDS = {"user.1": (2, 2, "sources.web: expected one, got two. Mend it."), "bug.2": (1, 1, "KeyError: 'oops'"),
        "user.0": (2, 2, "sources.web: expected one, got two. Mend it."), "kill.0": (-9, 1, KILLED_TEXT),
        "kill.2": (-9, 1, KILLED_TEXT), "exit.1": (3, 1, KILLED_TEXT), "stop.1": (-9, 1, "nothing was heard of it for"),
        "busy.0": (0, 0, ""), "busy.1": (0, 0, "")}


def test_a_dead_rank_ends_the_others_with_its_error(tmp_path):
    code, out, err = ended(start("-c", DYING, tmp_path, *ENDS))
    assert code == 0, err
    codes = json.loads(out.splitlines()[-1])
    for case, (own, told, text) in ENDS.items():
        who = int(case[-1])
        for rank in range(3):
            said = (tmp_path / f"{case}.{rank}").read_text()
            assert codes[f"{case}.{rank}"] == (own if rank == who else told), (case, rank, said)
            if rank != who and told:  # one line, and no traceback of a broken connection
                assert said.startswith(f"rank {who} ended: {text}") and said.count("\n") == 1, (case, rank, said)
            else:
                assert ("Traceback" in said) == (case == "bug.2") and (text if own in (1, 2) else "") in said


def test_torchrun_tells_the_killed_rank(options, tmp_path):
    process = start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "train.py", *options,
                    "train.steps=100000")
    read_until(process, "step 2/")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    rank = next(int(pid) for pid in children if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    killed = time.monotonic()
    os.kill(rank, signal.SIGKILL)
    code, out, err = ended(process)
    assert code == 1 and time.monotonic() - killed < 30
    assert f"rank 1 ended: {KILLED_TEXT}" in err and "Connection closed by peer" not in err


# --- one run a folder, and errors on the way out

def test_two_runs_in_one_folder_are_refused(tmp_path):
    holder = start("-c", "import sys; from pathlib import Path; from omnidali.training.run_lock import RunLock;"
                   "lock = RunLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()", tmp_path)
    read_until(holder, "held")
    with pytest.raises(UserError) as caught:
        RunLock(tmp_path)
    assert f"one of process {holder.pid} on {socket.gethostname()} since 20" in str(caught.value)
    holder.kill()
    holder.communicate()
    lock = RunLock(tmp_path)  # the kernel has released it
    child = os.fork()
    if child == 0:
        time.sleep(3)
        os._exit(0)
    lock.release()
    RunLock(tmp_path).release()  # a child that lives on does not hold it
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_run_holds_its_folder(options):
    refused = []

    def before(step):
        if step == 1:
            refused.append(run(*options, "auto"))

    code, _, _ = run(*options, "train.steps=2", wrap=lambda loader: Hooked(loader, before))
    assert code == 0 and refused[0][0] == 2
    assert f"a folder that no other run is writing to, got one of process {os.getpid()}" in refused[0][2]
    assert run(*options, "train.steps=4", "auto")[0] == 0  # and lets it go


def test_closing_hides_no_error(capsys):
    class Breaks:
        def close(self):
            raise OSError("second")

    with pytest.raises(KeyError, match="first"), closing_behind(Breaks()):
        raise KeyError("first")
    assert "while the loader was closed: second" in capsys.readouterr().err
    with pytest.raises(OSError, match="second"), closing_behind(Breaks()):
        pass
