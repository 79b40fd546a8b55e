"""Where everything lies in a training copy: the same relative paths below another folder, and a
config for it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from omnidali.config.load import config_files
from omnidali.config.schema import EVALUATION, Config, key_of
from omnidali.curation.source_selection import all_sources, choose_sources, files_of
from omnidali.errors import UserError


@dataclass
class Layout:
    """A copy's folder.

    Attributes:
        out: absolute. config: for training on the copy.
        roots: of the copied sources, as (real path of the original, path of the copy).
        files: lists, label maps and the like to copy: the copy by the original.
    """

    out: Path
    config: Config
    roots: dict[str, tuple[str, Path]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def class_roots(self) -> list[tuple[str, Path]]:
        """``roots`` of the sources whose classes are folders."""
        sources = all_sources(self.config)
        return [
            roots
            for name, roots in self.roots.items()
            if not (sources[name].list or sources[name].tars)
        ]

    def place(self, source: str, file: str) -> Path:
        """Where the copy of a media file lies, given its absolute path."""
        root, copy = self.roots[source]
        return copy / os.path.relpath(file, root)


def lay_out(config: Config, names: Collection[str], out: str | Path) -> Layout:
    """Plan the copy of the sources ``names`` in ``out``; what is left out stays where it is.

    Raises:
        UserError: for unknown sources, and where the copy and the originals would lie inside each
            other.
    """
    data_root, out = Path(os.path.abspath(config.data_root)), Path(os.path.abspath(out))
    sources, names = all_sources(config), choose_sources(config, names)
    roots = {name: os.path.realpath(data_root / sources[name].root) for name in names}
    keep_apart(out, roots, {"data_root": str(data_root)})
    layout = Layout(out, config)
    copied = {}
    for name, source in sources.items():
        if name in names:
            inside = _below(data_root, source.root)
            # a list may begin its paths with the name of the root's folder: it stays
            relative = inside or os.path.join(name, os.path.basename(roots[name]))
            layout.roots[name] = (roots[name], out / relative)
            paths = {
                key: _take(layout, data_root, value, name)
                for key, value in files_of(source).items()
            }
            # DALI on a CPU takes no H.264: where it was asked for, it is so wherever it can
            videos = source.kind in ("video", "untrimmed")
            decode = "auto" if videos and source.decode in ("dali", "hybrid") else source.decode
            copied[name] = replace(source, root=os.path.normpath(relative), decode=decode, **paths)
        else:
            paths = {key: str(data_root / value) for key, value in files_of(source).items()}
            copied[name] = replace(source, root=str(data_root / source.root), **paths)
    evaluation = replace(config.evaluation, source=copied.pop(EVALUATION, None))
    run = _below(data_root, os.path.abspath(config.run_dir))
    layout.config = replace(
        config,
        data_root=str(out),
        sources=MappingProxyType(copied),
        evaluation=evaluation,
        catalog=str(out / "catalog.sqlite"),
        run_dir=str(out / run) if run else config.run_dir,
        classes=config.classes and _take(layout, data_root, config.classes, "classes"),
    )
    return layout


def keep_apart(out: Path, roots: Mapping[str, str], others: Mapping[str, str] = {}) -> None:
    """Refuse to write where originals lie, or around them.

    Args:
        roots: real paths of the sources' folders. others: more folders that ``out`` may hold, but
            not lie in, by name.

    Raises:
        UserError: naming --out.
    """
    target = os.path.realpath(out)
    for where, folder in {**others, **{key_of(name): root for name, root in roots.items()}}.items():
        if _inside(target, os.path.realpath(folder)):
            raise UserError(
                "--out", f"a folder outside of {where}, {folder}", str(out), "Choose another one."
            )
    _keep_beside(target, roots)


def keep_clear(
    out: str | Path, config_file: str | Path, config: Config, *checkpoints: str | Path | None
) -> None:
    """Refuse to write results where something lies that they are made of.

    Args:
        config_file: that was read for ``config``. checkpoints: or run folders, where some are made
            use of.

    Raises:
        UserError: naming --out.
    """
    out, root = os.path.realpath(out), Path(config.data_root)
    files = {
        "--config" if not place else f"--config, base {place}": file
        for place, file in enumerate(config_files(config_file))
    }
    files |= {
        f"--checkpoint{f' {number + 1}' if number else ''}": file
        for number, file in enumerate(checkpoints)
    }
    files |= {
        "the catalog": config.catalog_path,
        "classes": config.classes and root / config.classes,
    }
    for name, source in all_sources(config).items():
        files |= {f"{key_of(name)}.{key}": root / path for key, path in files_of(source).items()}
    for where, file in files.items():
        if file and _inside(os.path.realpath(file), out):
            raise UserError(
                "--out", f"a folder that does not hold {where}, {file}", out, "Choose another one."
            )
    roots = {
        name: os.path.realpath(root / source.root) for name, source in all_sources(config).items()
    }
    _keep_beside(out, roots)
    # a root that everything lies below is no folder of media, unless all files in it are the
    # source's
    keep_apart(
        Path(out),
        {
            name: folder
            for name, folder in roots.items()
            if not (
                (all_sources(config)[name].list or all_sources(config)[name].tars)
                and _inside(os.path.realpath(root), folder)
            )
        },
    )


def _keep_beside(out: str, roots: Mapping[str, str]) -> None:
    for name, root in roots.items():
        if _inside(root, out):
            raise UserError(
                "--out",
                f"a folder that does not hold the originals of {key_of(name)}, {root}",
                out,
                "Choose another one.",
            )


def _take(layout: Layout, data_root: Path, path: str, name: str) -> str:
    """Plan to copy a file that the config names; returns its path below the copy."""
    original = str(data_root / path)
    relative = _below(data_root, path) or os.path.basename(path)
    taken = {place: file for file, place in layout.files.items()}
    while taken.get(layout.out / relative, original) != original:
        relative = f"{name}-{relative}"
    layout.files[original] = layout.out / relative
    return relative


def _below(root: Path, path: str) -> str | None:
    """``path`` relative to ``root``, from which it starts; None where it does not lie below."""
    relative = os.path.relpath(root / path, root)
    return None if relative.split(os.sep)[0] == os.pardir else relative


def _inside(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
