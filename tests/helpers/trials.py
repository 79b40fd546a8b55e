"""Trials of DALI that tests hold, with pixels of its that they change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import LoaderConfig
from omnidali.config.sources import MediaConfig
from omnidali.distributed.ranks import Ranks
from omnidali.loading.trial_outcome import Trial, hold_trial
from omnidali.pipelines import Graph

SETTING = "hybrid on the CPU"  # as a record names it
_collect = Graph.collect


def hold(
    world: Mapping[str, tuple[SourceTable, MediaConfig]],
    name: str,
    decode: str,
    kept: object = None,
) -> Trial:
    """The outcome of a trial of one source of ``world``."""
    table, source = world[name]
    return hold_trial(
        [(table, replace(source, decode=decode))], Ranks(), LoaderConfig(threads=2), kept
    )


def change_dali_pixels(monkeypatch, levels: float, only: Collection[bytes] | None = None) -> None:
    """Add levels to what DALI decodes, of some files alone if their bytes are given."""

    def changed(graph):
        outputs = [np.array(output) for output in _collect(graph)]
        for place, data in enumerate(graph._feeds["data"]):
            if only is None or data.tobytes() in only:
                for output in outputs:
                    output[place] += levels / 57
        return outputs

    monkeypatch.setattr(Graph, "collect", changed)
