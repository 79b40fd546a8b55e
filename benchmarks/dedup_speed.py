"""Speed of comparing frames in chunks, beside one plain matrix product of the same size."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from omnidali.curation.dedup.features import FeatureSimilarity, Whitening
from omnidali.curation.dedup.nearest import best_matches
from omnidali.curation.dedup.perceptual_hash import SKETCH_BYTES, HashSimilarity
from omnidali.distributed.devices import count_gpus
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

_LEAST = 0.6  # similarity that random features do not reach


def bench_dedup(
    out: str | Path,
    web: int,
    validation: int,
    dimensions: Sequence[int],
    *,
    repeats: int,
    device: str = "auto",
) -> list[dict]:
    """Compare random features of several widths and random hashes; writes one record each.

    The chunked search whitens, scales and takes the best of every row as well. It is timed with
    that; and alone, over prepared features, beside a plain product that does not keep its result.
    They take turns. As in real sources, hardly any pair is similar enough for its place to be asked
    for.

    Args:
        out: folder for the records.
        web: frames of the crawl.
        validation: frames that they are compared with.
        dimensions: of the features.
        repeats: measurements of each; the median counts.
        device: as the setting of this name.

    Raises:
        UserError: for ``cuda`` without a GPU.
    """
    place = torch.device("cuda" if count_gpus(device) else "cpu")
    records = []
    for width in dimensions:
        times = _time_features(web, validation, width, repeats, place)
        row = {
            "bench": "dedup",
            "kind": "features",
            "web": web,
            "validation": validation,
            "dimensions": width,
            "device": place.type,
            "threads": torch.get_num_threads(),
            "plain_seconds": round(times["plain"], 3),
            "chunked_seconds": round(times["chunked"], 3),
            "with_preparing_seconds": round(times["whole"], 3),
            "chunked_by_plain": round(times["chunked"] / times["plain"], 3),
            "gflops": round(2e-9 * web * validation * width / times["chunked"], 1),
        }
        records.append(write_record(out, row))
        say(
            f"{web:,} x {validation:,} x {width}: plain product {times['plain']:.2f} s, chunked"
            f" with the best of every row {times['chunked']:.2f} s, and with whitening"
            f" {times['whole']:.2f} s"
        )

    seconds = _time_hashes(web, validation, repeats, place)
    records.append(_write_hashes(out, web, validation, seconds))
    return records


def _write_hashes(out: str | Path, web: int, validation: int, seconds: float) -> dict:
    """The record of the comparison of hashes."""
    nanoseconds = 1e9 * seconds / web / validation
    row = {
        "bench": "dedup",
        "kind": "hash",
        "web": web,
        "validation": validation,
        "seconds": round(seconds, 3),
        "nanoseconds_a_pair": round(nanoseconds, 3),
    }
    say(f"{web:,} x {validation:,} hashes: {seconds:.2f} s, {nanoseconds:.2f} ns a pair")
    return write_record(out, row)


def _time_features(
    web: int, validation: int, width: int, repeats: int, device: torch.device
) -> dict[str, float]:
    """Seconds of the plain product, of the chunked one, and of that with its preparation."""
    rng = np.random.default_rng(width)
    queries, keys = (
        rng.standard_normal((rows, width), np.float32).astype(np.float16)
        for rows in (web, validation)
    )
    whitening = Whitening(np.zeros(width, np.float32), np.eye(width, dtype=np.float32), 0.0, 0)
    similarity = FeatureSimilarity(whitening, device)
    prepared = _PreparedSimilarity(whitening, device)
    ready_queries = similarity.prepare(queries)
    ready_keys = similarity.prepare(keys)

    def plain() -> torch.Tensor:
        return ready_queries @ ready_keys.T

    def nearest(count: int, least: float) -> torch.Tensor:
        # the search slices tensors as it slices arrays
        _, places = best_matches(
            ready_queries[:count],  # type: ignore[arg-type]
            ready_keys,  # type: ignore[arg-type]
            prepared,  # type: ignore[arg-type]
            least=least,
        )
        return torch.from_numpy(places)

    def chunked() -> torch.Tensor:
        return nearest(web, _LEAST)

    def whole() -> object:
        return best_matches(queries, keys, similarity, least=_LEAST)

    works = {"plain": plain, "chunked": chunked, "whole": whole}
    times = _take_turns(works, repeats, device)
    expected = plain()[:1000].argmax(dim=1).cpu()
    if not torch.equal(expected, nearest(1000, -np.inf)):
        raise RuntimeError("the chunked product found other neighbours than the plain one")
    return times


def _time_hashes(web: int, validation: int, repeats: int, device: torch.device) -> float:
    rng = np.random.default_rng(0)
    queries, keys = (
        rng.integers(0, 256, (rows, SKETCH_BYTES), np.uint8) for rows in (web, validation)
    )

    def search() -> object:
        return best_matches(queries, keys, HashSimilarity())

    return _take_turns({"hash": search}, repeats, device)["hash"]


class _PreparedSimilarity(FeatureSimilarity):
    """Cosines of features that were prepared before."""

    def prepare(self, rows: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return rows


def _take_turns(
    works: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
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
