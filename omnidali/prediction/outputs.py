"""Predictions as JSON and CSV, for programs."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from omnidali.prediction.prediction import Prediction, Window
from omnidali.utils.atomic_write import table_lines

_DIGITS = 9  # of probabilities, after the point


def json_lines(
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    facts: Mapping[str, object],
    pictures: Mapping[int, Path] = MappingProxyType({}),
) -> Iterator[str]:
    """Yield the lines of one JSON object, with a prediction a line.

    ``probabilities`` are those of all ``classes``, in their order; ``top`` are the names of the
    five most probable ones.

    Args:
        predictions: in their order.
        classes: names in label order.
        facts: further entries, such as the checkpoint.
        pictures: timelines, by place of the prediction.
    """
    entries = {**facts, "classes": list(classes)}
    yield "{\n"
    for key, value in entries.items():
        yield f"{json.dumps(key)}: {json.dumps(value)},\n"
    yield '"predictions": [\n'
    for place, prediction in enumerate(predictions):
        row = _as_row(prediction)
        if place in pictures:
            row["timeline"] = str(pictures[place])
        comma = "," if place < len(predictions) - 1 else ""
        yield f"{json.dumps(row)}{comma}\n"
    yield "]}\n"


def _as_row(prediction: Prediction) -> dict[str, object]:
    return {
        "path": prediction.path,
        "kind": prediction.kind or None,
        "error": prediction.error or None,
        **_classes_of(prediction),
        "windows": [
            {"start": window.start, "end": window.end, **_classes_of(window)}
            for window in prediction.windows
        ],
    }


def _classes_of(found: Prediction | Window) -> dict[str, object]:
    """The best classes, and the probabilities of all in label order; empty without a prediction."""
    by_number = found.probabilities[np.argsort(found.numbers)]
    return {
        "top": list(found.labels[:5]),
        "probabilities": [round(probability, _DIGITS) for probability in by_number.tolist()],
    }


def csv_table(predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    """Yield the lines of a CSV table: a row for each file, and one for each window after it.

    Args:
        predictions: in their order.
        top: classes of a row.
    """
    yield from table_lines(_rows(predictions, top))


def _rows(predictions: Iterable[Prediction], top: int) -> Iterator[list[object]]:
    best = [
        text for place in range(1, top + 1) for text in (f"class_{place}", f"probability_{place}")
    ]
    yield ["path", "kind", "start", "end", "error", *best]

    for prediction in predictions:
        yield [
            prediction.path,
            prediction.kind,
            "",
            "",
            prediction.error,
            *_best(prediction, top),
        ]
        for window in prediction.windows:
            error = "" if window.is_predicted else "does not decode"
            yield [
                prediction.path,
                prediction.kind,
                window.start,
                window.end,
                error,
                *_best(window, top),
            ]


def _best(found: Prediction | Window, top: int) -> list[object]:
    """Names and probabilities in turn, filled up to ``top`` of each."""
    cells: list[object] = []
    for name, probability in zip(found.labels[:top], found.probabilities[:top], strict=True):
        cells += [name, round(float(probability), _DIGITS)]
    return cells + [""] * (2 * top - len(cells))
