"""The files that a user names: a config itself, and what it names below ``data_root``."""

import difflib
import re
import stat
from pathlib import Path

from omnidali.errors import UserError, start_of

_SHIPPED = Path(__file__).parent.parent / "configs"
_ENDING = ".yaml"


def shipped_names() -> list[str]:
    """The names of the shipped configs, without the parts that they are made of."""
    names = (path.relative_to(_SHIPPED).as_posix() for path in _SHIPPED.rglob(f"*{_ENDING}"))
    return sorted(name.removesuffix(_ENDING) for name in names if not name.startswith("parts/"))


def shipped_path(name: str) -> Path:
    """The path of a shipped config, whatever lies in the current folder."""
    return _SHIPPED / f"{name}{_ENDING}"


def purpose_of(name: str) -> str:
    """What a shipped config is for, from the comment that it begins with.

    >>> purpose_of("k400/tsn_r50_3seg")
    'TSN-R50 with 3 segments from ImageNet weights on Kinetics-400 alone, the baseline.'
    """
    text = shipped_path(name).read_text(encoding="utf-8")
    purpose = re.search(r"# Purpose: (.*(?:\n#  .*)*)", text)
    return " ".join(purpose[1].replace("\n#", " ").split()) if purpose else ""


def find_config(given: str | Path, above: Path | None = None) -> Path:
    """The config file that a path means, or the name of a shipped config; a file wins.

    Args:
        given: a path, or a name such as ``tsn_omni`` or ``k400/tsn_r50_3seg.yaml``.
        above: the file that names it as its ``base``, from whose folder it starts then; None: it
            starts from the current folder.

    Raises:
        UserError: if there is neither.
    """
    path = Path(given) if above is None else above.parent / given
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return path
        reason = "a folder"
    except FileNotFoundError:
        reason = "no such file"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    name = str(given).removesuffix(_ENDING)
    if name in shipped_names():
        return shipped_path(name)

    where, start = str(given), start_of(given)
    if above is not None:
        where = f"{above}: base {given}"
        start = start_of(given, above.parent, "the folder of the config")
    raise UserError(
        where, "a config file, or the name of a shipped one", f"{reason}{start}", _advise(name)
    )


def _advise(name: str) -> str:
    """Name the shipped configs that are like a wrong one."""
    name = name.removeprefix("./").removeprefix("configs/")
    shipped = shipped_names()
    same = [config for config in shipped if config.rpartition("/")[2] == name.rpartition("/")[2]]
    close = same or difflib.get_close_matches(name, shipped)
    if not close:
        return "Check the path; `omnidali help configs` lists the shipped ones."
    return f"Did you mean the shipped {' or '.join(close)}?"


def data_file(data_root: str | Path, path: str, key: str, what: str) -> Path:
    """The path of a file that a config names; what is wrong inside, its reader says.

    Args:
        data_root: folder that the path starts from.
        path: as the config has it.
        key: of the config.
        what: is expected, for errors.

    Raises:
        UserError: if there is no such file.
    """
    full = Path(data_root, path)
    try:
        full.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            key,
            what,
            f"{path}, which does not exist{start_of(path, data_root, 'data_root')}",
            "Check the path and data_root.",
        ) from None
    except (OSError, ValueError):
        pass  # such as a folder that may not be entered: the reader has the reason
    return full
