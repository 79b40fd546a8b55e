"""Lists with several labels a line are refused where the config has one label an item."""

import os
from collections.abc import Sequence
from pathlib import Path

from omnidali.catalog.listing import several_labels
from omnidali.catalog.listing.list_formats import FORMATS
from omnidali.catalog.listing.list_recognition import CATCH_ALL, PATHS, find_below, first_lines
from omnidali.errors import UserError
from omnidali.utils.text_files import read_lines

_MOST_COUNTED = 5  # folders whose frames are counted
_FEW = 0.1  # share of lines that may look as if they had several labels


def require_one_label(path: Path, form: str, root: str | Path) -> None:
    """Refuse a list whose lines have several labels, where the config expects one a line.

    With one label expected, all but the last one would belong to the path, and no file would be
    found. So the disk decides: paths that hold spaces and numbers are read as ever.

    Args:
        path: of the list.
        form: its format.
        root: of the source.

    Raises:
        UserError: with the first such line.
    """
    if form not in PATHS:
        return
    real_root = os.path.realpath(root)
    lines = first_lines(path, root)
    several = [line for line in lines if _has_several(line, form, real_root)]
    if form == "rawframes_offset" and not several:
        several = _without_offset(lines, real_root)
    if len(several) > _FEW * len(lines):
        listed = read_lines(path, "list", lambda where, line: True)
        raise UserError(
            next(where for where, line in listed if line == several[0]),
            "one label a line, as the config has it",
            f"{several[0][:200]!r}",
            "Set `multi_label: true` (on the command line: multi_label=true) if items have several"
            " labels, or correct the list.",
        )


def _has_several(line: str, form: str, root: str) -> bool:
    """Whether a line names a file if it has several labels, and names none if it has one."""
    if form != CATCH_ALL and not FORMATS[form].fits(line):
        return False
    path = PATHS[form](line)
    other = several_labels.several_path(line, "rawframes" if form.startswith("rawframes") else form)
    if len(other) >= len(path):
        return False
    return find_below(root, other) is not None and find_below(root, path) is None


def _without_offset(lines: Sequence[str], root: str) -> list[str]:
    """Lines `folder num_frames label label`, which look as if they had an offset, if they are.

    None, unless all of the first folders have as many frames as the first number says, and fewer
    than the offset and the number after it would need.
    """
    fitting = [line for line in lines if len(line.split()) == 4]
    counted = 0
    for folder, first, second, _ in map(str.split, fitting):
        found = find_below(root, folder)
        if found is None or not os.path.isdir(found):
            continue
        frames = len(os.listdir(found))
        if not 0 < int(first) <= frames < int(first) + int(second):
            return []
        counted += 1
        if counted == _MOST_COUNTED:
            break
    return fitting if counted else []
