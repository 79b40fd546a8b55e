"""What follows from a trial of DALI: which codecs are the CPU's, the same on every rank and after
every resume.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import LoaderConfig
from omnidali.config.sources import MediaConfig, key_of
from omnidali.decoding.routes import DALI, HYBRID, choose_routes
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.source_routes import capability_of
from omnidali.loading.trial import MOST_DIFFERENCE, CodecTrial, SourceTrial
from omnidali.utils.constants import CUVID_LIBRARY, VIDEO_CAPABILITY
from omnidali.utils.log import LOG

# By source, by setting and kind of device ("auto on a GPU"), and by codec: why the CPU decodes it,
# or "" if DALI does. A run that moves to another kind of device and back finds its own again.
TrialRecord = Mapping[str, Mapping[str, Mapping[str, str]]]


@dataclass(frozen=True)
class Trial:
    """The outcome of a trial.

    Attributes:
        tried: by source and codec, why the CPU decodes it here and now, or "" if DALI does.
        record: what a later start goes by. A road that did not work at all is not in it: another
            machine, or this one once it is mended, tries it again.
        lines: how fast both roads were, and other advice.
    """

    tried: Mapping[str, Mapping[str, str]]
    record: TrialRecord
    lines: tuple[str, ...]


NO_TRIAL = Trial({}, {}, ())


def hold_trial(
    sources: Sequence[tuple[SourceTable, MediaConfig]],
    ranks: Ranks,
    loader: LoaderConfig,
    kept: object = None,
) -> Trial:
    """Try DALI on the main rank, for each source that shall use it; all ranks call this.

    Args:
        sources: tables with their settings.
        ranks: this process and its peers; the outcome is the same on each.
        loader: number of threads and patience.
        kept: the record of an earlier start of the run, from its checkpoint. What it says holds,
            unless DALI decodes a codec of its not at all here.

    Raises:
        UserError: if a source asks for DALI (``dali``, or ``hybrid``) and it does not work.
    """
    return ranks.on_main(lambda: _Outcome(ranks, loader, kept).of(sources))


class _Outcome:
    """Collects what the trials of several sources show."""

    def __init__(self, ranks: Ranks, loader: LoaderConfig, kept: object):
        self._device = ranks.device
        self._capability = capability_of(ranks.device)
        self._threads = loader.threads or ranks.threads
        self._hang_seconds = loader.hang_seconds
        self._record = _as_record(kept)
        self._lines: list[str] = []

    def of(self, sources: Sequence[tuple[SourceTable, MediaConfig]]) -> Trial:
        tried = {table.name: self._try_source(table, source.decode) for table, source in sources}
        return Trial(tried, self._record, tuple(self._lines))

    def _try_source(self, table: SourceTable, decode: str) -> dict[str, str]:
        """By codec, why the CPU decodes it, or "" if DALI does."""
        setting = f"{decode} on {'the CPU' if self._capability is None else 'a GPU'}"
        record = self._record.get(table.name, {}).get(setting, {})
        routes = choose_routes(table, decode, self._capability, tried=record)
        if not any(routes.causes.values()) and not routes.uses_dali:
            return {}  # nothing to choose
        self._record.setdefault(table.name, {})[setting] = record

        trials = SourceTrial(
            table,
            routes,
            device=self._device,
            threads=self._threads,
            hang_seconds=self._hang_seconds,
        ).try_codecs()
        broken = {trial.codec: self._how_broken(table, trial) for trial in trials if trial.failure}
        if broken:
            self._report_broken(table, decode, broken, is_all=len(broken) == len(trials))
        for trial in trials:
            if not trial.failure:
                self._report(table, decode, trial, record)

        # the facts of this GPU are kept as well: on another one the run stays as it is
        plain = {codec: cause for codec, cause in routes.causes.items() if ":" not in codec}
        for codec, cause in plain.items():
            if codec not in broken:
                record.setdefault(codec, cause)
        return {
            **record,
            **{codec: f"in {codec}, which DALI does not decode here" for codec in broken},
        }

    def _report(
        self, table: SourceTable, decode: str, trial: CodecTrial, record: dict[str, str]
    ) -> None:
        """Take down what a codec's trial says, unless an earlier start has said it."""
        seen = f"{trial.difference:.1f} of 255"
        if trial.misplaced:
            seen = f"neighbouring frames in {trial.misplaced} of {trial.clips} clips"
        if trial.is_alike:
            record.setdefault(trial.codec, "")
            if trial.clips:
                self._lines.append(self._compare(table, trial))
        elif record.get(trial.codec) == "":
            self._lines.append(
                f"{table.name}: the pixels of {trial.codec} by DALI differ from the CPU's here,"
                f" more than usual ({seen}): the run began with DALI and stays with it"
            )
        elif decode == DALI:
            raise UserError(
                f"{key_of(table.name)}.decode",
                f"pixels of {trial.codec} by DALI within {MOST_DIFFERENCE:g} of 255 of the CPU's",
                seen,
                "Use decode: auto, and run `omnidali doctor`.",
            )
        else:
            record[trial.codec] = f"in {trial.codec}, whose pixels by DALI differ ({seen})"

    def _compare(self, table: SourceTable, trial: CodecTrial) -> str:
        """How fast the roads were: advice alone, nothing depends on it."""
        is_slower = trial.dali_rate < trial.cpu_rate
        advice = "; decode: cpu may be faster" if is_slower else ""
        return (
            f"{table.name}: in a trial of {trial.clips} small clips in {trial.codec},"
            f" {trial.dali_rate:,.0f} a second by {self._dali}, {trial.cpu_rate:,.0f} by"
            f" {self._threads} threads of the CPU{advice}"
        )

    def _report_broken(
        self, table: SourceTable, decode: str, broken: Mapping[str, str], *, is_all: bool
    ) -> None:
        """Stop, or say once that the CPU steps in."""
        codecs = ", ".join(broken)
        reason = next(iter(broken.values()))
        advice = "Run `omnidali doctor`"
        if CUVID_LIBRARY in reason:
            advice = (
                f"Start the container with the driver's capability `video` ({VIDEO_CAPABILITY})"
            )
        if decode == DALI or (decode == HYBRID and is_all):
            raise UserError(
                f"{key_of(table.name)}.decode",
                f"{self._dali} to decode {codecs}",
                reason,
                f"{advice}, or use decode: auto.",
            )
        LOG.warning(
            "%s: %s decodes no %s here (%s): the CPU does. %s.",
            table.name,
            self._dali,
            codecs,
            reason,
            advice,
        )

    def _how_broken(self, table: SourceTable, trial: CodecTrial) -> str:
        """Why nothing of a codec was decoded."""
        is_video = not table.kind.has_images
        if is_video and self._capability is not None and not _has_library():
            return f"no {CUVID_LIBRARY}, NVIDIA's decoder of videos: {trial.failure}"
        return trial.failure

    @property
    def _dali(self) -> str:
        return "DALI on the CPU" if self._capability is None else "DALI on the GPU"


def _has_library() -> bool:
    try:
        ctypes.CDLL(CUVID_LIBRARY)
    except OSError:
        return False
    return True


def _as_record(kept: object) -> dict[str, dict[str, dict[str, str]]]:
    """A record from a checkpoint, without what is none."""
    record: dict[str, dict[str, dict[str, str]]] = {}
    for name, settings in _items(kept):
        for setting, codecs in _items(settings):
            causes = {codec: cause for codec, cause in _items(codecs) if isinstance(cause, str)}
            record.setdefault(name, {})[setting] = causes
    return record


def _items(value: object) -> list[tuple[str, object]]:
    if not isinstance(value, Mapping):
        return []
    return [(key, inner) for key, inner in value.items() if isinstance(key, str)]
