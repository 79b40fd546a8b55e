"""What the model will see, as pictures: the planned clips of a step, and where in their frames the
crops lie.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from omnidali.catalog.database.store import Media, SourceTable
from omnidali.config.schema import EVALUATION, Config
from omnidali.curation.source_selection import all_sources, choose_sources
from omnidali.decoding.thumbnail import decode_still
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.batch import StepBatch
from omnidali.loading.clip_images import captioned, clip_grid, label_text, tile
from omnidali.loading.data import open_data, open_loader, rank_options
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.plan import EvaluationPlan, Samples
from omnidali.training.tensorboard_log import Board
from omnidali.utils.atomic_write import writing_to
from omnidali.utils.plots import write_picture
from omnidali.utils.untrusted_text import for_picture, for_tensorboard, say

FRAMES_A_ROW = 8  # of the clips' picture; a longer clip has a row of its own
_MOST_STEPS = 100  # that are decoded for sources with few slots a step
_WHOLE = 320  # longer side of a whole frame, pixels
_COLUMNS = 3  # of whole frames
_LONGEST_PATH = 44  # characters
_CROP, _END = (255, 220, 0), (255, 80, 0)  # colours of the box, and of where a moving one ends


@dataclass(frozen=True)
class Shown:
    """A clip and what was planned of it.

    Attributes:
        clip: (3, T, H, W), normalised, as the model gets it. label: class name, or the parts of a
            blended clip.
        media: of its first frame, with the path for people. step: whose batch it is of. samples: of
            the batch, with its place therein. view: of the sample.
    """

    clip: torch.Tensor
    label: str
    media: Media
    path: str
    step: int
    samples: Samples
    place: int
    view: int


def preview(
    config: Config,
    out: str | Path | None = None,
    names: Collection[str] = (),
    count: int = 24,
    step: int = 0,
    take: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write ``NAME.png`` with the first clips of each source and ``NAME-frames.png`` with their
    crops.

    The clips are those that the training takes from ``step`` on, blended where it blends them;
    those of the evaluation source are the views of its first items in a validation. The pictures go
    to TensorBoard, too.

    Args:
        out: folder; by default ``preview`` in the run folder. names: of the sources; none: those of
            the training.
        count: clips of a source. step: of the training.
        take: called before anything but the catalog is written, once nothing is refused any more.

    Returns:
        The files that were written.

    Raises:
        UserError: for unknown sources, a step behind the training's end, and a folder that cannot
            be written.
    """
    out = Path(out or Path(config.run_dir, "preview"))
    chosen = choose_sources(config, names) if names else list(config.sources)
    data = open_data(config, training=chosen != [EVALUATION])
    say(*data.summary)
    kinds = {name: source.kind for name, source in all_sources(config).items()}
    shown: dict[str, list[Shown]] = {name: [] for name in chosen}
    looked: dict[str, int] = {}  # steps, by source
    with tqdm(total=count * len(chosen), desc="preview", unit="clip", disable=None) as bar:
        if any(name != EVALUATION for name in chosen):
            with open_loader(config, data, quarantine=Quarantine(), prefetch=1) as loader:
                if step >= loader.end:
                    raise UserError(
                        "--step",
                        f"a step below {loader.end:,}, the length of the training",
                        f"{step:,}",
                        "Choose an earlier one.",
                    )
                loader.load_state_dict({**loader.state_dict(), "step": step})
                looked = dict.fromkeys(
                    chosen, _collect(loader, config, data.class_names, shown, count, bar)
                )
        if EVALUATION in chosen:
            plan = EvaluationPlan(
                data.evaluation, config.clip, config.evaluation.validation, config.evaluation.batch
            )
            options = {**rank_options(config, Ranks()), "quarantine": Quarantine(), "prefetch": 1}
            with FusionIterator(plan, [config.evaluation.source], **options) as loader:
                looked[EVALUATION] = _collect(loader, config, data.class_names, shown, count, bar)
    take()
    written, board = [], Board(Path(config.run_dir, "tb"))
    try:
        with writing_to(out):
            for name, clips in shown.items():
                if not clips:
                    say(f"{name}: no clip in the {looked[name]} steps that were looked at")
                    continue
                for ending, tag, picture in (
                    ("", "clips", draw_clips(kinds[name], clips)),
                    ("-frames", "frames", draw_frames(kinds[name], clips)),
                ):
                    written.append(out / f"{name}{ending}.png")
                    write_picture(written[-1], picture)
                    board.write(
                        lambda writer: writer.add_image(
                            for_tensorboard(f"preview/{name}/{tag}"),
                            picture,
                            clips[0].step,
                            dataformats="HWC",
                        )
                    )
                say(f"{name}: {len(clips)} clips of the steps {clips[0].step} to {clips[-1].step}")
    finally:
        board.close()
    say(f"pictures: {out}, and in TensorBoard: {Path(config.run_dir, 'tb')}")
    return written


def _collect(
    loader: FusionIterator,
    config: Config,
    class_names: tuple[str, ...],
    shown: dict[str, list[Shown]],
    count: int,
    bar: tqdm,
) -> int:
    """Take steps until each of the loader's sources that is asked for has its clips; returns how
    many.
    """
    sources = all_sources(config)
    wanted = [
        (number, table) for number, table in enumerate(loader.plan.tables) if table.name in shown
    ]
    taken = 0
    for taken, batch in enumerate(itertools.islice(loader, _MOST_STEPS), 1):
        for number, table in wanted:
            clips = _clips_of(
                batch,
                number,
                table,
                os.path.realpath(Path(config.data_root, sources[table.name].root)),
                class_names,
            )
            more = list(itertools.islice(clips, count - len(shown[table.name])))
            shown[table.name] += more
            bar.update(len(more))
        if all(len(shown[table.name]) == count for _, table in wanted):
            break
    return taken


def _clips_of(
    batch: StepBatch, source: int, table: SourceTable, root: str, class_names: tuple[str, ...]
) -> Iterator[Shown]:
    """A source's clips in the order of their slots, those that only fill up a step left out."""
    samples = batch.samples[source]
    places = {slot: place for place, slot in enumerate(samples.slots.tolist())}
    for group in batch.groups:
        seen: dict[int, int] = {}
        for row in ((group.source == source) & group.valid).nonzero()[:, 0].tolist():
            slot = int(group.slot[row])
            seen[slot] = view = seen.get(slot, -1) + 1
            place = places[slot]
            media = table.media(table.records[samples.pieces[place, 0]])
            # the loader uses a batch's memory again
            yield Shown(
                group.clips[row].clone(),
                label_text(group.labels[row], class_names),
                media,
                os.path.relpath(media.path, root),
                batch.step,
                samples,
                place,
                view,
            )


def draw_clips(kind: str, clips: list[Shown]) -> np.ndarray:
    """The clips as the model gets them, each with label, path, crop, and the number over every
    frame.
    """
    marks = (
        None
        if kind == "image"
        else [list(map(str, one.samples.frames[one.place].tolist())) for one in clips]
    )
    columns = max(1, FRAMES_A_ROW // clips[0].clip.shape[1])
    return clip_grid(
        torch.stack([one.clip for one in clips]), list(map(_caption, clips)), marks, columns
    )


def draw_frames(kind: str, clips: list[Shown]) -> np.ndarray:
    """The first frame of each clip, whole, with the crop's box; of a moving one also where it ends."""
    cells = []
    for one in clips:
        media = one.media
        scale = _WHOLE / max(media.width, media.height)
        size = (max(1, round(media.width * scale)), max(1, round(media.height * scale)))
        whole = decode_still(
            kind,
            media,
            int(one.samples.frames[one.place, 0]),
            np.array([[0, 0, media.height, media.width]]),
            _WHOLE,
        )
        picture = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
        for corners, colour in _outlines(one):
            cv2.polylines(
                picture, [np.rint(corners * scale).astype(np.int32)], True, colour, 2, cv2.LINE_AA
            )
        cells.append(captioned(picture, _caption(one)))
    return tile(cells, _COLUMNS)


def _outlines(one: Shown) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    """Corners (4, 2), as x and y in pixels of the frame, and colours of what the crop shows."""
    samples, place = one.samples, one.place
    if samples.motions is None:
        top, left, bottom, right = samples.boxes[place, one.view].tolist()
        return [
            (np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float), _CROP)
        ]
    size = samples.size
    corners = np.array([[0, size, size, 0], [0, 0, size, size], [1, 1, 1, 1]], float)
    outlines = []
    for matrix, colour in ((samples.motions[place, -1], _END), (samples.motions[place, 0], _CROP)):
        points = matrix.astype(float) @ corners
        outlines.append(((points[:2] / points[2]).T, colour))
    return outlines


def _caption(one: Shown) -> str:
    samples, place, path = one.samples, one.place, one.path
    top, left, bottom, right = samples.boxes[place, one.view].tolist()
    notes = f"{right - left}x{bottom - top} at {left},{top} of {one.media.width}x{one.media.height}"
    if samples.flips[place, one.view]:
        notes += ", flipped"
    if samples.motions is not None:
        notes += ", moving"
    if samples.attempts[place]:
        notes += ", substitute"
    shown = for_picture(path, None)
    shown = shown if len(shown) <= _LONGEST_PATH else f"...{shown[3 - _LONGEST_PATH :]}"
    return "\n".join((one.label, shown, notes))
