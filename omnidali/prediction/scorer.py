"""The probabilities of files: the loader, views and network of an evaluation, without labels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import Config
from omnidali.config.sources import MediaConfig
from omnidali.distributed.ranks import Ranks
from omnidali.errors import FILE
from omnidali.evaluation.score import run_over
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.open_loader import QUARANTINE
from omnidali.models.precision import make_autocast
from omnidali.models.probabilities import to_probabilities
from omnidali.models.recognizers import Recognizer, SlowOnly
from omnidali.prediction.prediction import NO_CLASSES, Ranking, ranked

NOT_DECODED = "does not decode"
_NOT_FINITE = "scores that are not finite: the weights are damaged, or train.precision is too short"
_ANY_NUMBER = 1 << 30


@dataclass(frozen=True, repr=False)
class Scores:
    """What a network says of a row of a table.

    Attributes:
        probabilities: float64 (classes,), in label order; they mean nothing after an error.
        error: why there are none; or empty.
    """

    probabilities: np.ndarray
    error: str = ""

    def ranked(self, names: tuple[str, ...]) -> Ranking:
        """The classes, the most probable first; after an error none.

        Args:
            names: in label order.
        """
        return NO_CLASSES if self.error else ranked(self.probabilities, names)


class Scorer:
    """Scores tables with a network.

    Args:
        network: in evaluation mode, on the device of ``ranks``.
        config: clip, views, batch, precision and loader.
        ranks: this process.
        progress: whether to show a bar on a terminal.
    """

    def __init__(
        self, network: Recognizer, config: Config, ranks: Ranks, progress: bool = False
    ) -> None:
        self._network = network
        self._config = config
        self._ranks = ranks
        self._progress = progress

    def score(self, table: SourceTable, source: MediaConfig, run_dir: Path) -> list[Scores]:
        """Score each row with all views.

        Args:
            table: of one row or more.
            source: settings of its loader.
            run_dir: folder for the names of files that fail.
        """
        views = self._config.evaluation.test
        averages_logits = views.average == "score"
        config = self._config_for(len(table), run_dir)

        probabilities = np.zeros((len(table), self._network.classes))
        has_decoded = np.zeros(len(table), bool)
        for rows, outputs, decoded in run_over(
            self._logits if averages_logits else self._probabilities,
            self._network.clip_len,
            table=table,
            source=source,
            views=views,
            config=config,
            ranks=self._ranks,
            autocast=make_autocast(config.train.precision, self._ranks.device),
            title="predict",
            progress=self._progress,
        ):
            if averages_logits:
                outputs = self._to_probabilities(torch.from_numpy(outputs)).numpy()
            probabilities[rows] = outputs
            has_decoded[rows] = decoded
        errors = self._errors(table, probabilities, has_decoded, run_dir)
        return list(map(Scores, probabilities, errors))

    def _config_for(self, rows: int, run_dir: Path) -> Config:
        """The settings of one pass, which goes on without files that fail, however many."""
        evaluation, loader = self._config.evaluation, self._config.loader
        return replace(
            self._config,
            run_dir=str(run_dir),
            # a step that is not full is filled up with views of its last item
            evaluation=replace(evaluation, batch=min(evaluation.batch, rows)),
            loader=replace(loader, max_bad_ratio=1.0, max_bad_in_a_row=_ANY_NUMBER),
        )

    def _logits(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits of clips (N, 3, T, H, W). A photo stands still for networks of a fixed length."""
        length = self._network.clip_len
        if length is not None and not isinstance(self._network, SlowOnly):
            clips = clips.repeat_interleave(max(1, length // clips.shape[2]), dim=2)
        return self._network(clips)

    def _probabilities(self, clips: torch.Tensor) -> torch.Tensor:
        return self._to_probabilities(self._logits(clips).float())

    def _to_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return to_probabilities(logits, self._config.multi_label)

    def _errors(
        self,
        table: SourceTable,
        probabilities: np.ndarray,
        has_decoded: np.ndarray,
        run_dir: Path,
    ) -> list[str]:
        """Why each row has no probabilities."""
        failures = Quarantine(run_dir / QUARANTINE).records(table.name)
        causes = {
            record.path: record.reason if record.trouble == FILE else str(record.cause)
            for record in failures
        }
        errors = np.where(np.isfinite(probabilities).all(axis=1), "", _NOT_FINITE).astype(object)
        for row in np.flatnonzero(~has_decoded).tolist():
            path = table.media(table.first_record(row)).path
            errors[row] = causes.get(path, NOT_DECODED)
        return errors.tolist()
