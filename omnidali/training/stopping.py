"""SIGTERM and SIGUSR1 end a run behind the optimizer step that is under way, on all ranks alike."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time

from omnidali.ranks import Ranks

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_SAME_SECONDS = 3.0  # torchrun forwards a signal that a scheduler has sent to every process: the two are one


class StopSignals:
    """Listens while it is entered; a second signal ends the process at once.

    The signals are read by a thread, so that they are heard while the main one waits for a collective.

    Attributes:
        heard: the first signal's name on this rank, or None.
    """

    def __init__(self, ranks: Ranks):
        self.heard: str | None = None
        self._first, self._ranks = 0.0, ranks
        self._asked = lambda: False

    def __enter__(self) -> "StopSignals":
        self._listens = threading.current_thread() is threading.main_thread()  # others may not set handlers
        if self._listens:
            reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._old_writer = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            self._old = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
            threading.Thread(target=self._listen, args=(reader,), daemon=True, name="signals").start()
        return self

    def __exit__(self, *_) -> None:
        if self._listens:
            for number, handler in self._old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._old_writer)
            self._writer.close()

    def _listen(self, reader: socket.socket) -> None:
        with reader:
            while numbers := reader.recv(1):
                if numbers[0] not in _SIGNALS:
                    continue
                name = signal.Signals(numbers[0]).name
                if self.heard is None:
                    self._first, self.heard = time.monotonic(), name
                elif time.monotonic() - self._first > _SAME_SECONDS:
                    with contextlib.suppress(OSError):  # of a terminal that is gone
                        print(f"{name} again: ends without saving", file=sys.stderr, flush=True)
                    os._exit(128 + numbers[0])

    def agreed(self) -> bool:
        """Whether any rank had heard a signal at the previous call; all ranks call this behind the same steps.

        The answer is a step old, as the ranks exchange it while they compute. A single rank stops at once.
        """
        if self._ranks.world == 1:
            return self.heard is not None
        stops = self._asked()
        self._asked = (lambda: True) if stops else self._ranks.any_soon(self.heard is not None)
        return stops
