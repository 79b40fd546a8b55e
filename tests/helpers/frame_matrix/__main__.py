"""Checks the cases of the frame matrix from the command line."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from helpers.frame_matrix.case import Case
from helpers.frame_matrix.check import check
from helpers.frame_matrix.extras import extras
from helpers.frame_matrix.matrix import matrix


def _report(folder: Path | None, case: Case) -> tuple[str, list[str]]:
    """As :func:`check` for the command line, where whatever goes wrong is a problem."""
    try:
        if folder is not None:
            return case.name, check(case, folder / case.name)
        with tempfile.TemporaryDirectory() as made:
            return case.name, check(case, Path(made, case.name))
    except Exception as error:
        said = getattr(error, "stderr", b"")
        return case.name, [f"{type(error).__name__}: {error} {said!r:.200}"]


def main() -> int:
    """Check all cases, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of the cases to check")
    parser.add_argument("--folder", type=Path, help="where to keep the files")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    cases = [
        case
        for case in [*matrix(), *extras()]
        if not arguments.names or any(name in case.name for name in arguments.names)
    ]
    cases.sort(key=lambda case: case.name)  # neighbours share their encoded packets

    began, wrong = time.perf_counter(), 0
    with ProcessPoolExecutor(2) as pool:
        for name, found in pool.map(partial(_report, arguments.folder), cases, chunksize=12):
            if found:
                wrong += 1
                print(f"{name}: {len(found)} wrong: {'; '.join(found[:4])}", flush=True)
    print(f"{len(cases)} cases, {wrong} wrong, {time.perf_counter() - began:.0f} seconds")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
