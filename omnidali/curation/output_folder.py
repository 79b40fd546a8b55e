"""The folder for a command's results: which command it belongs to, and what may write into it."""

import contextlib
import errno
import json
import os
from pathlib import Path

from omnidali.catalog.database.left_out_table import left_out_path
from omnidali.errors import UserError, start_of
from omnidali.utils.atomic_write import write_whole, writing_to

OWNER = ".omnidali.json"  # file in the folder that names its command and config
# A killed start may leave a half-written owner file. A refused start may leave a catalog, which
# says only what the files are, and its table of what is left out.
_IGNORED = (OWNER, "catalog.sqlite", left_out_path(Path("catalog.sqlite")).name)
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# These count if they concern the results: an original that cannot be read is a failed file.
_ACCESS_ERRORS = {errno.EACCES, errno.EPERM, errno.EIO}


def is_disk_error(error: BaseException, out: Path) -> bool:
    """Whether the folder ``out`` cannot be written, so that every other file would fail, too."""
    number = getattr(error, "errno", None)
    if number in _DISK_ERRORS:
        return True
    file = getattr(error, "filename", None) or out
    return number in _ACCESS_ERRORS and str(file).startswith(str(out))


def check_resumable_folder(out: Path, job_log: str, unfinished: str) -> None:
    """Refuse a folder that holds anything but an earlier start of the same command.

    Args:
        out: the folder, which is made if it is missing.
        job_log: name of the log of finished jobs in it.
        unfinished: name of the folder for files that are being written.

    Raises:
        UserError: naming --out.
        OSError: if the folder cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    is_resumed = (out / unfinished).exists() or (out / job_log).exists()
    if any(out.iterdir()) and not is_resumed:
        raise UserError(
            "--out",
            "an empty folder or an earlier copy",
            f"other files in {out}{start_of(out)}",
            "Choose another.",
        )


def take_folder(
    out: str | Path, command: str, config_file: str | Path, earlier: str = OWNER
) -> None:
    """Mark a folder as one that a command overwrites at every start; other files in it stay.

    The mark is written before the first result, so that a killed start can be repeated.

    Args:
        out: the folder.
        command: name of the command.
        config_file: the config that the command was given.
        earlier: as in :func:`check_free`.

    Raises:
        UserError: as :func:`check_free`, and if the folder cannot be written.
    """
    out = Path(out)
    if check_free(out, command, config_file, earlier):
        return

    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / OWNER, json.dumps(_owner_mark(command, config_file)) + "\n")


def check_free(
    out: str | Path, command: str, config_file: str | Path, earlier: str = OWNER
) -> bool:
    """Check whether :func:`take_folder` may take a folder; changes nothing.

    Args:
        out: the folder.
        command: name of the command.
        config_file: the config that the command was given.
        earlier: a file that versions without marks have left in a folder of this command.

    Returns:
        Whether the folder is already marked for this command and config.

    Raises:
        UserError: naming --out, if the folder holds results of another command or config, or other
            files.
    """
    out = Path(out)
    mine = _owner_mark(command, config_file)
    with writing_to(out):
        theirs: object = None  # also if the mark cannot be read
        with contextlib.suppress(FileNotFoundError, ValueError):
            theirs = json.loads((out / OWNER).read_text(encoding="utf-8"))
        if theirs == mine:
            return True
        if theirs is None and earlier != OWNER and (out / earlier).exists():
            return False

        names = [path.name for path in out.iterdir()] if out.exists() else []
        if all(name.startswith(_IGNORED) for name in names):
            return False

    got = "other files"
    if isinstance(theirs, dict) and theirs.keys() == mine.keys():
        got = f"what `omnidali {theirs['command']}` made of {theirs['config']}"
    raise UserError(
        "--out",
        f"an empty folder, or one of an earlier `omnidali {command}` of {mine['config']}",
        f"{got} in {out}{start_of(out)}",
        "Choose another.",
    )


def _owner_mark(command: str, config_file: str | Path) -> dict[str, str]:
    return {"command": command, "config": os.path.realpath(config_file)}
