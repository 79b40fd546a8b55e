"""The device of each rank: the CPU, or a GPU that no other rank has."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError

CPU = "cpu"
CUDA = "cuda"


@dataclass(frozen=True)
class _Choice:
    """The device that a rank would take.

    Attributes:
        wanted: the setting ``device``.
        gpu: the UUID of the GPU; None: the CPU.
        visible: number of GPUs that the rank sees; 0 if it did not look.
    """

    wanted: str
    gpu: str | None
    visible: int


def count_gpus(wanted: str) -> int:
    """The number of GPUs that a program with this setting may use here; 0: it computes on the CPU.

    With ``cpu`` nothing of CUDA is called.

    Args:
        wanted: the setting ``device``.

    Raises:
        UserError: if there is no GPU for ``cuda``.
    """
    if wanted == CPU:
        return 0
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == CUDA and not count:
        raise _no_gpu("no GPU here")
    return count


def take_device(ranks: Ranks, wanted: str) -> Ranks:
    """Give each rank its device, and as many of torch's threads as it may have.

    All ranks call this, and before anything else that uses a GPU: NCCL would wait for minutes for
    a rank that has none, and then not say why.

    Args:
        ranks: this process and its peers.
        wanted: the setting ``device``.

    Returns:
        The same ranks, on their devices.

    Raises:
        UserError: on all ranks, if there is no GPU for ``cuda``, or there are fewer than ranks.
    """
    index, choice = _choose(ranks.local_rank, wanted)
    choices = ranks.gather(choice)
    ranks.on_main(lambda: _check(choices))

    if index is None:
        torch.set_num_threads(ranks.threads)
        return replace(ranks, device=torch.device(CPU))
    # On a GPU the rest of the work is small, and torchrun's single thread enough for it. srun sets
    # no number: every rank would have a thread for each core of the machine.
    torch.set_num_threads(min(torch.get_num_threads(), ranks.threads))
    return replace(ranks, device=torch.device(CUDA, index))


def _choose(local_rank: int, wanted: str) -> tuple[int | None, _Choice]:
    """The number of this rank's GPU, which becomes torch's current one, and what others must know.

    A rank that sees some GPUs of the machine alone, as srun's --gpus-per-task has it, counts them
    from 0. So a number that is too large is no mistake; two ranks on one GPU are.
    """
    visible = 0
    if wanted != CPU and torch.cuda.is_available():
        visible = torch.cuda.device_count()
    if not visible:
        return None, _Choice(wanted, gpu=None, visible=0)

    index = local_rank % visible
    torch.cuda.set_device(index)
    uuid = str(torch.cuda.get_device_properties(index).uuid)
    return index, _Choice(wanted, gpu=uuid, visible=visible)


def _check(choices: Sequence[_Choice]) -> None:
    """Refuse devices with which the ranks cannot work together.

    Args:
        choices: of all ranks, in their order.

    Raises:
        UserError: for the first mistake.
    """
    without = [rank for rank, choice in enumerate(choices) if choice.gpu is None]
    if any(choices[rank].wanted == CUDA for rank in without):
        raise _no_gpu(f"no GPU on {_name(without)}" if len(choices) > 1 else "no GPU here")
    if without and len(without) < len(choices):
        raise UserError(
            "device",
            "a GPU for each rank, or for none",
            f"no GPU on {_name(without)} of {len(choices)}",
            "Mend CUDA there (`nvidia-smi` shows its GPUs), or set device=cpu.",
        )

    sharers = defaultdict(list)
    for rank, choice in enumerate(choices):
        if choice.gpu is not None:
            sharers[choice.gpu].append(rank)
    crowded = [group for group in sharers.values() if len(group) > 1]
    if not crowded:
        return

    first = crowded[0]
    visible = choices[first[0]].visible
    seen = "1 GPU" if visible == 1 else f"{visible} GPUs"
    raise UserError(
        "device",
        "a GPU for each rank",
        f"one GPU for {_name(first)}, which see {seen}",
        _advice(choices, sharers),
    )


def _advice(choices: Sequence[_Choice], sharers: dict[str, list[int]]) -> str:
    """What to do about ranks that share GPUs.

    Args:
        choices: of all ranks.
        sharers: the ranks of each GPU.
    """
    if len(sharers) == 1:
        fewer = "Start one rank, without torchrun"
    else:
        fewer = f"Start {len(sharers)} ranks in all"
    idle = any(choice.visible > len(sharers) for choice in choices)
    other = ", give each rank a GPU of its own (CUDA_VISIBLE_DEVICES)" if idle else ""
    return f"{fewer} (--nproc-per-node, srun's --ntasks-per-node){other}, or set device=cpu."


def _no_gpu(came: str) -> UserError:
    if torch.version.cuda is None and torch.version.hip is None:
        came += f", as torch {torch.__version__} is built without CUDA"
        advice = "Install torch's build for your driver"
    else:
        came += " that torch can use"
        advice = "Look at `nvidia-smi` and CUDA_VISIBLE_DEVICES"
    return UserError("device", "cuda: a GPU", came, f"{advice}, or set device=cpu.")


def _name(ranks: Sequence[int]) -> str:
    """The numbers of ranks, in words.

    >>> _name([3]), _name([0, 1]), _name([0, 1, 2, 3, 4, 5, 6])
    ('rank 3', 'ranks 0, 1', 'ranks 0, 1, 2, 3, ... (7)')
    """
    shown = ", ".join(map(str, ranks[:4]))
    more = f", ... ({len(ranks)})" if len(ranks) > 4 else ""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {shown}{more}"
