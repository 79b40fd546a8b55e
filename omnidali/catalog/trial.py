"""A copy of the catalog for a start that may be refused, so that a refusal changes nothing."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from omnidali.catalog.integrity import only_build
from omnidali.errors import UserError

_ENDING = ".trial"


def begin_trial(catalog: Path) -> Path:
    """Copy the catalog; one that a killed trial has left is replaced.

    Raises:
        UserError: if there is no room for the copy.
    """
    trial = _trial_of(catalog)
    try:
        with only_build(catalog), contextlib.closing(sqlite3.connect(catalog)) as source:
            drop_trial(catalog)
            with contextlib.closing(sqlite3.connect(trial)) as target:
                source.backup(target)
        return trial
    except (sqlite3.Error, OSError) as error:
        drop_trial(catalog)
        raise UserError(str(trial), "room for a copy of the catalog, as lists have changed since the run began",
                        str(error), "Free space, or restore the lists and settings of the run.") from None


def accept_trial(catalog: Path) -> None:
    """Put the copy in the catalog's place; who has either of them open keeps it.

    Raises:
        UserError: if that is not possible.
    """
    try:
        with only_build(catalog):
            os.replace(_trial_of(catalog), catalog)
    except OSError as error:
        raise UserError(str(catalog), "a catalog that can be replaced", str(error.strerror),
                        "Correct the permissions of its folder.") from None
    drop_trial(catalog)


def drop_trial(catalog: Path) -> None:
    """Remove the copy and its lock, where there are any."""
    trial = _trial_of(catalog)
    for path in (trial, f"{trial}-journal", f"{trial}.lock"):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _trial_of(catalog: Path) -> Path:
    return catalog.with_name(catalog.name + _ENDING)
