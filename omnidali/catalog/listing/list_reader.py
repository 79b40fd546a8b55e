"""The entries of a list or of several, in any format."""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from omnidali.catalog.listing.comments import CommentRule, NoteLine, ignore
from omnidali.catalog.listing.labels import NumberLabel
from omnidali.catalog.listing.list_file import Entry, ListFile
from omnidali.catalog.listing.list_formats import FORMATS, ListFormat
from omnidali.catalog.listing.list_recognition import names_paths_alone, recognise
from omnidali.catalog.listing.one_label import require_one_label
from omnidali.catalog.listing.several_labels import read_several, reads_several
from omnidali.config.files import data_file
from omnidali.config.sources import MediaConfig, key_of
from omnidali.errors import UserError


def find_lists(name: str, source: MediaConfig, data_root: Path) -> list[Path]:
    """The list of a source, or the lists that fit its pattern, in sorted order; none without one.

    Args:
        name: of the source, for errors.
        source: its settings.
        data_root: folder that a relative pattern starts from.

    Raises:
        UserError: if there is no such file.
    """
    if source.list is None:
        return []
    found = match_lists(source.list, data_root)
    return found or [data_file(data_root, source.list, f"{key_of(name)}.list", "a list file")]


def match_lists(pattern: str, data_root: Path) -> list[Path]:
    """The lists that fit a pattern, in sorted order; none if it is a path.

    Args:
        pattern: with ``*``, ``?``, ``[...]`` or ``**``.
        data_root: folder that a relative pattern starts from.
    """
    if not glob.has_magic(pattern) or "\0" in pattern or os.path.exists(data_root / pattern):
        return []
    found = sorted(set(glob.glob(pattern, root_dir=data_root, recursive=True)))
    return [data_root / path for path in found if os.path.isfile(data_root / path)]


def read_list(
    paths: Path | Sequence[Path],
    source: MediaConfig,
    number: NumberLabel,
    name: str,
    *,
    root: str | Path | None = None,
    leave_out: NoteLine = ignore,
    split: str = "train",
    multi_label: bool = False,
) -> tuple[str, Iterator[Entry]]:
    """The format of a list, and its entries, which are read as they are requested.

    A line that is not UTF-8 ends the reading, unless it names what lies below the root: then the
    list is right and the file has an odd name, which the catalog cannot hold. A line that begins
    with ``#`` is a comment, unless it names what lies below the root.

    Args:
        paths: of the list, or of several lists of one format.
        source: gives kind, format, pattern and window length.
        number: gives the label of an item.
        name: of the source, for errors.
        root: of the source; none: not known, so that ``#`` always begins a comment.
        leave_out: receives (path, reason, "FILE, line N") of each line that looks like an item and
            is left out.
        split: ``train`` or ``test``, of lists that hold both.
        multi_label: whether a line may have several labels.

    Raises:
        UserError: naming file and line, also while the entries are read.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    form = _format_of(paths, source, root, multi_label=multi_label)
    expected, kinds, read, fits = _as_read(form, multi_label)
    if not multi_label and root is not None:
        require_one_label(paths[0], form, root)
    if source.media_kind not in kinds:
        raise _other_kind(f"{form} in {paths[0]}", kinds, source.kind, name)

    rule = CommentRule(
        root,
        leave_out,
        is_item=lambda line: bool(line[1:2].strip()) and fits(line),
        follows_links=source.follows_links,
    )
    make = partial(
        ListFile,
        name=name,
        source=source,
        number=number,
        form=form,
        expected=expected,
        comments=rule,
        split=split,
        multi_label=multi_label,
    )
    entries = itertools.chain.from_iterable(map(read, map(make, paths, itertools.count())))
    return form, _not_empty(paths, form, entries)


def _other_kind(got: str, kinds: Iterable[str], kind: str, name: str) -> UserError:
    return UserError(
        f"{key_of(name)}.format",
        f"a list format for kind {kind}",
        got,
        f"Use kind: {' or '.join(kinds)}.",
    )


def _as_read(form: str, multi_label: bool) -> ListFormat:
    """A format, with the reader of several labels where a line may have them."""
    found = FORMATS[form]
    if not (multi_label and reads_several(form)):
        return found
    return found._replace(line=f"{found.line} label ...", read=read_several)


def _format_of(
    paths: Sequence[Path], source: MediaConfig, root: str | Path | None, *, multi_label: bool
) -> str:
    """The format of all lists of a source.

    Raises:
        UserError: if they have different ones.
    """
    if source.format != "auto":
        return source.format
    forms = [_recognise(path, source, root, multi_label) for path in paths]
    first = forms[0]
    for path, form in zip(paths, forms, strict=True):
        if form != first:
            raise UserError(
                str(path),
                f"the format {first}, as in {paths[0]}",
                form,
                "Correct the pattern of the lists, or name their `format:`.",
            )
    return first


def _recognise(path: Path, source: MediaConfig, root: str | Path | None, multi_label: bool) -> str:
    """The format of one list; without a label map, one without any label holds paths alone."""
    try:
        form = recognise(path, source.media_kind, root, multi_label)
    except UserError:
        # commas before each of several labels look like columns
        if not multi_label and root is not None and not source.media_kind.is_folder:
            require_one_label(path, "path_label", root)
        raise
    if form == "path_label" and not source.labels and names_paths_alone(path, root, multi_label):
        return "paths"
    return form


def _not_empty(paths: Sequence[Path], form: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    first = next(entries, None)
    if first is None:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        raise UserError(
            f"{paths[0]}{more}",
            f"lines of the format {form}",
            "none that can be used",
            "Check that the right file is named.",
        )
    yield first
    yield from entries
