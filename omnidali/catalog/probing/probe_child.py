"""A process that probes files for the build: if a file crashes FFmpeg, the build continues.

It reads a line of JSON for a batch of files and answers with a line for each file. Pickles would
let a file that took the process over run code in the other one.

Images are probed without any library; the libraries of the others take longer to import than many
images to probe.
"""

import base64
import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from omnidali.catalog.probing.file_span import FileSpan, stamp_of
from omnidali.catalog.probing.image_probe import check_image, probe_image
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.missing_hint import MissingFiles
from omnidali.catalog.probing.probe import OK, UNREADABLE, Probe
from omnidali.catalog.probing.root_guard import escape_reason
from omnidali.media_kind import MediaKind
from omnidali.processes.isolated_child import TOO_MUCH_MEMORY, enter_isolation, set_alarm

SECONDS = 60.0  # for one file, and as long again as reading takes from a working disk
_BYTES_PER_SECOND = 4 << 20  # of such a disk
_DECODED_BYTES_PER_SECOND = 1 << 20  # if all of a video is decoded
_FIELD_TYPES = {name: type(value) for name, value in vars(Probe("", "", 0, 0)).items()}


@dataclass(frozen=True)
class ProbeTask:
    """What the files of a batch have in common.

    Attributes:
        kind: of the source.
        pattern: of the names in a folder of frames.
        root: real path of the source's folder.
        decodes_all: whether to decode whole files, and to believe no header.
        follows_links: whether links may lead out of the root.
    """

    kind: MediaKind
    pattern: str
    root: str
    decodes_all: bool
    follows_links: bool = False


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
    """The outcome of a file.

    Attributes:
        record: its id in the catalog.
        state: ``ok``, or the reason why it is left out.
        probe: None unless it is used.
        stamp: size and time of change of the file at the probe.
    """

    record: int
    state: str
    probe: Probe | None
    stamp: tuple[int | None, int | None]


def patience(size: int | None) -> float:
    """Seconds that a file of ``size`` bytes may take."""
    return SECONDS + (size or 0) / _BYTES_PER_SECOND


def _probe_image(span: FileSpan, task: ProbeTask, size: int) -> Probe:
    probe = probe_image(span)
    return check_image(span, probe) if task.decodes_all else probe


def _probe_folder(span: FileSpan, task: ProbeTask, size: int) -> Probe:
    from omnidali.catalog.probing.folder_probe import check_folder, probe_frames

    probe = probe_frames(span, task.pattern, task.root, task.follows_links)
    return check_folder(span, probe) if task.decodes_all else probe


def _probe_video(span: FileSpan, task: ProbeTask, size: int) -> Probe:
    import av

    from omnidali.catalog.probing.video_probe import probe_video

    if task.decodes_all:  # only FFmpeg's log reports damage that a decoder conceals
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
    allow_decoding = functools.partial(set_alarm, SECONDS + size / _DECODED_BYTES_PER_SECOND)
    return probe_video(span, allow_decoding, task.decodes_all)


# Each takes a file of ``size`` bytes, and raises UnsupportedMediaError with the reason why the
# catalog leaves the file out, and OSError if it cannot be read.
_PROBES: dict[MediaKind, Callable[[FileSpan, ProbeTask, int], Probe]] = {
    MediaKind.IMAGE: _probe_image,
    MediaKind.FRAMES: _probe_folder,
    MediaKind.VIDEO: _probe_video,
    MediaKind.UNTRIMMED: _probe_video,
}


def probe_file(
    task: ProbeTask, request: ProbeRequest, size: int, missing: MissingFiles
) -> tuple[str, Probe | None]:
    """Probe one file.

    Args:
        task: what the files of its batch have in common.
        request: the file.
        size: in bytes, as far as it is known; decides how long decoding may take.
        missing: looks for the file elsewhere if it is not there.

    Returns:
        Its state, and what the catalog keeps of it if that is ``ok``.

    Raises:
        MemoryError: if there is not enough.
    """
    reason = escape_reason(task.root, request.file, task.follows_links)
    if reason is not None:
        return reason, None

    path = os.path.join(task.root, request.file)
    try:
        is_expected = os.path.isdir if task.kind.is_folder else os.path.isfile
        if os.path.exists(path) and not is_expected(path):  # a pipe would be waited for
            return "not a folder" if task.kind.is_folder else "not a regular file", None
        span = FileSpan(path, request.offset or 0, request.size)
        return OK, _PROBES[task.kind](span, task, size)
    except UnsupportedMediaError as error:
        return str(error), None
    except FileNotFoundError:
        return missing.state_of(task.root, request.file, task.kind, task.follows_links), None
    except OSError as error:
        return f"{UNREADABLE}: {error.strerror}", None
    except MemoryError:
        raise
    except Exception as error:  # of a library, at a file that nobody thought of
        return f"crashes the probe: {type(error).__name__}", None


def _bytes_to_json(data: bytes) -> str:
    return base64.b64encode(data).decode()


def probe_from_json(values: dict[str, Any]) -> Probe:
    """Make a probe of its fields, bytes in Base64.

    Raises:
        TypeError: if the values are not those of a probe.
        ValueError: likewise.
        KeyError: likewise.
    """
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
    missing = MissingFiles()
    for line in sys.stdin:
        batch = json.loads(line)
        task = ProbeTask(**{**batch["task"], "kind": MediaKind(batch["task"]["kind"])})
        for request in map(ProbeRequest._make, batch["requests"]):
            set_alarm(SECONDS)  # a mount may hang at the size already
            stamp = stamp_of(os.path.join(task.root, request.file))
            size = request.size or stamp[0] or 0
            set_alarm(patience(size))
            try:
                state, probe = probe_file(task, request, size, missing)
                fields = None if probe is None else vars(probe)
                answer = json.dumps([request.record, state, fields, stamp], default=_bytes_to_json)
            except MemoryError:
                os._exit(TOO_MUCH_MEMORY)
            set_alarm(0)
            print(answer, file=answers, flush=True)
