"""The trainings of an experiment: variants of a config, each trained and evaluated by programs."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from omnidali.config.load import dump_config
from omnidali.config.schema import Config
from omnidali.config.validate import find_mistakes
from omnidali.errors import UserError
from omnidali.loading.data import Data, check_shares, make_plan, open_data
from omnidali.models.pretrained import load_pretrained
from omnidali.models.recognizers import build_model
from omnidali.processes.launch import run_program
from omnidali.utils.atomic_write import write_whole, writing_to


def target_epochs(config: Config, data: Data) -> float:
    """The epochs of the target in a training with the config."""
    if config.train.epochs:
        return config.train.epochs
    assert config.train.steps is not None
    return config.train.steps / make_plan(config, data).steps_per_epoch


def make_variant(
    config: Config, names: Sequence[str], epochs: float, fraction: float, ranks: int
) -> Config:
    """The config with some of its sources, and as many slots of each in a step as before.

    Where steps sum the sources, the learning rate follows the slots linearly, as large batches want
    it (Goyal et al., 2017). Where steps alternate, a step of a source stays as it is.

    Args:
        config: whose first source is the target.
        names: of the sources to train on, the target first.
        epochs: of the target.
        fraction: share of the target's items that are used.
        ranks: processes that share a batch.
    """
    target = next(iter(config.sources))
    sources = {name: config.sources[name] for name in names}
    sources[target] = replace(sources[target], fraction=fraction * sources[target].fraction)
    train = replace(config.train, epochs=epochs, steps=None)

    if config.batches is None:
        weight = sum(source.weight for source in sources.values())
        share = weight / sum(source.weight for source in config.sources.values())
        unit = ranks if train.mixup == "none" else 2 * ranks
        train = replace(train, batch=max(1, round(config.batch * share / unit)) * unit)
    elif train.ratio is not None:
        ratio_of = dict(zip(config.sources, train.ratio, strict=True))
        ratio = tuple(ratio_of[name] for name in names)
        train = replace(train, ratio=(1,) if len(ratio) == 1 else ratio)

    made = replace(config, sources=MappingProxyType(sources), train=train)
    if train.step_mode == "summed":
        lr = config.optimizer.lr * made.batch / config.batch
        made = replace(made, optimizer=replace(config.optimizer, lr=lr))
    return made


def check_experiment(config: Config, ranks: int, seeds: Sequence[int]) -> None:
    """Refuse what no experiment can use: numbers of ranks and seeds, no data to compare on.

    Raises:
        UserError: naming the option or setting.
    """
    if ranks < 1:
        raise UserError("--ranks", "1 or more", str(ranks), "Correct the number.")

    gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and ranks > gpus:
        raise UserError(
            "--ranks", f"at most {gpus}, the number of GPUs", str(ranks), "Correct the number."
        )

    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(
            "--seeds", "numbers of 0 or more, each once", str(list(seeds)), "Correct them."
        )
    if config.evaluation.source is None:
        raise UserError(
            "evaluation.source", "labelled data to compare on", "nothing", "Add it to the config."
        )


def check_trainings(
    config: Config, variants: Iterable[Config], class_names: Sequence[str], ranks: int
) -> None:
    """Refuse what a training would refuse hours later: settings, batches, weights to start from.

    Args:
        config: that the variants were made of; their networks are the same.
        variants: the configs to train with.
        class_names: of the target.
        ranks: processes of a training.

    Raises:
        UserError: for the first mistake.
    """
    if config.model.sync_norm and not torch.cuda.is_available():
        raise UserError("model.sync_norm", "GPUs", "the CPU", "Switch it off.")
    if config.model.pretrained:
        model = build_model(config.model, len(class_names), config.clip.clip_len)
        load_pretrained(model, config.model.pretrained, config.model.pretrained_head, class_names)
    for variant in variants:
        for mistake in find_mistakes(variant):
            raise mistake
        check_shares(variant, ranks)


def train_and_score(
    config: Config, out: Path, name: str, seed: int, ranks: int
) -> tuple[dict, Path]:
    """Train and evaluate in a folder below ``out / "runs"``; a finished run is not repeated.

    A run with a different config or different lists gets a different folder.

    Returns:
        The row that evaluate prints, and the run folder.

    Raises:
        UserError: if a program refused its config.
        ProgramFailedError: if a program failed.
    """
    config = replace(config, seed=seed, run_dir="")
    data = open_data(config)
    assert data.evaluation is not None
    tables = (*data.tables, data.evaluation)
    identity = dump_config(config) + "".join(table.fingerprint for table in tables)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    run = out / "runs" / f"{name}-seed{seed}-{digest}"
    result = run / "result.json"
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8")), run

    config_file = run.parent / f"{run.name}.yaml"
    with writing_to(out):
        write_whole(config_file, dump_config(replace(config, run_dir=str(run))))
    run_program("train", "--config", str(config_file), "--resume", "auto", ranks=ranks)
    checkpoint = run / "checkpoints" / "last.pt"
    row = run_program(
        "evaluate",
        "--config",
        str(config_file),
        "--checkpoint",
        str(checkpoint),
        ranks=ranks,
    )
    assert row is not None, "evaluate prints its row"
    with writing_to(out):
        write_whole(result, json.dumps(row))
    return row, run
