"""A process that probes files for the build: if a file crashes FFmpeg, the build goes on.

It reads a line of JSON for a batch of files and answers with a line for each file. Pickles would
let a file that took the process over run code in the other one.
"""

import base64
import functools
import json
import os
import sys
from typing import Any, NamedTuple

from omnidali.catalog.probing.file_span import FileSpan, stamp_of
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.probe import OK, UNREADABLE, Probe
from omnidali.catalog.probing.probes import PROBES, ProbeTask
from omnidali.catalog.probing.root_guard import escape_reason
from omnidali.media_kind import MediaKind
from omnidali.processes.isolated_child import TOO_MUCH_MEMORY, enter_isolation, set_alarm

_FIELD_TYPES = {name: type(value) for name, value in vars(Probe("", "", 0, 0)).items()}


class ProbeRequest(NamedTuple):
    """A file to probe.

    Attributes:
        record: its id in the catalog.
        path: below the source's root; of a member of a tar, its name.
        archive: the tar, below the root.
        offset: of the member in the tar, bytes.
        size: of the member, bytes.
    """

    record: int
    path: str
    archive: str | None = None
    offset: int | None = None
    size: int | None = None

    @property
    def file(self) -> str:
        """The path of the file or of its tar, below the root."""
        return self.archive or self.path


class ProbeResult(NamedTuple):
    """What came of a file.

    Attributes:
        record: its id in the catalog.
        state: ``ok``, or the reason why it is not used.
        probe: None unless it is used.
        stamp: size and time of change of the file at the probe.
    """

    record: int
    state: str
    probe: Probe | None
    stamp: tuple[int | None, int | None]


def probe_file(task: ProbeTask, request: ProbeRequest, size: int) -> tuple[str, Probe | None]:
    """Probe one file.

    Args:
        task: what the files of its batch have in common.
        request: the file.
        size: in bytes, as far as it is known; decides how long decoding may take.

    Returns:
        Its state, and what the catalog keeps of it if that is ``ok``.

    Raises:
        MemoryError: where there is not enough.
    """
    if (reason := escape_reason(task.root, request.file)) is not None:
        return reason, None

    path = os.path.join(task.root, request.file)
    seconds = task.seconds + size / task.decoded_bytes_per_second
    allow_decoding = functools.partial(set_alarm, seconds)
    try:
        is_expected = os.path.isdir if task.kind.is_folder else os.path.isfile
        if os.path.exists(path) and not is_expected(path):  # a pipe would be waited for
            return "not a folder" if task.kind.is_folder else "not a regular file", None
        span = FileSpan(path, request.offset or 0, request.size)
        return OK, PROBES[task.kind](span, task, allow_decoding)
    except UnsupportedMediaError as error:
        return str(error), None
    except FileNotFoundError:
        return "missing file", None
    except OSError as error:
        return f"{UNREADABLE}: {error.strerror}", None
    except MemoryError:
        raise
    except Exception as error:  # of a library, at a file that nobody thought of
        return f"crashes the probe: {type(error).__name__}", None


def probe_to_json(probe: Probe | None) -> dict[str, Any] | None:
    """A probe as JSON takes it."""
    if probe is None:
        return None
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in vars(probe).items()
    }


def probe_from_json(values: dict[str, Any] | None) -> Probe | None:
    """The inverse of :func:`probe_to_json`.

    Raises:
        TypeError: if the values are not those of a probe.
        ValueError: likewise.
        KeyError: likewise.
    """
    if values is None:
        return None
    fields: dict[str, Any] = {
        name: base64.b64decode(values[name]) if kind is bytes else kind(values[name])
        for name, kind in _FIELD_TYPES.items()
    }
    return Probe(**fields)


def main(memory: int) -> None:
    """Answer batches from stdin on stdout until stdin ends.

    Args:
        memory: bytes that the process may take.
    """
    answers = enter_isolation(memory)
    for line in sys.stdin:
        batch = json.loads(line)
        task = ProbeTask(**{**batch["task"], "kind": MediaKind(batch["task"]["kind"])})
        for request in map(ProbeRequest._make, batch["requests"]):
            set_alarm(task.seconds)  # a mount may hang at the size already
            stamp = stamp_of(os.path.join(task.root, request.file))
            size = request.size or stamp[0] or 0
            set_alarm(task.patience(size))
            try:
                state, probe = probe_file(task, request, size)
                answer = json.dumps([request.record, state, probe_to_json(probe), stamp])
            except MemoryError:
                os._exit(TOO_MUCH_MEMORY)
            set_alarm(0)
            print(answer, file=answers, flush=True)
