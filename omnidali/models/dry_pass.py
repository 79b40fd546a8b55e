"""What comes out of a network, by one pass that changes nothing of it."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def run_dry(module: nn.Module, *shape: int) -> torch.Tensor:
    """The output of a network for zeros, on the meta device if the network can do that.

    Weights, statistics, modes and random numbers stay as they are.

    Args:
        module: of any device.
        *shape: of the zeros.

    Returns:
        A tensor of which only the shape counts.

    Raises:
        Exception: whatever the network raises for zeros of this shape.
    """
    with _untouched(module):
        try:
            output = _run_on_meta(module, shape)
        except Exception:  # of a network that looks at numbers, or a real one
            device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
            output = _copy_or_itself(module)(torch.zeros(shape, device=device))
        found = first_tensor(output)
    if not found.is_floating_point():
        raise TypeError(f"the network returned {found.dtype}, not floating-point numbers")
    return found


def count_operations(module: nn.Module, *shape: int) -> int | None:
    """Floating-point operations of a forward pass; None for a network that cannot say.

    Args:
        module: of any device.
        *shape: of its input.
    """
    with _untouched(module), FlopCounterMode(display=False) as counter:
        try:
            _run_on_meta(module, shape)
        except Exception:  # it looks at numbers, which are not there
            return None
    return counter.get_total_flops() or None


def first_tensor(output: Any) -> torch.Tensor:
    """The tensor that counts in what a network returns: itself, ``logits``, or the first one.

    Raises:
        TypeError: if there is none, or the first one of several feature maps.
    """
    if isinstance(output, torch.Tensor):
        return output
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    if isinstance(output, (list, tuple)) and output:
        maps = [part for part in output if isinstance(part, torch.Tensor) and part.ndim >= 4]
        if len(maps) > 1:
            raise TypeError(f"the network returned {len(maps)} feature maps, not one")
        return first_tensor(output[0])
    raise TypeError(f"the network returned {type(output).__name__}, not a tensor")


def _run_on_meta(module: nn.Module, shape: tuple[int, ...]) -> Any:
    # a copy, as a network may keep tensors that it makes in a pass
    return copy.deepcopy(module).to("meta")(torch.zeros(shape, device="meta"))


def _copy_or_itself(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception:  # it holds something that cannot be copied
        return module


@contextlib.contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's mode and random numbers come back."""
    modes = [(inner, inner.training) for inner in module.modules()]
    for inner, _ in modes:
        inner.training = False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for inner, mode in modes:
            inner.training = mode
