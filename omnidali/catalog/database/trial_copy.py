"""A copy of the catalog for a start that may be refused, so that a refusal changes nothing."""

import contextlib
import os
import re
import socket
import sqlite3
from pathlib import Path

from omnidali.catalog.database.connection import open_to_copy
from omnidali.catalog.database.integrity import DAMAGED, only_build
from omnidali.catalog.probing.file_span import stamp_of
from omnidali.utils.log import LOG

# size and time of each catalog when this process copied it
_copied: dict[Path, tuple[int | None, int | None]] = {}


def begin_trial(catalog: Path) -> Path:
    """Copy the catalog, and remove the copies that killed processes have left.

    Returns:
        The copy; the catalog itself if there is no room for one, as a run must continue also on a
            full disk.
    """
    trial = _trial_of(catalog, os.getpid())
    try:
        with only_build(catalog), contextlib.closing(open_to_copy(catalog)) as source:
            _drop_orphans(catalog)
            _copied[catalog] = stamp_of(str(catalog))
            with contextlib.closing(sqlite3.connect(trial)) as target:
                source.backup(target)
        return trial
    except (sqlite3.Error, OSError) as error:
        drop_trial(catalog)
        LOG.warning("%s: changed without a trial, as it cannot be copied (%s)", catalog, error)
        return catalog


def accept_trial(catalog: Path) -> bool:
    """Put the copy in the catalog's place; a process that has either of them open keeps it.

    Returns:
        False if that is not possible, or would undo what others have written since the catalog was
            copied.
    """
    try:
        with only_build(catalog):
            if stamp_of(str(catalog)) != _copied[catalog]:
                LOG.warning(
                    "%s: another process has written to it meanwhile; this run reads a copy",
                    catalog,
                )
                return False
            os.replace(_trial_of(catalog, os.getpid()), catalog)
    except OSError as error:
        LOG.warning("%s: cannot be replaced (%s); this run reads a copy", catalog, error.strerror)
        return False
    drop_trial(catalog)
    return True


def drop_trial(catalog: Path) -> None:
    """Remove this process's copy and its lock, if there are any."""
    _remove(_trial_of(catalog, os.getpid()))


def _drop_orphans(catalog: Path) -> None:
    begin = _trial_of(catalog, "").name
    for path in catalog.parent.iterdir():
        process = re.split(r"\D", path.name.removeprefix(begin))[0]
        if path.name.startswith(begin) and process and not os.path.exists(f"/proc/{process}"):
            _remove(_trial_of(catalog, process))


def _remove(trial: Path) -> None:
    for path in (
        trial,
        f"{trial}-journal",
        f"{trial}.lock",
        f"{trial}{DAMAGED}",
        f"{trial}{DAMAGED}-journal",
    ):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _trial_of(catalog: Path, process: int | str) -> Path:
    """The copy's path, which names its process: runs may share a catalog, and machines a disk."""
    return catalog.with_name(f"{catalog.name}.trial-{socket.gethostname()}-{process}")
