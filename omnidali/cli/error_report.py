"""How a program ends: errors become text and exit codes."""

from __future__ import annotations

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
from omnidali.errors import ConfigError, UserError
from omnidali.utils import streams
from omnidali.utils.untrusted_text import PrintError, say


def run_reporting_errors(run: Callable[[], int | None], rank: int = 0) -> int:
    """Run ``run``; errors of the user's settings and files become text on stderr and exit code 2,
    no traceback.

    Ranks above 0 keep back what rank 0 also says: mistakes of the config, and errors it has shared.
    An error that another rank's end has caused is told as that end, in one line. An interrupt from
    the keyboard is 130, in one word; where whoever read stdout has left, it is 141, and quiet.
    """
    streams.open_missing()
    try:
        code = run() or 0
        _flush()
        return code
    except KeyboardInterrupt as interrupt:
        failure_monitor.report_to_peers(interrupt)
        return failure_monitor.leave(130, lambda: say("interrupted", error=True))
    except Exception as raised:
        error = raised
    ending = failure_monitor.report_to_peers(error)
    _record(error, ending)
    if streams.reader_left():
        streams.close_stdout()
        if isinstance(error, BrokenPipeError):
            return failure_monitor.leave(141, lambda: None)  # as a program that SIGPIPE ends
    if isinstance(error, PrintError):
        streams.close_stdout()
        error = UserError(
            "stdout",
            "a place that takes what is printed",
            str(error.strerror),
            "Free space, or print elsewhere.",
        )
    if isinstance(error, UserError):
        return failure_monitor.leave(2, lambda: _advise(error, rank))
    if ending is not None:
        return failure_monitor.leave(ending.code, lambda: say(*str(ending).split("\n"), error=True))
    if not failure_monitor.is_on():
        sys.excepthook = _print_traceback
        raise error
    return failure_monitor.leave(
        1, lambda: _print_traceback(type(error), error, error.__traceback__)
    )


def _flush() -> None:
    """Print what waits to be printed, while an error can still be told."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise PrintError(problem.errno, problem.strerror) from None


def _record(error: Exception, ending: failure_monitor.Ending | None) -> None:
    """Leave the text of an error, or of the end that has caused it, where torchrun looks for it."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        text = (
            str(error)
            if isinstance(error, UserError)
            else "".join(traceback.format_exception_only(error)).strip()
        )
        text = text if ending is None else ending.text
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": text, "timestamp": str(int(time.time()))}))


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What Python prints of an error that nobody catches, without what a terminal would obey."""
    say(
        *"".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"),
        error=True,
    )


def _advise(error: Exception, rank: int) -> None:
    if rank == 0 or not (isinstance(error, ConfigError) or getattr(error, "told_by_main", False)):
        lines = str(error).split("\n")
        head = "error" if len(lines) == 1 else f"{len(lines)} errors"
        say(
            f"{head} on rank {rank}:" if rank else f"{head}:",
            *(f"  {line}" for line in lines),
            error=True,
        )
