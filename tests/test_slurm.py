"""srun's tasks find each other without torchrun; what else SLURM starts stands alone."""

import itertools
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import free_port
from helpers.launchers import two_tasks
from helpers.running import assert_same, step_of, weights
from omnidali.cli import main as cli
from omnidali.distributed import slurm
from omnidali.distributed.slurm import adopt_step, first_host, step_variables, tasks_on_node
from omnidali.errors import UserError

pytestmark = pytest.mark.usefixtures("small_network")

RECORDER = Path(__file__).parent / "helpers" / "recorder.py"

# what SLURM 22.05 sets, as far as it is about tasks: `srun -n 2` within an sbatch script
TASK = {
    "SLURMD_NODENAME": "vm",
    "SLURM_CPUS_ON_NODE": "2",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1,0x2",
    "SLURM_DISTRIBUTION": "block",
    "SLURM_GTIDS": "0,1",
    "SLURM_JOBID": "2",
    "SLURM_JOB_CPUS_PER_NODE": "2",
    "SLURM_JOB_ID": "2",
    "SLURM_JOB_NODELIST": "vm",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
    "SLURM_LOCALID": "1",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "vm",
    "SLURM_NPROCS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_SRUN_COMM_HOST": "127.0.0.1",
    "SLURM_STEPID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "vm",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_TASKS_PER_NODE": "2",
    "SLURM_TASK_PID": "6413",
}
# the last task of `srun -N 2 -n 3`
LAST_TASK = {
    "SLURMD_NODENAME": "node2",
    "SLURM_GTIDS": "2",
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NODELIST": "node[1-2]",
    "SLURM_NPROCS": "3",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_STEPID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_TASKS_PER_NODE": "2,1",
    "SLURM_TASK_PID": "19780",
}
# what has no peers, though its job has two tasks
ALONE = {
    # the script that sbatch runs
    "batch": {
        "SLURMD_NODENAME": "vm",
        "SLURM_GTIDS": "0",
        "SLURM_JOB_ID": "2",
        "SLURM_JOB_NODELIST": "vm",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_LOCALID": "0",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "vm",
        "SLURM_NPROCS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_TASKS_PER_NODE": "2",
        "SLURM_TASK_PID": "6390",
    },
    # the shell that `salloc -n 2` opens where it was called
    "salloc": {
        "SLURM_JOB_ID": "3",
        "SLURM_JOB_NAME": "interactive",
        "SLURM_JOB_NODELIST": "vm",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NNODES": "1",
        "SLURM_NODELIST": "vm",
        "SLURM_NPROCS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_TASKS_PER_NODE": "2",
    },
    # the one that it opens on the first machine of the job, where use_interactive_step is set
    "interactive step": {
        "SLURM_GTIDS": "0",
        "SLURM_JOB_ID": "9",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_PTY_PORT": "34495",
        "SLURM_STEP_ID": "4294967290",
        "SLURM_STEP_NODELIST": "vm",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_STEP_TASKS_PER_NODE": "1",
        "SLURM_TASK_PID": "7682",
    },
    # a script that sbatch runs, called from a task of another job
    "batch from task": TASK | {"SLURM_GTIDS": "0", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"},
    "no SLURM": {},
}


def test_task_gets_what_torchrun_would_set():
    assert step_variables(TASK) == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "10062",
    }
    assert step_variables(LAST_TASK) == {
        "RANK": "2",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "10031",
    }


@pytest.mark.parametrize(
    "name, value",
    [
        ("SLURM_NODEID", "abc"),
        ("SLURM_NODEID", "7"),
        ("SLURM_PROCID", "x"),
        ("SLURM_STEP_TASKS_PER_NODE", ""),
    ],
)
def test_wrong_variables_are_reported(name, value):
    known = dict.fromkeys(slurm._NEEDED, "1") | {"SLURM_STEP_NUM_TASKS": "2"}
    expected = f"srun: expected the variables of one of its tasks.*{name}={value}"
    with pytest.raises(UserError, match=expected):
        step_variables({**known, name: value})


@pytest.mark.parametrize("place", ALONE)
def test_process_that_is_no_task_has_no_peers(place):
    assert step_variables(ALONE[place]) == {}


def test_task_needs_no_numbers_of_all_tasks():
    """Some programs want SLURM_GTIDS removed."""
    environment = {name: value for name, value in TASK.items() if name != "SLURM_GTIDS"}
    assert step_variables(environment) == step_variables(TASK)


@pytest.mark.parametrize(
    "is_shells, is_task, has_peers",
    [(True, False, False), (True, True, True), (False, False, True)],
    ids=["typed into a shell", "the task itself", "another terminal"],
)
def test_shell_on_a_terminal_of_srun_has_no_peers(is_shells, is_task, has_peers):
    """`srun --pty -n 2 bash`: the other task is a shell as well, which has ended."""
    code = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from omnidali.distributed.slurm import step_variables
if sys.argv[1] == "True":
    os.environ["SLURM_TASK_PID"] = str(os.getpid())
print(len(step_variables(os.environ)))
"""
    main, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(is_task)],
            stdin=terminal,
            capture_output=True,
            text=True,
            start_new_session=True,
            env={**os.environ, **TASK, **({"SLURM_PTY_PORT": "37973"} if is_shells else {})},
            check=True,
        )
    finally:
        os.close(main)
        os.close(terminal)
    assert (done.stdout != "0\n") == has_peers


def adopted(monkeypatch, **environment):
    """The variables of a process after it has adopted its step."""
    monkeypatch.setattr(os, "environ", dict(environment))
    adopt_step()
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}


def test_variables_of_torchrun_and_of_the_user_win(monkeypatch):
    own = step_variables(TASK)
    assert adopted(monkeypatch, **TASK) == own

    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    torchrun |= {"MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
    assert adopted(monkeypatch, **TASK, **torchrun) == torchrun

    place = {"MASTER_ADDR": "ib-node1", "MASTER_PORT": "4711"}
    assert adopted(monkeypatch, **TASK, **place) == own | place

    # a script that sets a rank as tutorials do may leave the machine's to SLURM
    assert adopted(monkeypatch, **TASK, RANK="1", WORLD_SIZE="2")["LOCAL_RANK"] == "1"
    # one that sets no rank has not launched anything
    assert adopted(monkeypatch, **TASK, WORLD_SIZE="16") == own


def test_jobs_and_steps_have_ports_of_their_own():
    ports = {
        step_variables(TASK | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})["MASTER_PORT"]
        for job, step in itertools.product(range(4_294_000, 4_294_200), range(8))
    }
    assert len(ports) == 200 * 8
    assert all(10_000 <= int(port) < 29_000 for port in ports)


@pytest.mark.parametrize(
    "hosts, first",
    [
        ("vm", "vm"),
        ("node[01-04,7],gpu9", "node01"),
        ("gpu9,node[01-04,7]", "gpu9"),
        ("rack[1-2]node[3-4]", "rack1node3"),
        ("rack[1-2]-[3-4],b", "rack1-3"),
        ("n[3,5]", "n3"),
        ("node-[2-3].site", "node-2.site"),
    ],
)
def test_first_host_is_that_of_scontrol(hosts, first):
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    "tasks, counts",
    [("2", [2]), ("2(x3),1", [2, 2, 2, 1]), ("1,3(x2)", [1, 3, 3]), ("12(x2)", [12, 12])],
)
def test_tasks_on_each_node(tasks, counts):
    assert [tasks_on_node(tasks, node) for node in range(len(counts))] == counts
    with pytest.raises(IndexError):
        tasks_on_node(tasks, len(counts))


@pytest.mark.parametrize("rank", [0, 1])
def test_first_task_alone_prints_mistakes_of_the_config(options, monkeypatch, capsys, rank):
    monkeypatch.setattr(os, "environ", {**os.environ, **TASK, "SLURM_PROCID": str(rank)})
    assert cli.main([*options, "train.stepz=3"], verb="info") == 2
    assert ("train.stepz" in capsys.readouterr().err) == (rank == 0)


def test_two_tasks_train_as_two_ranks_of_torchrun(whole_weights, options, tmp_path):
    with free_port() as port:
        more = {"MASTER_PORT": str(port), "OMNIDALI_SMALL_NETWORK": "1"}
        tasks = [
            TASK | more | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
            for rank in range(2)
        ]
        program = [str(RECORDER), str(tmp_path / "life"), *options]
        with two_tasks(tmp_path / "logs", tasks, *program) as processes:
            for rank, process in enumerate(processes):
                assert process.wait() == 0, (tmp_path / "logs" / f"task{rank}.log").read_text()
    assert_same(whole_weights(2), weights(tmp_path / "run"))


def test_real_srun_trains_on_two_tasks(options, tmp_path):
    try:
        subprocess.run(["srun", "-n", "2", "true"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as problem:
        pytest.skip(f"no srun that works here: {problem}")
    program = [sys.executable, str(RECORDER), str(tmp_path / "life"), *options]
    done = subprocess.run(
        ["srun", "-n", "2", *program],
        capture_output=True,
        text=True,
        env={**os.environ, "OMNIDALI_SMALL_NETWORK": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert step_of(tmp_path / "run") == 24
    records = sorted(path.name for path in (tmp_path / "life").iterdir())
    assert records == ["rank0.jsonl", "rank1.jsonl"]
