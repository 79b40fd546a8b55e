"""Released weights, downloaded once into a cache and checked each time that they are used.

The cache is torch's, so that torchvision, timm and mmengine find the same files there, and we
theirs: ``$TORCH_HOME/hub/checkpoints``, by default ``~/.cache/torch/hub/checkpoints``. A file that
somebody puts there by hand is as good as a downloaded one. Without a name of released weights no
connection is opened, nor with one whose file is in the cache.
"""

import contextlib
import fcntl
import hashlib
import http.client
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from tqdm import tqdm

import omnidali
from omnidali.errors import UserError
from omnidali.models.released_weights import (
    PUBLISHERS,
    RELEASED,
    ReleasedWeights,
    suggest_released,
)
from omnidali.utils.untrusted_text import for_shell, warn

_SECONDS = 30.0  # without an answer or a byte of it
_PAUSE = 1.0  # seconds before what was cut off is gone on with
_TRIES = 20  # of which each but the last brings something
_LARGEST = 2**30  # bytes; the largest released file has a quarter of that
_CHUNK = 2**18


class _BrokenOffError(Exception):
    """A connection that fails, or ends before its file does; its text is the reason."""


class _FinalError(_BrokenOffError):
    """An answer that another try would give again."""


class _HttpAlone(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTP, but never from an encrypted connection to a plain one."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        schemes = ("https",) if req.type == "https" else ("http", "https")
        if urllib.parse.urlsplit(newurl).scheme not in schemes:
            raise _FinalError(f"a redirect to {newurl[:200]}, not to {schemes[-1]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def cache_folder() -> Path:
    """The folder of downloaded files."""
    return Path(torch.hub.get_dir(), "checkpoints").expanduser()


def locate_weights(path: str | Path) -> Path:
    """The file that a path or the name of released weights means.

    Args:
        path: of a file or folder, which counts if it exists, or a name, whose file is downloaded
            unless the cache has it.

    Raises:
        UserError: if a name is unknown, or its file cannot be had.
    """
    released = find_released(path)
    if released is not None:
        return fetch(released)
    check_name(str(path))
    return Path(path)


def find_released(path: str | Path) -> ReleasedWeights | None:
    """The released weights of this name; None for others, and for files and folders."""
    return None if os.path.exists(path) else RELEASED.get(str(path))


def check_name(name: str) -> None:
    """Refuse what is neither there nor the name of released weights, but may be meant as one.

    Raises:
        UserError: with the name that comes closest.
    """
    if name in RELEASED or os.path.exists(name):
        return
    is_meant = name.count("/") == 1 and name.partition("/")[0] in PUBLISHERS
    advice = suggest_released(name)
    if advice or is_meant:
        raise UserError(
            name,
            "a file, or the name of released weights",
            "neither",
            advice or "`omnidali help weights` lists the names.",
        )


def fetch(weights: ReleasedWeights) -> Path:
    """The file of released weights: from the cache, or else from its publisher.

    Several processes may ask for it at once: one of them downloads, the others wait for it. What
    was cut off is gone on with, also by a later call.

    Raises:
        UserError: if it cannot be had, with what to do by hand.
    """
    path = cache_folder() / weights.file
    if path.is_file() and _has_digits(path, weights.digits):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path) as part:
            if path.is_file():
                if _has_digits(path, weights.digits):  # another process was quicker
                    return path
                warn(f"{path} is damaged, as its SHA-256 shows: it is removed")
                path.unlink()
            warn(f"{weights.name}: downloading {weights.url} to {path}")
            _download(weights, part)
            os.replace(part, path)
    except _BrokenOffError as error:
        raise UserError(
            weights.name,
            f"its file from {weights.url}",
            str(error),
            "Try again later, set https_proxy if this machine needs a proxy, or download it"
            f" elsewhere and put it at {for_shell(path)}",
        ) from None
    except OSError as error:
        raise UserError(
            str(error.filename or path),
            "a place to keep downloaded weights",
            error.strerror or str(error),
            f"Free space, correct the permissions, or set TORCH_HOME to another folder; or download"
            f" {weights.url} yourself and name the file.",
        ) from None
    return path


def _download(weights: ReleasedWeights, part: Path) -> None:
    """Make a whole file of what may be there of it.

    Raises:
        _BrokenOffError: with the reason.
        OSError: of the disk.
    """
    goes_on = part.stat().st_size > 0
    for _ in range(_TRIES):
        before = part.stat().st_size
        try:
            _receive(weights.url, part)
        except _BrokenOffError as error:
            if isinstance(error, _FinalError) or part.stat().st_size <= before:
                raise
            time.sleep(_PAUSE)
            continue
        if _has_digits(part, weights.digits):
            return
        os.truncate(part, 0)
        if not goes_on:
            raise _FinalError(f"another file, whose SHA-256 does not begin with {weights.digits}")
        goes_on = False  # what lay there was not the beginning of this file
    raise _BrokenOffError(f"{_TRIES} connections that ended too early")


def _receive(url: str, part: Path) -> None:
    """Append what a file lacks.

    Raises:
        _BrokenOffError: if the connection fails, or ends too early.
        OSError: of the disk.
    """
    begin = part.stat().st_size
    request = urllib.request.Request(
        url, headers={"User-Agent": f"omnidali/{omnidali.__version__}"}
    )
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    with _connected(request) as answer:
        if begin and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            begin = 0  # the server sends all of it again
        length = answer.headers.get("Content-Length", "")
        total = begin + int(length) if length.isdecimal() else None
        if (total or 0) > _LARGEST:
            raise _FinalError(f"a file of {total:,} bytes")

        with (
            open(part, "ab" if begin else "wb") as file,
            tqdm(
                desc=part.name.partition(".pth")[0],
                total=total,
                initial=begin,
                unit="B",
                unit_scale=True,
                disable=None,
                leave=False,
            ) as bar,
        ):
            while chunk := _read(answer):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > _LARGEST:
                    raise _FinalError(f"more than {_LARGEST:,} bytes")
            end = file.tell()
        if total is not None and end < total:
            raise _BrokenOffError(f"{end:,} of {total:,} bytes, where the connection ended")


@contextlib.contextmanager
def _connected(request: urllib.request.Request) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request; its errors while it is opened become our own."""
    opener = urllib.request.build_opener(_HttpAlone)  # which takes proxies from the environment
    try:
        answer = opener.open(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            request.remove_header("Range")
            with _connected(request) as whole:
                yield whole
            return
        raise _FinalError(f"HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _BrokenOffError(f"no answer: {reason}") from None
    with answer:
        yield answer


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes; none at the end.

    Raises:
        _BrokenOffError: if the connection fails.
    """
    try:
        return answer.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"a connection that broke: {error}") from None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Give the file in which a download is collected, which no other process writes meanwhile.

    It is locked, as long as this process lives, and so is its own lock. On a disk without locks
    each process has a file of its own.
    """
    part = path.with_name(path.name + ".part")
    while True:
        with open(part, "ab") as file:
            if not _lock(file, path.name):
                file.close()
                own = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")
                own.touch()
                try:
                    yield own
                finally:
                    own.unlink(missing_ok=True)
                return
            if _is_at(part, file):
                try:
                    yield part
                finally:
                    if _is_at(part, file) and part.stat().st_size == 0:
                        part.unlink()
                return
        # another process has just finished that file


def _lock(file: IO[bytes], name: str) -> bool:
    """Wait until no other process has locked a file; False if this disk has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if os.environ.get("RANK", "0") == "0":
            warn(f"waiting for another process, which downloads {name}")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether ``path`` is still the name of an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _has_digits(path: Path, digits: str) -> bool:
    """Whether the SHA-256 of a file begins with these digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(digits)
