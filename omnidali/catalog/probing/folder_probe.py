"""Probes folders of frames: how many there are, of what size, and whether all of them decode."""

import itertools
import os
from dataclasses import replace

import numpy as np

from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_probe import check_image, probe_image
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.packed_numbers import pack_numbers, unpack_numbers
from omnidali.catalog.probing.probe import Probe
from omnidali.catalog.probing.root_guard import escape_reason


def probe_frames(
    span: FileSpan, pattern: str, root: str | None = None, follows_links: bool = False
) -> Probe:
    """Count the images of a folder, from 0 or 1 on without a gap.

    Args:
        span: the folder.
        pattern: of the images' names, such as ``img_{:05}.jpg``.
        root: real path of the folder that links among the frames may not leave; none: the folder
            itself.
        follows_links: whether links may lead out of the root after all.

    Raises:
        UnsupportedMediaError: with the reason.
        OSError: if the folder or its first image cannot be read.
    """
    folder = os.path.realpath(span.path)
    root = root or folder
    entries = {entry.name: entry for entry in os.scandir(folder)}

    def holds(number: int) -> bool:
        entry = entries.get(pattern.format(number))
        if entry is None:
            return False
        is_checked = entry.is_symlink() and not follows_links
        if is_checked and escape_reason(root, os.path.relpath(entry.path, root)):
            raise UnsupportedMediaError("a frame is a link that leaves the root")
        if not entry.is_file():  # a pipe would be waited for
            raise UnsupportedMediaError("a frame is not a regular file")
        return True

    first = next(filter(holds, (0, 1)), None)
    if first is None:
        raise UnsupportedMediaError(f"no frame named {pattern.format(1)}")
    end = next(number for number in itertools.count(first + 1) if not holds(number))
    return replace(
        probe_image(FileSpan(os.path.join(span.path, pattern.format(first)))),
        container=pattern,
        frames=end - first,
        timing=pack_numbers(np.array([first])),
    )


def check_folder(span: FileSpan, probe: Probe) -> Probe:
    """Decode all images of a folder of frames; those that fail are in the note.

    Raises:
        OSError: if an image cannot be read.
    """
    first = int(unpack_numbers(probe.timing)[0])
    failed = {}
    for number in range(probe.frames):
        frame = FileSpan(os.path.join(span.path, probe.container.format(first + number)))
        try:
            check_image(frame, probe_image(frame))
        except UnsupportedMediaError as error:
            failed[number] = str(error)
    if not failed:
        return probe

    number, reason = next(iter(failed.items()))
    return replace(
        probe,
        note=f"{len(failed):,} of {probe.frames:,} frames are damaged, the first is frame"
        f" {number}: {reason}",
    )
