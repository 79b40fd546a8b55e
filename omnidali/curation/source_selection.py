"""The sources that a command works on, and the windows that it cuts whole long videos into."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from omnidali.catalog.listing.list_reader import match_lists
from omnidali.catalog.listing.list_recognition import recognise
from omnidali.config.schema import Config
from omnidali.config.sources import MediaConfig, key_of
from omnidali.errors import UserError

FRAME_SECONDS = 1.0  # a 2D teacher looks at a frame a second of long videos (OmniSource, Sec. 3.3)
# formats of long videos that are cut into windows
WHOLE_FILES = ("path_label", "paths", "class folders")

_MediaT = TypeVar("_MediaT", bound=MediaConfig)


def choose_sources(config: Config, names: Collection[str], training: bool = False) -> list[str]:
    """The names of the chosen sources in the config's order, each once.

    Args:
        config: names the sources.
        names: chosen ones; none: all.
        training: whether only training sources can be chosen.

    Raises:
        UserError: for a name that the config does not have.
    """
    sources = config.sources if training else config.all_sources
    for name in names:
        if name not in sources:
            expected = f"some of {'the training sources ' if training else ''}{', '.join(sources)}"
            raise UserError("--sources", expected, name, "Correct the name.")
    return [name for name in sources if name in names or not names]


def choose_crawled(
    config: Config, names: Collection[str], training: bool = False, lists: bool = True
) -> list[str]:
    """The names of the chosen sources, for commands that remove items from crawled sources.

    Args:
        config: names the sources.
        names: chosen ones; none: all training sources but the first, the target.
        training: whether only training sources can be chosen.
        lists: whether the command writes lists.

    Raises:
        UserError: for an unknown name, if there is no such source, and for tars, as a list cannot
            name all of their members.
    """
    chosen = choose_sources(config, names, training) if names else list(config.sources)[1:]
    if not chosen:
        raise UserError(
            "--sources",
            "a source besides the target",
            "none in the config",
            "Add it to the config, or name the target itself.",
        )

    sources = config.all_sources
    for name in chosen:
        if lists and sources[name].tars:
            raise UserError(
                key_of(name),
                "a source with a list or class folders",
                f"the tars {sources[name].tars}",
                "Unpack the tars, or leave the source out with --sources.",
            )
    return chosen


def files_of(source: MediaConfig) -> dict[str, str]:
    """The files that a source names, by their settings."""
    files = {key: getattr(source, key, None) for key in ("list", "labels", "motion")}
    return {key: path for key, path in files.items() if path}


def is_cut_into_windows(source: MediaConfig, data_root: str, multi_label: bool = False) -> bool:
    """Whether windows are cut from the source's videos.

    Args:
        source: its settings.
        data_root: folder that list and root start from.
        multi_label: whether an item may have several labels.

    Raises:
        UserError: for a list that cannot be read.
    """
    if not source.media_kind.has_pieces:
        return False
    if not source.list:
        return True

    form: str = source.format
    if form == "auto":
        path, *_ = match_lists(source.list, Path(data_root)) or [Path(data_root, source.list)]
        form = recognise(path, source.media_kind, Path(data_root, source.root), multi_label)
    return form in WHOLE_FILES


def with_all_pieces(
    source: _MediaT, data_root: str, window: float | None, *, multi_label: bool = False
) -> _MediaT:
    """A source of long videos with all of its pieces; other sources as they are.

    Args:
        source: its settings.
        data_root: folder that list and root start from.
        window: seconds of the pieces, where they are windows; None: as configured.
        multi_label: whether an item may have several labels.

    Raises:
        UserError: for a list that cannot be read.
    """
    if not source.media_kind.has_pieces:
        return source
    if window and is_cut_into_windows(source, data_root, multi_label):
        source = replace(source, window_seconds=window)
    return replace(source, pieces="all")


def check_window(
    window: float | None,
    sources: Mapping[str, MediaConfig],
    data_root: str,
    *,
    multi_label: bool = False,
) -> None:
    """Refuse a length of windows that would change nothing.

    Args:
        window: seconds; None: not asked for.
        sources: those that a command works on, by name.
        data_root: folder that lists and roots start from.
        multi_label: whether an item may have several labels.

    Raises:
        UserError: naming --window.
    """
    if window is None:
        return
    if not any(is_cut_into_windows(source, data_root, multi_label) for source in sources.values()):
        raise UserError(
            "--window",
            "a source of long videos whose list names them whole",
            f"none in {', '.join(sources)}",
            "Leave it out: their lists say what the pieces are. Where"
            " `dedup` wrote them, give it the option.",
        )
