"""How a program ends: errors become text and exit codes."""

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from omnidali.distributed import failure_monitor
from omnidali.distributed.failure_monitor import RankFailure, exit_process
from omnidali.errors import ConfigError, UserError
from omnidali.utils import streams
from omnidali.utils.untrusted_text import PrintError, say


def run_reporting_errors(run: Callable[[], int | None]) -> int:
    """Run a program's work; mistakes of the user become text on stderr, without a traceback.

    Ranks above 0 do not print what rank 0 prints, too: mistakes of the config, and errors that it
    has shared. An error that another rank's failure has caused is printed as that failure.

    Returns:
        The exit code: 2 for a mistake of the user; 130 after an interrupt from the keyboard; 141
        where the reader of stdout has left; else what ``run`` returned.
    """
    streams.open_missing_streams()
    try:
        code = run() or 0
        _flush()
        return code
    except KeyboardInterrupt as interrupt:
        failure_monitor.report_to_peers(interrupt)
        return exit_process(130, "interrupted")
    except Exception as error:
        return _end_with(error, _rank())


def _end_with(error: Exception, rank: int) -> int:
    """The exit code after an error, which is printed; an error of the program may be raised."""
    cause = failure_monitor.report_to_peers(error)
    _write_error_file(error, cause)

    if streams.reader_left():
        streams.close_stdout()
        if isinstance(error, BrokenPipeError):
            return exit_process(141)  # as a program that SIGPIPE ends
    if isinstance(error, PrintError):
        streams.close_stdout()
        error = UserError(
            "stdout",
            "a place that takes what is printed",
            str(error.strerror),
            "Free space, or print elsewhere.",
        )

    if isinstance(error, UserError):
        return exit_process(2, *_mistake_lines(error, rank))
    if cause is not None:
        return exit_process(cause.code, *str(cause).split("\n"))
    if failure_monitor.is_running():
        return exit_process(1, *_traceback_lines(error))
    sys.excepthook = _print_traceback
    raise error


def _rank() -> int:
    """This process's rank, known before it joins the others."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() else 0


def _flush() -> None:
    """Print the rest of the buffer, while an error can still be reported."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise PrintError(problem.errno, problem.strerror) from None


def _write_error_file(error: Exception, cause: RankFailure | None) -> None:
    """Leave the text of an error, or of the failure that has caused it, for torchrun."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        text = cause.text if cause is not None else failure_monitor.describe(error)
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": text, "timestamp": str(int(time.time()))}))


def _traceback_lines(error: BaseException) -> list[str]:
    return "".join(traceback.format_exception(error)).rstrip("\n").split("\n")


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback as Python does, with control characters escaped."""
    say(*_traceback_lines(error), error=True)


def _mistake_lines(error: UserError, rank: int) -> list[str]:
    """The lines that this rank prints; none if rank 0 prints the error."""
    is_shared = isinstance(error, ConfigError) or failure_monitor.is_reported_by_main(error)
    if rank != 0 and is_shared:
        return []
    lines = str(error).split("\n")
    head = "error" if len(lines) == 1 else f"{len(lines)} errors"
    place = f" on rank {rank}" if rank else ""
    return [f"{head}{place}:", *(f"  {line}" for line in lines)]
