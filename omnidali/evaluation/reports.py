"""What an evaluation writes: accuracies by class, the confusion, the best classes of items."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.errors import UserError, start_of
from omnidali.evaluation.accuracy import Accuracy
from omnidali.utils.atomic_write import table_lines, write_whole


def write_reports(
    folder: Path, accuracy: Accuracy, scores: np.ndarray, table: SourceTable, names: Sequence[str]
) -> None:
    """Write ``per_class.csv``, ``confusion.csv`` (rows are labels) and ``predictions.jsonl``.

    Args:
        folder: for the three files.
        accuracy: of the scores.
        scores: (items, classes); NaN where an item did not decode.
        table: of the items.
        names: of the classes, in label order.

    Raises:
        UserError: if the folder cannot be written.
    """
    per_class = [
        [name, items, correct, f"{100 * correct / items:.2f}" if items else ""]
        for name, items, correct in zip(
            names, accuracy.class_items.tolist(), accuracy.class_correct.tolist(), strict=True
        )
    ]

    confusion = [[name, *row] for name, row in zip(names, accuracy.confusion.tolist(), strict=True)]

    try:
        write_whole(
            folder / "per_class.csv",
            table_lines([["class", "items", "correct", "top1"], *per_class]),
        )
        write_whole(folder / "confusion.csv", table_lines([["label", *names], *confusion]))
        write_whole(folder / "predictions.jsonl", _prediction_lines(scores, table, names))
    except OSError as error:
        raise UserError(
            str(folder),
            "a folder that can be written",
            f"{error.strerror or error}{start_of(folder)}",
            "Choose another run_dir or correct its permissions.",
        ) from None


def _prediction_lines(
    scores: np.ndarray, table: SourceTable, names: Sequence[str]
) -> Iterator[str]:
    """Yield a JSON line for every item; one that does not decode has no predictions."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    for row, classes in enumerate(best.tolist()):
        if np.isnan(scores[row, 0]):
            classes = []
        prediction = {
            "path": table.media(table.first_record(row)).path,
            "label": names[table.labels[row]],
            "predicted": [names[label] for label in classes],
            "scores": [round(float(scores[row, label]), 5) for label in classes],
        }
        yield f"{json.dumps(prediction)}\n"
