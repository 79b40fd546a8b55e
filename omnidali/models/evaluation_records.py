"""The last evaluation of some weights, as their run folder has it."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidali.config.schema import ViewsConfig
from omnidali.utils.text_files import begins_as_json

# What is reported of an evaluation, in percent, by its key.
FIGURES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_class": "mean class accuracy",
    "mAP": "mean average precision",
}


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation.

    Attributes:
        figures: in percent, by their keys in ``FIGURES``.
        views: of each item, in words.
        items: that were scored.
    """

    figures: Mapping[str, float]
    views: str
    items: int


def find_evaluation(
    checkpoint: str | Path, digest: str, step: int | None, validation: ViewsConfig | None
) -> EvaluationRecord | None:
    """The last evaluation of exactly these weights.

    Args:
        checkpoint: a run folder or a checkpoint in one.
        digest: of the weights.
        step: after which the checkpoint was saved; None if it is not known.
        validation: views of the evaluations of the training, which count where `omnidali evaluate`
            was not called; None: they do not.

    Returns:
        None if there was none, or the run folder does not say.
    """
    path = Path(checkpoint)
    folder = path if path.is_dir() else path.parent.parent
    found = [
        row["evaluation"]
        for row in _rows(folder / "records.jsonl")
        if row.get("weights") == digest and isinstance(row.get("evaluation"), dict)
    ]
    if not found and step is not None and validation is not None:
        found = [
            {**row, **validation.identity}
            for row in _rows(folder / "metrics.jsonl")
            if row.get("kind") == "evaluation" and row.get("step") == step
        ]
    return _as_record(found[-1]) if found else None


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; those that are something else are passed over."""
    try:
        lines = path.read_text("utf-8").splitlines() if begins_as_json(path) else []
    except (OSError, ValueError):
        return []
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def _as_record(result: Mapping[str, Any]) -> EvaluationRecord:
    figures = {
        key: float(result[key]) for key in FIGURES if isinstance(result.get(key), (int, float))
    }
    clips, crops, size, items = (result.get(key) for key in ("num_clips", "crops", "size", "items"))
    return EvaluationRecord(
        figures=figures,
        views=f"{clips} clips x {crops} crop of {size} pixels",
        items=items if isinstance(items, int) else 0,
    )
