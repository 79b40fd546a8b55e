"""A process that probes files for the build: what crashes FFmpeg costs it, not the run.

It reads a line of JSON for a batch of files and answers with a line for each file. Pickles would
let a file that took the process over run code in the other one.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import sys
from collections.abc import Callable

from omnidali.catalog.file_span import FileSpan, stamp_of
from omnidali.catalog.listing.folders import escape_reason
from omnidali.catalog.probing.image_probe import Probe, probe_image
from omnidali.catalog.probing.sniff import OK, UNREADABLE, UnsupportedMediaError
from omnidali.processes.child import TOO_MUCH_MEMORY, confine, set_alarm

_BYTES = ("timing", "keyframes", "packets")  # fields of a probe that are no text
_KINDS = {name: type(value) for name, value in vars(Probe("", "", 0, 0)).items()}


def probe_file(
    kind: str,
    pattern: str,
    root: str,
    path: str,
    archive: str | None,
    offset: int | None,
    size: int | None,
    decodes_all: bool = False,
    before_decoding: Callable[[], object] = lambda: None,
) -> tuple[str, Probe | None]:
    """The state of one file, and what the catalog keeps of it if that is ``ok``.

    Args:
        decodes_all: whether to decode all of it, too. before_decoding: called before a video is
            decoded whole.

    Raises:
        MemoryError: where there is not enough.
    """
    file = archive or path
    full = os.path.join(root, file)
    if (reason := escape_reason(root, file)) is not None:
        return reason, None
    try:
        folder = kind == "frames"
        if kind == "image":
            probe = probe_image
        else:  # these libraries take longer than many photos
            from omnidali.catalog.probing.probe import probe_frames, probe_video

            probe = (
                functools.partial(probe_frames, pattern=pattern, root=root)
                if folder
                else functools.partial(
                    probe_video, before_decoding=before_decoding, decodes_all=decodes_all
                )
            )
        if decodes_all and kind in ("image", "frames"):
            from omnidali.catalog.probing.image_check import checked

            probe = checked(probe)
        elif decodes_all:
            import av

            # only its log reports damage that a decoder conceals
            av.logging.set_level(av.logging.ERROR)
            av.logging.set_skip_repeated(False)
        if os.path.exists(full) and not (os.path.isdir if folder else os.path.isfile)(full):
            # a pipe would be waited for
            raise UnsupportedMediaError("not a folder" if folder else "not a regular file")
        span = FileSpan(full, offset or 0, size)
        return OK, probe(span)
    except UnsupportedMediaError as refusal:
        return str(refusal), None
    except FileNotFoundError:
        return "missing file", None
    except OSError as error:
        return f"{UNREADABLE}: {error.strerror}", None
    except MemoryError:
        raise
    except Exception as error:  # of a library, at a file that nobody thought of
        return f"crashes the probe: {type(error).__name__}", None


def to_plain(probe: Probe | None) -> dict | None:
    """A probe as JSON takes it."""
    if probe is None:
        return None
    return {
        name: base64.b64encode(value).decode() if name in _BYTES else value
        for name, value in vars(probe).items()
    }


def from_plain(values: dict | None) -> Probe | None:
    """The inverse of :func:`to_plain`.

    Raises:
        TypeError, ValueError: if the values are none of a probe.
    """
    if values is None:
        return None
    return Probe(
        **{
            name: base64.b64decode(values[name]) if name in _BYTES else kind(values[name])
            for name, kind in _KINDS.items()
        }
    )


def main(memory: int) -> None:
    """Answer batches from stdin on stdout until stdin ends.

    Args:
        memory: bytes that the process may take.
    """
    answers = confine(memory)
    for line in sys.stdin:
        task = json.loads(line)
        for record, path, archive, offset, size in task["rows"]:
            full = os.path.join(task["root"], archive or path)
            set_alarm(task["seconds"])  # a mount may hang at the size already
            stamp = stamp_of(full)
            count = size or stamp[0] or 0
            patience = task["seconds"] + count / task["bytes_per_second"]
            longer = functools.partial(
                set_alarm, task["seconds"] + count / task["decoded_bytes_per_second"]
            )
            set_alarm(patience)
            try:
                state, probe = probe_file(
                    task["kind"],
                    task["pattern"],
                    task["root"],
                    path,
                    archive,
                    offset,
                    size,
                    task["decodes_all"],
                    longer,
                )
                answer = json.dumps([record, state, to_plain(probe), stamp])
            except MemoryError:
                os._exit(TOO_MUCH_MEMORY)
            set_alarm(0)
            print(answer, file=answers, flush=True)
