"""Evaluate a checkpoint on held-out data, each item exactly ``views`` times on any number of ranks.

python evaluate.py --config configs/demo.yaml
torchrun --nproc-per-node 8 evaluate.py --config configs/tsn_omni.yaml --checkpoint runs/tsn_omni
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.cli.command import Parser, use_utf8
from omnidali.cli.error_report import run_reporting_errors
from omnidali.config.load import load_config
from omnidali.config.schema import Config
from omnidali.distributed.failure_monitor import reporting_to_peers
from omnidali.distributed.ranks import Ranks, end_process_group, start_process_group
from omnidali.errors import UserError
from omnidali.evaluation.accuracy import Accuracy, measure_accuracy
from omnidali.evaluation.score import score_items
from omnidali.loading.data import QUARANTINE, open_data
from omnidali.models.checkpoint_file import BEST, load_checkpoint, load_weights
from omnidali.models.precision import make_autocast
from omnidali.models.recognizers import build_model
from omnidali.models.weights import best_weights
from omnidali.utils.atomic_write import table_lines, write_whole
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say


def evaluate(
    config: Config, ranks: Ranks, checkpoint: str | None = None, protocol: str = "test"
) -> dict[str, object]:
    """Score the evaluation source; write per_class.csv, confusion.csv, predictions.jsonl, a record.

    Args:
        config: of the run.
        ranks: that share the items.
        checkpoint: file, or run folder for its best.pt; none takes that of the config's run folder.
            Averaged weights are used if the checkpoint has them.
        protocol: ``test`` or ``validation``, the views of the config to use.

    Returns:
        The result that is also printed as JSON.

    Raises:
        UserError: for missing data, and checkpoints of another model.
    """
    path = checkpoint or config.run_dir
    state = load_checkpoint(path, preferred=BEST)
    data = open_data(config, ranks, training=False, classes=state.get("classes"))
    assert data.evaluation is not None and config.evaluation.source is not None
    names = state.get("classes") or list(data.class_names)
    if list(data.class_names) != names[: len(data.class_names)]:
        raise UserError(
            "evaluation.source",
            f"the checkpoint's classes ({', '.join(names[:3])}, ...)",
            f"{', '.join(data.class_names[:3])}, ...",
            "Use the classes and lists of the training.",
        )
    model = build_model(config.model, len(names), config.clip.clip_len)
    load_weights(model, {**state, "state_dict": best_weights(state)}, str(path))
    model.to(ranks.device)

    views = getattr(config.evaluation, protocol)
    scores = score_items(
        model,
        data.evaluation,
        source=config.evaluation.source,
        views=views,
        config=config,
        ranks=ranks,
        autocast=make_autocast(config.train.precision, ranks.device),
    )
    assert scores is not None  # only a training abandons an evaluation
    accuracy = measure_accuracy(scores, data.evaluation.labels)
    result = {
        "checkpoint": str(path),
        "protocol": protocol,
        "num_clips": views.num_clips,
        "crops": views.crops,
        "size": views.size,
        "average": views.average,
        **accuracy.as_row(),
    }
    if ranks.is_main:
        record = {"evaluation": result, "seed": config.seed, "sources": list(config.sources)}
        write_record(config.run_dir, record)
        _write_reports(_folder(config, protocol), accuracy, scores, data.evaluation, names)
    return result


def _folder(config: Config, protocol: str) -> Path:
    return Path(config.run_dir) / f"evaluation-{protocol}"


def _write_reports(
    folder: Path, accuracy: Accuracy, scores: np.ndarray, table: SourceTable, names: Sequence[str]
) -> None:
    """Write the accuracies by class, the confusion (rows are labels) and the five best classes."""
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
            error.strerror or str(error),
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


def _print_result(result: Mapping[str, object], folder: Path) -> None:
    say(f"{'views':>12}  {'top-1':>7}  {'top-5':>7}  {'mean class':>10}  {'correct':>11}")
    say(
        f"{result['num_clips']:>4} x {result['crops']:<6} {result['top1']:>7.2f}"
        f"  {result['top5']:>7.2f}  {result['mean_class']:>10.2f}"
        f"  {result['correct']:>5}/{result['items']}"
    )
    if result["unreadable"]:
        say(
            f"{result['unreadable']} items could not be decoded and are not counted,"
            f" see {QUARANTINE}"
        )
    say(f"reports in {folder}")
    say(json.dumps(result))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for the user's mistakes."""
    if arguments is None:
        use_utf8()
    parser = Parser(description="Evaluate a checkpoint on held-out data.")
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_argument(
        "--checkpoint", help="checkpoint, or run folder for its best.pt; default: run_dir"
    )
    parser.add_argument(
        "--protocol",
        choices=("test", "validation"),
        default="test",
        help="which views of the config: evaluation.test or evaluation.validation",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.path=value",
        help="any setting, such as evaluation.test.num_clips=25 evaluation.test.crops=three",
    )
    options = parser.parse_intermixed_args(arguments)

    def run() -> None:
        ranks = start_process_group()
        config = load_config(options.config, options.overrides)
        with reporting_to_peers():
            result = evaluate(config, ranks, options.checkpoint, options.protocol)
        end_process_group()
        if ranks.is_main:
            _print_result(result, _folder(config, options.protocol))

    return run_reporting_errors(run, rank=int(os.environ.get("RANK", 0)))


if __name__ == "__main__":
    sys.exit(main())
