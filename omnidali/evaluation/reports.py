"""What an evaluation writes: accuracies by class, the confusion, the likeliest classes of items."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.errors import UserError, start_of
from omnidali.evaluation.accuracy import Accuracy
from omnidali.evaluation.precision import LabelPrecision
from omnidali.utils.atomic_write import table_lines, write_whole


def write_reports(
    folder: Path,
    accuracy: Accuracy | LabelPrecision,
    probabilities: np.ndarray,
    table: SourceTable,
    names: Sequence[str],
) -> None:
    """Write ``per_class.csv``, ``predictions.jsonl`` and, where each item has one label,
    ``confusion.csv`` (rows are labels).

    Args:
        folder: for the files.
        accuracy: of the scores.
        probabilities: (items, classes); NaN where an item did not decode.
        table: of the items.
        names: of the classes, in label order.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        write_whole(folder / "per_class.csv", table_lines(_class_rows(accuracy, names)))
        if isinstance(accuracy, Accuracy):
            confusion = zip(names, accuracy.confusion.tolist(), strict=True)
            rows = [["label", *names], *([name, *row] for name, row in confusion)]
            write_whole(folder / "confusion.csv", table_lines(rows))
        write_whole(folder / "predictions.jsonl", _prediction_lines(probabilities, table, names))
    except OSError as error:
        raise UserError(
            str(folder),
            "a folder that can be written",
            f"{error.strerror or error}{start_of(folder)}",
            "Choose another run_dir or correct its permissions.",
        ) from None


def _class_rows(
    accuracy: Accuracy | LabelPrecision, names: Sequence[str]
) -> Iterator[list[object]]:
    """Yield the header and a row for each class; percentages are empty without an item."""
    items = accuracy.class_items.tolist()
    if isinstance(accuracy, LabelPrecision):
        yield ["class", "items", "average_precision"]
        for name, count, share in zip(names, items, accuracy.class_precision.tolist(), strict=True):
            yield [name, count, f"{100 * share:.2f}" if count else ""]
        return

    yield ["class", "items", "correct", "top1"]
    for name, count, correct in zip(names, items, accuracy.class_correct.tolist(), strict=True):
        yield [name, count, correct, f"{100 * correct / count:.2f}" if count else ""]


def _prediction_lines(
    probabilities: np.ndarray, table: SourceTable, names: Sequence[str]
) -> Iterator[str]:
    """Yield a JSON line for every item; one that does not decode has no predictions."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    for row, classes in enumerate(best.tolist()):
        if np.isnan(probabilities[row, 0]):
            classes = []
        labels = [names[label] for label in table.labels_at(row)]
        prediction = {
            "path": table.media(table.first_record(row)).path,
            **({"label": labels[0]} if table.label_sets is None else {"labels": labels}),
            "predicted": [names[label] for label in classes],
            "scores": [round(float(probabilities[row, label]), 9) for label in classes],
        }
        yield f"{json.dumps(prediction)}\n"
