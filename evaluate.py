"""Evaluate a checkpoint on held-out data, each item exactly ``views`` times on any number of ranks.

python evaluate.py --config configs/demo.yaml torchrun --nproc-per-node 8 evaluate.py --config
configs/tsn_omni.yaml --checkpoint runs/tsn_omni
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from omnidali.cli.arguments import Parser, use_utf8
from omnidali.cli.error_report import run_reporting_errors
from omnidali.config.load import load_config
from omnidali.config.schema import Config
from omnidali.distributed.failure_monitor import reporting_to_peers
from omnidali.distributed.ranks import Ranks, end_ranks, start_ranks
from omnidali.errors import UserError
from omnidali.evaluation.accuracy import Accuracy, measure
from omnidali.evaluation.score import score_items
from omnidali.loading.data import QUARANTINE, Data, open_data
from omnidali.models.checkpoint_file import load_checkpoint, load_weights
from omnidali.models.precision import make_autocast
from omnidali.models.recognizers import build_model
from omnidali.models.weights import best_weights
from omnidali.utils.atomic_write import table_lines, write_whole
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say


def evaluate(
    config: Config, ranks: Ranks, checkpoint: str | None = None, protocol: str = "test"
) -> dict:
    """Score the evaluation source; write per_class.csv, confusion.csv, predictions.jsonl and a
    record.

    Args:
        checkpoint: file, or run folder for its best.pt; none takes that of the config's run folder.
            Averaged weights are used where the checkpoint has them.
        protocol: ``test`` or ``validation``, the views of the config to use.

    Returns:
        The row that is also printed as JSON.

    Raises:
        UserError: for missing data, and checkpoints of another model.
    """
    path = checkpoint or config.run_dir
    state = load_checkpoint(path, inside="best.pt")
    data = open_data(config, ranks, training=False, classes=state.get("classes"))
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
        config.evaluation.source,
        views,
        config,
        ranks,
        make_autocast(config.train.precision, ranks.device),
    )
    accuracy = measure(scores, data.evaluation.labels)
    row = {
        "checkpoint": str(path),
        "protocol": protocol,
        "num_clips": views.num_clips,
        "crops": views.crops,
        "size": views.size,
        "average": views.average,
        **accuracy.as_row(),
    }
    if ranks.is_main:
        write_record(
            config.run_dir,
            {"evaluation": row, "seed": config.seed, "sources": list(config.sources)},
        )
        write_reports(
            Path(config.run_dir) / f"evaluation-{protocol}", accuracy, scores, data, names
        )
    return row


def write_reports(
    folder: Path, accuracy: Accuracy, scores: np.ndarray, data: Data, names: list[str]
) -> None:
    """Write per_class.csv, confusion.csv (rows are labels) and predictions.jsonl (five best
    classes).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        counts = zip(names, accuracy.class_items.tolist(), accuracy.class_correct.tolist())
        per_class = (
            [name, items, correct, f"{100 * correct / items:.2f}" if items else ""]
            for name, items, correct in counts
        )
        write_whole(
            folder / "per_class.csv",
            table_lines([["class", "items", "correct", "top1"], *per_class]),
        )
        confusion = ([name, *row] for name, row in zip(names, accuracy.confusion.tolist()))
        write_whole(folder / "confusion.csv", table_lines([["label", *names], *confusion]))
        with open(folder / "predictions.jsonl", "w", encoding="utf-8") as file:
            best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
            for row, classes in enumerate(best.tolist()):
                if np.isnan(scores[row, 0]):
                    classes = []  # its file does not decode
                path = data.evaluation.media(data.evaluation.first_record(row)).path
                file.write(
                    json.dumps(
                        {
                            "path": path,
                            "label": names[data.evaluation.labels[row]],
                            "predicted": [names[label] for label in classes],
                            "scores": [round(float(scores[row, label]), 5) for label in classes],
                        }
                    )
                    + "\n"
                )
    except OSError as error:
        raise UserError(
            str(folder),
            "a folder that can be written",
            str(error.strerror or error),
            "Choose another run_dir or correct its permissions.",
        ) from None


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 2 for the user's mistakes."""
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

    def story() -> None:
        ranks = start_ranks()
        config = load_config(options.config, options.overrides)
        with reporting_to_peers():
            row = evaluate(config, ranks, options.checkpoint, options.protocol)
        end_ranks()
        if ranks.is_main:
            say(f"{'views':>12}  {'top-1':>7}  {'top-5':>7}  {'mean class':>10}  {'correct':>11}")
            say(
                f"{row['num_clips']:>4} x {row['crops']:<6} {row['top1']:>7.2f}  {row['top5']:>7.2f}"
                f"  {row['mean_class']:>10.2f}  {row['correct']:>5}/{row['items']}"
            )
            if row["unreadable"]:
                say(
                    f"{row['unreadable']} items could not be decoded and are not counted, see {QUARANTINE}"
                )
            say(f"reports in {Path(config.run_dir) / f'evaluation-{options.protocol}'}")
            say(json.dumps(row))

    return run_reporting_errors(story, rank=int(os.environ.get("RANK", 0)))


if __name__ == "__main__":
    sys.exit(main())
