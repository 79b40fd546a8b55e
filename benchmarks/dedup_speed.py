"""Speed of comparing frames in chunks, beside one plain matrix product of the same size."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from omnidali.curation.dedup.features import FeatureLikeness, Whitening
from omnidali.curation.dedup.nearest import best_matches
from omnidali.curation.dedup.perceptual_hash import WIDTH, HashLikeness
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

_LEAST = 0.6  # likeness that random features do not reach


def bench_dedup(
    out: str | Path, web: int, validation: int, dimensions: list[int], repeats: int
) -> list[dict]:
    """Measure features of every width and hashes, both random; writes and prints one record each.

    The chunked search whitens, scales and takes the best of every row as well; it is timed with
    that, and beside a plain product alone of prepared features, whose result it never holds. They
    take turns. As in real sources, next to no pair is alike enough for its place to be asked for.

    Args:
        web, validation: frames on both sides. dimensions: of features. repeats: of each; the median
            counts.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    records = []
    for width in dimensions:
        rng = np.random.default_rng(width)
        queries, keys = (
            rng.standard_normal((rows, width), np.float32).astype(np.float16)
            for rows in (web, validation)
        )
        whitening = Whitening(np.zeros(width, np.float32), np.eye(width, dtype=np.float32), 0.0, 0)
        measure = FeatureLikeness(whitening, device)
        ready = measure.prepare(queries), measure.prepare(keys)

        def search(measure) -> Callable:
            return lambda: best_matches(queries, keys, measure, least=_LEAST)

        def plain() -> torch.Tensor:
            return ready[0] @ ready[1].T

        prepared = _Prepared(whitening, device)
        times = _in_turns(
            {
                "plain": plain,
                "chunked": lambda: best_matches(*ready, prepared, least=_LEAST),
                "whole": search(measure),
            },
            repeats,
            device,
        )
        same = torch.equal(
            plain()[:1000].argmax(dim=1).cpu(),
            torch.from_numpy(best_matches(ready[0][:1000], ready[1], prepared)[1]),
        )
        if not same:
            raise RuntimeError("the chunked product found other neighbours than the plain one")
        records.append(
            write_record(
                out,
                {
                    "bench": "dedup",
                    "kind": "features",
                    "web": web,
                    "validation": validation,
                    "dimensions": width,
                    "device": device.type,
                    "threads": torch.get_num_threads(),
                    "plain_seconds": round(times["plain"], 3),
                    "chunked_seconds": round(times["chunked"], 3),
                    "with_preparing_seconds": round(times["whole"], 3),
                    "chunked_by_plain": round(times["chunked"] / times["plain"], 3),
                    "gflops": round(2e-9 * web * validation * width / times["chunked"], 1),
                },
            )
        )
        say(
            f"{web:,} x {validation:,} x {width}: plain product {times['plain']:.2f} s, chunked with the best of"
            f" every row {times['chunked']:.2f} s, and with whitening {times['whole']:.2f} s"
        )
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (rows, WIDTH), np.uint8) for rows in (web, validation)]
    seconds = _in_turns({"hash": lambda: best_matches(*frames, HashLikeness())}, repeats, device)[
        "hash"
    ]
    records.append(
        write_record(
            out,
            {
                "bench": "dedup",
                "kind": "hash",
                "web": web,
                "validation": validation,
                "seconds": round(seconds, 3),
                "nanoseconds_a_pair": round(1e9 * seconds / web / validation, 3),
            },
        )
    )
    say(
        f"{web:,} x {validation:,} hashes: {seconds:.2f} s, {1e9 * seconds / web / validation:.2f} ns a pair"
    )
    return records


class _Prepared(FeatureLikeness):
    """Cosines of features that were prepared before."""

    def prepare(self, kept: torch.Tensor) -> torch.Tensor:
        return kept


def _in_turns(works: dict[str, Callable], repeats: int, device: torch.device) -> dict[str, float]:
    """The median seconds of each, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            gc.collect()
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}
