"""torchrun for commands that start programs: it ends as its ranks do, and says in a line why.

torchrun itself ends with code 1 whatever its ranks end with, below a traceback of its own. This one
ends with the code of the rank that failed first, and hands that rank's error to whoever started it.
It is run by :func:`omnidali.processes.launch.run_program`, as ``python -m omnidali.processes.torchrun DESCRIPTOR``
and torchrun's arguments.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence

from omnidali.processes.child import end_with_parent

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Run torchrun; the first argument is the descriptor of a pipe that gets the error as JSON
    text.
    """
    descriptor, *rest = arguments

    # who started this hands signals on, but for the one that kills it outright
    end_with_parent(signal.SIGTERM)

    # until torchrun has handlers of its own there is nothing to end but this process
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: os._exit(128 + number))

    code, text = _launch(rest)
    with contextlib.suppress(BrokenPipeError), open(int(descriptor), "w", encoding="utf-8") as pipe:
        json.dump(text, pipe)
    return code


def _launch(arguments: Sequence[str]) -> tuple[int, str]:
    """How it ended: the exit code, and the error of the first rank that failed, if that is known."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(arguments))
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        if first.exitcode < 0:
            return 128 - first.exitcode, f"killed by {first.signal_name()}"
        told = os.path.isfile(first.error_file) and isinstance(first.message, str)
        return first.exitcode, first.message if told else ""
    except SignalException as stopped:
        return 128 + stopped.sigval, f"ended by {signal.Signals(stopped.sigval).name}"
    return 0, ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
