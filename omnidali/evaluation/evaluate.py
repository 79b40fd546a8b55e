"""Score a checkpoint on held-out data: each item with all views, on any number of ranks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidali.config.schema import Config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.accuracy import measure_accuracy
from omnidali.evaluation.reports import write_reports
from omnidali.evaluation.score import score_items
from omnidali.loading.data import open_data
from omnidali.loading.trial_outcome import hold_trial
from omnidali.models.checkpoint_file import BEST, load_checkpoint, load_weights
from omnidali.models.precision import make_autocast
from omnidali.models.recognizers import build_model
from omnidali.models.weights import are_same_classes, best_weights, class_names
from omnidali.utils.run_record import write_record


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
    trained = class_names(state)
    data = open_data(config, ranks, training=False, classes=_names_for_data(state, config))
    assert data.evaluation is not None and config.evaluation.source is not None
    names = trained or list(data.class_names)
    if data.named or state.get("classes"):
        _check_classes(names, data.class_names)
    elif len(trained) < len(data.class_names):  # of other projects, for something else
        names = list(data.class_names)
    model = build_model(config.model, len(names), config.clip.clip_len)
    load_weights(model, {**state, "state_dict": best_weights(state)}, str(path))
    model.to(ranks.device)

    # an evaluation of the training may have decoded the same files
    kept = state.get("loader", {}).get("trial")
    trial = hold_trial([(data.evaluation, config.evaluation.source)], ranks, config.loader, kept)
    views = getattr(config.evaluation, protocol)
    scores = score_items(
        model,
        data.evaluation,
        source=config.evaluation.source,
        views=views,
        config=config,
        ranks=ranks,
        autocast=make_autocast(config.train.precision, ranks.device),
        trial=trial,
    )
    assert scores is not None  # only a training abandons an evaluation
    accuracy = measure_accuracy(scores, data.evaluation.labels)
    result = {
        "checkpoint": str(path),
        "protocol": protocol,
        "num_clips": views.num_clips,
        "positions": views.positions,
        "crops": views.crops,
        "size": views.size,
        "average": views.average,
        **accuracy.as_row(),
    }
    if ranks.is_main:
        record = {"evaluation": result, "seed": config.seed, "sources": list(config.sources)}
        write_record(config.run_dir, record)
        write_reports(reports_folder(config, protocol), accuracy, scores, data.evaluation, names)
    return result


def _names_for_data(state: Mapping[str, Any], config: Config) -> list[str] | None:
    """The checkpoint's class names if they say which label a class of the data has.

    Numbers in a list do so themselves, unless the checkpoint is ours.
    """
    source = config.evaluation.source
    has_folders = source is not None and not source.list and not source.tars
    return class_names(state) if has_folders or state.get("classes") else None


def _check_classes(trained: Sequence[str], found: Sequence[str]) -> None:
    """Refuse data of other classes than those of the training."""
    if not are_same_classes(found, trained[: len(found)]):
        raise UserError(
            "evaluation.source",
            f"the checkpoint's classes ({', '.join(trained[:3])}, ...)",
            f"{', '.join(found[:3])}, ...",
            "Use the classes and lists of the training.",
        )


def reports_folder(config: Config, protocol: str) -> Path:
    """The folder for the reports of an evaluation, in the config's run folder."""
    return Path(config.run_dir) / f"evaluation-{protocol}"
