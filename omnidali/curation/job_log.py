"""A log of finished jobs, from which a second start of a command continues."""

import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from omnidali.utils.atomic_write import write_whole
from omnidali.utils.untrusted_text import say

LogRow = dict[str, Any]  # values of JSON; ``path`` names the job


class Job(Protocol):
    """Something to be done that is measured in frames."""

    frames: int


JobT = TypeVar("JobT", bound=Job)


def file_stamp(path: str | Path) -> list[int] | None:
    """Size in bytes and modification time in nanoseconds; None for a file that is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def read_job_log(path: Path) -> dict[str, LogRow]:
    """The last row of every job, by its path; a line that a kill cut off does not count."""
    rows: dict[str, LogRow] = {}
    if not path.exists():
        return rows

    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            rows[row["path"]] = row
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def run_logged_jobs(
    path: Path,
    others: Iterable[LogRow],
    finished: dict[str, LogRow],
    todo: Collection[JobT],
    workers: int,
    work: Callable[[JobT], LogRow],
) -> None:
    """Run the jobs that a log does not know, and log each one as it ends.

    Args:
        path: of the log.
        others: rows that stay in the log, though their jobs are not among these.
        finished: rows of the jobs that are finished, by path; gets those of the rest.
        todo: the jobs to run.
        workers: number of threads.
        work: runs one job and returns its row.

    Raises:
        Exception: the first one of ``work``, once the jobs that have begun have ended.
    """
    write_whole(path, (json.dumps(row) + "\n" for row in (*others, *finished.values())))
    if finished:
        say(f"{len(finished):,} of {len(finished) + len(todo):,} files lie there already")

    with (
        open(path, "a", encoding="utf-8") as file,
        tqdm(
            total=sum(job.frames for job in todo),
            desc=path.stem,
            unit="frame",
            unit_scale=True,
            file=sys.stderr,
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
        ) as bar,
    ):
        lock = threading.Lock()

        def run(job: JobT) -> None:
            row = work(job)
            with lock:
                finished[row["path"]] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
                bar.update(job.frames)

        with ThreadPoolExecutor(workers) as pool:
            try:
                for future in as_completed([pool.submit(run, job) for job in todo]):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
