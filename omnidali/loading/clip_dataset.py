"""ClipDataset: the clips of one source as a map-style dataset of PyTorch, decoded on the CPU."""

import difflib
import operator
import os
from typing import Literal, get_args

import numpy as np
import torch
from torch.utils.data import Dataset

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import Config
from omnidali.config.sources import MediaConfig, SourceConfig, key_of
from omnidali.errors import UnreadableItemError, UserError
from omnidali.loading.cpu_backend import normalise
from omnidali.loading.data import Data, open_data
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.loading.open_loader import load_motion_of
from omnidali.loading.sample_decoder import SampleDecoder
from omnidali.loading.thread_pool import AbandonableThreadPool, Task
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.samples import Samples
from omnidali.planning.source_plan import SourcePlan

Sampling = Literal["train", "validation", "test"]

_EPOCHS = 1 << 31  # times the items they are draws, which have 64 bits
_NO_POOL = AbandonableThreadPool(0, "none")  # the caller's thread decodes


class ClipDataset(Dataset[tuple[torch.Tensor, int | torch.Tensor]]):
    """The items of one source of a config, in the order of its list: ``dataset[i]`` is a clip with
    its label.

    What a clip shows is a function of seed, epoch and i alone, in any process and any order: call
    :meth:`set_epoch` for other frames and crops. The items are decoded on the CPU by whoever asks,
    so the dataset goes into a ``DataLoader`` with worker processes, samplers and all.

    Where a config mixes sources, resamples classes or blends clips, that takes whole batches:
    :func:`~omnidali.open_loader` does it, and a dataset does not.

    Args:
        config: of the run.
        source: name of a training source, or ``evaluation`` for the one of ``evaluation.source``.
        sampling: ``train`` takes random frames and crops as a training does; ``validation`` and
            ``test`` take the views of ``evaluation.validation`` and ``evaluation.test``. None:
            ``train`` for training sources, else ``validation``.
        data: of the config, if it is open already.

    Attributes:
        table: the items.
        class_names: in label order.
        sampling: as above.

    Raises:
        UserError: for an unknown source, missing or wrong lists, and long videos that are to be
            seen whole.

    In a training a clip whose file does not decode is replaced by the planned substitute, as a
    :class:`~omnidali.FusionIterator` does it, with a warning that names the file; too many of them
    are an error (``loader.max_bad_ratio``, in each worker). In an evaluation it is an error.

    Example::

        dataset = ClipDataset(load_config("demo"), "kinetics")
        for epoch in range(10):
            dataset.set_epoch(epoch)
            for clips, labels in DataLoader(dataset, batch_size=8, shuffle=True, num_workers=4):
                loss = F.cross_entropy(model(clips), labels)
    """

    def __init__(
        self,
        config: Config,
        source: str,
        *,
        sampling: Sampling | None = None,
        data: Data | None = None,
    ):
        is_evaluation = not isinstance(_settings_of(config, source), SourceConfig)
        self.sampling = _check_sampling(sampling, source, is_evaluation)
        data = data or open_data(config)
        self.table = _table_of(source, config, data)
        self.class_names = data.class_names
        self._limits = config.loader
        self._plan: _TrainingItems | _EvaluationItems
        if self.sampling == "train":
            self._plan = _TrainingItems(config, source, data)
        else:
            self._plan = _EvaluationItems(config, self.table, self.sampling)

        # in memory that worker processes share, as those that persist keep their copy of this
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._own: tuple[int, SampleDecoder, FailureTracker] | None = None

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int | torch.Tensor]:
        """A clip and its label.

        Args:
            index: of the item, from 0, or from -1 backwards.

        Returns:
            float32 (3, T, H, W), RGB normalised to ImageNet's mean 0 and standard deviation 1; T is
            ``num_clips * clip_len``, or 1 for an image. With several crops of a view (V, 3, T, H,
            W). The label is an int from 0; where items may have several (``multi_label``), float32
            (classes,), 1 for each of them.

        Raises:
            IndexError: past either end.
            UnreadableItemError: naming the file, if it does not decode and has no substitute.
            BadSourceError: if too many files fail.
        """
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"item {row} of {len(self)} in {self.table.name}")
        clips, shown = self._decode(self._plan(row % len(self), self.epoch))
        return clips if len(clips) > 1 else clips[0], self._label(int(shown.rows[0]))

    def __repr__(self) -> str:
        return (
            f"ClipDataset({self.table.name}, {len(self):,} items, sampling {self.sampling}, epoch"
            f" {self.epoch})"
        )

    @property
    def epoch(self) -> int:
        """Which of the endlessly many random clips of each item are shown."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Show other frames and crops, in all worker processes; call it between two loops.

        Args:
            epoch: from 0. An evaluation shows the same in each.

        Raises:
            UserError: for a number that is no epoch.
        """
        number = operator.index(epoch)
        if not 0 <= number < _EPOCHS:
            raise UserError(
                "ClipDataset.set_epoch",
                f"a number from 0 to {_EPOCHS - 1:,}",
                str(epoch),
                "Count epochs from 0.",
            )
        self._epoch.fill_(number)

    @property
    def labels(self) -> np.ndarray:
        """int (N,), of all items, for a ``WeightedRandomSampler``, for example."""
        return self.table.labels

    def path(self, index: int) -> str:
        """The file of an item; of a long video, its first piece's."""
        return self.table.media(self.table.first_record(range(len(self))[index])).path

    def _label(self, row: int) -> int | torch.Tensor:
        sets = self.table.label_sets
        if sets is None:
            return int(self.table.labels[row])
        return torch.from_numpy(sets.multi_hot(len(self.class_names), np.array([row]))[0])

    def _decode(self, planned: Samples) -> tuple[torch.Tensor, Samples]:
        """Clips (V, 3, T, S, S) of the planned sample or its substitute, and which of them."""
        count = planned.frames.shape[1] if planned.motions is None else planned.motions.shape[1]
        shape = (planned.boxes.shape[1], count, planned.size, planned.size, 3)
        pixels = np.empty(shape, np.uint8)
        task: Task[None] = Task(_NO_POOL, self.table.name, lambda _: None, target=None)

        decoder, tracker = self._process_own()
        decoded = decoder.decode(task, planned, 0, pixels=pixels, step=self.epoch, earlier=None)
        if decoded is None:
            raise self._unreadable(planned, tracker)
        is_substitute = decoded.substitute is not None
        tracker.on_clip_decoded(decoded.replaced, self.epoch, is_substitute=is_substitute)

        shown = decoded.substitute or planned
        clips = torch.empty(shape[0], planned.clip_frames, *shape[2:])
        normalise(pixels, shown.flips[0], clips)
        return clips.permute(0, 4, 1, 2, 3).contiguous(), shown

    def _process_own(self) -> tuple[SampleDecoder, FailureTracker]:
        """What decodes in this process, for all its threads, and what it knows of broken files."""
        if self._own is None or self._own[0] != os.getpid():
            tracker = FailureTracker(self.table, Quarantine(), rank=0, limits=self._limits)
            decoder = SampleDecoder(self._plan, self.table, tracker)
            self._own = (os.getpid(), decoder, tracker)
        return self._own[1:]

    def _unreadable(self, planned: Samples, tracker: FailureTracker) -> UnreadableItemError:
        media = self.table.media(self.table.records[planned.pieces[0, 0]])
        record = tracker.failure_of(media)
        return UnreadableItemError(
            media.path,
            "a file that decodes, as an evaluation has no substitutes",
            f"one that does not: {record.cause}" if record else "one that does not",
            "Fetch it again, or take it out of the list; `omnidali lint --decode` finds all such.",
        )

    def __getstate__(self) -> dict[str, object]:
        """What another process needs: all but the locks of this one."""
        return {**self.__dict__, "_own": None}


def _settings_of(config: Config, source: str) -> MediaConfig:
    """The settings of a source by its name.

    Raises:
        UserError: if there is no such source.
    """
    sources = config.all_sources
    if source in sources:
        return sources[source]
    close = difflib.get_close_matches(source, sources, n=1)
    raise UserError(
        "ClipDataset.source",
        f"one of {', '.join(sources)}",
        repr(source),
        f"Did you mean {close[0]!r}?" if close else "Add it to the config.",
    )


def _check_sampling(sampling: Sampling | None, source: str, is_evaluation: bool) -> Sampling:
    """The sampling, or the usual one for None.

    Raises:
        UserError: if the source has no such one: a config does not say how held-out data are drawn.
    """
    if sampling is None:
        return "validation" if is_evaluation else "train"
    choices = get_args(Sampling)[1 if is_evaluation else 0 :]
    if sampling not in choices:
        raise UserError(
            f"ClipDataset({source!r}).sampling",
            f"one of {', '.join(choices)}",
            repr(sampling),
            "Leave it out for train, and for validation with the evaluation source.",
        )
    return sampling


def _table_of(source: str, config: Config, data: Data) -> SourceTable:
    """The table of a source.

    Raises:
        UserError: if the data were opened without it.
    """
    # of an evaluation alone, data have no training sources
    tables = dict(zip(config.sources, data.tables, strict=False))
    table = tables.get(source, data.evaluation)
    if table is None or table.name != source:
        raise UserError(
            "ClipDataset.data",
            f"data of the config with the source {source}",
            repr([held.name for held in data.tables]),
            "Leave it out, or use open_data(config).",
        )
    return table


class _TrainingItems:
    """What a training shows of each item of a source."""

    def __init__(self, config: Config, source: str, data: Data):
        number = list(config.sources).index(source)
        self._plan = SourcePlan(
            number,
            data.tables[number],
            config.sources[source],
            clip=config.clip,
            seed=config.seed,
            motion=load_motion_of(config, source, data.class_names),
        )

    def __call__(self, row: int, epoch: int) -> Samples:
        """The one sample of an item in an epoch."""
        rows = np.array([row])
        draws = epoch * len(self._plan.table) + rows
        return self._plan.samples(draws, rows, rows=rows)

    def substitute(self, samples: Samples, index: int, attempt: int) -> Samples:
        """See :class:`~omnidali.loading.sample_decoder.Substitutes`."""
        return self._plan.substitute(samples.take(np.array([index])), attempt)


class _EvaluationItems:
    """What an evaluation shows of each item of a table."""

    def __init__(self, config: Config, table: SourceTable, sampling: Sampling):
        if table.starts is not None:
            raise UserError(
                key_of(table.name),
                f"items that are seen whole, for sampling {sampling!r}",
                "long videos in pieces",
                "Use sampling='train', which draws one of their pieces, or `omnidali predict`.",
            )
        views = config.evaluation.test if sampling == "test" else config.evaluation.validation
        self._plan = EvaluationPlan(table, config.clip, views, batch=1)

    def __call__(self, row: int, epoch: int) -> Samples:
        """The one sample of an item; the same in each epoch."""
        return self._plan(row)[0]

    def substitute(self, samples: Samples, index: int, attempt: int) -> None:
        """None: an evaluation shows what it was asked for."""
