"""Random input: tried as often, or as long, as is asked for.

In CI a fixed number of inputs each. OMNIDALI_FUZZ_SECONDS runs as long, with other seeds every
time, and OMNIDALI_RECORDS names a folder that gets a record of how many inputs each parser saw.
"""

import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnidali.utils.run_record import write_record

SECONDS = float(os.environ.get("OMNIDALI_FUZZ_SECONDS", 0))


SHARES = {
    "lists": 0.1,
    "labels": 0.05,
    "gate": 0.05,
    "photo headers": 0.05,
    "config": 0.1,
    "tars": 0.1,
    "checkpoints": 0.05,
    "media": 0.5,
}


IN_CI = {
    "lists": 200,
    "labels": 100,
    "gate": 400,
    "photo headers": 400,
    "config": 100,
    "tars": 150,
    "checkpoints": 60,
    "media": 800,
}


SLOWEST = 20.0  # seconds of a core that one input may take

COUNTS: dict[str, int] = {}


def record_counts():
    """A fixture that writes the record at the end of a module."""

    @pytest.fixture(scope="module", autouse=True)
    def record():
        yield
        folder = os.environ.get("OMNIDALI_RECORDS")
        if folder and COUNTS:
            write_record(folder, {"fuzz": COUNTS, "fuzz_seconds": SECONDS})

    return record


def fuzz(name, strategy, check):
    """Try inputs of a strategy, as many or as long as is asked for; hypothesis makes a failing one
    small.
    """
    COUNTS.setdefault(name, 0)

    @settings(
        max_examples=IN_CI[name],
        deadline=None,
        derandomize=not SECONDS,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def once(value):
        COUNTS[name] += 1
        check(value)

    end = time.monotonic() + SECONDS * SHARES[name]
    once()
    while time.monotonic() < end:
        once()


def token(*known):
    return st.one_of(
        st.sampled_from(known), st.text(max_size=12), st.integers().map(str), st.floats().map(str)
    )


def mutate(rng, data, others=()):
    """Bytes with some of what breaks parsers: flips, cuts, splices, swaps, and numbers at their
    limits.
    """
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = len(data)
        if size < 16:
            break
        reach = rng.choice((64, 600, size, size))  # headers more often
        place = rng.randrange(min(reach, size - 8))
        if rng.random() < 0.2:
            place = size - 8 - rng.randrange(min(reach, size - 8))
        kind = rng.randrange(8)
        if kind == 0:
            for _ in range(rng.choice((1, 3, 20))):
                data[rng.randrange(min(reach, size))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[rng.randrange(1, size) :]
        elif kind == 2 and others:
            other = rng.choice(others)
            data[place:] = other[rng.randrange(len(other)) :]
        elif kind == 3:
            count = rng.randrange(1, min(4000, size - place))
            if rng.random() < 0.5:
                del data[place : place + count]
            else:
                data[place:place] = data[place : place + count] * rng.choice((1, 2, 50))
        elif kind == 4:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(
                (
                    0,
                    1,
                    2 ** (8 * width) - 1,
                    2 ** (8 * width - 1),
                    2 ** (8 * width - 1) - 1,
                    rng.getrandbits(8 * width),
                )
            )
            data[place : place + width] = number.to_bytes(width, rng.choice(("big", "little")))
        elif kind == 5:  # two boxes, chunks or headers change places
            names = [
                data.find(name)
                for name in (
                    b"moov",
                    b"mdat",
                    b"stbl",
                    b"stsz",
                    b"stco",
                    b"stts",
                    b"trak",
                    b"idx1",
                    b"movi",
                    b"LIST",
                    b"IHDR",
                    b"IDAT",
                    b"avcC",
                    b"ctts",
                    b"stss",
                    b"elst",
                    b"iloc",
                    b"iinf",
                    b"ipco",
                    b"ipma",
                    b"ispe",
                )
                if data.find(name) >= 4
            ]
            if len(names) > 1:
                one, other = sorted(rng.sample(names, 2))
                data[one : one + 4], data[other : other + 4] = (
                    data[other : other + 4],
                    data[one : one + 4],
                )
        elif kind == 6:
            data[place : place + 8] = rng.randbytes(8)
        else:
            data += rng.randbytes(rng.choice((1, 100, 5000)))
    return bytes(data)
