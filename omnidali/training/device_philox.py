"""Philox4x32-10 on the device: the words of :func:`omnidali.planning.philox.philox`, in torch."""

import torch

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox(counters: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Four words for each counter under each key.

    Args:
        counters: int64 (m,), the first of the four words of a counter, of which the others are 0.
        keys: int64 (n, 2, 1), below 2**32.

    Returns:
        int64 (n, m, 4), below 2**32.
    """
    k0, k1 = keys.unbind(dim=1)
    c0 = counters.expand(len(keys), -1) & _LOW
    c1, c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0), torch.zeros_like(c0)
    for _ in range(10):
        # the products wrap around the sign; what is taken of them are their bits
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (p0 >> 32) & _LOW, (p1 >> 32) & _LOW
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, p1 & _LOW, high0 ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return torch.stack([c0, c1, c2, c3], dim=-1)
