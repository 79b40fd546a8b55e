"""Signals end a run after the optimizer step that is under way, on all ranks alike, and with
everything saved.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import torch.distributed as dist

from omnidali.distributed.ranks import Ranks
from omnidali.training.retry import warn

# a scheduler's, a person's at the keyboard, and that of a terminal or connection that is closed
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# torchrun forwards a signal that a scheduler has sent to every process: the two are one
_SAME_SECONDS = 3.0


class StopSignals:
    """Listens while it is entered; a second signal ends the process at once.

    The signals are read by a thread, so that they are heard while the main one waits for a
    collective. A signal that is ignored when it is entered stays so: `nohup` ignores SIGHUP, and
    shells ignore SIGINT for background jobs.

    Attributes:
        heard: the first signal's name on this rank, or None.
    """

    def __init__(self, ranks: Ranks):
        self.heard: str | None = None
        self._first: float | None = None
        self._old: dict[int, object] = {}
        self._ranks = ranks
        self._asked = lambda: (False, False)

    def __enter__(self) -> StopSignals:
        # others may not set handlers
        self._listens = threading.current_thread() is threading.main_thread()
        if not self._listens:
            return self

        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        threading.Thread(target=self._listen, args=(reader,), daemon=True, name="signals").start()
        self._old_writer = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._old = {number: signal.signal(number, lambda *_: None) for number in heeded}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if kind is not None and self._ranks.world > 1:
            # torchrun ends this rank, as another one has died: it must be able to say so first
            self.heard = self.heard or "an error"
        elif self._listens:
            for number, handler in self._old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._old_writer)
            self._writer.close()

    def _listen(self, reader: socket.socket) -> None:
        with reader:
            while numbers := reader.recv(1):
                if numbers[0] not in self._old:
                    continue
                name = signal.Signals(numbers[0]).name
                is_first = self._first is None
                self._first = time.monotonic() if self._first is None else self._first
                if self.heard is None:
                    self.heard = name
                    self._say(
                        f"{name}: the run ends after this step and saves; a second one ends it at once"
                    )
                elif not is_first and time.monotonic() - self._first > _same_seconds(numbers[0]):
                    self._say(f"{name} again: ends without saving", by_any=True)
                    os._exit(128 + numbers[0])

    def _say(self, line: str, by_any: bool = False) -> None:
        if self._ranks.is_main or by_any:
            warn(line)

    def agreed(self, wants_save: bool = False) -> tuple[bool, bool]:
        """Whether the run stops, and whether it saves; all ranks call this after the same steps.

        Args:
            wants_save: whether this rank would like a checkpoint now.

        Returns:
            Whether any rank had heard a signal, and whether any wanted a checkpoint, at the
                previous call: the ranks
            exchange it while they compute. A single rank is answered at once.
        """
        if self._ranks.world == 1:
            return self.heard is not None, wants_save

        stops, saves = self._asked()
        if stops:
            self._asked = lambda: (True, False)
        else:  # one that is saved for now need not be asked for again
            self._asked = self._ranks.any_soon(self.heard is not None, wants_save and not saves)
        return stops, saves


def _same_seconds(number: int) -> float:
    """For how long a second signal may be the first one's echo. Who presses Ctrl-C twice means it."""
    return 0.0 if number == signal.SIGINT and not dist.is_torchelastic_launched() else _SAME_SECONDS
