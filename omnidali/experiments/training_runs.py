"""The trainings of an experiment: variants of a config, each trained and evaluated by programs."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from omnidali.config.load import dump_config
from omnidali.config.schema import Config
from omnidali.config.validate import find_mistakes
from omnidali.distributed.devices import count_gpus
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.experiments.expected_time import ExpectedTime, PlannedRun
from omnidali.loading.data import Data, drawn_part, open_data
from omnidali.loading.open_loader import check_shares, count_steps, make_plan
from omnidali.models.checkpoint_file import LAST
from omnidali.processes.launch import run_program
from omnidali.processes.program_log import log_of
from omnidali.training.forewarnings import check_and_warn
from omnidali.training.model_setup import start_model
from omnidali.utils.atomic_write import write_whole, writing_to
from omnidali.utils.untrusted_text import say

_RUNS = "runs"  # folder of the runs
_RESULT = "result.json"  # in the folder of a finished run


def choose_ranks(config: Config, asked: int | None) -> int:
    """How many ranks the programs of an experiment have.

    Args:
        config: of the largest training.
        asked: ``--ranks``; None: a rank for each GPU, as far as the batch can be shared out, and
            one without a GPU.

    Raises:
        UserError: if there is no GPU for ``device: cuda``.
    """
    if asked is not None:
        return asked
    for ranks in range(count_gpus(config.device), 1, -1):
        with contextlib.suppress(UserError):
            check_shares(config, ranks)
            return ranks
    return 1


def check_experiment(config: Config, ranks: int, seeds: Sequence[int]) -> None:
    """Refuse what no experiment can use, and warn of trainings that make little sense.

    It needs no data, which may take hours to read.

    Args:
        config: of the largest training.
        ranks: processes of a training.
        seeds: of the trainings.

    Raises:
        UserError: naming the option or setting.
    """
    if ranks < 1:
        raise UserError("--ranks", "1 or more", str(ranks), "Correct the number.")

    gpus = count_gpus(config.device)
    if gpus and ranks > gpus:
        raise UserError(
            "--ranks",
            f"at most {gpus}, the number of GPUs",
            str(ranks),
            "Correct the number, or set device=cpu.",
        )

    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(
            "--seeds", "numbers of 0 or more, each once", str(list(seeds)), "Correct them."
        )
    if config.evaluation.source is None:
        raise UserError(
            "evaluation.source", "labelled data to compare on", "nothing", "Add it to the config."
        )

    if config.train.max_hours is not None:
        raise UserError(
            "train.max_hours",
            "null, as each training of an experiment goes to its end",
            f"{config.train.max_hours:g}",
            "Remove it; a stopped experiment goes on where it stood.",
        )

    device = torch.device("cuda" if gpus else "cpu")
    say(*check_and_warn(config, Ranks(world=ranks, core_sharers=ranks, device=device)))


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
    if config.model.pretrained:
        start_model(config, class_names)
    for variant in variants:
        for mistake in find_mistakes(variant):
            raise mistake
        check_shares(variant, ranks)


def plan_runs(
    trainings: Iterable[tuple[str, int, Config]], data: Data, out: Path
) -> list[PlannedRun]:
    """Runs before they begin: how long they are, and whether they are finished.

    Args:
        trainings: name, seed and config of each, with sources of ``data``.
        data: of all sources.
        out: folder of the experiment.

    Raises:
        UserError: for a motion file that is wrong, or a source that a training has nothing of.
    """
    assert data.reader is not None and data.evaluation is not None
    whole = {table.name: data.reader.table(table.name) for table in data.tables}
    runs = []
    for name, seed, config in trainings:
        config = replace(config, seed=seed)
        tables = tuple(
            drawn_part(whole[source], settings, seed) for source, settings in config.sources.items()
        )
        drawn = replace(data, tables=tables)
        per_epoch = make_plan(config, drawn).steps_per_epoch
        runs.append(
            PlannedRun(
                name=run_name(name, seed),
                config=config,
                steps=count_steps(config, per_epoch),
                steps_per_epoch=per_epoch,
                items=len(data.evaluation),
                is_finished=(_run_folder(config, drawn, out, name) / _RESULT).exists(),
            )
        )
    return runs


def run_name(name: str, seed: int) -> str:
    """The name of a training with a seed."""
    return f"{name}-seed{seed}"


def has_result(out: Path, run: str) -> bool:
    """Whether a run of this name is finished, with whatever config and lists."""
    return any((out / _RUNS).glob(f"{run}-*/{_RESULT}"))


def _run_folder(config: Config, data: Data, out: Path, name: str) -> Path:
    """The folder of a run; one with a different config or different lists has a different one.

    Args:
        config: with the seed.
        data: of the config.
        out: folder of the experiment.
        name: of the training.
    """
    assert data.evaluation is not None
    tables = (*data.tables, data.evaluation)
    # run_dir is the folder that is sought; a network trained elsewhere is as good, also one that
    # was trained before there was a choice
    named = dump_config(replace(config, run_dir="", device="auto")).replace("device: auto\n", "")
    identity = named + "".join(table.fingerprint for table in tables)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return out / _RUNS / f"{run_name(name, config.seed)}-{digest}"


class TrainingRuns:
    """Trains and evaluates in folders below ``out / "runs"``; a finished run is not repeated.

    Args:
        out: folder of the experiment.
        ranks: processes of a run.
        planned: all runs, for the expected time.

    Attributes:
        times: how long the runs take.
    """

    def __init__(self, out: Path, ranks: int, planned: Sequence[PlannedRun]):
        self.times = ExpectedTime(planned)
        self._out = out
        self._ranks = ranks

    def train_and_score(self, config: Config, name: str, seed: int) -> tuple[dict, Path]:
        """Train and evaluate, unless that is done.

        Returns:
            The row that evaluate prints, and the run folder.

        Raises:
            UserError: if a program refused its config.
            ProgramFailedError: if a program failed.
        """
        config = replace(config, seed=seed)
        run = _run_folder(config, open_data(config), self._out, name)
        result = run / _RESULT
        if result.exists():
            self.times.skip(run_name(name, seed))
            return json.loads(result.read_text(encoding="utf-8")), run

        with self.times.timing(run_name(name, seed), is_whole=not run.exists()):
            row = self._run_programs(replace(config, run_dir=str(run)))
            with writing_to(self._out):
                write_whole(result, json.dumps(row))
        return row, run

    def _run_programs(self, config: Config) -> dict:
        """Train in the config's run folder, and evaluate; returns the row of evaluate."""
        config_file = f"{config.run_dir}.yaml"
        with writing_to(self._out):
            write_whole(Path(config_file), dump_config(config))
        log = log_of(self._out, Path(config.run_dir).name)
        words = ("--config", config_file, "--resume", "auto")
        run_program("train", *words, ranks=self._ranks, log=log)

        checkpoint = Path(config.run_dir, "checkpoints", LAST)
        words = ("--config", config_file, "--checkpoint", str(checkpoint))
        row = run_program("evaluate", *words, ranks=self._ranks, log=log)
        assert row is not None, "evaluate prints its row"
        return row
