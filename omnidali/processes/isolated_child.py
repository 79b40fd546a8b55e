"""A process that opens untrusted files for another one: its limits, and the calls it answers."""

import functools
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from omnidali.processes.signals import end_with_parent

TOO_MUCH_MEMORY = 77  # exit status


def enter_isolation(memory: int) -> TextIO:
    """Set the limits of this process, and report that it is ready.

    Args:
        memory: bytes that the process may take.

    Returns:
        The file for its answers.
    """
    # with the thread that started it: a process that hangs in a library does not notice that stdin
    # has ended
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever library it is in
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    memory = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    print("ready", file=answers, flush=True)

    # what libraries print is no answer, and damaged files make them print without end
    null = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(null, number)
    return answers


def set_alarm(seconds: float) -> None:
    """Let the process end in so many seconds, 0 for never, unless this is called again."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main(memory: int, modules: Sequence[str] = ()) -> None:
    """Answer calls from stdin on stdout until stdin ends.

    Args:
        memory: bytes that the process may take.
        modules: imported at once, as the calls will need them.
    """
    answers = enter_isolation(memory)
    for module in modules:
        importlib.import_module(module)

    for line in sys.stdin:
        call = json.loads(line)
        set_alarm(call["seconds"])
        try:
            answer = _answer(call)
        except MemoryError:
            os._exit(TOO_MUCH_MEMORY)
        set_alarm(0)
        print(answer, file=answers, flush=True)


def _answer(call: dict) -> str:
    """Call the function: JSON with its ``value``, a ``decode_error``, or an ``os_error``."""
    from omnidali.errors import FILE, DecodeError
    from omnidali.processes.messages import decode_message, encode_message, resolve_name
    from omnidali.utils.heartbeat import on_progress

    try:
        function = resolve_name(call["function"])
        arguments = [decode_message(argument, trusted=True) for argument in call["arguments"]]
        with on_progress(functools.partial(set_alarm, call["seconds"])):
            return json.dumps({"value": encode_message(function(*arguments))})
    except DecodeError as error:
        return json.dumps({"decode_error": [error.reason, error.trouble]})
    except MemoryError:
        raise
    except Exception as error:  # of a library, at a file that nobody thought of
        number = getattr(error, "errno", None)
        if not isinstance(number, int):
            return json.dumps({"decode_error": [f"{type(error).__name__}: {error}", FILE]})
        file = getattr(error, "filename", None)  # errors of FFmpeg have these three, too
        text = str(getattr(error, "strerror", None))
        return json.dumps({"os_error": [number, text, file and os.fsdecode(file)]})
