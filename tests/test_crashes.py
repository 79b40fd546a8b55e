"""Crashes on purpose: killed in mid-save, full disks, signals, dead ranks, two runs in one folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import evaluate
import train
from helpers.crashing import calling
from helpers.recorder import small_model
from helpers.running import (
    HELD_OUT,
    assert_same,
    no_file_may_grow,
    options_of,
    run,
    small_disk,
    step_of,
    weights,
)
from helpers.warm_process import CRASHING, PATIENCE, Process, Warm, state_of, wait_until
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.accuracy import Accuracy
from omnidali.models.checkpoint_file import load_checkpoint, load_newest, save_checkpoint
from omnidali.training import checkpointer
from omnidali.training.gc_control import closing_behind
from omnidali.training.run_folder import RunFolder
from omnidali.training.run_lock import RunLock


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for program in (train, evaluate):
        monkeypatch.setattr(program, "build_model", small_model)


@pytest.fixture(scope="module")
def warm():
    warm = Warm()
    yield warm
    for pid in warm.running:  # of a test that failed
        os.kill(pid, signal.SIGKILL)
    warm.server.stdin.close()
    warm.server.wait(PATIENCE)
    warm.ports.close()


def torchrun(folder, *arguments, **more):
    """Two ranks on two cores, and so of one thread each, as the warm process's have."""
    folder.mkdir()
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:2])
    try:
        with open(folder / "log", "w") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "torch.distributed.run",
                    "--standalone",
                    "--nproc-per-node=2",
                    CRASHING,
                    "train",
                    folder,
                    *arguments,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", **more},
                start_new_session=True,
            )
    finally:
        os.sched_setaffinity(0, mine)


@pytest.fixture(scope="module")
def whole(warm, media_root, tmp_path_factory):
    """Weights of the run that nobody stopped, by ranks; a rank has one thread, as that decides on
    the last bits.
    """
    found = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp(f"whole{world}")
        for process in warm.ranks(folder, "train", *options_of(media_root, folder), world=world):
            assert process.ended() == 0, process.said
        found[world] = weights(folder / "run")
    return found


# --- checkpoints

STAGES = {
    "save": 2,
    "fsync 1": 2,
    "link 1": 2,
    "replace 1": 2,
    "replace 2": 2,
    "fsync 2": 3,
    "nothing": 3,
}


def test_a_kill_at_any_moment_of_saving_leaves_a_good_checkpoint(warm, tmp_path):
    for process in [Process(warm, tmp_path / stage, "save", stage) for stage in STAGES]:
        assert process.ended() == (0 if process.folder.name == "nothing" else -signal.SIGKILL), (
            process.said
        )
    for stage, step in STAGES.items():
        assert load_newest(tmp_path / stage)[1]["loader"]["step"] == step, stage
        assert load_checkpoint(tmp_path / stage / "previous.pt")["loader"]["step"] in (1, 2)
    assert load_checkpoint(tmp_path / "nothing" / "previous.pt")["loader"]["step"] == 2


def test_without_hard_links_the_old_file_moves(tmp_path, monkeypatch):
    state = {"state_dict": {"w": torch.zeros(3)}, "loader": {"step": 1}}
    monkeypatch.setattr(
        os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted"))
    )
    for step in (1, 2):
        state["loader"]["step"] = step
        save_checkpoint(tmp_path / "last.pt", state, tmp_path / "previous.pt")
    (tmp_path / "last.pt").unlink()  # a crash between the two renames
    path, state, told = load_newest(tmp_path)
    assert (
        state["loader"]["step"] == 1
        and told == f"last.pt is missing: going on from {path}, after step 1"
    )


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "flipped":
        # in a tensor, which torch.load takes as it is
        for place in range(len(data) // 2, len(data) // 2 + 400, 40):
            data[place] ^= 1  # one place alone may be padding
    path.write_bytes({"flipped": data, "truncated": data[:-100], "empty": b""}[how])


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_damaged_checkpoints_are_passed_over(tmp_path, how):
    for name, step in (("last.pt", 30), ("previous.pt", 20), ("step-9.pt", 9), ("step-10.pt", 10)):
        save_checkpoint(
            tmp_path / "checkpoints" / name,
            {"state_dict": {"w": torch.zeros(9000)}, "loader": {"step": step}},
        )
    for name, step in (("last.pt", 20), ("previous.pt", 10), ("step-10.pt", 9)):
        damage(tmp_path / "checkpoints" / name, how)
        path, state, told = load_newest(tmp_path / "checkpoints")
        assert state["loader"]["step"] == step
        assert f"{name} is damaged (" in told and told.endswith(
            f"going on from {path}, after step {step}"
        )
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(tmp_path / "checkpoints" / name)
    damage(tmp_path / "checkpoints" / "step-9.pt", how)
    with pytest.raises(UserError) as caught:
        load_newest(tmp_path / "checkpoints")
    assert all(
        f"{name} is damaged" in str(caught.value)
        for name in ("last.pt", "previous.pt", "step-9.pt", "step-10.pt")
    )


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
    assert code == 0 and "last.pt is damaged" in out and "previous.pt, after step 8" in out
    assert_same(whole, weights(tmp_path / "run"))
    assert not list(checkpoints.glob("*.part"))
    # the damaged one never took its place
    assert load_checkpoint(checkpoints / "previous.pt")["loader"]["step"] == 8


def test_a_kill_between_two_renames_leaves_no_part(tmp_path):
    """Both names are of one file then, and renaming one to the other does nothing."""
    state = {"state_dict": {"w": torch.zeros(3)}, "loader": {"step": 1}}
    save_checkpoint(tmp_path / "last.pt", state, tmp_path / "previous.pt")
    os.link(tmp_path / "last.pt", tmp_path / "previous.pt")
    save_checkpoint(tmp_path / "last.pt", state, tmp_path / "previous.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "previous.pt"}


@pytest.mark.parametrize("name", ["last.pt", "previous.pt", "best.pt", "last.pt.part"])
def test_a_folder_in_a_checkpoint_s_place_is_told_before_the_first_step(options, tmp_path, name):
    (tmp_path / "run/checkpoints" / name).mkdir(parents=True)
    code, _, err = run(*options, "auto")
    assert (
        code == 2 and f"{name}: expected a file, or nothing yet, got a folder. Move it away." in err
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


# --- full disks


def test_a_full_disk_does_not_end_a_run(options, tmp_path):
    with small_disk(tmp_path / "run") as fill:

        def before(step):
            if step in (5, 11):  # the checkpoint of step 8 fails, and its retry at step 10
                fill(step == 5)

        code, out, err = run(*options, "train.steps=14", wrap=calling(before))
        assert code == 0, err
        assert err.count("last.pt: expected a place to write a checkpoint, got") == 1
        assert err.count("checkpoints can be written again") == 1
        assert "Free space" in err and "Traceback" not in err
        rows = [
            json.loads(line)["step"]
            for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        ]
        assert rows == [2, 4, 6, 8, 10, 12, 14]  # what could not be written came later
        checkpoints = tmp_path / "run" / "checkpoints"
        # the retry that worked
        assert load_checkpoint(checkpoints / "previous.pt")["loader"]["step"] == 12
        assert load_checkpoint(checkpoints / "last.pt")["loader"]["step"] == 14


def test_only_the_last_save_ends_the_run_and_the_old_one_stays(options, tmp_path):
    run(*options, "train.steps=2")
    with no_file_may_grow() as fill:
        code, _, err = run(
            *options,
            "train.steps=6",
            "train.final_save_minutes=0",
            "auto",
            wrap=calling(lambda step: fill(True)),
        )
    assert (
        code == 2 and "error:\n" in err and "last.pt: expected a place to write a checkpoint" in err
    )
    for name in ("metrics.jsonl", "tb"):
        assert (
            err.count(
                f"run/{name}: expected a file that can be written, got File too large. Free space"
            )
            == 1
        )
    assert "Traceback" not in err
    checkpoints = tmp_path / "run" / "checkpoints"
    assert load_checkpoint(checkpoints / "last.pt")["loader"]["step"] == 2 and not list(
        checkpoints.glob("*.part")
    )


def test_what_cannot_be_written_is_tried_again_as_it_was(options, tmp_path, monkeypatch):
    real, full = checkpointer.save_checkpoint, {"best.pt", "step-2.pt", "step-4.pt"}

    def save(path, state, previous=None):
        if path.name in full:
            raise UserError(str(path), "space", "none", "Free some.")
        real(path, state, previous)

    def held(name):
        state = load_checkpoint(tmp_path / "run" / "checkpoints" / name)
        return state["state_dict"]["w"].item(), state["best"], state["owes_evaluation"]

    monkeypatch.setattr(checkpointer, "save_checkpoint", save)
    weights = torch.zeros(1)
    with RunFolder(load_config(options[1], options[2:]), Ranks()) as folder:

        def keep(step, best, *names):
            weights.fill_(step)  # in place, as an optimizer does
            folder.checkpoints.save(
                {
                    "state_dict": {"w": weights},
                    "best": best,
                    "owes_evaluation": False,
                    "loader": {"step": step},
                },
                *names,
            )

        keep(2, 0.5, "best.pt", "step-2.pt", "last.pt")
        assert held("last.pt") == (2.0, -1.0, True) and not folder.checkpoints.owes_save
        keep(4, 0.5, "step-4.pt", "last.pt")
        assert held("last.pt") == (4.0, -1.0, True)
        full.clear()
        keep(6, 0.5, "last.pt")
        assert held("best.pt") == (2.0, 0.5, False) and held("step-4.pt") == (4.0, 0.5, False)
        assert held("last.pt") == (6.0, 0.5, False)
        full.update(["best.pt", "last.pt"])
        keep(8, 0.6, "best.pt", "last.pt")
        assert folder.checkpoints.owes_save
        full.clear()
        # another best one takes the place of the one that waits
        keep(10, 0.7, "best.pt", "last.pt")
        assert (
            held("best.pt") == (10.0, 0.7, False)
            and held("last.pt") == (10.0, 0.7, False)
            and not folder.checkpoints.owes_save
        )
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {
        "last.pt",
        "previous.pt",
        "best.pt",
        "step-4.pt",
    }


def test_a_best_one_that_could_not_be_written_is_found_again(options, tmp_path, monkeypatch):
    real = checkpointer.save_checkpoint

    def save(path, state, previous=None):
        if path.name == "best.pt":
            raise UserError(str(path), "space", "none", "Free some.")
        real(path, state, previous)

    with monkeypatch.context() as full:
        full.setattr(checkpointer, "save_checkpoint", save)
        code, _, err = run(*options, HELD_OUT, "train.steps=4")
        assert code == 2 and "best.pt: expected space, got none" in err
    checkpoints = tmp_path / "run" / "checkpoints"
    assert (
        load_checkpoint(checkpoints / "last.pt")["best"] == -1.0
        and not (checkpoints / "best.pt").exists()
    )
    code, out, err = run(*options, HELD_OUT, "train.steps=4", "auto")
    assert code == 0 and "evaluation at step 4: top1" in out, err
    assert_same(load_checkpoint(checkpoints / "best.pt")["state_dict"], weights(tmp_path / "run"))
    assert (
        load_checkpoint(checkpoints / "last.pt")["best"]
        == load_checkpoint(checkpoints / "best.pt")["best"]
        >= 0
    )


# --- signals


def stop_at(process, name="waits0", number=signal.SIGTERM, times=1):
    """Send a signal to a process that is held before a step, and let its job go on."""
    process.reached(name)
    for _ in range(times):
        os.kill(process.pid, number)
    process.reached(name.replace("waits", "heard"))
    (process.folder / "go").touch()


def test_a_signal_saves_and_the_rest_gives_the_same_weights(warm, whole, options, tmp_path):
    process = Process(warm, tmp_path / "first", "train", *options, OMNIDALI_WAITS=6)
    stop_at(process, times=2)  # a scheduler's and torchrun's: one and the same
    assert process.ended() == 0 and "Traceback" not in process.said
    step = step_of(tmp_path / "run")
    assert f"stopped by SIGTERM after step {step}; go on with --resume auto" in process.said
    assert 8 <= step < 24 and step % 2 == 0  # the signal came in the middle of a group of two
    process = Process(warm, tmp_path / "second", "train", *options, "--resume", "auto")
    assert process.ended() == 0, process.said
    assert_same(whole[1], weights(tmp_path / "run"))


def test_a_second_signal_ends_at_once(warm, tmp_path):
    process = Process(warm, tmp_path, "listen")
    process.reached()
    os.kill(process.pid, signal.SIGUSR1)
    process.reached("heard")
    time.sleep(0.5)
    assert state_of(process.pid) != "Z"
    os.kill(process.pid, signal.SIGTERM)
    assert process.ended() == 128 + signal.SIGTERM
    assert process.said == (
        "SIGUSR1: the run ends after this step and saves; a second one ends it at once\n"
        "SIGTERM again: ends without saving\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupt_or_a_closed_terminal_saves(options, tmp_path, number):
    # which a shell's background jobs lack
    handler = signal.signal(number, signal.default_int_handler)
    try:
        code, out, err = run(
            *options, wrap=calling(lambda step: step == 3 and raise_and_wait(number))
        )
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, handler)
    assert code == 0 and "Traceback" not in err, err
    assert f"{number.name}: the run ends after this step and saves" in err
    assert f"stopped by {number.name} after step 4; go on with --resume auto" in out
    assert step_of(tmp_path / "run") == 4


def raise_and_wait(number):
    """Send this process a signal; its thread has heard it a moment later."""
    os.kill(os.getpid(), number)
    time.sleep(1)


def test_an_ignored_hangup_stays_ignored(options, tmp_path):
    """As under nohup."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code, out, err = run(
            *options,
            "train.steps=6",
            wrap=calling(lambda step: step == 3 and raise_and_wait(signal.SIGHUP)),
        )
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert code == 0 and "SIGHUP" not in err + out and step_of(tmp_path / "run") == 6


def test_an_interrupt_before_the_first_step_is_one_line(options, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "open_data", interrupted)
    code, _, err = run(*options)
    assert code == 130 and err == "interrupted\n"


def test_the_second_interrupt_ends_at_once(warm, tmp_path):
    """Without torchrun, which sends it twice, also within a moment."""
    process = Process(warm, tmp_path, "listen")
    process.reached()
    os.kill(process.pid, signal.SIGINT)
    process.reached("heard")
    os.kill(process.pid, signal.SIGINT)
    assert process.ended() == 128 + signal.SIGINT and process.said.endswith(
        "SIGINT again: ends without saving\n"
    )


def test_ranks_stop_after_the_same_step(warm, whole, options, tmp_path):
    """A signal to one rank alone, Ctrl-C in a terminal, one to torchrun, torchrun killed: all end
    as a run that nobody stopped. A terminal sends its signal to torchrun and the ranks, and
    torchrun sends it to the ranks once more.
    """
    folder, resume = tmp_path / "run", [*options, "--resume", "auto"]
    main, other = warm.ranks(tmp_path / "one", "train", *options, OMNIDALI_WAITS=4)
    stop_at(other, "waits1", signal.SIGUSR1)
    assert (main.ended(), other.ended()) == (0, 0), main.said + other.said
    first = step_of(folder)
    assert (
        f"stopped by a signal to another rank after step {first};" in main.said and 6 <= first < 13
    )

    for life, waits, number in (
        (tmp_path / "terminal", 11, signal.SIGINT),
        (tmp_path / "two", 15, signal.SIGTERM),
        (tmp_path / "three", 19, signal.SIGKILL),
    ):
        process = torchrun(life, *resume, OMNIDALI_WAITS=str(waits))
        log = life / "log"
        wait_until(
            lambda: (
                (life / "waits0").exists()
                and (life / "waits1").exists()
                or process.poll() is not None
            )
        )
        assert process.poll() is None, log.read_text()
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        wait_until(lambda: (life / "heard0").exists() and (life / "heard1").exists())
        (life / "go").touch()
        assert process.wait(PATIENCE) == (-number if number == signal.SIGKILL else 1), (
            log.read_text()
        )
        wait_until(lambda: (life / "code0").exists() and (life / "code1").exists())
        assert [(life / f"code{rank}").read_text() for rank in (0, 1)] == ["0", "0"], (
            log.read_text()
        )
        name = "SIGINT" if number == signal.SIGINT else "SIGTERM"
        assert f"stopped by {name} after step {step_of(folder)};" in log.read_text()
        assert waits < step_of(folder) < 24 and step_of(folder, "previous.pt") < step_of(folder)
    RunLock(folder).release()  # nothing that is left holds it

    damage(folder / "checkpoints" / "last.pt", "flipped")  # all ranks take the previous one
    main, other = warm.ranks(tmp_path / "four", "train", *resume)
    assert (main.ended(), other.ended()) == (0, 0), main.said + other.said
    assert "previous.pt, after step" in main.said
    assert_same(whole[2], weights(folder))


def signal_in_first_evaluation(monkeypatch):
    """With its first batch; gives what counts the batches of all."""
    from omnidali.evaluation import forward

    real, batches = forward._one_clip_a_row, []

    def slow(*given):
        batches.append(1)
        if len(batches) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)  # its thread has heard of it
        return real(*given)

    monkeypatch.setattr(forward, "_one_clip_a_row", slow)
    return batches


@pytest.mark.parametrize("steps", [8, 4])  # the evaluation after step 4 is the last one, or not
def test_an_abandoned_evaluation_is_made_up_for(options, tmp_path, monkeypatch, steps):
    batches = signal_in_first_evaluation(monkeypatch)
    code, out, _ = run(*options, HELD_OUT, f"train.steps={steps}")
    assert code == 0 and len(batches) == 1
    assert "evaluation at step 4 abandoned" in out and "stopped by SIGTERM after step 4" in out
    assert (
        step_of(tmp_path / "run") == 4
        and not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    )
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    code, out, err = run(*options, HELD_OUT, f"train.steps={steps}", "auto")
    assert code == 0, err
    assert [f"evaluation at step {step}: top1" in out for step in (4, 8)] == [True, steps == 8]
    assert (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    _, out, _ = run(*options, HELD_OUT, f"train.steps={steps}", "auto")
    assert "evaluation at" not in out  # it is owed no more


def test_an_evaluation_that_read_little_is_not_the_best(options, tmp_path, monkeypatch):
    """What cannot be read counts as wrong where evaluations are compared."""
    rows = iter(
        [
            Accuracy(1, 1, 1, *np.zeros((2, 4), int), np.zeros((4, 4), int), unreadable=4),
            Accuracy(5, 2, 2, *np.zeros((2, 4), int), np.zeros((4, 4), int)),
        ]
    )
    monkeypatch.setattr(train, "measure", lambda *_: next(rows))
    monkeypatch.setattr(Accuracy, "mean_class", 0.0)
    assert run(*options, HELD_OUT, "train.steps=8")[0] == 0
    assert step_of(tmp_path / "run", "best.pt") == 8


# --- ranks that die

KILLED_TEXT = "it was killed, or left without a word"
ENDS = {
    "user.1": (2, 2, "sources.web: expected one, got two. Mend it."),
    "bug.2": (1, 1, "KeyError: 'oops'"),
    "user.0": (2, 2, "sources.web: expected one, got two. Mend it."),
    "mainuser.0": (2, 2, "sources.web: expected one, got two. Mend it."),
    "main.0": (1, 1, "KeyError: 'oops'"),
    "kill.0": (-9, 1, KILLED_TEXT),
    "kill.2": (-9, 1, KILLED_TEXT),
    "exit.1": (3, 1, KILLED_TEXT),
    "stuck.1": (1, 1, "KeyError: 'oops'"),
    # a rank that is suspended for a while is not dead
    "stop.0": (0, 0, ""),
    "stop.1": (0, 0, ""),
}


def test_a_dead_rank_ends_the_others_with_its_error(warm, tmp_path):
    jobs = {case: warm.ranks(tmp_path / case, "rank", *case.split("."), world=3) for case in ENDS}
    suspended = [jobs[case][int(case[-1])] for case in ("stop.0", "stop.1")]
    for process in suspended:
        wait_until(lambda: state_of(process.pid) in "TZ")
    time.sleep(3)
    for process in suspended:
        os.kill(process.pid, signal.SIGCONT)
    for case, (own, told, text) in ENDS.items():
        who = int(case[-1])
        for rank, process in enumerate(jobs[case]):
            code, said = process.ended(60), process.said  # as promised
            assert code == (own if rank == who else told), (case, rank, said)
            if rank != who and case == "mainuser.0":  # whose mistakes rank 0 tells
                assert said == "", (case, rank, said)
            elif rank != who and told:  # one line, and no traceback of a broken connection
                assert said.startswith(f"rank {who} ended: {text}") and said.count("\n") == 1, (
                    case,
                    rank,
                    said,
                )
            else:
                assert ("Traceback" in said) == (text == "KeyError: 'oops'") and (
                    text if own in (1, 2) else ""
                ) in said
                assert case != "main.0" or ", in work\n" in said, said


def test_torchrun_tells_the_killed_rank_and_no_step_is_lost(warm, whole, options, tmp_path):
    life = tmp_path / "life"
    process = torchrun(life, *options, OMNIDALI_WAITS="3")
    wait_until(
        lambda: (
            (life / "waits0").exists() and (life / "waits1").exists() or process.poll() is not None
        )
    )
    os.kill(int((life / "waits1").read_text()), signal.SIGKILL)
    (life / "go").touch()
    assert process.wait(60) == 1  # as promised
    said = (life / "log").read_text()
    assert f"rank 1 ended: {KILLED_TEXT}" in said and "Connection closed by peer" not in said
    assert "--resume auto goes on after step 2\n" in said and step_of(tmp_path / "run") == 2

    for process in warm.ranks(tmp_path / "rest", "train", *options, "--resume", "auto"):
        assert process.ended() == 0, process.said
    assert_same(whole[2], weights(tmp_path / "run"))


def test_a_main_rank_that_is_busy_saves_what_was_trained_when_another_dies(warm, tmp_path, options):
    """Its main thread waits for the loader, for longer than a process that lost a rank lives."""
    main, other = warm.ranks(tmp_path / "life", "train", *options, OMNIDALI_WAITS=5)
    main.reached()
    other.reached("waits1")
    os.kill(other.pid, signal.SIGKILL)
    other.ended()
    assert main.ended(60) == 1, main.said  # as promised, though nobody lets it go
    assert "--resume auto goes on after step 4\n" in main.said and step_of(tmp_path / "run") == 4


# --- one run a folder, and errors on the way out


def test_two_runs_in_one_folder_are_refused(warm, tmp_path):
    holder = Process(warm, tmp_path, "lock")
    holder.reached()
    with pytest.raises(UserError) as caught:
        RunLock(tmp_path)
    assert f"one of process {holder.pid} on {socket.gethostname()} since 20" in str(caught.value)
    os.kill(holder.pid, signal.SIGKILL)
    holder.ended()
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
    refused, scored = [], []

    def before(step):
        if step == 3:
            refused.append(run(*options, "auto"))
            scored.append(
                evaluate.evaluate(load_config(options[1], [*options[2:], HELD_OUT]), Ranks())
            )

    code, _, err = run(*options, "train.steps=4", "train.checkpoint_every=2", wrap=calling(before))
    assert code == 0 and refused[0][0] == 2, err
    assert (
        f"a folder that no other run is writing to, got one of process {os.getpid()}"
        in refused[0][2]
    )
    assert scored[0]["items"] == 5  # reading beside a run is allowed
    assert run(*options, "train.steps=6", "auto")[0] == 0  # and lets it go


def test_a_run_in_the_current_folder_is_not_overwritten(options, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    save_checkpoint(folder / "checkpoints" / "last.pt", {"state_dict": {}, "loader": {"step": 1}})
    names = [
        "mine.mp4.part",
        "config.yaml.part",
        "checkpoints/last.pt.part",
        "checkpoints/step-9.pt.part",
        "checkpoints/theirs.pt.part",
    ]
    for name in names:
        (folder / name).write_bytes(b"half")
    monkeypatch.chdir(folder)
    config = load_config(options[1], [*options[2:], "run_dir=."])
    with pytest.raises(
        UserError, match="expected a folder without checkpoints, got a run with last.pt"
    ):
        RunFolder(config, Ranks(), "none")
    assert all((folder / name).exists() for name in names)
    for resume in ("auto", "checkpoints/last.pt", ".", str(folder)):
        with RunFolder(config, Ranks(), resume) as run_folder:
            assert all((folder / name).exists() for name in names) or resume != "auto"
            run_folder.begin(config, {"loader": {"step": 1}})
    assert [name for name in names if (folder / name).exists()] == [
        "mine.mp4.part",
        "checkpoints/theirs.pt.part",
    ]


def test_closing_hides_no_error(capsys):
    class Breaks:
        def close(self):
            raise OSError("second")

    with pytest.raises(KeyError, match="first"), closing_behind(Breaks()):
        raise KeyError("first")
    assert "while the loader was closed: second" in capsys.readouterr().err
    with pytest.raises(OSError, match="second"), closing_behind(Breaks()):
        pass
