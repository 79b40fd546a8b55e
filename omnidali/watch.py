"""How the ranks of a job hear of each other's end.

Every rank keeps a connection to the main one open, in a thread of its own, so that a rank whose main thread is busy
for hours is not taken for dead. The kernel closes the connection of a process that is killed; a second's silence is
counted, for machines that vanish. The first end is told to all, with its error, and is what every rank ends with.
"""

from __future__ import annotations

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
from collections.abc import Callable
from dataclasses import dataclass

_BEAT_SECONDS = 1.0
_SILENT_BEATS = 40  # counted, not timed: a job that was suspended as a whole has missed one
_GRACE_SECONDS = 15.0  # for the main thread to close its files once a rank has ended
_NEWS_SECONDS = 5.0  # for the reason of a broken collective to arrive
_LONGEST = 100_000  # bytes of a message
_COLLECTIVE = re.compile(r"gloo|nccl|c10d|connection (closed|reset)|broken pipe|socket|process group", re.IGNORECASE)


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
        rank: of this process. address: hosts and port of the main rank's :class:`Switchboard`. token: its password.

    Raises:
        OSError: if none of the hosts can be reached.
    """

    def __init__(self, rank: int, hosts: list[str], port: int, token: str):
        self.rank, self.ending = rank, None
        self._heard, self._sending, self._told = threading.Event(), threading.Lock(), threading.Lock()
        self._socket = _connect(hosts, port)
        self._leaving = False
        self._send({"rank": rank, "token": token})
        threading.Thread(target=self._listen, daemon=True, name="watch").start()

    def report(self, code: int, text: str) -> None:
        """Tell the others that this rank ends, unless another one did before; waits until they know."""
        if self._send({"code": code, "text": text[:_LONGEST // 10]}):
            self._heard.wait(_NEWS_SECONDS)
            if self.rank == 0:
                time.sleep(_BEAT_SECONDS)  # the switchboard ends with this process

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
        self._send({"done": True})
        self._socket.close()

    def _send(self, message: dict) -> bool:
        try:
            with self._sending:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            return True
        except OSError:
            return False

    def _listen(self) -> None:
        missed, lines = 0, _Lines(self._socket)
        while not self._leaving and self.ending is None:
            self._send({})
            try:
                messages = lines.read()
            except TimeoutError:
                missed, messages = missed + 1, []
                if missed >= _SILENT_BEATS:
                    messages = [_silent(0)]
            except OSError:
                messages = [_gone(0)]
            else:
                missed = 0
            for message in messages:
                if "end" in message:
                    return
                if "rank" in message:
                    self._end(Ending(message["rank"], message["code"], message["text"]))

    def _end(self, ending: Ending) -> None:
        """End this process with the other rank's error, unless its main thread gets to it soon."""
        if self._leaving:
            return
        self.ending = ending
        self._heard.set()
        time.sleep(_GRACE_SECONDS)
        if self.tell_once():
            print(ending, file=sys.stderr, flush=True)
        os._exit(ending.code)


class Switchboard:
    """The main rank's side: a thread that passes the first end on to all.

    Attributes:
        port, token: for :class:`Watch`.
    """

    def __init__(self):
        self._server = socket.create_server(("", 0), backlog=1024)
        self._server.setblocking(False)
        self.port, self.token = self._server.getsockname()[1], secrets.token_hex(16)
        self._first, self._closing = None, False
        self._lines: dict[socket.socket, _Lines] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True, name="switchboard")
        self._thread.start()

    def close(self) -> None:
        """Say goodbye to all and free the port."""
        self._closing = True
        self._thread.join(2 * _BEAT_SECONDS)

    def _serve(self) -> None:
        beat = time.monotonic()
        while not self._closing:
            for key, _ in self._selector.select(0.2):
                if key.fileobj is self._server:
                    self._accept()
                else:
                    self._hear(self._lines[key.fileobj])
            if time.monotonic() - beat >= _BEAT_SECONDS:
                beat = time.monotonic()
                for lines in list(self._lines.values()):
                    lines.missed += 1
                    if lines.missed > _SILENT_BEATS and lines.rank is not None:
                        self._tell(_silent(lines.rank))
                self._pass_on({})
        self._pass_on({"end": True})
        for client in (*self._lines, self._server):
            client.close()

    def _accept(self) -> None:
        try:
            client, _ = self._server.accept()
        except OSError:
            return
        client.settimeout(_BEAT_SECONDS)
        self._lines[client] = _Lines(client)
        self._selector.register(client, selectors.EVENT_READ)
        if self._first is not None:
            self._pass_on(self._first)

    def _hear(self, lines: _Lines) -> None:
        try:
            messages = lines.read()
        except OSError:
            messages = [_gone(lines.rank)]
        lines.missed = 0
        for message in messages:
            if "token" in message and message["token"] == self.token:
                lines.rank = message["rank"]
            elif lines.rank is None or "done" in message or "gone" in message:
                if "gone" in message and lines.rank is not None:
                    self._tell(message)
                self._drop(lines)
                return
            elif "text" in message:
                self._tell({**message, "rank": lines.rank})

    def _tell(self, ending: dict) -> None:
        if self._first is None:
            self._first = ending
            self._pass_on(ending)

    def _pass_on(self, message: dict) -> None:
        for lines in list(self._lines.values()):
            try:
                lines.socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                pass  # its end is read from it

    def _drop(self, lines: _Lines) -> None:
        self._selector.unregister(lines.socket)
        self._lines.pop(lines.socket).socket.close()


class _Lines:
    """JSON objects, a line each, from a socket."""

    def __init__(self, socket: socket.socket):
        self.socket, self.rank, self.missed, self._rest = socket, None, 0, b""

    def read(self) -> list[dict]:
        """What has come; raises TimeoutError where nothing came for a beat, OSError at the end of the connection."""
        data = self.socket.recv(65_536)
        *whole, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > _LONGEST:
            raise ConnectionError("closed")
        try:
            return [json.loads(line) for line in whole]
        except ValueError:
            raise ConnectionError("not ours") from None


def _gone(rank: int | None) -> dict:
    return {"rank": rank, "code": 1, "text": "it was killed, or left without a word", "gone": True}


def _silent(rank: int) -> dict:
    return {"rank": rank, "code": 1, "text": f"nothing was heard of it for {_SILENT_BEATS} s: its process is stopped,"
            " or its machine or network is gone"}


def _hosts(alone: bool) -> list[str]:
    """Names and addresses by which the other ranks may reach this machine, the likeliest first."""
    if alone:
        return ["127.0.0.1"]
    hosts = [socket.gethostname(), os.environ.get("MASTER_ADDR", "")]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing, asks for the route
            probe.connect((os.environ.get("MASTER_ADDR", ""), 9))
            hosts.insert(0, probe.getsockname()[0])
    except OSError:
        pass
    return [host for host in hosts if host]


def _connect(hosts: list[str], port: int) -> socket.socket:
    error = OSError("no address")
    for host in hosts:
        try:
            found = socket.create_connection((host, port), timeout=5)
            found.settimeout(_BEAT_SECONDS)
            return found
        except OSError as raised:
            error = raised
    raise error


# One job a process, as in torch.distributed.
_watch: Watch | None = None
_switchboard: Switchboard | None = None


def start(rank: int, alone: bool, on_main: Callable[[Callable[[], object]], object]) -> None:
    """Join the watch of a job; every rank calls this.

    Args:
        alone: whether all ranks are on this machine. on_main: runs on rank 0 and gives every rank the result.
    """
    global _watch

    def open_switchboard() -> tuple:
        global _switchboard
        _switchboard = Switchboard()
        return _hosts(alone), _switchboard.port, _switchboard.token

    where = on_main(open_switchboard)
    try:
        _watch = Watch(rank, *where)
    except OSError as error:
        print(f"rank {rank} cannot reach rank 0 at {where[0]}, port {where[1]} ({error}): it hears of the end of"
              " other ranks by timeouts only", file=sys.stderr, flush=True)


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


def report(code: int, error: BaseException) -> None:
    """Tell the other ranks that this one ends with ``error``."""
    if _watch is not None and _watch.ending is None:
        text = str(error) if code == 2 else "".join(traceback.format_exception_only(error)).strip()
        _watch.report(code, text)


def ending_behind(error: BaseException) -> Ending | None:
    """The end of another rank where that explains this rank's ``error``."""
    if _watch is None:
        return None
    if _watch.ending is not None or (isinstance(error, RuntimeError) and _COLLECTIVE.search(
            f"{type(error).__module__} {error}")):
        return _watch.wait()
    return None


def leave(code: int, tell: Callable[[], None]) -> int:
    """Print with ``tell`` and give back ``code``; one of several ranks ends at once.

    Leaving in order would wait for collectives that the others will never join.
    """
    if _watch is None:
        tell()
        return code
    if _watch.tell_once():
        tell()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
    os._exit(code)
