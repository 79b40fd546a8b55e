"""The plan of the demo world: its collections, its items, and the lists and the truth about them.

``DEMO`` is the whole definition; nothing here touches a file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omnidali.demo.scene import ACTIONS

Codec = tuple[str, str, dict[str, str]]  # FFmpeg's encoder, the file's ending, the options
_X264: Codec = ("libx264", ".mp4", {"preset": "veryfast", "crf": "23", "g": "16", "bf": "0"})
X264_LONG_GOP: Codec = ("libx264", ".mp4", {"preset": "veryfast", "crf": "23", "g": "250"})
_X265: Codec = (
    "libx265",
    ".mp4",
    {
        "preset": "ultrafast",
        "crf": "26",
        "x265-params": "log-level=none:pools=none:frame-threads=1",
    },
)
_VP9: Codec = (
    "libvpx-vp9",
    ".webm",
    {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"},
)


@dataclass(frozen=True)
class Collection:
    """One source of the world: how much of it there is and how dirty it is.

    Attributes:
        name: the folder; ``{n}`` is the number of classes.
        form: ``clip``, ``photo`` or ``untrimmed``.
        folder: of one item below the source's, with ``{label}``, ``{tag}``, ``{shard}`` and
            ``{id}``.
        per_class: items.
        codecs: taken in turn.
        noise: share of items with another class's actor or none.
        duplicates: share of items that are copies of validation frames.
    """

    name: str
    form: str
    folder: str
    per_class: int
    codecs: tuple[Codec, ...] = (_X264,)
    noise: float = 0.0
    duplicates: float = 0.0


DEMO = (
    Collection("kinetics_{n}_train", "clip", "", 20, (_X264, X264_LONG_GOP)),
    Collection("kinetics_{n}_val", "clip", "", 12, (_X264, X264_LONG_GOP)),
    Collection(
        "googleimage_{n}", "photo", "{label:03d}/{shard:02d}", 100, noise=0.3, duplicates=0.04
    ),
    Collection("insimage_{n}", "photo", "{label:03d}/{tag}", 50, noise=0.4),
    Collection("insvideo_{n}", "clip", "{label:03d}/{tag}", 8, (_X264, _VP9, _X265), noise=0.25),
    Collection("kinetics_raw_{n}_train", "untrimmed", "pref{first}/{id}", 2),
)
PARTS = 6  # of a long video
PART_SECONDS = 4  # the release cuts at 10 s
WHOLE = "whole.mp4"  # a long video, beside its parts
TRUTH = "truth.json"  # everything that is planted
TEACHER_ERROR = 0.1  # share of the planted noise that the released, filtered lists still hold
_ID_LETTERS = list("abcdefghkmnpqrstuvwxyz23456789")


@dataclass(frozen=True)
class PlannedItem:
    """One item to make.

    Attributes:
        path: of the file, or of a long video's folder, from the world's folder.
        form: of its collection.
        label: the crawled class.
        shown: the class in the picture; None for none.
        seed: of its random generator.
        codec: of a video.
        copy_of: seed of the validation clip that it shows a frame of.
    """

    path: str
    form: str
    label: int
    shown: int | None
    seed: tuple[int, ...]
    codec: Codec
    copy_of: tuple[int, ...] | None = None


World = dict[str, list[PlannedItem]]  # by folder of the collection


def plan_items(seed: int) -> World:
    """Every item of the world by collection, before any is made."""
    world: World = {}
    for number, collection in enumerate(DEMO):
        rng = np.random.default_rng([seed, number])
        name = collection.name.format(n=len(ACTIONS))
        world[name] = [
            _plan_item(collection, (seed, number, label, index), rng)
            for label in range(len(ACTIONS))
            for index in range(collection.per_class)
        ]
    return world


def _plan_item(
    collection: Collection, seed: tuple[int, int, int, int], rng: np.random.Generator
) -> PlannedItem:
    """Draw an item; its seed is that of the world and its collection's, class's and own number."""
    world_seed, _, label, index = seed
    classes = len(ACTIONS)
    shown: int | None = label
    copy_of = None
    if rng.random() < collection.noise:
        # half of the noise shows another class, half shows none
        shows_class = rng.random() < 0.5
        shown = int((label + rng.integers(1, classes)) % classes) if shows_class else None
    elif rng.random() < collection.duplicates:
        copy_of = (world_seed, 1, label, int(rng.integers(DEMO[1].per_class)))

    identity = f"{''.join(rng.choice(_ID_LETTERS, 8))}{label}{index:02d}"
    first, second = ACTIONS[label].name.split()
    below = collection.folder.format(
        label=label,
        shard=index % 2,
        id=identity,
        first=identity[0],
        tag=(first + second, second + first)[index % 2],
    )
    codec = collection.codecs[index % len(collection.codecs)]
    ending = {
        "photo": f"/{index + 1:06d}.jpg",
        "clip": f"/{identity}{codec[1]}",
        "untrimmed": "",
    }
    name = collection.name.format(n=classes)
    path = f"{name}/{below}{ending[collection.form]}".replace("//", "/")
    return PlannedItem(path, collection.form, label, shown, seed, codec, copy_of)


def shown_parts(item: PlannedItem) -> list[int]:
    """The parts of a long video that show its class: two or three of them."""
    rng = np.random.default_rng([*item.seed, 77])
    parts = rng.permutation(PARTS)[: rng.integers(2, 4)]
    return sorted(parts.tolist())


def truth_of(world: World) -> dict:
    """What is planted, as :func:`omnidali.demo.truth.read_truth` returns it."""
    items = [item for members in world.values() for item in members]
    return {
        "noise": {item.path: item.shown for item in items if item.shown != item.label},
        "duplicates": [item.path for item in items if item.copy_of is not None],
        "positive_parts": {
            item.path: shown_parts(item) for item in items if item.form == "untrimmed"
        },
    }


def annotation_lists(world: World) -> dict[str, list[str]]:
    """The lines of the annotation files, as the release names them, by path.

    Counts in names are numbers of classes. There is one list more than in the release: of the whole
    long videos, as they were before a teacher scored them.
    """
    classes = len(ACTIONS)
    union = f"webimage_{classes}/tsn_8seg_webimage_{classes}_wodup.txt"
    lists = {f"k{classes}_actions.txt": [action.name for action in ACTIONS], union: []}
    for name, items in world.items():
        if name.startswith("kinetics_raw"):
            lists |= _long_video_lists(name, items)
        elif name.startswith("kinetics"):
            split = name.rsplit("_", 1)[1]
            lists[f"kinetics_{classes}/k{classes}_{split}.txt"] = _lines(items, name)
        else:
            rng = np.random.default_rng([items[0].seed[0], 991, items[0].seed[1]])
            kept = [
                item for item in items if item.shown == item.label or rng.random() < TEACHER_ERROR
            ]

            copies = [item for item in kept if item.copy_of is not None]
            unique = [item for item in kept if item.copy_of is None]
            teacher = "slowonly_8x8" if "video" in name else "tsn_8seg"
            lists[f"{name}/{name}.txt"] = _lines(items, name)
            lists[f"{name}/{teacher}_{name}.txt"] = _lines(kept, name)
            lists[f"{name}/{teacher}_{name}_duplicate.txt"] = _lines(copies, name)
            lists[f"{name}/{teacher}_{name}_wodup.txt"] = _lines(unique, name)
            if teacher == "tsn_8seg":
                lists[union] += [f"{item.path} {item.label}" for item in unique]
    return lists


def _lines(items: Sequence[PlannedItem], root: str) -> list[str]:
    return [f"{item.path.removeprefix(root + '/')} {item.label}" for item in items]


def _long_video_lists(name: str, items: Sequence[PlannedItem]) -> dict[str, list[str]]:
    short = name.removesuffix("_train")
    rows = [
        {
            "video_dir": item.path.removeprefix(name + "/"),
            "label": item.label,
            "num_clips": PARTS,
            "positive_clip_inds": shown_parts(item),
        }
        for item in items
    ]
    return {
        f"{short}/slowonly_8x8_{short}.json": [json.dumps(rows)],
        f"{short}/{short}.txt": [f"{row['video_dir']}/{WHOLE} {row['label']}" for row in rows],
    }
