"""The model card of an exported folder: YAML that the Hugging Face hub reads, then text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from omnidali.config.schema import Config
from omnidali.config.sources import MediaConfig
from omnidali.models.evaluation_records import FIGURES, EvaluationRecord
from omnidali.models.model_facts import describe_input
from omnidali.models.model_folder import LIBRARY
from omnidali.models.released_weights import RELEASED
from omnidali.models.trained_model import TrainedModel
from omnidali.utils.untrusted_text import for_markdown

_TASK = "video-classification"
# Types of metrics that the hub knows.
_METRICS = {"mAP": "mean_average_precision"}
_MANY = 50  # classes; a longer list is cut


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says beside what the model says of itself.

    Attributes:
        name: of the model.
        license: an identifier of the hub, such as ``apache-2.0``.
        evaluation: the last one of these weights, if there was one.
    """

    name: str
    license: str
    evaluation: EvaluationRecord | None


def make_card(trained: TrainedModel, facts: CardFacts) -> str:
    """The text of a model card, in Markdown after a head in YAML."""
    head = yaml.safe_dump(_head(trained, facts), sort_keys=False, allow_unicode=True)
    return "\n".join(["---", head.rstrip("\n"), "---", "", *_text(trained, facts), ""])


def _head(trained: TrainedModel, facts: CardFacts) -> dict[str, object]:
    """The fields that the hub reads; ``model-index`` holds the metrics."""
    head: dict[str, object] = {
        "license": facts.license,
        **LIBRARY,
        "pipeline_tag": _TASK,
        "tags": [_TASK, "action-recognition", "omnidali", *_network_tags(trained)],
    }
    if facts.evaluation is not None:
        head["metrics"] = sorted({_metric(key) for key in facts.evaluation.figures})
        head["model-index"] = [{"name": facts.name, "results": [_result(trained, facts)]}]
    return head


def _network_tags(trained: TrainedModel) -> list[str]:
    name = str(trained.network.description.get("name", ""))
    return [name] if name.isidentifier() else []


def _metric(key: str) -> str:
    return _METRICS.get(key, "accuracy")


def _result(trained: TrainedModel, facts: CardFacts) -> dict[str, object]:
    """One entry of the model-index."""
    assert facts.evaluation is not None
    source = trained.config.evaluation.source if trained.config is not None else None
    name = _data_name(source) if source is not None else "held-out data"
    return {
        "task": {"type": _TASK, "name": "Video Classification"},
        "dataset": {"name": name, "type": name},
        "metrics": [
            {"type": _metric(key), "name": FIGURES[key], "value": value}
            for key, value in facts.evaluation.figures.items()
        ],
    }


def _data_name(source: MediaConfig) -> str:
    """The name of a source's data: that of its list, or of its folder."""
    path = Path(str(source.list or source.root or source.kind))
    return path.stem.strip("*") or str(source.kind)


def _text(trained: TrainedModel, facts: CardFacts) -> Iterator[str]:
    """Yield the lines of the card."""
    yield from (f"# {for_markdown(facts.name)}", "", _summary(trained), "")
    yield from ("## Accuracy", "", *_accuracy_lines(facts.evaluation), "")
    yield from ("## Use it", "", *_usage_lines(trained), "")
    yield from ("## Training", "", *_training_lines(trained.config), "")
    yield from ("## Classes", "", *_class_lines(trained), "")
    yield from ("## License", "", for_markdown(facts.license))


def _summary(trained: TrainedModel) -> str:
    words = [
        f"{key} {for_markdown(value)}"
        for key, value in trained.network.description.items()
        if key != "name" and isinstance(value, (str, int)) and not isinstance(value, bool)
    ]
    name = for_markdown(trained.network.description.get("name", "a network"))
    kind = "several labels an item" if trained.multi_label else "one label an item"
    return f"A video recogniser, {name} ({', '.join(words)}), for {kind}."


def _accuracy_lines(evaluation: EvaluationRecord | None) -> Iterator[str]:
    if evaluation is None:
        yield "No evaluation of these weights is known."
        return
    yield f"On {evaluation.items:,} held-out items, {for_markdown(evaluation.views)}:"
    yield from ("", "| metric | % |", "|---|---|")
    for key, value in evaluation.figures.items():
        yield f"| {FIGURES[key]} | {value:.2f} |"


def _usage_lines(trained: TrainedModel) -> Iterator[str]:
    """Yield how to load the folder, and what the network takes."""
    taken = describe_input(trained)
    frames, size = taken["frames"], taken["size"]
    functions = trained.config.model.functions if trained.config is not None else ()
    trusted = "".join(f', trusted=["{name}"]' for name in functions)
    trust = "".join(f" --trust {name}" for name in functions)
    yield from (
        "```python",
        "import omnidali",
        "",
        f'network = omnidali.from_pretrained("path/to/this/folder"{trusted})',
        f"logits = network(clips)  # float32 (N, 3, T, H, W), as T = {frames}, H = W = {size}",
        "network.class_names",
        "```",
        "",
        "Clips are RGB on the scale 0 to 255, less "
        f"`{taken['mean']}` and divided by `{taken['std']}`.",
        "`config.json` says the same under `input`. From files to classes:",
        f"`omnidali predict --checkpoint path/to/this/folder{trust} video.mp4`.",
    )


def _training_lines(config: Config | None) -> Iterator[str]:
    if config is None:
        yield "The checkpoint does not say how it was trained."
        return
    yield f"It started from {_start(config)} and was trained with OmniDALI on:"
    yield ""
    for name, source in config.sources.items():
        yield f"- {for_markdown(name)}: {for_markdown(source.kind)}, {_share(config, name)}"
    if not config.sources:
        yield "- sources that the file does not name"
    length = f"{config.train.epochs:g} epochs of the first source" if config.train.epochs else None
    length = length or (f"{config.train.steps:,} steps" if config.train.steps else None)
    if length is not None:
        yield ""
        yield (
            f"Batch {config.batch}, {length}, learning rate {config.optimizer.lr:g}"
            f" ({config.optimizer.schedule}), {config.train.precision}, seed {config.seed}."
        )


def _start(config: Config) -> str:
    """What the weights were before the training, without a path of the machine."""
    pretrained = config.model.pretrained
    if not pretrained:
        return "random weights"
    if pretrained in RELEASED:
        return f"`{pretrained}`"
    return "the library's weights" if pretrained is True else "weights of another training"


def _share(config: Config, name: str) -> str:
    source = config.sources[name]
    if source.batch is not None:
        return f"batches of {source.batch}"
    return f"weight {source.weight:g}" if source.weight is not None else "no weight"


def _class_lines(trained: TrainedModel) -> Sequence[str]:
    names: Mapping[int, str] = dict(enumerate(trained.classes))
    if not names:
        return [f"{trained.network.classes} outputs, whose names the checkpoint does not have."]
    shown = ", ".join(for_markdown(name) for name in trained.classes[:_MANY])
    more = len(names) - _MANY
    return [f"{shown} and {more} more, in `config.json`." if more > 0 else f"{shown}."]
