"""JSON messages between the ranks of a job, over TCP connections that notice a dead peer."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass

_SILENT_SECONDS = 30  # after which a machine that does not answer is gone
MAX_MESSAGE = 100_000  # bytes


@dataclass(frozen=True)
class RankFailure:
    """How a rank failed: its exit ``code``, and the error as ``text``."""

    rank: int
    code: int
    text: str

    @classmethod
    def from_lost_connection(cls, rank: int, error: OSError) -> "RankFailure":
        """The failure of a rank that said nothing of it."""
        if isinstance(error, ConnectionError):
            return cls(rank, 1, "it was killed, or exited without a message")
        reason = error.strerror or error
        return cls(rank, 1, f"its machine, or the network to it, is gone ({reason})")

    def __str__(self) -> str:
        return f"rank {self.rank} ended: {self.text}"


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
