"""A curation whose programs are fakes that take no time."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from conftest import SMALL
from omnidali.config.load import dump_config, load_config
from omnidali.experiments import curate, training_runs

DROPPED = 1  # lines of a list, by a filter
EVALUATION = "evaluation: {source: {kind: video, root: shorts, list: shorts.txt}}\n"


def fake_programs(monkeypatch):
    """Replace the programs; returns the list of the calls: program, options, ranks.

    Dedup drops the last photo, a filter the first; top-1 is made of seed and sources.
    """
    calls = []

    def run(program, *arguments, ranks, log):
        given = {}
        for text in arguments:
            if text.startswith("--"):
                values = given[text] = []
            else:
                values.append(text)
        given = {
            key: values if key == "--checkpoint" else values[0] for key, values in given.items()
        }
        config = load_config(given["--config"])
        calls.append((program, given, ranks))
        if program in ("dedup", "filter"):
            out = Path(given["--out"])
            out.mkdir(parents=True, exist_ok=True)
            listed = Path(config.data_root, config.sources["photos"].list)
            lines = listed.read_text().splitlines(keepends=True)
            kept = lines[:-1] if program == "dedup" else lines[DROPPED:]
            (out / "photos.txt").write_text("".join(kept))
            photos = replace(config.sources["photos"], list=str(out / "photos.txt"))
            sources = MappingProxyType({**config.sources, "photos": photos})
            made = replace(config, sources=sources, catalog=str(out / "catalog.sqlite"))
            (out / "config.yaml").write_text(dump_config(made))
        elif program == "train":
            Path(config.run_dir, "checkpoints").mkdir(parents=True, exist_ok=True)
        else:
            return {"top1": 10.0 * len(config.sources) + config.seed, "mean_class": 5.0}

    for module in (curate, training_runs):
        monkeypatch.setattr(module, "run_program", run)
    return calls


def curate_command(media_root, tmp_path, *options):
    """A curation of the small media, with further options."""
    config = tmp_path / "c.yaml"
    config.write_text(SMALL + EVALUATION + "train: {batch: 6, steps: 4}\n")
    out = ["--out", str(tmp_path / "out"), f"data_root={media_root}"]
    return ["curate", "--config", str(config), *options, *out]


def names_of(checkpoints):
    """The names of the runs of some checkpoints: target-seed0, filtered-1-seed0, ..."""
    assert all(path.endswith("/checkpoints/last.pt") for path in checkpoints)
    return [Path(path).parent.parent.name.rpartition("-")[0] for path in checkpoints]
