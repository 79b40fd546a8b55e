"""A checksum over everything that a checkpoint holds; torch's own format does not notice flipped
bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

DIGEST = "digest"  # the entry of a checkpoint that holds it


def digest_of(state: Mapping[str, object]) -> str:
    """SHA-256 over all entries but the digest itself, in their order.

    >>> digest_of({"a": torch.zeros(2)}) == digest_of({"a": torch.zeros(2), "digest": "x"})
    True
    """
    found = hashlib.sha256()
    _add(found, {name: value for name, value in state.items() if name != DIGEST})
    return f"sha256:{found.hexdigest()}"


def _add(found: hashlib._Hash, value: object) -> None:
    if isinstance(value, torch.Tensor):
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        # copied one by one: the weights of a large model need no second place in memory as a whole
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        found.update(b"{")
        for name, inner in value.items():
            found.update(f"{name!r}:".encode())
            _add(found, inner)
        found.update(b"}")
    elif isinstance(value, (list, tuple)):
        found.update(b"[")
        for inner in value:
            _add(found, inner)
        found.update(b"]")
    else:
        found.update(f"{value!r},".encode())
