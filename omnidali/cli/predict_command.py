"""``predict``: the classes of files, by a checkpoint."""

import argparse
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnidali.cli.command import Command, option
from omnidali.cli.options import require
from omnidali.errors import UserError, start_of
from omnidali.utils.atomic_write import write_whole
from omnidali.utils.log import LOG
from omnidali.utils.untrusted_text import say

if TYPE_CHECKING:
    from omnidali.prediction.prediction import Prediction

_FAILED = (": quarantined: ", ": failed: ")  # states of files that the list of errors names
_STDOUT = "-"  # as the name of a file


def _predict(options: argparse.Namespace) -> int:
    _check(options)
    from omnidali.prediction.lines import count_line, error_lines
    from omnidali.prediction.predictor import Predictor

    predictor = Predictor(
        options.checkpoint,
        options.overrides,
        window=options.window,
        root=options.root,
        photos=options.photos,
        catalog=options.catalog,
        progress=True,
        trusted=options.trust,
    )
    # stdout may be a program's
    say(f"{options.checkpoint}: {len(predictor.classes)} classes; {predictor.views}", error=True)
    with _quiet():
        predictions = predictor.predict(options.operands)
    _write(options, predictions, predictor.classes)

    say(*error_lines(predictions), count_line(predictions), error=True)
    return 0 if any(prediction.is_predicted for prediction in predictions) else 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the list of errors says in the end: lines about files, and OpenCV's own."""
    import cv2

    def is_news(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return record.module != "quarantine" or not any(state in text for state in _FAILED)

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    LOG.addFilter(is_news)
    try:
        yield
    finally:
        LOG.removeFilter(is_news)
        cv2.utils.logging.setLogLevel(level)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that say nothing, or contradict each other, before the network is loaded.

    Raises:
        UserError: naming the option.
    """
    if not options.operands:
        raise UserError(
            "omnidali predict",
            "PATH: files, folders or lists",
            "none",
            "`omnidali predict --help` has an example.",
        )

    require(options.top >= 1, "--top", "1 or more", options.top)
    if options.window is not None:
        is_usable = options.window == 0 or 0.01 <= options.window < float("inf")
        require(is_usable, "--window", "seconds: 0.01 or more, or 0 for none", options.window)

    if options.json == options.csv == _STDOUT:
        raise UserError("--csv", "one of --json and --csv on stdout", "both", "Name a file.")
    for name, path in (("--json", options.json), ("--csv", options.csv)):
        if path not in (None, _STDOUT):
            _check_file(name, path, options.operands)
    if options.root is not None and not os.path.isdir(options.root):
        raise UserError("--root", "a folder", f"{options.root}, which is none", "Correct the path.")

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            "omnidali predict",
            "one process",
            f"{os.environ['WORLD_SIZE']} ranks",
            "Start it without torchrun; give each of several processes a part of the files.",
        )


def _check_file(name: str, path: str, operands: Sequence[str]) -> None:
    """Refuse a file that cannot be written, or that is to be predicted.

    Args:
        name: of the option.
        path: of the file.
        operands: what is to be predicted.

    Raises:
        UserError: naming the option.
    """
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or (os.path.exists(folder) and not os.access(folder, os.W_OK)):
        raise UserError(name, "a file that can be written", path, "Choose another one.")
    for given in operands:
        if os.path.exists(path) and os.path.exists(given) and os.path.samefile(path, given):
            raise UserError(name, "another file than those to predict", path, "Choose another one.")


def _write(
    options: argparse.Namespace, predictions: Sequence["Prediction"], classes: Sequence[str]
) -> None:
    """Print predictions, and write the files that were asked for."""
    from omnidali.prediction.lines import prediction_lines, window_line
    from omnidali.prediction.outputs import csv_table, json_lines
    from omnidali.prediction.timeline import draw_timelines

    if _STDOUT not in (options.json, options.csv):
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        say(*prediction_lines(predictions, options.top, width))
    pictures: dict[int, Path] = {}
    if options.timelines:
        pictures = draw_timelines(Path(options.timelines), predictions)
    if options.json:
        facts = {"checkpoint": str(options.checkpoint)}
        _write_to(options.json, json_lines(predictions, classes, facts, pictures))
    if options.csv:
        _write_to(options.csv, csv_table(predictions, min(options.top, len(classes))))
    frames = sum(prediction.kind == "frames" for prediction in predictions)
    if frames:
        say(f"{frames:,} folders of images are videos in frames (--photos: photos)", error=True)
    if any(prediction.windows for prediction in predictions):
        say(window_line(options.window, options.timelines), error=True)


def _write_to(name: str, lines: Iterable[str]) -> None:
    """Write lines to a file, or to stdout.

    Raises:
        UserError: if the file cannot be written.
    """
    if name == _STDOUT:
        say(*(line.rstrip("\n") for line in lines))
        return
    try:
        write_whole(Path(name), lines)
    except OSError as error:
        raise UserError(
            name,
            "a file that can be written",
            f"{error.strerror or error}{start_of(name)}",
            "Make room, or choose another file.",
        ) from None


PREDICT = Command(
    name="predict",
    summary="name the classes of videos, photos, folders and lists",
    run=_predict,
    has_settings=True,
    operands="PATH",
    takes_any_name=True,
    options=(
        option(
            "--checkpoint",
            required=True,
            metavar="RUN|FILE",
            help="run folder (for its best.pt), checkpoint, exported file or folder, or a file of"
            " another project",
        ),
        option("--top", type=int, default=5, help="classes of a file (default: %(default)s)"),
        option("--json", metavar="FILE", help="write all probabilities there; -: to stdout"),
        option(
            "--csv",
            metavar="FILE",
            help="write a table of the --top classes there; -: to stdout",
        ),
        option(
            "--window",
            type=float,
            metavar="SECONDS",
            help="also predict windows of this length, of each longer video; 0: none (default: 10,"
            " of videos of more than 30 s)",
        ),
        option(
            "--timelines",
            metavar="DIR",
            help="draw the classes of each video with windows over time, as PNG",
        ),
        option(
            "--root",
            metavar="DIR",
            help="where relative paths of lists start (default: the list's folder, or the current"
            " one, whichever has them)",
        ),
        option(
            "--photos",
            action="store_true",
            help="every image is a photo; by default a folder of numbered images of one size is a"
            " video in frames",
        ),
        option(
            "--catalog",
            metavar="FILE",
            help="keep what is known of the media, so that the next call with them starts at once"
            " (default: nothing is kept)",
        ),
        option(
            "--trust",
            action="append",
            default=[],
            metavar="FUNCTION",
            help="package.module:function that the checkpoint's network may be built by; may be"
            " given several times",
        ),
    ),
    examples=(
        "omnidali predict --checkpoint runs/tsn_omni clip.mp4 photo.jpg",
        "omnidali predict --checkpoint runs/tsn_omni --csv classes.csv holidays/",
        "omnidali predict --checkpoint model.pth --window 5 --timelines . film.mp4",
        "omnidali predict --checkpoint best.pt --json - val.txt train.precision=fp32",
    ),
)
