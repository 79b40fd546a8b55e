"""The process of one check: it runs the check and passes its findings on, a JSON line each."""

import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence

from omnidali.doctor.findings import Context, Findings, reason_of, traceback_of
from omnidali.processes.signals import end_with_parent


def main(arguments: Sequence[str]) -> None:
    """Run a check.

    Args:
        arguments: the descriptor of a pipe for the findings; JSON text with the ``function`` as
            ``module:name``, and the fields of its ``context``.
    """
    descriptor, job = arguments
    end_with_parent(signal.SIGKILL)
    faulthandler.enable()  # after a crash, and when the parent aborts a hanging check
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    details = json.loads(job)
    context = details["context"]
    for name in ("folders", "done"):
        context[name] = tuple(context[name])

    with open(int(descriptor), "w", encoding="utf-8") as pipe:

        def emit(message: dict) -> None:
            pipe.write(f"{json.dumps(message)}\n")
            pipe.flush()

        findings = Findings(Context(**context), emit)
        try:
            module, _, name = details["function"].partition(":")
            getattr(importlib.import_module(module), name)(findings)
        except Exception as error:
            emit({"error": reason_of(error), "traceback": traceback_of(error)})
        else:
            emit({"end": True})

    # libraries that hang or crash as they are unloaded have nothing left to say
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
