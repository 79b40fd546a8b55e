"""Predictions as lines for people."""

from collections.abc import Iterator, Sequence

from omnidali.prediction.prediction import Prediction, Window
from omnidali.prediction.windows import WindowRule
from omnidali.utils.untrusted_text import for_terminal

_MANY = 10  # files; more of them have a line each
_IN_A_LINE = 3  # classes of a file in a line
_LONGEST_PATH = 60  # characters of a path in a line, its end
_SHORTEST_PATH = 20  # where a terminal is narrow
_LONGEST_CLASS = 28
_GAP = 0.05  # seconds; windows that are farther apart do not follow each other
_STRETCHES = 12  # of a video that are shown


def prediction_lines(
    predictions: Sequence[Prediction], top: int, width: int | None = None
) -> Iterator[str]:
    """Yield lines for a terminal: some lines for each of a few files, one for each of many.

    Args:
        predictions: files without one are passed over.
        top: classes of a file.
        width: of the terminal, in characters, for the lines of many files; None: any.
    """
    shown = [prediction for prediction in predictions if prediction.is_predicted]
    if len(shown) > _MANY:
        yield from _table(shown, min(top, _IN_A_LINE), width)
        return
    for prediction in shown:
        yield for_terminal(prediction.path)
        for name, probability in _best(prediction, top):
            yield f"  {_percent(probability)}  {for_terminal(name)}"
        yield from (f"  {line}" for line in _stretch_lines(prediction.windows))


def error_lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Yield a line for each file without a prediction, with the reason."""
    for prediction in predictions:
        if not prediction.is_predicted:
            yield f"{for_terminal(prediction.path)}: {for_terminal(prediction.error, None)}"


def _table(predictions: Sequence[Prediction], top: int, width: int | None) -> Iterator[str]:
    """Yield a line for each file, in columns: as many classes as the width has room for."""
    columns = []
    for place in range(min(top, len(predictions[0].labels))):
        cells = [
            f"{_percent(float(found.probabilities[place]))}"
            f" {for_terminal(found.labels[place], _LONGEST_CLASS)}"
            for found in predictions
        ]
        wide = max(map(len, cells))
        columns.append([f"{cell:{wide}}" for cell in cells])

    longest = _LONGEST_PATH
    if width is not None:
        longest = min(longest, max(_SHORTEST_PATH, width // 2))
    paths = [_end_of(prediction.path, longest) for prediction in predictions]
    wide = max(map(len, paths))
    if width is not None:
        room = width - wide
        while len(columns) > 1 and sum(2 + len(column[0]) for column in columns) > room:
            columns.pop()
    for path, *cells in zip(paths, *columns, strict=True):
        yield "  ".join([f"{path:{wide}}", *cells]).rstrip()


def _end_of(path: str, longest: int) -> str:
    """The end of a path, which tells files apart better than its begin."""
    text = for_terminal(path, None)
    return text if len(text) <= longest else f"...{text[3 - longest :]}"


def _best(found: Prediction | Window, top: int) -> list[tuple[str, float]]:
    return list(zip(found.labels[:top], found.probabilities[:top].tolist(), strict=True))


def _percent(probability: float) -> str:
    return f"{100 * probability:5.1f} %"


def _stretch_lines(windows: Sequence[Window]) -> Iterator[str]:
    """Yield lines of the stretches of a video in which one class is the most probable."""
    stretches: list[list[Window]] = []
    for window in windows:
        before = stretches[-1][-1] if stretches else None
        is_next = before is not None and abs(window.start - before.end) < _GAP
        if before is not None and is_next and before.labels[:1] == window.labels[:1]:
            stretches[-1].append(window)
        else:
            stretches.append([window])

    for stretch in stretches[:_STRETCHES]:
        span = f"{clock(stretch[0].start)} to {clock(stretch[-1].end)}"
        if not stretch[0].is_predicted:
            yield f"{span}  does not decode"
            continue
        mean = sum(float(window.probabilities[0]) for window in stretch) / len(stretch)
        yield f"{span}  {_percent(mean)}  {for_terminal(stretch[0].labels[0])}"
    if len(stretches) > _STRETCHES:
        yield f"and {len(stretches) - _STRETCHES} more stretches: --json or --csv has all windows"


def clock(seconds: float) -> str:
    """A time in a video.

    >>> clock(0), clock(75.5), clock(3700)
    ('0:00', '1:16', '1:01:40')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def window_line(window: float | None, pictures: str | None) -> str:
    """What windows there are, and how to change and see them.

    Args:
        window: that was asked for, in seconds; None: the usual ones.
        pictures: folder of the timelines.
    """
    if window is None:
        rule = WindowRule.of(None)
        assert rule is not None
        text = (
            f"videos of more than {rule.longer_than:g} s have windows of {rule.seconds:g} s, too"
            " (--window), for --json and --csv"
        )
    else:
        text = f"videos of more than {window:g} s have windows of {window:g} s, too"
    return f"{text}; timelines: {pictures or 'none (--timelines DIR draws them)'}"


def count_line(predictions: Sequence[Prediction]) -> str:
    """How many files were predicted, and how many were not."""
    failed = sum(not prediction.is_predicted for prediction in predictions)
    text = f"{len(predictions) - failed:,} predicted"
    return f"{text}, {failed:,} not" if failed else text
