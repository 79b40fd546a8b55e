"""The routes of a loader's sources on the device of its rank."""

import sys
from collections.abc import Mapping, Sequence

import torch

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.sources import MediaConfig
from omnidali.decoding.routes import Routes, choose_routes, describe_codecs, describe_files
from omnidali.errors import UserError
from omnidali.loading.failures.dali_failures import known_records
from omnidali.loading.failures.quarantine import Quarantine


def route_sources(
    tables: Sequence[SourceTable],
    sources: Sequence[MediaConfig],
    device: torch.device,
    *,
    tried: Mapping[str, Mapping[str, str]],
    left: Quarantine,
) -> list[Routes]:
    """By source, what decodes its files.

    Args:
        tables: of the sources.
        sources: their settings.
        device: where the clips go.
        tried: by source and codec, why a trial left it to the CPU; "" if it did not.
        left: names files that DALI failed to decode.

    Raises:
        UserError: if a source asks for a decoder that cannot take its codecs, or DALI is needed and
            Python has no docstrings, which its import needs.
    """
    capability = capability_of(device)
    routes = [
        choose_routes(
            table,
            source.decode,
            capability,
            tried=tried.get(table.name),
            failed=known_records(table, left),
        )
        for table, source in zip(tables, sources, strict=True)
    ]
    if any(route.uses_dali for route in routes) and sys.flags.optimize > 1:
        raise UserError(
            "PYTHONOPTIMIZE",
            "0 or 1, as DALI needs Python's docstrings",
            str(sys.flags.optimize),
            "Unset it, or use decode: cpu.",
        )
    return routes


def describe_sources(
    tables: Sequence[SourceTable],
    routes: Sequence[Routes],
    device: torch.device,
    cpu_share: float,
) -> list[str]:
    """A line a source, as of :func:`~omnidali.decoding.routes.describe_files`."""
    on_gpu = device.type == "cuda"
    return [
        describe_files(table, of_source, on_gpu, cpu_share)
        for table, of_source in zip(tables, routes, strict=True)
    ]


def describe_decoders(
    tables: Sequence[SourceTable],
    routes: Sequence[Routes],
    device: torch.device,
    cpu_share: float,
) -> dict[str, str]:
    """By source, what decodes it and where, on which its pixels depend."""
    on_gpu = device.type == "cuda"
    place = f", finished on {device.type}" if on_gpu else ""
    return {
        table.name: describe_codecs(table, of_source, on_gpu, cpu_share) + place
        for table, of_source in zip(tables, routes, strict=True)
    }


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a GPU; None for the CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None
