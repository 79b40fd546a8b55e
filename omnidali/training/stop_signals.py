"""Signals end a run after the present optimizer step, on all ranks alike and with a save."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

import torch.distributed as dist

from omnidali.distributed.ranks import Ranks
from omnidali.processes.signals import handling_signals
from omnidali.utils.untrusted_text import warn

# a scheduler's, a person's at the keyboard, and that of a terminal or connection that is closed
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# torchrun forwards a signal that a scheduler has sent to every process: the two are one
_ECHO_SECONDS = 3.0


class StopSignals:
    """Listens while it is entered; a second signal ends the process at once.

    A thread reads the signals, so that they arrive while the main one waits for a collective. A
    signal that is ignored when this is entered stays so.

    Attributes:
        received: the first signal's name on this rank, or what else was to end the run; or None.
    """

    def __init__(self, ranks: Ranks):
        self.received: str | None = None
        self._first_time: float | None = None
        self._ranks = ranks
        self._answer: Callable[[], tuple[bool, ...]] = lambda: (False, False)
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():  # it may not set handlers
            return self
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        threading.Thread(target=self._listen, args=(reader,), daemon=True, name="signals").start()

        self._cleanup.enter_context(writer)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._cleanup.callback(signal.set_wakeup_fd, before)
        self._cleanup.enter_context(handling_signals(_SIGNALS, lambda *_: None))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._ranks.world > 1:
            # torchrun ends this rank, as another one has died: it must print that first
            self.received = self.received or "an error"
        else:
            self._cleanup.close()

    def _listen(self, reader: socket.socket) -> None:
        with reader:
            while data := reader.recv(1):
                if data[0] in _SIGNALS:
                    self._receive(data[0])

    def _receive(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._first_time is None:
            self._first_time = time.monotonic()
            if self.received is None:
                self.received = name
                if self._ranks.is_main:
                    warn(
                        f"{name}: the run ends after this step and saves; a second one ends it at"
                        " once"
                    )
        elif time.monotonic() - self._first_time > _echo_seconds(number):
            warn(f"{name} again: ends without saving")
            os._exit(128 + number)

    def request(self, reason: str) -> None:
        """Let the run end as after a signal; ``reason`` stands for its name."""
        self.received = self.received or reason

    def agreed(self, wants_save: bool = False) -> tuple[bool, bool]:
        """Whether the run stops, and whether it saves; all ranks call this after the same steps.

        Args:
            wants_save: whether this rank requests a checkpoint now.

        Returns:
            Whether any rank had received a signal at the previous call, and whether any wanted a
            checkpoint then: the ranks exchange it while they compute. A single rank is answered at
            once.
        """
        if self._ranks.world == 1:
            return self.received is not None, wants_save

        stops, saves = self._answer()
        if stops:
            self._answer = lambda: (True, False)
        else:  # one that is saved for now need not be asked for again
            self._answer = self._ranks.any_async(
                self.received is not None, wants_save and not saves
            )
        return stops, saves


def _echo_seconds(number: int) -> float:
    """For how long a second signal may be the first one's echo. Ctrl-C twice is meant."""
    is_keyboard = number == signal.SIGINT and not dist.is_torchelastic_launched()
    return 0.0 if is_keyboard else _ECHO_SECONDS
