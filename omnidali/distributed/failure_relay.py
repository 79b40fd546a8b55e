"""The main rank's side of the monitoring: it sends the first failure to all ranks."""

import contextlib
import secrets
import selectors
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from omnidali.distributed.control_connection import MessageConnection, RankFailure

_CLOSE_SECONDS = 5.0


class FailureRelay:
    """A thread that accepts all ranks, and sends the first failure of one to all.

    Args:
        addresses: the first one that is this machine's own is bound.

    Attributes:
        address: the one that is bound.
        port: which the system chose.
        token: the password; who connects without it gets nothing.

    Raises:
        OSError: if none of the addresses can be bound.
    """

    def __init__(self, addresses: Sequence[str]):
        self._server = _bind_first(addresses)
        self._server.setblocking(False)
        self.address, self.port = self._server.getsockname()[:2]
        self.token = secrets.token_hex(16)
        self._failure: dict[str, object] = {}  # the first one, as it is sent
        self._is_closing = False
        self._peers: list[MessageConnection] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True, name="failure relay")
        self._thread.start()

    def close(self) -> None:
        """Say goodbye to all ranks and free the port."""
        self._is_closing = True
        self._thread.join(_CLOSE_SECONDS)

    def _serve(self) -> None:
        while not self._is_closing:
            for key, _ in self._selector.select(0.2):
                if key.data is None:
                    self._accept()
                else:
                    self._receive_from(key.data)
        self._send_to_all({"bye": True})
        for connection in (*(peer.socket for peer in self._peers), self._server):
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            peer = MessageConnection(self._server.accept()[0])
            self._peers.append(peer)
            self._selector.register(peer.socket, selectors.EVENT_READ, peer)

    def _receive_from(self, peer: MessageConnection) -> None:
        is_lost = False
        try:
            messages = peer.receive()
        except OSError as error:
            is_lost = True
            messages = []
            if peer.rank is not None:
                messages = [asdict(RankFailure.from_lost_connection(peer.rank, error))]

        for message in messages:
            if peer.rank is None and message.get("token") == self.token:
                peer.rank = message["rank"]
                peer.send(self._failure)
            elif peer.rank is None or "bye" in message:
                return self._drop(peer)
            elif not self._failure:
                failure = RankFailure(peer.rank, message["code"], message["text"])
                self._failure = asdict(failure)
                self._send_to_all(self._failure)
        if is_lost:
            self._drop(peer)

    def _send_to_all(self, message: Mapping[str, object]) -> None:
        # the others have not sent the token
        known = [peer for peer in self._peers if peer.rank is not None]
        # the main rank last, as the message may end this process
        for peer in sorted(known, key=lambda peer: peer.rank == 0):
            peer.send(message)

    def _drop(self, peer: MessageConnection) -> None:
        self._peers.remove(peer)
        self._selector.unregister(peer.socket)
        peer.socket.close()


def _bind_first(addresses: Sequence[str]) -> socket.socket:
    error = OSError("none is known")
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            return socket.create_server((address, 0), family=family, backlog=1024)
        except OSError as failed:
            error = failed
    raise error
