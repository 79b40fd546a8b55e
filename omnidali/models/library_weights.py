"""Weights of external networks, which keep the names that their library has for them.

A file may have anything of ``module.``, ``_orig_mod.``, ``model.``, ``backbone.`` and ``network.``
before its names. What fits the most names of the network counts, for all of them alike.
"""

import re
from collections.abc import Mapping

import torch

from omnidali.models.recognizers import Recognizer
from omnidali.models.weight_names import FRESH_HEAD, UNKNOWN
from omnidali.models.weights_report import WeightsReport

_PREFIX = re.compile(r"(?:(?:module|_orig_mod|model|backbone|network)\.)*")


def is_external(model: torch.nn.Module) -> bool:
    """Whether a recognizer has an external network inside."""
    return isinstance(model, Recognizer) and bool(model.external_prefix)


def fit_library_weights(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], takes_head: bool
) -> tuple[dict[str, torch.Tensor], WeightsReport]:
    """The part of a state dict that goes into a model around an external network.

    Args:
        model: the recognizer.
        weights: with the names of the network or of the recognizer.
        takes_head: whether the classifier is wanted; else it keeps its initial values.

    Returns:
        Weights with the model's names, and what became of each.
    """
    assert isinstance(model, Recognizer)
    wanted = model.state_dict()
    before, our_prefix = _find_prefixes(weights, wanted, model.external_prefix)
    report = WeightsReport(str(model.description.get("backbone") or model.description["name"]), {})
    head = model.stages[-1]
    fitting = {}
    for given, value in weights.items():
        name = our_prefix + given.removeprefix(before)
        if not given.startswith(before) or name not in wanted:
            report.left_out[given] = UNKNOWN
        elif head.holds(name) and not takes_head:
            report.left_out[given] = FRESH_HEAD
        elif value.shape == wanted[name].shape:
            fitting[name] = value
            report.matched.append(name)
        else:
            shapes = f"{tuple(value.shape)} instead of {tuple(wanted[name].shape)}"
            report.wrong.append(f"{name} is {shapes}")
    report.note_missing(wanted, fitting)
    return fitting, report


def _find_prefixes(
    weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], inner: str
) -> tuple[str, str]:
    """What to take from the names of a file, and what to put there instead.

    Args:
        weights: of the file.
        wanted: of the model.
        inner: before the names of the network in the model.
    """
    found = {""}
    for name in weights:
        match = _PREFIX.match(name)
        words = match[0].split(".")[:-1] if match else []
        found |= {"".join(f"{word}." for word in words[:end]) for end in range(len(words) + 1)}
    pairs = [
        (before, our_prefix) for before in sorted(found, key=len) for our_prefix in ("", inner)
    ]

    def count_matches(pair: tuple[str, str]) -> int:
        before, our_prefix = pair
        return sum(
            name.startswith(before) and our_prefix + name.removeprefix(before) in wanted
            for name in weights
        )

    return max(pairs, key=count_matches)
