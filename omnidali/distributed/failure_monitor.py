"""How the ranks of a job hear of each other's end.

Every rank keeps a connection to the main one open. The kernel closes that of a process which dies,
however it dies, and notices a machine or network that is gone; a rank that is merely busy, or
suspended, is not taken for dead, as its kernel still answers. The first end is told to all, with
its error, and is what every rank ends with.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from omnidali.errors import UserError
from omnidali.utils.untrusted_text import say

_GRACE_SECONDS = 15.0  # for the main thread to close its files once a rank has ended
# for the main thread to say it first: NCCL may end the process before the grace is over
_TELL_SECONDS = 2.0
_FINISH_SECONDS = 30.0  # more, where it is saving what was trained
_NEWS_SECONDS = 5.0  # for the reason of a broken collective to arrive
_SILENT_SECONDS = 30  # after which a machine that does not answer is gone
_LONGEST = 100_000  # bytes of a message
_COLLECTIVE = re.compile(
    r"gloo|nccl|c10d|connection (closed|reset)|broken pipe|socket|process group", re.IGNORECASE
)


@dataclass(frozen=True)
class Ending:
    """How a rank ended: its exit ``code`` and the error as ``text``."""

    rank: int
    code: int
    text: str

    def __str__(self) -> str:
        return f"rank {self.rank} ended: {self.text}"


class Watch:
    """This rank's side: tells its own end, and hears of the others'.

    Args:
        rank: of this process. hosts, port: of the main rank's :class:`Switchboard`. token: its
            password.

    Attributes:
        ending: the first end of a rank, once heard of; it may be this rank's own.

    Raises:
        OSError: if none of the hosts can be reached.
    """

    def __init__(self, rank: int, hosts: list[str], port: int, token: str):
        self.rank, self.ending = rank, None
        self._heard, self._told, self._leaving = threading.Event(), threading.Lock(), False
        self._line = _Line(_connect(hosts, port))
        self._line.send({"rank": rank, "token": token})
        threading.Thread(target=self._listen, daemon=True, name="watch").start()

    def report(self, code: int, text: str) -> None:
        """Tell the others that this rank ends, unless another one did before; waits until they
        know.
        """
        if self.ending is None and self._line.send({"code": code, "text": text[: _LONGEST // 10]}):
            self._heard.wait(_NEWS_SECONDS)

    def wait(self) -> Ending | None:
        """The end of another rank, if one is heard of within seconds."""
        self._heard.wait(_NEWS_SECONDS)
        return self.ending if self.ending is not None and self.ending.rank != self.rank else None

    def tell_once(self) -> bool:
        """True for the first caller: the main thread and this one must not both print."""
        return self._told.acquire(blocking=False)

    def stop(self) -> None:
        """Leave after a success."""
        self._leaving = True
        self._line.send({"bye": True})

    def _listen(self) -> None:
        messages = []
        while not messages:
            try:
                messages = self._line.read()
            except OSError as error:
                messages = [asdict(_gone(0, error))]
        if "bye" not in messages[0] and not self._leaving:
            self._end(Ending(**messages[0]))

    def _end(self, ending: Ending) -> None:
        """End this process with the first end, unless its main thread gets to it soon."""
        self.ending = ending
        self._heard.set()
        own = ending.rank == self.rank  # told by the main thread, or behind the grace
        time.sleep(_GRACE_SECONDS if own else _TELL_SECONDS)
        if self.tell_once():
            with contextlib.suppress(OSError):
                say(*str(ending).split("\n"), error=True)
        # the main thread may be about to print
        time.sleep(0 if own else _GRACE_SECONDS - _TELL_SECONDS)
        if _finishing.acquire(timeout=_FINISH_SECONDS) and _last_will is not None:
            with contextlib.suppress(Exception):
                _last_will()
        os._exit(ending.code)


class Switchboard:
    """The main rank's side: a thread that passes the first end on to all.

    Args:
        alone: whether all ranks are on this machine, so that no other needs to reach it.
    """

    def __init__(self, alone: bool):
        self._server = socket.create_server(("127.0.0.1" if alone else "", 0), backlog=1024)
        self._server.setblocking(False)
        self.port, self.token = self._server.getsockname()[1], secrets.token_hex(16)
        self._first, self._closing = None, False
        self._lines: list[_Line] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True, name="switchboard")
        self._thread.start()

    def close(self) -> None:
        """Say goodbye to all and free the port."""
        self._closing = True
        self._thread.join(_NEWS_SECONDS)

    def _serve(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(0.2):
                if key.data is None:
                    self._accept()
                else:
                    self._hear(key.data)
        self._pass_on({"bye": True})
        for connection in (*(line.socket for line in self._lines), self._server):
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            line = _Line(self._server.accept()[0])
            self._lines.append(line)
            self._selector.register(line.socket, selectors.EVENT_READ, line)

    def _hear(self, line: _Line) -> None:
        gone = False
        try:
            messages = line.read()
        except OSError as error:
            messages, gone = [asdict(_gone(line.rank, error))], True
        for message in messages:
            if line.rank is None and message.get("token") == self.token:
                line.rank = message["rank"]
                line.send(self._first or {})
            elif line.rank is None or "bye" in message:
                return self._drop(line)
            elif self._first is None:
                self._first = {"rank": line.rank, "code": message["code"], "text": message["text"]}
                self._pass_on(self._first)
        if gone:
            self._drop(line)

    def _pass_on(self, message: dict) -> None:
        # others have not told the password
        known = [line for line in self._lines if line.rank is not None]
        # which may end this process on hearing it
        for line in sorted(known, key=lambda line: line.rank == 0):
            line.send(message)

    def _drop(self, line: _Line) -> None:
        self._lines.remove(line)
        self._selector.unregister(line.socket)
        line.socket.close()


class _Line:
    """JSON objects over a connection, one a line."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, _SILENT_SECONDS // 2),
            (socket.TCP_KEEPCNT, 3),
            (socket.TCP_KEEPINTVL, max(1, _SILENT_SECONDS // 6)),
            (socket.TCP_USER_TIMEOUT, 1000 * _SILENT_SECONDS),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        self.socket, self.rank, self._rest = connection, None, b""

    def send(self, message: dict) -> bool:
        """Whether that went well; if not, the next :meth:`read` says why."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
            return True
        except OSError:
            return False

    def read(self) -> list[dict]:
        """What has come, once something has; empty objects are left out. OSError at the end of the
        connection.
        """
        data = self.socket.recv(65_536)
        *whole, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > _LONGEST:
            raise ConnectionError("closed")
        try:
            return [message for line in whole if (message := dict(json.loads(line)))]
        except (ValueError, TypeError, RecursionError):
            raise ConnectionError("not ours") from None


def _gone(rank: int, error: OSError) -> Ending:
    if isinstance(error, ConnectionError):
        return Ending(rank, 1, "it was killed, or left without a word")
    return Ending(
        rank, 1, f"its machine, or the network to it, is gone ({error.strerror or error})"
    )


def _hosts(alone: bool) -> list[str]:
    """Names and addresses by which the other ranks may reach this machine, the likeliest first."""
    if alone:
        return ["127.0.0.1"]
    hosts = [socket.gethostname(), os.environ.get("MASTER_ADDR", "")]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((os.environ.get("MASTER_ADDR", ""), 9))  # sends nothing, asks for the route
        hosts.insert(0, probe.getsockname()[0])
    return [host for host in hosts if host]


def _connect(hosts: list[str], port: int) -> socket.socket:
    error = OSError("no address")
    for host in hosts:
        try:
            return socket.create_connection((host, port), timeout=5)
        except OSError as raised:
            error = raised
    raise error


# One job a process, as in torch.distributed.
_watch: Watch | None = None
_switchboard: Switchboard | None = None
_finishing = threading.Lock()
_last_will: Callable[[], object] | None = None


@contextlib.contextmanager
def last_will(work: Callable[[], object]) -> Iterator[None]:
    """Have ``work`` done before another rank's end ends this process, where its main thread does
    not come to it.

    It waits in a collective, or for its loader. ``work`` is called on another thread.
    """
    global _last_will
    _last_will = work
    try:
        yield
    finally:
        _last_will = None


def finishing() -> contextlib.AbstractContextManager[bool]:
    """Around what the main thread still has to do when a rank has ended, and what is worth half a
    minute to wait.
    """
    return _finishing


def start(rank: int, alone: bool, from_main: Callable[[Callable[[], tuple]], tuple]) -> None:
    """Join the watch of a job; every rank calls this.

    Args:
        alone: whether all ranks are on this machine.
        from_main: runs something on rank 0 and gives every rank the result.
    """
    global _watch

    def open_switchboard() -> tuple:
        global _switchboard
        _switchboard = Switchboard(alone)
        return _hosts(alone), _switchboard.port, _switchboard.token

    hosts, port, token = from_main(open_switchboard)
    try:
        _watch = Watch(rank, hosts, port, token)
    except OSError as error:
        say(
            f"rank {rank} cannot reach rank 0 at {hosts}, port {port} ({error}): it hears of the end of"
            " other ranks by timeouts only",
            error=True,
        )


def stop() -> None:
    """Leave the watch after a success; safe to call when there is none."""
    global _watch, _switchboard
    if _watch is not None:
        _watch.stop()
    if _switchboard is not None:
        _switchboard.close()
    _watch = _switchboard = None


def is_on() -> bool:
    """Whether other ranks would hear of this one's end."""
    return _watch is not None


def report(code: int, error: BaseException) -> Ending | None:
    """Tell the other ranks that this one ends; where another rank's end is behind ``error``, that
    is returned.
    """
    if _watch is None:
        return None
    # the main rank knows where it comes from, and is to say it first
    told = getattr(error, "told_by_main", False)
    if (
        told
        or code == 1
        and (
            _watch.ending is not None
            or isinstance(error, RuntimeError)
            and _COLLECTIVE.search(f"{type(error).__module__} {error}")
        )
    ):
        if (ending := _watch.wait()) is not None:
            return ending
    _watch.report(
        code, str(error) if code == 2 else "".join(traceback.format_exception_only(error)).strip()
    )
    return None


def leave(code: int, tell: Callable[[], None]) -> int:
    """Print with ``tell`` and give back ``code``; one of several ranks ends the process at once.

    Leaving in order would wait for collectives that the others will never join.
    """
    if _watch is None:
        with contextlib.suppress(OSError):  # what nobody reads any more
            tell()
        return code
    with contextlib.suppress(OSError):  # what nobody reads any more
        if _watch.tell_once():
            tell()
        sys.stdout.flush()
    os._exit(code)


@contextlib.contextmanager
def reporting_to_peers():
    """Tell the other ranks of an error at once, before files and loaders are closed, which may take
    long.
    """
    try:
        yield
    except BaseException as error:
        report_to_peers(error)
        raise


def report_to_peers(error: BaseException) -> Ending | None:
    """Tell the other ranks that this one ends; where another rank's end is behind ``error``, that
    is returned.
    """
    code = 130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, UserError) else 1
    return report(code, error)
