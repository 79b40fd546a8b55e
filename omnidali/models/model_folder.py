"""A model as a folder, in the layout that the Hugging Face hub takes.

It holds ``model.safetensors``, ``config.json`` and a model card, ``README.md``. It is read without
trust: JSON and safetensors alone, no code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnidali.errors import UserError
from omnidali.models.weights import read_weights
from omnidali.utils.text_files import parse_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
# Keys among the facts about a model: the names of its classes, a key that is mmaction2's; the
# network; what it takes; the settings that a prediction needs; what the training did not see.
CLASSES = "CLASSES"
NETWORK = "model"
INPUT = "input"
RECIPE = "omnidali"
HOLD_OUT = "hold_out"
# How the hub is told the library that reads a model.
LIBRARY = {"library_name": "omnidali"}
_LARGEST = 16 * 2**20  # characters of a config.json


def settings_of(state: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of the training in a checkpoint of ours, or in what was exported; else None."""
    meta = state.get("meta")
    exported = meta.get(RECIPE) if isinstance(meta, Mapping) else None
    settings = state.get("config") if "loader" in state else exported
    return settings if isinstance(settings, Mapping) else None


def is_model_folder(path: str | Path) -> bool:
    """Whether a path is a folder with a model in it."""
    return Path(path, WEIGHTS).is_file() and Path(path, CONFIG).is_file()


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read the ``config.json`` of a folder.

    Raises:
        UserError: if it is missing, or no mapping in JSON.
    """
    path = Path(folder, CONFIG)
    advice = "Export the model again, or download the folder again."
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise UserError(str(path), "a file of JSON", got, advice) from None
    if len(text) > _LARGEST:
        raise UserError(
            str(path), f"at most {_LARGEST:,} characters of JSON", f"{len(text):,}", advice
        )
    config = parse_json(text, str(path))
    if not isinstance(config, dict):
        raise UserError(str(path), "facts about a model", type(config).__name__, advice)
    return config


def read_folder(folder: str | Path) -> dict[str, Any]:
    """The weights of a folder as the entries of a checkpoint; ``config.json`` has the facts.

    Raises:
        UserError: if one of both cannot be read.
    """
    facts = facts_of_config(read_config(folder))
    return {**read_weights(Path(folder, WEIGHTS)), "meta": facts}


def facts_as_config(facts: Mapping[str, object]) -> dict[str, object]:
    """Facts about a model in the layout of a ``config.json`` of the Hugging Face hub."""
    classes = facts[CLASSES]
    assert isinstance(classes, list)
    return {
        **LIBRARY,
        "id2label": {str(label): name for label, name in enumerate(classes)},
        "label2id": {name: label for label, name in enumerate(classes)},
        **{name: value for name, value in facts.items() if name != CLASSES},
    }


def facts_of_config(config: Mapping[str, Any]) -> dict[str, object]:
    """The facts in a ``config.json``; labels that are no plain list of names are left out.

    >>> facts_of_config({"id2label": {"1": "run", "0": "jump"}, "input": {}})
    {'CLASSES': ['jump', 'run'], 'input': {}}
    """
    labels = config.get("id2label")
    labels = labels if isinstance(labels, dict) else {}
    names = [labels.get(str(number)) for number in range(len(labels))]
    if not all(isinstance(name, str) for name in names):
        names = []
    passed = (CLASSES, "id2label", "label2id", *LIBRARY)
    rest = {key: value for key, value in config.items() if key not in passed}
    return {CLASSES: names, **rest}
