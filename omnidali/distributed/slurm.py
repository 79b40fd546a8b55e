"""srun's variables of a task, translated into those of torchrun."""

import os
import re
from collections.abc import Mapping

from omnidali.errors import UserError

# srun alone sets those of a step. Batch scripts and salloc's shell have the job's as well, and
# promise no other tasks that run.
_NUMBERS = (
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_STEP_NUM_TASKS",
)
_NEEDED = {*_NUMBERS, "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST"}

# below the ports that Linux gives to connections, from 32,768 on, and torchrun's 29,400 and 29,500
_FIRST_PORT = 10_000
_PORTS = 19_000
_STEPS = 31  # of a job, before their ports are those of the next job; coprime to _PORTS


def adopt_step() -> None:
    """Give this process the variables that torchrun would set, if it is one of several tasks.

    Those of torchrun win, which may itself run under srun, and so do an address and a port that
    the user chose.
    """
    is_launched = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    for name, value in step_variables(os.environ).items():
        if is_launched or name.startswith("MASTER_"):
            os.environ.setdefault(name, value)
        else:
            os.environ[name] = value


def step_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables for a task of srun.

    Args:
        environment: the variables of this process.

    Returns:
        Ranks, numbers of ranks, and the main rank's address and port; empty for a single task, and
        for a process that is none of the tasks.

    Raises:
        UserError: if the variables are not those of a task.
    """
    if not environment.keys() >= _NEEDED:
        return {}
    try:
        rank, local_rank, node, job, step, world = (int(environment[name]) for name in _NUMBERS)
        local_world = tasks_on_node(environment["SLURM_STEP_TASKS_PER_NODE"], node)
    except (ValueError, IndexError):
        shown = ", ".join(f"{name}={environment[name]}" for name in sorted(_NEEDED))
        raise UserError(
            "srun", "the variables of one of its tasks", shown, "Unset SLURM_STEP_ID to run alone."
        ) from None
    if world == 1 or _is_inherited(environment, local_world) or _is_from_shell(environment):
        return {}

    main_address = "127.0.0.1"
    if local_world != world:  # the first task runs on the first host
        main_address = first_host(environment["SLURM_STEP_NODELIST"])
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(local_world),
        "MASTER_ADDR": main_address,
        "MASTER_PORT": str(_FIRST_PORT + (_STEPS * job + step) % _PORTS),
    }


def first_host(hosts: str) -> str:
    """The first name of a list of hosts, as scontrol would give it.

    Args:
        hosts: SLURM's list, with ranges of numbers in brackets.

    >>> first_host("node[01-04,7],gpu9"), first_host("rack[1-2]node[3-4]")
    ('node01', 'rack1node3')
    """
    first = re.match(r"(\[[^]]*\]|[^,[])*", hosts)
    assert first is not None  # it may be empty
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first[0])


def tasks_on_node(tasks: str, node: int) -> int:
    """The number of tasks on a node.

    Args:
        tasks: SLURM's numbers for all nodes.
        node: the node's place among them.

    >>> [tasks_on_node("2(x3),1", node) for node in range(4)]
    [2, 2, 2, 1]
    """
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks):
        counts += [int(count)] * int(times or 1)
    return counts[node]


def _is_inherited(environment: Mapping[str, str], local_world: int) -> bool:
    """Whether the step's variables are those of another job, from whose task sbatch was called.

    A batch script gets task numbers of its own, unless the user has removed them.
    """
    numbers = environment.get("SLURM_GTIDS")
    return numbers is not None and len(numbers.split(",")) != local_world


def _is_from_shell(environment: Mapping[str, str]) -> bool:
    """Whether a person has typed the command, in a shell that `srun --pty` started.

    The other tasks of that step are shells without input, which have ended.
    """
    is_task = environment.get("SLURM_TASK_PID") == str(os.getpid())
    if "SLURM_PTY_PORT" not in environment or is_task:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
