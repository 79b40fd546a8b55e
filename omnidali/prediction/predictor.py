"""A checkpoint that predicts the classes of files, as often as it is asked."""

import itertools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

from omnidali.catalog.listing.class_files import read_class_names
from omnidali.config.schema import Config
from omnidali.distributed.devices import take_device
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.models.trained_model import load_trained
from omnidali.prediction.media_catalog import MediaCatalog, OpenedMedia, no_room
from omnidali.prediction.prediction import NOTHING, Prediction, Window, refused
from omnidali.prediction.scorer import NOT_DECODED, Scorer, Scores
from omnidali.prediction.settings import describe_settings, settings_for
from omnidali.prediction.targets import Search, Span, Target, unique_files
from omnidali.prediction.windows import Part, WindowRule, find_parts, table_of_parts

_NO_FRAMES = "outside of its file"
_NO_MEMBERS = "a tar without a video or a photo"


@dataclass(frozen=True, repr=False)
class _FileScores:
    """What is known of a file: its kind, its scores, and its windows by the spans of a list."""

    kind: str
    scores: Scores
    windows: dict[tuple[Span, ...], list[Window]] = field(default_factory=dict)


class Predictor:
    """Predicts the classes of videos, photos and folders of frames with one checkpoint.

    The network is loaded once. Views, clips and precision are those with which `omnidali evaluate`
    tests the checkpoint, and so are the probabilities.

    Args:
        checkpoint: a run folder, a checkpoint, an exported file or folder, a file of another
            project, or the name of published weights.
        settings: ``key.path=value`` texts that change settings of the training: ``clip``,
            ``evaluation.test``, ``evaluation.batch``, ``train.precision``, ``loader``, ``device``,
            and ``classes``, a file of class names.
        window: seconds of the windows that long videos are cut into; None: 10 for videos of more
            than 30 seconds; 0: none.
        root: folder that relative paths of lists start from; None: the list's own folder, or the
            current one.
        photos: whether every image is a photo, though it looks like a frame of a folder.
        catalog: file that keeps what is known of the media, so that a later call with the same
            ones need not look into them again; None: a temporary one.
        progress: whether to show bars on a terminal.
        trusted: functions, as ``package.module:function``, that may be called to build the network
            of a checkpoint that names one.

    Attributes:
        classes: names in label order; their numbers if the checkpoint has no names.
        views: what the network looks at, in words.

    Raises:
        UserError: if the checkpoint cannot be read, or a setting is wrong.

    Example::

        predictor = omnidali.Predictor("runs/tsn_omni")
        for prediction in predictor.predict(["a.mp4", "holidays/"]):
            if prediction.is_predicted:
                print(prediction.path, prediction.labels[0], prediction.probabilities[0])
            else:
                print(prediction.path, prediction.error)
    """

    def __init__(
        self,
        checkpoint: str | Path,
        settings: Sequence[str] = (),
        *,
        window: float | None = None,
        root: str | None = None,
        photos: bool = False,
        catalog: str | Path | None = None,
        progress: bool = False,
        trusted: Sequence[str] = (),
    ) -> None:
        trained = load_trained(checkpoint, trusted=trusted)
        config = settings_for(trained, settings)
        ranks = take_device(Ranks(), config.device)
        network = trained.network.to(ranks.device)
        if network.clip_len is not None:
            network.clip_len = config.clip.clip_len

        self.classes = _class_names(config, trained.classes, network.classes)
        self.views = describe_settings(config, trained)
        self._scorer = Scorer(network, config, ranks, progress)
        self._pixel_aspect = _pixel_aspect(trained.config)
        self._rule = WindowRule.of(window)
        self._search = Search(root, photos, config.multi_label)
        self._catalog = None if catalog is None else Path(catalog)
        self._progress = progress

    def predict(
        self, paths: str | bytes | PathLike | Iterable[str | bytes | PathLike]
    ) -> list[Prediction]:
        """Predict the classes of files.

        Args:
            paths: files, folders (all media below them), lists with or without labels, and
                patterns; one or more. A folder of numbered frames of one size is one item.

        Returns:
            A prediction for each file and folder of frames, in the order of the paths, and of the
            names in a folder. One that cannot be predicted has the reason.

        Raises:
            UserError: if there is no room for temporary files, or ``catalog`` cannot be written.
        """
        given = [paths] if isinstance(paths, (str, bytes, PathLike)) else paths
        targets = self._search.find(given)
        try:
            temporary = tempfile.TemporaryDirectory(prefix="omnidali-predict-")
        except OSError as error:
            raise no_room(error) from None
        with temporary as folder:
            return self._predict(targets, Path(folder))

    def _predict(self, targets: Sequence[Target], folder: Path) -> list[Prediction]:
        """Predict targets; ``folder`` is empty, and removed afterwards."""
        catalog = MediaCatalog(
            folder, self._catalog, pixel_aspect=self._pixel_aspect, progress=self._progress
        )
        probed = [catalog.probe(unique_files(targets))]
        tars = dict.fromkeys(target.file for target in targets if target.is_tar)
        members: dict[str, list[str]] = {}
        for tar in tars:
            in_tar = catalog.probe_tar(tar)
            members[tar] = sorted(in_tar.files)
            probed.append(in_tar)

        found: dict[str, _FileScores] = {}
        for media in itertools.chain.from_iterable(part.opened for part in probed):
            found.update(self._score_files(media, targets, folder))
        reasons = {file: text for part in probed for file, text in part.refused.items()}
        return [
            _prediction(single, found, reasons, self.classes)
            for target in targets
            for single in _members_of(target, members)
        ]

    def _score_files(
        self, media: OpenedMedia, targets: Sequence[Target], folder: Path
    ) -> dict[str, _FileScores]:
        """Score the files of one kind, and the parts of those that have some."""
        run_dir = folder / f"run {len(list(folder.glob('run *')))}"
        kind = media.table.kind.value
        scored = self._scorer.score(media.table, media.source, run_dir)
        files = {
            file: _FileScores(kind, scores)
            for file, scores in zip(media.files, scored, strict=True)
        }

        spans_and_parts = self._find_parts(media, targets)
        parts = [part for _, part in spans_and_parts]
        scored = self._score_parts(media, parts, run_dir)
        for (spans, part), scores in zip(spans_and_parts, scored, strict=True):
            files[media.files[part.row]].windows.setdefault(spans, []).append(
                Window(start=part.start, end=part.end, **scores.ranked(self.classes))
            )
        return files

    def _score_parts(
        self, media: OpenedMedia, parts: Sequence[Part], run_dir: Path
    ) -> list[Scores]:
        """What the network says of parts of files."""
        with_frames = [part for part in parts if part.frames]
        known: dict[Part, Scores] = {}
        if with_frames:
            table = table_of_parts(media.table, with_frames)
            scored = self._scorer.score(table, media.source, run_dir)
            known = dict(zip(with_frames, scored, strict=True))
        return [known.get(part) or Scores(NOTHING, _NO_FRAMES) for part in parts]

    def _find_parts(
        self, media: OpenedMedia, targets: Sequence[Target]
    ) -> list[tuple[tuple[Span, ...], Part]]:
        """The windows of long videos, and the parts that lists name, each with the spans of its
        target.
        """
        kind = media.table.kind
        if kind.is_still:
            return []
        asked: dict[str, dict[tuple[Span, ...], None]] = {}
        for target in targets:
            asked.setdefault(target.file, {})[target.spans] = None

        rule = None if kind.is_folder else self._rule
        return [
            (spans, part)
            for row, file in enumerate(media.files)
            for spans in asked.get(file, {(): None})
            if spans or rule is not None
            for part in find_parts(media.table, row, rule, spans)
        ]


def _members_of(target: Target, members: dict[str, list[str]]) -> list[Target]:
    """The targets in a tar, which itself is one if it cannot be read or holds no media.

    Args:
        target: a tar, or anything else, which stands for itself.
        members: paths of the photos and videos, and of what of them cannot be read, by tar.
    """
    if not target.is_tar:
        return [target]
    if not members[target.file]:
        return [replace(target, error=_NO_MEMBERS)]
    return [
        replace(target, path=f"{target.path}{file.removeprefix(target.file)}", file=file)
        for file in members[target.file]
    ]


def _prediction(
    target: Target,
    found: dict[str, _FileScores],
    reasons: dict[str, str],
    classes: tuple[str, ...],
) -> Prediction:
    """What becomes of a target.

    Args:
        target: that was asked for.
        found: what is known, by file.
        reasons: why files were not opened, by file.
        classes: names in label order.
    """
    kind = "" if target.kind is None else target.kind.value
    if target.error:
        return refused(target.path, kind, target.error)
    known = found.get(target.file)
    if known is None:
        return refused(target.path, kind, reasons.get(target.file, NOT_DECODED))

    return Prediction(
        path=target.path,
        kind=known.kind,
        **known.scores.ranked(classes),
        windows=tuple(known.windows.get(target.spans, ())),
        error=known.scores.error,
    )


def _class_names(config: Config, trained: tuple[str, ...], outputs: int) -> tuple[str, ...]:
    """Names in label order: of the file that a setting names, of the checkpoint, or numbers.

    Raises:
        UserError: for a file of another number of names.
    """
    if not config.classes:
        return trained or tuple(map(str, range(outputs)))
    names = tuple(read_class_names(Path(config.classes)))
    if len(names) != outputs:
        raise UserError(
            "classes",
            f"{outputs} names, one for each output of the network",
            f"{len(names)} in {config.classes}",
            "Name the file of the classes that it was trained on.",
        )
    return names


def _pixel_aspect(config: Config | None) -> str:
    """How the training, or its evaluation, shows pixels that are not square."""
    source = None if config is None else config.shown_source
    return "ignore" if source is None else source.pixel_aspect
