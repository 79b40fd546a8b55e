"""torchrun for commands that start programs: it exits as its ranks do, with their error.

torchrun itself exits with code 1 whatever its ranks exit with, below a traceback of its own. This
one exits with the code of the rank that failed first, and passes that rank's error to the process
that started it. :func:`omnidali.processes.launch.run_program` runs it, as
``python -m omnidali.distributed.torchrun DESCRIPTOR`` and torchrun's arguments.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omnidali.processes.signals import FORWARDED, end_with_parent

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def main(arguments: Sequence[str]) -> int:
    """Run torchrun.

    Args:
        arguments: the descriptor of a pipe, into which the error is written as JSON text, and those
            of torchrun.
    """
    descriptor, *rest = arguments

    # the parent forwards signals, except the one that kills it
    end_with_parent(signal.SIGTERM)

    # until torchrun has handlers of its own there is nothing to end but this process
    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: os._exit(128 + number))

    code, text = _launch(rest)
    with contextlib.suppress(BrokenPipeError), open(int(descriptor), "w", encoding="utf-8") as pipe:
        json.dump(text, pipe)
    return code


def _launch(arguments: Sequence[str]) -> tuple[int, str]:
    """Run the ranks; returns the exit code, and the first failed rank's error if it is known."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(arguments))
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        if first.exitcode < 0:
            return 128 - first.exitcode, f"killed by {first.signal_name()}"
        # the first one to be noticed may have ended because of another
        known = [failure for failure in failed.failures.values() if _has_text(failure)]
        reported = min(known, key=lambda failure: failure.timestamp, default=first)
        return reported.exitcode, reported.message if known else ""
    except SignalException as stopped:
        return 128 + stopped.sigval, f"ended by {signal.Signals(stopped.sigval).name}"
    return 0, ""


def _has_text(failure: "ProcessFailure") -> bool:
    """Whether a rank has left the text of its error."""
    return (
        failure.exitcode > 0
        and os.path.isfile(failure.error_file)
        and isinstance(failure.message, str)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
