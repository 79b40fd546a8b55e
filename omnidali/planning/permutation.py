"""A random order of N rows that is computed, not stored.

An alternating Feistel network over the mixed radices a x b, with a * b just above N: each half is
shifted by a keyed hash of the other, which is a bijection for any hash. Results of N and more go
through the network again until they fall below N (Black and Rogaway, CT-RSA 2002).
"""

from __future__ import annotations

import numpy as np

from omnidali.planning.philox import Purpose, Stream, below

_ROUNDS = 8
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def permute(
    position: np.ndarray, order: np.ndarray, size: int | np.ndarray, stream: Stream
) -> np.ndarray:
    """The row at each position of each random order.

    Args:
        position: int64 (n,), 0 <= position < size.
        order: int64 (n,), which order, such as the epoch.
        size: N, the number of rows, or int64 (n,) with that of each order.
        stream: random numbers of the source.

    Returns:
        int64 (n,); over all positions of an order every row comes exactly once.

    >>> sorted(permute(np.arange(5), np.zeros(5, int), 5, Stream(seed=1, source=0)).tolist())
    [0, 1, 2, 3, 4]
    """
    rows = np.array(position, np.int64)
    size = np.broadcast_to(np.asarray(size, np.int64), rows.shape)
    a = np.ceil(np.sqrt(size)).astype(np.int64)
    b = -(-size // a)
    orders, which = np.unique(order, return_inverse=True)
    words = stream.words(Purpose.PERMUTATION, orders, 2 * _ROUNDS)
    keys = (words[:, ::2] << np.uint64(32) | words[:, 1::2])[which]

    walking = np.arange(len(rows))
    while len(walking):
        high, low = a[walking], b[walking]
        left, right = np.divmod(rows[walking], low)
        for turn in range(_ROUNDS):
            key = keys[walking, turn]
            if turn % 2 == 0:
                left = (left + below(_hash(right, key), high)) % high
            else:
                right = (right + below(_hash(left, key), low)) % low
        rows[walking] = left * low + right
        walking = walking[rows[walking] >= size[walking]]
    return rows


def _hash(half: np.ndarray, key: np.ndarray) -> np.ndarray:
    """32 mixed bits of (half, key): the finaliser of splitmix64 (Steele et al., OOPSLA 2014)."""
    x = half.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return (x ^ (x >> np.uint64(31))) >> np.uint64(32)
