"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), vectorised.

A number is a function of (key, counter); nothing is drawn in order and nothing needs saving.
"""

from enum import IntEnum

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class Purpose(IntEnum):
    """Separates the random numbers that one draw needs."""

    PERMUTATION = 0
    FRAMES = 1
    CROP = 2
    FLIP = 3
    SUBSTITUTE = 4
    PIECE = 5
    MOTION = 6
    MIXUP = 7
    FRACTION = 8
    JITTER = 9
    OPERATIONS = 10
    ERASING = 11
    ERASED_BOX = 12


def philox(counter: tuple, key: tuple) -> np.ndarray:
    """Four uint32 words for every counter.

    Args:
        counter: four integer arrays that broadcast together; the low 32 bits count.
        key: two such arrays.

    Returns:
        uint64 (4, *broadcast), each value below 2**32.
    """
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) & _LOW for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) & _LOW for word in key)
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3))


class Stream:
    """The random words of one source: a function of (purpose, draw, index).

    Args:
        seed: of the run.
        source: place of the source in the config.
    """

    def __init__(self, seed: int, source: int):
        self.seed = seed
        self.source = source

    def words(
        self, purpose: Purpose, draws: np.ndarray, count: int, attempt: int = 0
    ) -> np.ndarray:
        """Random 32-bit words.

        Args:
            purpose: of the words.
            draws: int (n,), of the source.
            count: words of each draw.
            attempt: 0, or which substitute needs them, up to 255.

        Returns:
            uint64 (n, count), below 2**32.
        """
        draws = np.asarray(draws, np.uint64)[:, None]
        blocks = np.arange((count + 3) // 4, dtype=np.uint64)[None, :]
        tag = np.uint64(self.source << 8 | purpose | attempt << 24)
        words = philox((draws, draws >> _SHIFT, blocks, tag), (self.seed, self.seed >> 32))
        return words.transpose(1, 2, 0).reshape(len(draws), 4 * blocks.shape[1])[:, :count]

    def uniform(
        self, purpose: Purpose, draws: np.ndarray, count: int, attempt: int = 0
    ) -> np.ndarray:
        """float64 (n, count) in [0, 1); see :meth:`words`."""
        return self.words(purpose, draws, count, attempt) * 2.0**-32


def normals(uniform: np.ndarray) -> np.ndarray:
    """Standard normal numbers from as many uniform ones (Box and Muller, 1958).

    Args:
        uniform: float64 (n, even number) in [0, 1).
    """
    radius = np.sqrt(-2 * np.log1p(-uniform[:, ::2]))
    angle = 2 * np.pi * uniform[:, 1::2]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def below(words: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Integers in [0, limit) from 32-bit words; the bias is below limit / 2**32."""
    return (words * np.asarray(limit, np.uint64) >> _SHIFT).astype(np.int64)
