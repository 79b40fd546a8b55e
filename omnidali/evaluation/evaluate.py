"""Score a checkpoint on held-out data: each item with all views, on any number of ranks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidali.config.schema import Config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.precision import measure_scores
from omnidali.evaluation.reports import write_reports
from omnidali.evaluation.score import as_probabilities, score_items
from omnidali.loading.data import Data, open_data
from omnidali.loading.trial_outcome import hold_trial
from omnidali.models.build import build_model
from omnidali.models.checkpoint_file import BEST, load_checkpoint, load_weights
from omnidali.models.model_folder import settings_of
from omnidali.models.precision import make_autocast
from omnidali.models.recognizers import Recognizer
from omnidali.models.weights import are_same_classes, best_weights, class_names, digest_of
from omnidali.utils.run_record import write_record

_SHOWN = ("num_clips", "positions", "crops", "size", "average")  # of the views


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
    check_labels_a_line(config, state, path)
    data = open_data(config, ranks, training=False, classes=_names_for_data(state, config))
    assert data.evaluation is not None and config.evaluation.source is not None
    names = _names_of_outputs(state, data)
    views = getattr(config.evaluation, protocol)
    model = _load_network(config, state, str(path), outputs=len(names), protocol=protocol)

    # an evaluation of the training may have decoded the same files
    kept = state.get("loader", {}).get("trial")
    trial = hold_trial([(data.evaluation, config.evaluation.source)], ranks, config.loader, kept)
    scores = score_items(
        model.to(ranks.device),
        data.evaluation,
        source=config.evaluation.source,
        views=views,
        config=config,
        ranks=ranks,
        autocast=make_autocast(config.train.precision, ranks.device),
        trial=trial,
    )
    assert scores is not None  # only a training abandons an evaluation
    accuracy = measure_scores(scores, data.evaluation)
    result = {
        "checkpoint": str(path),
        "protocol": protocol,
        **{name: getattr(views, name) for name in _SHOWN},
        **accuracy.as_row(),
    }
    if ranks.is_main:
        facts = {"seed": config.seed, "sources": list(config.sources)}
        digest = digest_of(best_weights(state))
        write_record(config.run_dir, {"evaluation": result, "weights": digest, **facts})
        write_reports(
            reports_folder(config, protocol),
            accuracy,
            as_probabilities(scores, views.average, config.multi_label),
            table=data.evaluation,
            names=names,
        )
    return result


def _load_network(
    config: Config, state: Mapping[str, Any], where: str, *, outputs: int, protocol: str
) -> Recognizer:
    """The config's network with the weights of a checkpoint.

    Args:
        config: of the run.
        state: of the checkpoint.
        where: the checkpoint, for errors.
        outputs: of the network.
        protocol: whose views the network has to take.

    Raises:
        UserError: if the weights are of another network.
    """
    model = build_model(
        config.model,
        outputs,
        config.clip.clip_len,
        size=getattr(config.evaluation, protocol).size,
        size_key=f"evaluation.{protocol}.size",
    )
    load_weights(model, {**state, "state_dict": best_weights(state)}, where)
    return model


def _names_of_outputs(state: Mapping[str, Any], data: Data) -> list[str]:
    """A name for each output of the checkpoint's network.

    Raises:
        UserError: if the data have other classes.
    """
    trained = class_names(state)
    names = trained or list(data.class_names)
    if data.named or state.get("classes"):
        _check_classes(names, data.class_names)
    elif len(trained) < len(data.class_names):  # of other projects, for something else
        return list(data.class_names)
    return names


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


def check_labels_a_line(config: Config, state: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a checkpoint that says that it was trained on one label an item, or on several, where
    the config says otherwise.

    Raises:
        UserError: naming the setting.
    """
    settings = settings_of(state)
    if settings is None:  # of another project
        return
    trained = bool(settings.get("multi_label", False))
    if trained != config.multi_label:
        raise UserError(
            "multi_label",
            f"{str(trained).lower()}, as {path} was trained",
            str(config.multi_label).lower(),
            f"Set multi_label={str(trained).lower()}, or name another checkpoint.",
        )


def reports_folder(config: Config, protocol: str) -> Path:
    """The folder for the reports of an evaluation, in the config's run folder."""
    return Path(config.run_dir) / f"evaluation-{protocol}"
