"""A checksum over everything that a checkpoint holds.

torch's own format does not notice flipped bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

# The entry of a checkpoint that holds the digest of the others.
DIGEST = "digest"


def digest_of(state: Mapping[str, object]) -> str:
    """SHA-256 over all entries but the digest itself, in their order.

    >>> digest_of({"a": torch.zeros(2)}) == digest_of({"a": torch.zeros(2), "digest": "x"})
    True
    """
    digest = hashlib.sha256()
    _add(digest, {name: value for name, value in state.items() if name != DIGEST})
    return f"sha256:{digest.hexdigest()}"


def _add(digest: hashlib._Hash, value: object) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        # Only one tensor at a time has a second place in memory.
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    elif isinstance(value, Mapping):
        digest.update(b"{")
        for name, inner in value.items():
            digest.update(f"{name!r}:".encode())
            _add(digest, inner)
        digest.update(b"}")
    elif isinstance(value, (list, tuple)):
        digest.update(b"[")
        for inner in value:
            _add(digest, inner)
        digest.update(b"]")
    else:
        digest.update(f"{value!r},".encode())
