"""Precision and recall of curation on the demo world, whose truth is known."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnidali.catalog.listing.class_files import read_class_names
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_file import Entry
from omnidali.catalog.listing.list_reader import read_list
from omnidali.config.schema import Config
from omnidali.demo.world_plan import PART_SECONDS, PARTS, TRUTH, WHOLE
from omnidali.errors import UserError
from omnidali.utils.text_files import parse_json, read_lines

Labelled = Sequence[tuple[str, int]]  # (path from the world's folder, label)
Span = tuple[str, float, float]  # (path of a long video, begin, end), counted in parts


@dataclass(frozen=True)
class Quality:
    """The chosen compared with the wanted, in items, or in parts of long videos.

    Attributes:
        chosen: number chosen by the curation.
        right: how many of the chosen are right.
        wanted: number that should have been chosen.
        found: how many of the wanted were chosen.

    >>> quality = Quality(chosen=40, right=38, wanted=76, found=38)
    >>> quality.precision, quality.recall
    (0.95, 0.5)
    """

    chosen: float
    right: float
    wanted: float
    found: float

    @property
    def precision(self) -> float:
        """The share of the chosen that is right; NaN if nothing was chosen."""
        return self.right / self.chosen if self.chosen else float("nan")

    @property
    def recall(self) -> float:
        """The share of the wanted that was chosen; NaN if nothing was wanted."""
        return self.found / self.wanted if self.wanted else float("nan")


def read_truth(world: str | Path) -> dict:
    """What was planted in a demo world.

    Returns:
        ``noise``: the class shown, or None, by the path of each item that does not show its label.
        ``duplicates``: paths of copies of validation frames. ``positive_parts``: indices of parts
        by the folder of a long video.

    Raises:
        UserError: if the folder is no demo world.
    """
    path = Path(world, TRUTH)
    truth = parse_json("\n".join(line for _, line in read_lines(path, "truth")), str(path))
    if not isinstance(truth, dict) or not {"noise", "duplicates", "positive_parts"} <= set(truth):
        raise UserError(
            str(path),
            "noise, duplicates and positive_parts",
            "something else",
            "Make the world with `omnidali demo --only-data DIR`.",
        )
    return truth


def label_quality(kept: Labelled, truth: Mapping, listed: Labelled) -> Quality:
    """The quality of the images or short videos that were kept.

    Args:
        kept: with the labels they were given.
        truth: from :func:`read_truth`.
        listed: all, as crawled.

    Returns:
        ``right`` counts kept items that show their label, even a new one; ``wanted`` counts those
        that show their crawled label.

    Raises:
        UserError: for a kept item that was not listed.
    """
    crawled = dict(listed)
    shown = {path: truth["noise"].get(path, label) for path, label in crawled.items()}
    for path, _ in kept:
        if path not in crawled:
            raise UserError(
                "kept list", "items of the crawled list", path, "Compare lists of the same source."
            )

    right = [path for path, label in kept if shown[path] == label]
    clean = {path for path, label in crawled.items() if shown[path] == label}
    return Quality(len(kept), len(right), len(clean), len(clean & set(right)))


def duplicate_quality(
    removed: Iterable[str], truth: Mapping, listed: Collection[str] | None = None
) -> Quality:
    """The quality of the items that were removed as copies.

    Args:
        removed: paths from the world's folder.
        truth: from :func:`read_truth`.
        listed: paths of all items that could be removed; none: everything.
    """
    planted = set(truth["duplicates"])
    if listed is not None:
        planted &= set(listed)
    removed = set(removed)
    return Quality(len(removed), len(removed & planted), len(planted), len(removed & planted))


def piece_quality(kept: Iterable[Span], truth: Mapping) -> Quality:
    """The quality of the pieces of long videos that were kept, in parts.

    Pieces that cut a video otherwise count by what they share with its parts. Videos that are
    missing count as not found.

    Args:
        kept: pieces, with a path that is a video's folder or the whole file in it.
        truth: from :func:`read_truth`.

    Raises:
        UserError: for a video that the world does not have.
    """
    positive_parts = truth["positive_parts"]
    chosen = right = 0.0
    for path, begin, end in kept:
        video = os.path.normpath(path.removesuffix(WHOLE))
        if video not in positive_parts:
            raise UserError(
                "kept list",
                "long videos of the demo world",
                path,
                "Compare lists with their own world.",
            )

        end = min(end, PARTS)
        chosen += max(0.0, end - begin)
        right += sum(
            max(0.0, min(end, part + 1) - max(begin, part)) for part in positive_parts[video]
        )
    return Quality(chosen, right, sum(map(len, positive_parts.values())), right)


def judge_lists(world: str | Path, crawled: Config, kept: Config) -> dict[str, dict[str, Quality]]:
    """Compare two configs of one demo world: before and after filter, dedup or both.

    Returns:
        By source that both have: ``labels`` and ``removed copies`` of images and short videos,
        ``pieces`` of long videos. Items that a filter has dropped count as removed, too: the
        precision of ``removed copies`` says something after dedup alone.

    Raises:
        UserError: for lists that cannot be read or are not of this world.
    """
    truth = read_truth(world)
    qualities = {}
    for name, source in crawled.sources.items():
        if name not in kept.sources:
            continue
        after = _entries(kept, name, world)
        if source.media_kind.has_pieces:
            qualities[name] = {"pieces": piece_quality(_spans(after), truth)}
            continue

        listed = [(entry.path, entry.label) for entry in _entries(crawled, name, world)]
        left = [(entry.path, entry.label) for entry in after]
        paths = [path for path, _ in listed]
        removed = set(paths) - {path for path, _ in left}
        qualities[name] = {
            "labels": label_quality(left, truth, listed),
            "removed copies": duplicate_quality(removed, truth, paths),
        }
    return qualities


def _entries(config: Config, name: str, world: str | Path) -> list[Entry]:
    """A source's list with paths from the world's folder."""
    source = config.sources[name]
    if not source.list:
        raise UserError(f"sources.{name}.list", "a list", "none", "Judge sources that have one.")
    root = Path(config.data_root)
    labels = Labels(read_class_names(root / config.classes) if config.classes else None)
    below = os.path.relpath(os.path.realpath(root / source.root), os.path.realpath(world))

    def place(path: str) -> str:
        return os.path.normpath(os.path.join(below, path))

    _, entries = read_list(root / source.list, source, labels.number, name)
    return [entry._replace(path=place(entry.path), video=place(entry.video)) for entry in entries]


def _spans(entries: Iterable[Entry]) -> Iterator[Span]:
    """The positive pieces of a list."""
    seen: Counter[str] = Counter()
    for entry in entries:
        number = seen[entry.video]
        seen[entry.video] += 1
        if not entry.positive:
            continue
        if entry.unit == "windows":  # a whole video that nobody has scored
            yield entry.video, 0, PARTS
        elif entry.unit == "seconds":
            yield entry.video, entry.first / PART_SECONDS, entry.last / PART_SECONDS
        else:
            yield entry.video, number, number + 1
