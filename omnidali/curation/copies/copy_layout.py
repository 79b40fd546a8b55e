"""Where everything lies in a training copy: the same relative paths below another folder.

A command's results never lie where the files lie that they are made of.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from omnidali.catalog.listing.list_reader import find_lists
from omnidali.config.load import config_files
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION, MediaConfig, key_of
from omnidali.curation.source_selection import choose_sources, files_of
from omnidali.errors import UserError

MediaT = TypeVar("MediaT", bound=MediaConfig)


@dataclass
class CopyLayout:
    """A copy's folder.

    Attributes:
        out: absolute.
        config: for training on the copy.
        roots: of the copied sources, as (real path of the original, path of the copy).
        files: lists, label maps and the like to copy: the copy by the original.
    """

    out: Path
    config: Config
    roots: dict[str, tuple[str, Path]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


def lay_out(config: Config, names: Collection[str], out: str | Path) -> CopyLayout:
    """Plan the copy of the sources ``names`` in ``out``; the others stay where they are.

    Raises:
        UserError: for unknown sources, and where the copy and the originals would lie inside each
            other.
    """
    data_root = Path(os.path.abspath(config.data_root))
    out = Path(os.path.abspath(out))
    sources = config.all_sources
    roots = {
        name: os.path.realpath(data_root / sources[name].root)
        for name in choose_sources(config, names)
    }
    _keep_outside(out, {"data_root": str(data_root)} | _by_key(roots))
    _keep_beside(out, _by_key(roots))

    layout = CopyLayout(out, config)
    for name, root in roots.items():
        # a list may begin its paths with the name of the root's folder: it stays
        inside = _below(data_root, sources[name].root)
        layout.roots[name] = (root, out / (inside or Path(name, os.path.basename(root))))

    training = {
        name: _moved(layout, name, source, data_root) for name, source in config.sources.items()
    }
    evaluation = config.evaluation.source
    if evaluation is not None:
        evaluation = _moved(layout, EVALUATION, evaluation, data_root)
    run = _below(data_root, os.path.abspath(config.run_dir))
    layout.config = replace(
        config,
        data_root=str(out),
        sources=MappingProxyType(training),
        evaluation=replace(config.evaluation, source=evaluation),
        catalog=str(out / "catalog.sqlite"),
        run_dir=str(out / run) if run else config.run_dir,
        classes=config.classes and _take(layout, data_root, config.classes, "classes"),
    )
    return layout


def _moved(layout: CopyLayout, name: str, source: MediaT, data_root: Path) -> MediaT:
    """The source as the copy's config has it; plans to copy the files that it names."""
    changes: dict[str, Any]
    if name not in layout.roots:
        changes = {key: str(data_root / path) for key, path in files_of(source).items()}
        return replace(source, root=str(data_root / source.root), **changes)

    files = files_of(source)
    pattern = files.get("list", "")
    lists = [str(path) for path in find_lists(name, source, data_root)]
    if lists not in ([], [str(data_root / pattern)]):
        del files["list"]
    changes = {key: _take(layout, data_root, path, name) for key, path in files.items()}
    if "list" not in files and pattern:
        changes["list"] = _take_lists(layout, data_root, pattern, lists)
    # DALI on a CPU decodes no H.264: if it was requested, it decodes what it can
    if source.decode in ("dali", "hybrid") and not source.media_kind.has_images:
        changes["decode"] = "auto"
    return replace(source, root=os.path.relpath(layout.roots[name][1], layout.out), **changes)


def _take_lists(layout: CopyLayout, data_root: Path, pattern: str, lists: list[str]) -> str:
    """Plan to copy the lists of a pattern; returns the pattern that finds them in the copy.

    Their names, which may give their class, stay. Those elsewhere stay where they are.
    """
    relative = _below(data_root, pattern)
    places = [_below(data_root, path) for path in lists]
    if not relative or not all(places):
        return str(data_root / pattern)
    layout.files.update(
        (path, layout.out / str(place)) for path, place in zip(lists, places, strict=True)
    )
    return relative


def _take(layout: CopyLayout, data_root: Path, path: str, name: str) -> str:
    """Plan to copy a file that the config names; returns its path below the copy."""
    original = str(data_root / path)
    relative = _below(data_root, path) or os.path.basename(path)
    taken = {place: file for file, place in layout.files.items()}
    while taken.get(layout.out / relative, original) != original:
        relative = f"{name}-{relative}"
    layout.files[original] = layout.out / relative
    return relative


def keep_clear(
    out: str | Path, config_file: str | Path, config: Config, *checkpoints: str | Path | None
) -> None:
    """Refuse to write results where something lies that they are made of.

    Args:
        out: folder for the results.
        config_file: that was read for ``config``.
        config: names the media, lists and catalog.
        *checkpoints: files or run folders, where some are used.

    Raises:
        UserError: naming --out.
    """
    root = Path(config.data_root)
    sources = config.all_sources
    files: dict[str, str | Path | None] = {
        f"--config, base {place}" if place else "--config": file
        for place, file in enumerate(config_files(config_file))
    }
    for number, checkpoint in enumerate(checkpoints):
        files[f"--checkpoint {number + 1}" if number else "--checkpoint"] = checkpoint
    files["the catalog"] = config.catalog_path
    files["classes"] = root / config.classes if config.classes else None
    for name, source in sources.items():
        files |= {f"{key_of(name)}.{key}": root / path for key, path in files_of(source).items()}

    target = os.path.realpath(out)
    for where, file in files.items():
        if file and _is_inside(os.path.realpath(file), target):
            raise UserError(
                "--out",
                f"a folder that does not hold {where}, {file}",
                target,
                "Choose another one.",
            )

    roots = {name: os.path.realpath(root / source.root) for name, source in sources.items()}
    _keep_beside(out, _by_key(roots))
    # a root that everything lies below is no folder of media, unless all files in it are the
    # source's
    data_root = os.path.realpath(root)
    media_roots = {
        name: folder
        for name, folder in roots.items()
        if not ((sources[name].list or sources[name].tars) and _is_inside(data_root, folder))
    }
    _keep_outside(Path(target), _by_key(media_roots))


def _by_key(roots: Mapping[str, str]) -> dict[str, str]:
    return {key_of(name): root for name, root in roots.items()}


def _keep_outside(out: Path, folders: Mapping[str, str]) -> None:
    for where, folder in folders.items():
        if _is_inside(os.path.realpath(out), os.path.realpath(folder)):
            raise UserError(
                "--out", f"a folder outside of {where}, {folder}", str(out), "Choose another one."
            )


def _keep_beside(out: str | Path, roots: Mapping[str, str]) -> None:
    target = os.path.realpath(out)
    for where, root in roots.items():
        if _is_inside(root, target):
            raise UserError(
                "--out",
                f"a folder that does not hold the originals of {where}, {root}",
                target,
                "Choose another one.",
            )


def _below(root: Path, path: str) -> str | None:
    """``path`` relative to ``root``, from which it starts; None if it does not lie below."""
    relative = os.path.relpath(root / path, root)
    return None if relative.split(os.sep)[0] == os.pardir else relative


def _is_inside(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
