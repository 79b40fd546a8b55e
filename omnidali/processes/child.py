"""Inside a process that opens strangers' files for another one: its limits, and the calls that it
answers.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

TOO_MUCH_MEMORY = 77  # exit status
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal for the end of the parent


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when the thread that started it ends; Linux alone
    can.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def confine(memory: int) -> TextIO:
    """Take the limits upon this process, and say that it is ready; returns the file for its
    answers.

    Args:
        memory: bytes that the process may take.
    """
    # with the thread that started it: a process that hangs in a library does not see that stdin
    # ended
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started it ends it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever library it is in
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    memory = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    print("ready", file=answers, flush=True)
    silence = os.open(os.devnull, os.O_WRONLY)
    # what libraries print is no answer, and damaged files make them print without end
    for place in (1, 2):
        os.dup2(silence, place)
    return answers


def set_alarm(seconds: float) -> None:
    """Let the process end in so many seconds, 0 for never, unless this is called again."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main(memory: int, modules: Sequence[str] = ()) -> None:
    """Answer calls from stdin on stdout until stdin ends.

    Args:
        memory: as of :func:`confine`. modules: that the calls will need.
    """
    answers = confine(memory)
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        task = json.loads(line)
        set_alarm(task["seconds"])
        try:
            answer = _answer(task)
        except MemoryError:
            os._exit(TOO_MUCH_MEMORY)
        set_alarm(0)
        print(answer, file=answers, flush=True)


def _answer(task: dict) -> str:
    """What a function gives, as ``value``; else ``cannot`` with the reason, or an error of the
    system.
    """
    from omnidali.errors import FILE, DecodeError
    from omnidali.processes.messages import from_plain, named, to_plain
    from omnidali.utils.heartbeat import watched

    try:
        function, arguments = named(task["function"]), from_plain(task["arguments"], trusted=True)
        with watched(functools.partial(set_alarm, task["seconds"])):
            return json.dumps({"value": to_plain(function(*arguments))})
    except DecodeError as reason:
        return json.dumps({"cannot": [reason.reason, reason.trouble]})
    except MemoryError:
        raise
    except Exception as error:  # of a library, at a file that nobody thought of
        if isinstance(getattr(error, "errno", None), int):  # FFmpeg's have one, too
            file = getattr(error, "filename", None)
            return json.dumps(
                {"error": [error.errno, str(error.strerror), file and os.fsdecode(file)]}
            )
        return json.dumps({"cannot": [f"{type(error).__name__}: {error}", FILE]})
