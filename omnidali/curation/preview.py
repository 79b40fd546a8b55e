"""What the model will see: the planned clips of a step as images, and where their crops lie."""

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.augment_settings import AugmentConfig
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION
from omnidali.curation.source_selection import choose_sources
from omnidali.decoding.decoders import decode_thumbnail
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.batch import StepBatch
from omnidali.loading.clip_images import captioned, clip_grid, label_text, tile
from omnidali.loading.data import Data, open_data
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.loader_options import LoaderOptions
from omnidali.loading.open_loader import check_motions, open_loader, rank_options
from omnidali.media_kind import MediaKind
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.samples import Samples
from omnidali.planning.train_plan import TrainPlan
from omnidali.training.augmentation import Augmentation
from omnidali.training.tensorboard_log import TensorBoardLog
from omnidali.utils.atomic_write import writing_to
from omnidali.utils.plots import write_png
from omnidali.utils.untrusted_text import for_image, say

FRAMES_A_ROW = 8  # of the clips' image; a longer clip has a row of its own
NO_LABEL = "no label"  # as the class of a clip
_MOST_STEPS = 100  # that are decoded for sources with few slots a step
_WHOLE = 320  # longer side of a whole frame, pixels
_COLUMNS = 3  # of whole frames
_LONGEST_PATH = 44  # characters
_CROP = (255, 220, 0)  # colour of the box, RGB
_END = (255, 80, 0)  # colour of where a moving box ends, RGB


@dataclass(frozen=True)
class PlannedClip:
    """A clip and its plan.

    Attributes:
        clip: (3, T, H, W), normalised, as the model gets it.
        label: class name, or the parts of a blended clip.
        media: of its first frame.
        path: of the media, for people.
        step: of its batch.
        samples: of the batch.
        place: of its sample among ``samples``.
        view: of the sample.
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
    *,
    count: int = 24,
    step: int = 0,
    take: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Draw the first clips of each source, and their crops in whole frames.

    The clips are those that the training takes from ``step`` on, blended and augmented as there;
    those of the evaluation source are the views of its first items in a validation. The images,
    ``NAME.png`` and ``NAME-frames.png``, go to TensorBoard, too.

    Args:
        config: of the training.
        out: folder; by default ``preview`` in the run folder.
        names: of the sources; none: those of the training.
        count: clips of a source.
        step: of the training.
        take: called before anything but the catalog is written, once nothing is refused any more.

    Returns:
        The files that were written.

    Raises:
        UserError: for unknown sources, a step after the training's end, and a folder that cannot be
            written.
    """
    chosen = choose_sources(config, names) if names else list(config.sources)
    if chosen != [EVALUATION]:
        check_motions(config)
    data = _with_unlabelled(open_data(config, training=chosen != [EVALUATION], labelled=False))
    say(*data.summary)
    roots = {
        name: os.path.realpath(Path(config.data_root, source.root))
        for name, source in config.all_sources.items()
    }
    clips: dict[str, list[PlannedClip]] = {name: [] for name in chosen}
    steps: dict[str, int] = {}  # that were looked at
    with tqdm(total=count * len(chosen), desc="preview", unit="clip", disable=None) as bar:
        for loader in _loaders(config, data, chosen, step):
            taken = _collect(
                loader,
                clips,
                roots=roots,
                class_names=data.class_names,
                count=count,
                bar=bar,
                augment=_augmentation(config, loader),
            )
            steps |= {table.name: taken for table in loader.plan.tables}

    take()
    return _write_images(config, Path(out or Path(config.run_dir, "preview")), clips, steps)


def _with_unlabelled(data: Data) -> Data:
    """The data with one more class, of the items that have no label, if there are such items."""
    unlabelled = len(data.class_names)

    def named(table: SourceTable) -> SourceTable:
        return replace(table, labels=np.where(table.labels < 0, unlabelled, table.labels))

    tables = [*data.tables, *([data.evaluation] if data.evaluation is not None else [])]
    if all((table.labels >= 0).all() for table in tables):
        return data
    return replace(
        data,
        tables=tuple(map(named, data.tables)),
        evaluation=None if data.evaluation is None else named(data.evaluation),
        class_names=(*data.class_names, NO_LABEL),
    )


def _loaders(
    config: Config, data: Data, chosen: Collection[str], step: int
) -> Iterator[FusionIterator]:
    """Yield the loader of the training, from ``step`` on, and that of a validation, as chosen."""
    if any(name != EVALUATION for name in chosen):
        with open_loader(config, data, quarantine=Quarantine(), prefetch=1) as loader:
            assert loader.end is not None
            if step >= loader.end:
                raise UserError(
                    "--step",
                    f"a step below {loader.end:,}, the length of the training",
                    f"{step:,}",
                    "Choose an earlier one.",
                )
            loader.load_state_dict({**loader.state_dict(), "step": step})
            yield loader

    if EVALUATION in chosen:
        evaluation = config.evaluation
        assert data.evaluation is not None and evaluation.source is not None
        plan = EvaluationPlan(data.evaluation, config.clip, evaluation.validation, evaluation.batch)
        options: LoaderOptions = {
            **rank_options(config, Ranks()),
            "quarantine": Quarantine(),
            "prefetch": 1,
        }
        with FusionIterator(plan, [evaluation.source], **options) as loader:
            yield loader


def _augmentation(config: Config, loader: FusionIterator) -> Augmentation:
    """What the loader's clips go through: in an evaluation, nothing changes them."""
    is_training = isinstance(loader.plan, TrainPlan)
    settings = config.train.augment if is_training else AugmentConfig()
    return Augmentation(settings, config.seed, loader.device)


def _collect(
    loader: FusionIterator,
    clips: dict[str, list[PlannedClip]],
    *,
    roots: dict[str, str],
    class_names: tuple[str, ...],
    count: int,
    bar: tqdm,
    augment: Augmentation,
) -> int:
    """Take steps until each of the loader's sources that is requested has its clips.

    Returns:
        How many steps were taken.
    """
    tables = {
        number: table for number, table in enumerate(loader.plan.tables) if table.name in clips
    }
    taken = 0
    for batch in map(augment, itertools.islice(loader, _MOST_STEPS)):
        taken += 1
        for number, table in tables.items():
            more = list(
                itertools.islice(
                    _clips_of(batch, number, table, roots[table.name], class_names),
                    count - len(clips[table.name]),
                )
            )
            clips[table.name] += more
            bar.update(len(more))
        if all(len(clips[table.name]) == count for table in tables.values()):
            break
    return taken


def _clips_of(
    batch: StepBatch, source: int, table: SourceTable, root: str, class_names: tuple[str, ...]
) -> Iterator[PlannedClip]:
    """Yield a source's clips by slot, without those that only fill up a step."""
    samples = batch.samples[source]
    places = {slot: place for place, slot in enumerate(samples.slots.tolist())}
    for group in batch.groups:
        views: dict[int, int] = {}  # seen so far, by slot
        for row in ((group.source == source) & group.valid).nonzero()[:, 0].tolist():
            slot = int(group.slot[row])
            place = places[slot]
            view = views.get(slot, 0)
            views[slot] = view + 1

            media = table.media(table.records[samples.pieces[place, 0]])
            yield PlannedClip(
                clip=group.clips[row].clone(),  # the loader uses a batch's memory again
                label=label_text(group.labels[row], class_names),
                media=media,
                path=os.path.relpath(media.path, root),
                step=batch.step,
                samples=samples,
                place=place,
                view=view,
            )


def _write_images(
    config: Config, out: Path, clips: dict[str, list[PlannedClip]], steps: dict[str, int]
) -> list[Path]:
    sources = config.all_sources
    written = []
    with contextlib.closing(TensorBoardLog(Path(config.run_dir))) as log, writing_to(out):
        for name, shown in clips.items():
            if not shown:
                say(f"{name}: no clip in the {steps[name]} steps that were looked at")
                continue

            kind = sources[name].media_kind
            for ending, tag, image in (
                ("", "clips", draw_clips(kind, shown)),
                ("-frames", "frames", draw_frames(kind, shown)),
            ):
                written.append(out / f"{name}{ending}.png")
                write_png(written[-1], image)
                log.log_image(f"preview/{name}/{tag}", shown[0].step, image)
            say(f"{name}: {len(shown)} clips of the steps {shown[0].step} to {shown[-1].step}")
    say(f"pictures: {out}, and in TensorBoard: {log.place}")
    return written


def draw_clips(kind: MediaKind, clips: Sequence[PlannedClip]) -> np.ndarray:
    """The clips as the model gets them: uint8 (H, W, 3), RGB.

    Each has a label, path and crop, and the numbers of its frames if it has several.
    """
    marks = None
    if not kind.is_still:
        marks = [list(map(str, one.samples.frames[one.place].tolist())) for one in clips]
    columns = max(1, FRAMES_A_ROW // clips[0].clip.shape[1])
    return clip_grid(
        torch.stack([one.clip for one in clips]), list(map(_caption, clips)), marks, columns
    )


def draw_frames(kind: MediaKind, clips: Sequence[PlannedClip]) -> np.ndarray:
    """The first frame of each clip, whole, with its crop: uint8 (H, W, 3), RGB.

    Where the crop moves, its end is drawn, too.
    """
    cells = []
    for one in clips:
        media = one.media
        number = int(one.samples.frames[one.place, 0])
        box = np.array([[0, 0, media.height, media.width]])
        square = decode_thumbnail(kind, media, number, box, _WHOLE)

        scale = _WHOLE / max(media.width, media.height)
        size = (max(1, round(media.width * scale)), max(1, round(media.height * scale)))
        image = cv2.resize(square, size, interpolation=cv2.INTER_AREA)
        for corners, colour in _outlines(one):
            points = np.rint(corners * scale).astype(np.int32)
            cv2.polylines(
                image, [points], isClosed=True, color=colour, thickness=2, lineType=cv2.LINE_AA
            )
        cells.append(captioned(image, _caption(one)))
    return tile(cells, _COLUMNS)


def _outlines(one: PlannedClip) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    """Corners (4, 2), as x and y in pixels of the frame, and colours of what the crop shows."""
    samples, place = one.samples, one.place
    if samples.motions is None:
        top, left, bottom, right = samples.boxes[place, one.view].tolist()
        box = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)
        return [(box, _CROP)]

    size = samples.size
    corners = np.array([[0, size, size, 0], [0, 0, size, size], [1, 1, 1, 1]], float)
    outlines = []
    for matrix, colour in ((samples.motions[place, -1], _END), (samples.motions[place, 0], _CROP)):
        points = matrix.astype(float) @ corners
        outlines.append(((points[:2] / points[2]).T, colour))
    return outlines


def _caption(one: PlannedClip) -> str:
    samples, place = one.samples, one.place
    top, left, bottom, right = samples.boxes[place, one.view].tolist()
    notes = f"{right - left}x{bottom - top} at {left},{top} of {one.media.width}x{one.media.height}"
    if samples.flips[place, one.view]:
        notes += ", flipped"
    if samples.motions is not None:
        notes += ", moving"
    if samples.attempts[place]:
        notes += ", substitute"

    path = for_image(one.path, None)
    if len(path) > _LONGEST_PATH:
        path = f"...{path[3 - _LONGEST_PATH :]}"
    return "\n".join((one.label, path, notes))
