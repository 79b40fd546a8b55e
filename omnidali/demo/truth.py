"""How well curation did on the demo world, whose truth is known: precision and recall of what it
kept and removed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnidali.catalog.listing.labels import Labels, read_class_names
from omnidali.catalog.listing.list_formats import Entry, read_list
from omnidali.config.schema import Config
from omnidali.demo.world import LONG_VIDEOS, PART_SECONDS, PARTS, TRUTH, WHOLE
from omnidali.errors import UserError
from omnidali.utils.text_files import parse_json, read_lines

Labelled = Sequence[tuple[str, int]]  # (path from the world's folder, label)


@dataclass(frozen=True)
class Quality:
    """What was chosen against what should have been; numbers of items, or of parts of long videos.

    Attributes:
        chosen: what the curation chose. right: how much of it deserved that.
        wanted: what there was to choose. found: how much of that was chosen.

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
        """The share of the chosen that is right; NaN where nothing was chosen."""
        return self.right / self.chosen if self.chosen else float("nan")

    @property
    def recall(self) -> float:
        """The share of the wanted that was chosen; NaN where nothing was wanted."""
        return self.found / self.wanted if self.wanted else float("nan")


def read_truth(world: str | Path) -> dict:
    """What was planted in a demo world.

    Returns:
        ``noise``: the class shown, or None, by the path of what does not show its label.
            ``duplicates``: paths of
        copies of validation frames. ``positive_parts``: indices by the folder of a long video.

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
    """Photos or short videos that were kept: which show their label, and how many of the clean ones
    are left.

    Args:
        kept: with the labels they were given. truth: of :func:`read_truth`. listed: all, as
            crawled.

    Returns:
        ``right`` counts kept items that show their label, be it a new one; ``wanted`` those that
            showed the
        crawled label from the start.

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
    """Items that were removed as copies: which are, and how many of the copies were found.

    Args:
        removed, listed: paths from the world's folder. listed: what there was to look at; none:
            everything.
    """
    planted, removed = set(truth["duplicates"]), set(removed)
    if listed is not None:
        planted &= set(listed)
    return Quality(len(removed), len(removed & planted), len(planted), len(removed & planted))


def piece_quality(
    rows: Iterable[Mapping],
    truth: Mapping,
    root: str = LONG_VIDEOS,
    window_seconds: float | None = None,
) -> Quality:
    """Pieces of long videos that were kept: how much of them shows the class, and how much of what
    shows it they are.

    The unit is one of the world's parts; pieces that cut a video otherwise count by what they share
    with its parts.

    Args:
        rows: objects of the release's JSON list; ``video_dir`` is a video's folder or the whole
            file in it. Videos that are missing count as not found.
        root: folder that ``video_dir`` starts from, from the world's folder.
        window_seconds: length of the pieces; none: ``num_clips`` of equal length.

    Raises:
        UserError: for a video that the world does not have.
    """
    spans = []
    for row in rows:
        length = window_seconds / PART_SECONDS if window_seconds else PARTS / row["num_clips"]
        spans += [
            (os.path.join(root, row["video_dir"]), index * length, (index + 1) * length)
            for index in sorted(set(row["positive_clip_inds"]))
        ]
    return _in_parts(spans, truth)


def _in_parts(spans: Iterable[tuple[str, float, float]], truth: Mapping) -> Quality:
    """The quality of (video, begin, end), counted in parts from the beginning of the video."""
    chosen = right = 0.0
    for path, begin, end in spans:
        video = os.path.normpath(path.removesuffix(WHOLE))
        if video not in truth["positive_parts"]:
            raise UserError(
                "kept list",
                "long videos of the demo world",
                path,
                "Compare lists with their own world.",
            )
        end = min(end, PARTS)
        chosen += max(0.0, end - begin)
        right += sum(
            max(0.0, min(end, part + 1) - max(begin, part))
            for part in truth["positive_parts"][video]
        )
    return Quality(chosen, right, sum(map(len, truth["positive_parts"].values())), right)


def judge_lists(world: str | Path, crawled: Config, kept: Config) -> dict[str, dict[str, Quality]]:
    """Compare two configs of one demo world: before and after filter, dedup or both.

    Returns:
        By source that both have: ``labels`` and ``removed copies`` of photos and short videos,
            ``pieces`` of long
        ones. What a filter dropped counts as removed, too, so that the precision of ``removed
            copies`` says
        something after dedup alone.

    Raises:
        UserError: for lists that cannot be read or are not of this world.
    """
    truth, qualities = read_truth(world), {}
    for name in (name for name in crawled.sources if name in kept.sources):
        before, after = (_entries(config, name, world) for config in (crawled, kept))
        if crawled.sources[name].kind == "untrimmed":
            qualities[name] = {"pieces": _in_parts(_spans(after), truth)}
            continue
        before, after = (
            [(entry.path, entry.label) for entry in entries] for entries in (before, after)
        )
        paths = [path for path, _ in before]
        removed = set(paths) - {path for path, _ in after}
        qualities[name] = {
            "labels": label_quality(after, truth, before),
            "removed copies": duplicate_quality(removed, truth, paths),
        }
    return qualities


def _entries(config: Config, name: str, world: str | Path) -> list[Entry]:
    """A source's list with paths from the world's folder."""
    source, root = config.sources[name], Path(config.data_root)
    if not source.list:
        raise UserError(f"sources.{name}.list", "a list", "none", "Judge sources that have one.")
    labels = Labels(read_class_names(root / config.classes) if config.classes else None)
    below = os.path.relpath(os.path.realpath(root / source.root), os.path.realpath(world))

    def place(path: str) -> str:
        return os.path.normpath(os.path.join(below, path))

    return [
        entry._replace(path=place(entry.path), video=place(entry.video))
        for entry in read_list(root / source.list, source, labels, name)[1]
    ]


def _spans(entries: Iterable[Entry]) -> Iterator[tuple[str, float, float]]:
    """(video, begin, end) of the positive pieces of a list, counted in parts."""
    seen: Counter = Counter()
    for entry in entries:
        if entry.unit == "windows":  # a video that nobody has looked at
            span = 0, PARTS
        elif entry.unit == "seconds":
            span = entry.first / PART_SECONDS, entry.last / PART_SECONDS
        else:
            span = seen[entry.video], seen[entry.video] + 1
        seen[entry.video] += 1
        if entry.positive:
            yield entry.video, *span
