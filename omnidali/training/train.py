"""A training from top to bottom: data, model, resume, then the loop."""

import torch

from omnidali.config.schema import Config
from omnidali.distributed.failure_monitor import reporting_to_peers
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.loader_options import LoaderOptions
from omnidali.loading.open_loader import check_shares, open_loader, try_decoders
from omnidali.models.precision import DTYPES
from omnidali.training.console import print_on_main
from omnidali.training.forewarnings import check_and_warn, warn_of_length
from omnidali.training.hooks import NO_HOOKS, Hooks
from omnidali.training.run_folder import RunFolder
from omnidali.training.trainer import Trainer

ONE_RANK = Ranks()


def train(
    config: Config,
    ranks: Ranks = ONE_RANK,
    resume: str = "none",
    dry_run: int | None = None,
    hooks: Hooks = NO_HOOKS,
    trainer_class: type[Trainer] = Trainer,
) -> dict | None:
    """Run a training; every rank calls this.

    Args:
        config: of the run.
        ranks: this process among its peers.
        resume: ``auto`` resumes this run folder, ``none`` starts anew, a path names a
            checkpoint or another run's folder.
        dry_run: stop after so many steps and write nothing but the catalog.
        hooks: functions that the training calls at fixed places.
        trainer_class: a subclass of :class:`Trainer`, for what hooks do not reach.

    Returns:
        The figures of the last evaluation, None if there was none; after a dry run its ``steps``
        and the speed in its last line.

    Raises:
        UserError: for everything that the user can correct.

    Example::

        train(load_config("configs/demo.yaml", ["data_root=world"]), resume="auto")
    """
    if dry_run is not None and dry_run < 1:
        raise UserError("dry_run", "1 step or more", str(dry_run), "Correct the number.")
    with (
        RunFolder(config, ranks, resume, writes=dry_run is None, loggers=hooks.loggers) as folder,
        reporting_to_peers(),
    ):
        trainer = prepare(
            config,
            ranks,
            folder,
            resume=resume,
            dry_run=dry_run,
            hooks=hooks,
            trainer_class=trainer_class,
        )
        figures = trainer.run()
        if dry_run is not None and trainer.speed is not None:
            return {"steps": trainer.loader.next_step - trainer.schedule.first, **trainer.speed}
        return figures


def prepare(
    config: Config,
    ranks: Ranks,
    folder: RunFolder,
    *,
    resume: str,
    dry_run: int | None,
    hooks: Hooks,
    trainer_class: type[Trainer],
) -> Trainer:
    """Make everything ready for the first step, in a folder of the run's own.

    Arguments and errors as of :func:`train`.
    """
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True
    check_shares(config, ranks.world)
    print_on_main(ranks, *check_and_warn(config, ranks))

    # the catalog is brought up to date once, the plan is made; decoding starts with the loop
    data = open_data(config, ranks, as_begun=folder.goes_on(resume))
    options: LoaderOptions = {"dtype": DTYPES[config.train.precision]}
    if dry_run is not None:
        options["quarantine"] = Quarantine()  # which is not written
    saved, found = folder.checkpoints.load(resume)
    kept = saved["loader"].get("trial") if saved is not None else None
    trial = options["trial"] = try_decoders(config, data, ranks, kept)
    loader = open_loader(config, data, ranks, **options)
    print_on_main(ranks, *data.summary, *loader.routes, *trial.lines)

    trainer = trainer_class(config, ranks, data, loader, folder, dry_run=dry_run, hooks=hooks)
    schedule = trainer.schedule
    warnings = warn_of_length(
        config, steps=schedule.steps, steps_per_epoch=schedule.steps_per_epoch
    )
    print_on_main(ranks, *warnings)
    if saved is not None:
        found += trainer.load_state_dict(saved)
    ranks.require_equal(trainer.state.step, "resume", "the same checkpoint on every rank")

    # nothing refuses this start any more: from here on it writes
    changes = ranks.on_main(lambda: folder.begin(config, saved, trial.record))
    data.keep_catalog(ranks)
    print_on_main(ranks, *found, *changes)
    return trainer
