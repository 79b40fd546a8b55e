"""How the ranks of a job learn of each other's failure.

Every rank keeps a connection to the main one open. The kernel closes that of a process which dies,
however it dies, and notices a machine or network that is gone. A rank that is busy or suspended is
not taken for dead, as its kernel still answers. The first failure is sent to all ranks, and all end
with it.

Nothing of torch does that. torchrun's agents end the ranks of their own machine alone, those of
another machine meet a broken collective or its limit of minutes, and under srun there is no agent.
torch's store does not report that a rank has left it.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

from omnidali.distributed.control_connection import MAX_MESSAGE, MessageConnection, RankFailure
from omnidali.distributed.failure_relay import FailureRelay
from omnidali.errors import UserError
from omnidali.utils.untrusted_text import say

_GRACE_SECONDS = 15.0  # for the main thread to close its files once a rank has failed
# for the main thread to print it first: NCCL may end the process before the grace is over
_PRINT_SECONDS = 2.0
_SAVE_SECONDS = 30.0  # longer if it is saving a checkpoint
_NEWS_SECONDS = 5.0  # for the cause of a broken collective to arrive
_CONNECT_SECONDS = 5.0
_COLLECTIVE = re.compile(
    r"gloo|nccl|c10d|connection (closed|reset)|broken pipe|socket|process group", re.IGNORECASE
)


class RelayAddress(NamedTuple):
    """Where the main rank's :class:`FailureRelay` listens, and its password."""

    host: str
    port: int
    token: str


class FailureMonitor:
    """Reports this rank's failure to the others, and ends this process after one of theirs.

    Args:
        rank: of this process.
        relay: of the main rank.

    Attributes:
        failure: the first one of any rank, which may be this one; None before.

    Raises:
        OSError: if the relay cannot be reached.
    """

    def __init__(self, rank: int, relay: RelayAddress):
        self.failure: RankFailure | None = None
        self._rank = rank
        self._is_known = threading.Event()
        self._is_printed = threading.Lock()
        self._is_stopping = False
        self._connection = MessageConnection(
            socket.create_connection(relay[:2], timeout=_CONNECT_SECONDS)
        )
        self._connection.send({"rank": rank, "token": relay.token})
        threading.Thread(target=self._listen, daemon=True, name="failures").start()

    def report(self, code: int, text: str) -> None:
        """Report that this rank fails, unless another one did before; waits until all know."""
        message = {"code": code, "text": text[: MAX_MESSAGE // 10]}
        if self.failure is None and self._connection.send(message):
            self._is_known.wait(_NEWS_SECONDS)

    def wait_for_peer(self) -> RankFailure | None:
        """The failure of another rank, if one arrives within seconds."""
        self._is_known.wait(_NEWS_SECONDS)
        return (
            self.failure if self.failure is not None and self.failure.rank != self._rank else None
        )

    def may_print(self) -> bool:
        """True for the first caller: the main thread and the monitor's must not both print."""
        return self._is_printed.acquire(blocking=False)

    def stop(self) -> None:
        """Leave after a success."""
        self._is_stopping = True
        self._connection.send({"bye": True})

    def _listen(self) -> None:
        messages: list[dict] = []
        while not messages:
            try:
                messages = self._connection.receive()
            except OSError as error:
                messages = [asdict(RankFailure.from_lost_connection(0, error))]
        if "bye" not in messages[0] and not self._is_stopping:
            self._exit_with(RankFailure(**messages[0]))

    def _exit_with(self, failure: RankFailure) -> None:
        """End this process with the first failure, unless its main thread does so soon."""
        self.failure = failure
        self._is_known.set()

        # the main thread reports its own failure; if it does not, this one does after the grace
        is_own = failure.rank == self._rank
        time.sleep(_GRACE_SECONDS if is_own else _PRINT_SECONDS)
        if self.may_print():
            with contextlib.suppress(OSError):
                say(*str(failure).split("\n"), error=True)

        # the main thread may be about to print
        time.sleep(0 if is_own else _GRACE_SECONDS - _PRINT_SECONDS)
        if _exit_lock.acquire(timeout=_SAVE_SECONDS) and _before_exit is not None:
            with contextlib.suppress(Exception):
                _before_exit()
        os._exit(failure.code)


# One job a process, as in torch.distributed.
_monitor: FailureMonitor | None = None
_relay: FailureRelay | None = None
_exit_lock = threading.Lock()
_before_exit: Callable[[], object] | None = None


@contextlib.contextmanager
def before_exit(work: Callable[[], object]) -> Iterator[None]:
    """Do ``work`` before another rank's failure ends this process, if its main thread does not.

    That one may wait in a collective, or for its loader. ``work`` is called on another thread.
    """
    global _before_exit
    _before_exit = work
    try:
        yield
    finally:
        _before_exit = None


def delaying_exit() -> contextlib.AbstractContextManager[bool]:
    """Keep another rank's failure from ending this process, for half a minute, during a save."""
    return _exit_lock


def open_relay(addresses: Sequence[str]) -> RelayAddress | None:
    """Start the relay; the main rank calls this.

    Args:
        addresses: the first one that is this machine's own is bound.

    Returns:
        None, after a warning, if it can listen at none of them.
    """
    global _relay
    try:
        _relay = FailureRelay(addresses)
    except OSError as error:
        say(
            f"rank 0 can listen at none of {list(addresses)}, to which MASTER_ADDR resolves"
            f" ({error}): ranks learn of each other's failure by timeouts only",
            error=True,
        )
        return None
    return RelayAddress(_relay.address, _relay.port, _relay.token)


def join(rank: int, relay: RelayAddress) -> None:
    """Connect this process to the relay; every rank calls this, the main one as well."""
    global _monitor
    try:
        _monitor = FailureMonitor(rank, relay)
    except OSError as error:
        say(
            f"rank {rank} cannot reach rank 0 at {relay.host}, port {relay.port} ({error}): it"
            " learns of the failure of other ranks by timeouts only",
            error=True,
        )


def stop() -> None:
    """Leave the monitoring after a success; safe to call when there is none."""
    global _monitor, _relay
    if _monitor is not None:
        _monitor.stop()
    if _relay is not None:
        _relay.close()
    _monitor = None
    _relay = None


def is_running() -> bool:
    """Whether other ranks would learn of this one's failure."""
    return _monitor is not None


def exit_process(code: int, *lines: str) -> int:
    """Print lines to stderr and return ``code``; one of several ranks ends the process at once.

    An orderly exit would wait for collectives that the others never join.
    """
    with contextlib.suppress(OSError):  # nobody reads any more
        if lines and (_monitor is None or _monitor.may_print()):
            say(*lines, error=True)
        sys.stdout.flush()
    if _monitor is not None:
        os._exit(code)
    return code


@contextlib.contextmanager
def reporting_to_peers() -> Iterator[None]:
    """Report an error to the other ranks before files and loaders are closed, which may be slow."""
    try:
        yield
    except BaseException as error:
        report_to_peers(error)
        raise


def report_to_peers(error: BaseException) -> RankFailure | None:
    """Report to the other ranks that this one fails.

    Returns:
        The failure of another rank, if that has caused ``error``.
    """
    if _monitor is None:
        return None
    code = 1
    if isinstance(error, KeyboardInterrupt):
        code = 130
    elif isinstance(error, UserError):
        code = 2

    may_be_theirs = is_reported_by_main(error)  # the main rank reports it first
    if code == 1:
        is_broken = isinstance(error, RuntimeError) and _COLLECTIVE.search(
            f"{type(error).__module__} {error}"
        )
        may_be_theirs = may_be_theirs or _monitor.failure is not None or bool(is_broken)
    if may_be_theirs and (failure := _monitor.wait_for_peer()) is not None:
        return failure
    _monitor.report(code, describe(error))
    return None


def describe(error: BaseException) -> str:
    """The text of an error, without a traceback."""
    if isinstance(error, UserError):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip()


def is_reported_by_main(error: BaseException) -> bool:
    """Whether the main rank has this error, too, and prints it."""
    return getattr(error, "reported_by_main", False)
