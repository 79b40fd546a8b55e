"""A publisher of weights on this machine, which can misbehave in all ways that real ones do."""

import contextlib
import hashlib
import http.server
import threading
import time
from dataclasses import dataclass, field

import torch

from omnidali.models.released_weights import ReleasedWeights


@dataclass
class Publisher:
    """What a server sends, and what it was asked for.

    Attributes:
        data: the file.
        port: of the server.
        takes_ranges: whether it can send the end of the file alone.
        cuts: for each of the next answers, the bytes after which the connection ends.
        stalls: whether a cut connection stays open.
        status: other than 200, without a file.
        location: of a redirect, from any other path than ``/moved/...``.
        claims: what it sends as Content-Length; None for the truth, "" for nothing.
        asked: the path, and the range, of each request.
    """

    data: bytes = b""
    port: int = 0
    takes_ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    stalls: bool = False
    status: int = 200
    location: str = ""
    claims: str | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}/{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        publisher = self.server.publisher
        wanted = self.headers.get("Range")
        publisher.asked.append((self.path, wanted))
        if publisher.location and not self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", publisher.location)
            self.end_headers()
            return
        if publisher.status != 200:
            self.send_error(publisher.status)
            return

        begin = 0
        if wanted and publisher.takes_ranges:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            if begin >= len(publisher.data):
                self.send_error(416)
                return
        body = publisher.data[begin:]
        self.send_response(206 if begin else 200)
        length = str(len(body)) if publisher.claims is None else publisher.claims
        if length:
            self.send_header("Content-Length", length)
        self.end_headers()
        cut = publisher.cuts.pop(0) if publisher.cuts else None
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:cut])
            if cut is not None and publisher.stalls:
                self.wfile.flush()
                publisher.ending.wait(30)


@contextlib.contextmanager
def publishing(data):
    """Serve a file until the block ends."""
    publisher = Publisher(data)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.publisher = publisher
    publisher.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield publisher
    finally:
        publisher.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()


def release(publisher, name, network="resnet", classes=1000, sampling=None):
    """The entry of the table for what a publisher serves, a network on ResNet-18."""
    digits = hashlib.sha256(publisher.data).hexdigest()[:8]
    url = publisher.url(f"{name.rpartition('/')[2]}-{digits}.pth")
    return ReleasedWeights(name, url, network=network, depth=18, classes=classes, sampling=sampling)


def as_bytes(state, path):
    """What torch.save writes."""
    torch.save(state, path)
    return path.read_bytes()


def wait_until(condition, seconds=30):
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
