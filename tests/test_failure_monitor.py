"""Ranks that fail or die end the others, with their error and without a lost step."""

import os
import signal
import socket
import time

import pytest

from helpers.running import assert_same, step_of, weights
from helpers.warm_process import start_torchrun, state_of, wait_for_files, wait_until
from omnidali.distributed.control_connection import MessageConnection
from omnidali.distributed.failure_relay import FailureRelay

pytestmark = pytest.mark.usefixtures("small_network")

ONE_MINUTE = 60  # within which all ranks end, as the README promises
KILLED_TEXT = "it was killed, or exited without a message"
# how a rank fails, and which: its exit code, that of the others, and their text
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


def test_failed_rank_ends_others_with_its_error(warm, tmp_path):
    jobs = {
        case: warm.start_ranks(tmp_path / case, "rank", *case.split("."), world=3) for case in ENDS
    }
    suspended = [jobs[case][int(case[-1])] for case in ("stop.0", "stop.1")]
    for process in suspended:
        wait_until(lambda pid=process.pid: state_of(pid) in "TZ")
    time.sleep(3)
    for process in suspended:
        os.kill(process.pid, signal.SIGCONT)

    for case, (own_code, others_code, text) in ENDS.items():
        failed = int(case[-1])
        for rank, process in enumerate(jobs[case]):
            code = process.wait(ONE_MINUTE)
            output = process.output
            assert code == (own_code if rank == failed else others_code), (case, rank, output)
            if rank != failed and case == "mainuser.0":  # rank 0 prints its mistakes
                assert output == "", (case, rank, output)
            elif rank != failed and others_code:
                # one line, and no traceback of a broken connection
                assert output.startswith(f"rank {failed} ended: {text}"), (case, rank, output)
                assert output.count("\n") == 1, (case, rank, output)
            else:
                assert ("Traceback" in output) == (text == "KeyError: 'oops'")
                assert own_code not in (1, 2) or text in output
                assert case != "main.0" or ", in work\n" in output, output


def test_killed_rank_under_torchrun_loses_no_step(warm, whole_weights, options, tmp_path):
    folder = tmp_path / "life"
    torchrun = start_torchrun(folder, *options, OMNIDALI_WAITS="3")
    wait_for_files(folder, "waits0", "waits1", otherwise=torchrun.poll)
    os.kill(int((folder / "waits1").read_text()), signal.SIGKILL)
    (folder / "go").touch()
    assert torchrun.wait(ONE_MINUTE) == 1
    output = (folder / "log").read_text()
    assert f"rank 1 ended: {KILLED_TEXT}" in output
    assert "Connection closed by peer" not in output
    assert "--resume auto goes on after step 2\n" in output and step_of(tmp_path / "run") == 2

    for process in warm.start_ranks(tmp_path / "rest", "train", *options, "--resume", "auto"):
        assert process.wait() == 0, process.output
    assert_same(whole_weights(2), weights(tmp_path / "run"))


def test_busy_main_rank_saves_when_another_dies(warm, tmp_path, options):
    """Its main thread waits for the loader, for longer than a process that lost a rank lives."""
    main, other = warm.start_ranks(tmp_path / "life", "train", *options, OMNIDALI_WAITS=5)
    main.wait_for_file()
    other.wait_for_file("waits1")
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert main.wait(ONE_MINUTE) == 1, main.output  # though nobody lets it go on
    assert "--resume auto goes on after step 4\n" in main.output
    assert step_of(tmp_path / "run") == 4


def test_messages_without_the_password_are_dropped():
    relay = FailureRelay(["127.0.0.1"])
    rank, stranger = (
        MessageConnection(socket.create_connection((relay.address, relay.port))) for _ in range(2)
    )
    rank.send({"rank": 1, "token": relay.token})
    assert rank.receive() == []  # no failure yet
    stranger.send({"rank": 0, "token": "guessed"})
    stranger.send({"rank": 0, "code": 1, "text": "leave"})
    with pytest.raises(ConnectionError):
        stranger.receive()
    relay.close()
    assert rank.receive() == [{"bye": True}]
