"""JSON messages between the ranks of a job, over TCP connections that notice a dead peer."""

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence

_SILENT_SECONDS = 30  # after which a machine that does not answer is gone
MAX_MESSAGE = 100_000  # bytes


class MessageConnection:
    """JSON objects over a connection, one a line.

    Args:
        connection: a connected TCP socket.

    Attributes:
        rank: of the peer; None until it has identified itself.
    """

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
        self.rank: int | None = None
        self.socket = connection
        self._rest = b""

    def send(self, message: Mapping[str, object]) -> bool:
        """Whether that went well; if not, the next :meth:`receive` raises the reason."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
            return True
        except OSError:
            return False

    def receive(self) -> list[dict]:
        """Wait for data; returns the messages that are complete, without empty ones.

        Raises:
            OSError: at the end of the connection.
        """
        data = self.socket.recv(65_536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > MAX_MESSAGE:
            raise ConnectionError("closed")
        try:
            return [message for line in lines if (message := dict(json.loads(line)))]
        except (ValueError, TypeError, RecursionError):
            raise ConnectionError("not ours") from None


def connect_to_main(hosts: Sequence[str], port: int) -> MessageConnection:
    """Connect to the first of ``hosts`` that answers.

    Raises:
        OSError: if none does.
    """
    error = OSError("no address")
    for host in hosts:
        try:
            return MessageConnection(socket.create_connection((host, port), timeout=5))
        except OSError as failed:
            error = failed
    raise error


def own_addresses(is_single_host: bool) -> list[str]:
    """Names and addresses by which other ranks may reach this machine, the likeliest first."""
    if is_single_host:
        return ["127.0.0.1"]
    main_address = os.environ.get("MASTER_ADDR", "")
    hosts = [socket.gethostname(), main_address]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((main_address, 9))  # sends nothing, only looks up the route
        hosts.insert(0, probe.getsockname()[0])
    return [host for host in hosts if host]
