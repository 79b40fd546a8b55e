"""Train TSN or SlowOnly jointly on videos and photos.

    python train.py --config configs/demo.yaml torchrun --nproc-per-node 8 train.py --config
    configs/tsn_omni.yaml data_root=/data train.epochs=50

The story of a run, top to bottom: data, model, optimizer, resume, then the loop.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from omnidali.cli.arguments import Parser, use_utf8
from omnidali.cli.error_report import run_reporting_errors
from omnidali.config.load import dump_config, load_config
from omnidali.config.schema import Config
from omnidali.distributed.failure_monitor import reporting_to_peers
from omnidali.distributed.ranks import Ranks, end_ranks, start_ranks
from omnidali.errors import UserError
from omnidali.evaluation.accuracy import Accuracy, measure
from omnidali.evaluation.score import score_items
from omnidali.loading.data import check_shares, open_data, open_loader
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.fusion import FusionIterator
from omnidali.models.checkpoint_file import BEST, LAST
from omnidali.models.precision import DTYPES, make_autocast, make_scaler
from omnidali.models.recognizers import build_model
from omnidali.models.weights import load_pretrained
from omnidali.training.confusion_image import confusion_picture
from omnidali.training.console import Pace, make_say, step_line
from omnidali.training.ema import Ema
from omnidali.training.gc_control import closing_behind, collecting_when_told
from omnidali.training.meters import SourceMeter
from omnidali.training.run_folder import RunFolder
from omnidali.training.schedule import SaveClock, learning_rate
from omnidali.training.state import NotFiniteError, TrainingState
from omnidali.training.stop_signals import StopSignals
from omnidali.utils import streams
from omnidali.utils.untrusted_text import say


def train(
    config: Config,
    ranks: Ranks,
    resume: str = "none",
    dry_run: int | None = None,
    wrap_loader: Callable[[FusionIterator], FusionIterator] = lambda loader: loader,
) -> dict | None:
    """Run a training; returns the last evaluation's figures.

    Args:
        resume: ``auto`` goes on where this run folder stopped, ``none`` starts anew, a path names a
            checkpoint or another run's folder.
        dry_run: stop after so many steps and write nothing but the catalog.
        wrap_loader: puts something between the loader and the loop, such as the clock of
            `python -m benchmarks train`.

    Raises:
        UserError: for everything that the user can put right.
    """
    with RunFolder(config, ranks, resume, writes=not dry_run) as folder, reporting_to_peers():
        return run_training(config, ranks, folder, resume, dry_run, wrap_loader)


def run_training(
    config: Config,
    ranks: Ranks,
    folder: RunFolder,
    resume: str,
    dry_run: int | None,
    wrap_loader: Callable[[FusionIterator], FusionIterator],
) -> dict | None:
    """The run itself, in a folder that is its own; arguments and result as those of :func:`train`."""
    say = make_say(ranks)
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True

    check_before_data(config, ranks)

    # Data: the catalog is brought up to date once, the plan is made, decoding starts with the loop.
    data = open_data(config, ranks, as_begun=folder.goes_on(resume))
    kept = {"quarantine": Quarantine()} if dry_run else {}
    loader = wrap_loader(
        open_loader(config, data, ranks, dtype=DTYPES[config.train.precision], **kept)
    )
    say(*data.summary, *loader.routes)
    per_epoch = loader.plan.steps_per_epoch
    steps = loader.end
    evaluate_every = config.evaluation.every_steps or max(
        1, round(config.evaluation.every_epochs * per_epoch)
    )
    names = tuple(config.sources)

    # Model
    model = build_model(config.model, len(data.class_names), config.clip.clip_len)
    if config.model.pretrained:
        say(
            load_pretrained(
                model, config.model.pretrained, config.model.pretrained_head, data.class_names
            )
        )
    if config.model.sync_norm:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    layout = torch.channels_last if config.model.name == "tsn" else torch.channels_last_3d
    model = model.to(
        ranks.device,
        memory_format=layout if config.model.channels_last else torch.contiguous_format,
    )
    ema = Ema(model, config.train.ema) if config.train.ema is not None else None
    network = ranks.wrap(torch.compile(model) if config.train.compile else model)

    # Optimizer
    settings = config.optimizer
    optimizer = torch.optim.SGD(
        model.parameters(),
        settings.lr,
        settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=ranks.device.type == "cuda",
    )
    scaler = make_scaler(config.train.precision, ranks.device)
    autocast = make_autocast(config.train.precision, ranks.device)
    loss_weights = torch.tensor(
        [source.loss_weight for source in config.sources.values()], device=ranks.device
    )

    # Resume
    training = TrainingState(config, model, ema, optimizer, scaler, loader, data.class_names)
    saved, found = folder.checkpoints.load(resume)
    if saved is not None:
        found += training.load(saved)
    ranks.require_equal(training.step, "resume", "the same checkpoint on every rank")

    # Nothing refuses this start any more: what it changes is changed now
    changes = ranks.on_main(lambda: folder.begin(config, saved))
    data.keep_catalog(ranks)
    say(*found, *changes)

    def share_statistics() -> None:  # each rank gathers batch-norm statistics of its own
        ranks.broadcast_buffers(model)
        if ema:
            ranks.broadcast_buffers(ema.average)

    def evaluate(step: int) -> Accuracy | None:
        scores = score_items(
            ema.average if ema else model,
            data.evaluation,
            config.evaluation.source,
            config.evaluation.validation,
            config,
            ranks,
            autocast,
            lambda: stop.heard is not None,
        )
        if scores is None:
            say(f"evaluation at step {step} abandoned")
            return None
        accuracy = measure(scores, data.evaluation.labels)
        folder.log("evaluation", step, accuracy.as_row())
        folder.show_confusion(confusion_picture(accuracy.confusion), step)
        say(
            f"evaluation at step {step}: top1 {100 * accuracy.top1 / accuracy.items:.2f}"
            f" ({accuracy.top1}/{accuracy.items}), mean class {100 * accuracy.mean_class:.2f}"
            + (f", {accuracy.unreadable} items unreadable" if accuracy.unreadable else "")
        )
        return accuracy

    def keep(files: list[str], stops: bool, final: bool) -> bool:
        """Save, then evaluate where that is owed, then write down what came out.

        Returns whether the run stops, as a signal can end an evaluation. One that was not finished,
        for whatever reason, stays owed: a resumed run begins with it. LAST is the last of ``files``
        where it is among them, as it is told of the best that a file holds.
        """
        nonlocal figures
        share_statistics()
        gc.collect()
        if not training.owes_evaluation or stops:
            folder.checkpoints.save(training.as_dict(), *files, final=final or stops)
            return stops

        folder.checkpoints.save(training.as_dict(), LAST, final=final)
        found = evaluate(training.step)
        if found is None:
            folder.checkpoints.save(training.as_dict(), *files, final=folder.checkpoints.owes_save)
            return True
        figures, training.owes_evaluation = found.as_row(), False
        best = [BEST] if found.top1_of_all > training.best else []
        training.best = max(training.best, found.top1_of_all)
        folder.checkpoints.save(training.as_dict(), *best, *files, final=final)
        return False

    def say_stopped() -> None:
        heard = stop.heard or "a signal to another rank"
        say(f"stopped by {heard} after step {training.step}; go on with --resume auto")

    # The loop
    meter, figures, first_step = SourceMeter(names, ranks), None, loader.next_step
    loader.end = min(steps, first_step + dry_run) if dry_run else steps
    pace, saving = Pace(first_step, steps), SaveClock(config.train.checkpoint_minutes)
    model.train()
    with (
        closing_behind(loader),
        StopSignals(ranks) as stop,
        folder.rescuing(training),
        reporting_to_peers(),
        collecting_when_told(),
    ):
        training.owes_evaluation &= data.evaluation is not None and not dry_run
        if training.owes_evaluation:
            if keep([LAST], stops=False, final=first_step == steps):
                say_stopped()
                return None
        asked = time.perf_counter()
        for batch in loader:
            now, step = time.perf_counter(), batch.step
            seed_step(config.seed, step, ranks.rank)
            pace.waited(now - asked)
            folder.show_batch(batch, names, data.class_names)

            lr = learning_rate(loader.plan.mixing.scheduled(step), steps, per_epoch, settings)
            for group in optimizer.param_groups:
                group["lr"] = lr
            updates = (step + 1) % settings.accumulate == 0 or step + 1 == steps
            with network.no_sync() if ranks.world > 1 and not updates else contextlib.nullcontext():
                labels = batch.labels
                with autocast:
                    logits = network(
                        batch.clips, batch.auxiliary if config.model.norm == "target_only" else ()
                    )
                losses = F.cross_entropy(logits.float(), labels, reduction="none")
                scaler.scale(
                    (losses * loss_weights[batch.source]).mean() / settings.accumulate
                ).backward()
            done = step + 1
            at_end = done == loader.end

            # at the first optimizer step from each multiple of `every` on
            def due(every: int) -> bool:
                return updates and done % every < settings.accumulate

            evaluates = (
                data.evaluation is not None and not dry_run and (due(evaluate_every) or at_end)
            )
            if updates:
                with training.updating(done, evaluates):
                    scaler.unscale_(optimizer)
                    if settings.clip_grad_norm:
                        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm)
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad(set_to_none=True)
                    if ema is not None:
                        ema.update(model)
            meter.add(losses.detach(), logits.detach(), labels, batch.source)

            stops = by_time = False
            if updates and not at_end:
                stops, by_time = stop.agreed(
                    wants_save=ranks.is_main and saving.is_due and not dry_run
                )
            retries = folder.checkpoints.owes_save and due(config.train.log_every)
            to_save = (
                [f"step-{done}.pt"]
                if config.train.keep_every and due(config.train.keep_every)
                else []
            )
            if (
                evaluates
                or at_end
                or stops
                or by_time
                or retries
                or due(config.train.checkpoint_every)
            ):
                to_save.append(LAST)
            if done % config.train.log_every == 0 or to_save:
                stats = loader.stats()
                sources = meter.read(stats)
                speed = pace.read(done, sources["all"]["clips"], stats, ranks.device)
                folder.log("train", done, {"lr": lr, "sources": sources, **speed})
                say(step_line(done, steps, sources, speed, lr))
                gc.collect(1)
                if not math.isfinite(sources["all"]["loss"]):
                    raise NotFiniteError(done, f"a loss of {sources['all']['loss']}")
            paused = time.perf_counter()
            if to_save and not dry_run:
                stops = keep(to_save, stops, final=at_end)
                saving.restart()
            if stops:
                say_stopped()
                break
            asked = time.perf_counter()
            pace.paused(asked - paused)
    return figures


def check_before_data(config: Config, ranks: Ranks) -> None:
    """Refuse what needs no look at the data, which may take hours.

    Raises:
        UserError: naming the setting.
    """
    check_shares(config, ranks.world)
    if config.model.sync_norm and ranks.device.type != "cuda":
        raise UserError("model.sync_norm", "GPUs", "the CPU", "Switch it off.")
    if config.model.pretrained and not os.path.isfile(config.model.pretrained):
        raise UserError(
            str(config.model.pretrained),
            "a checkpoint",
            "no such file",
            "Correct the path, which starts from the current folder, or clear it to start from scratch.",
        )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout a function of (seed, step, rank), so that a resumed run draws what the whole one
    draws.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**63)


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 2 for the user's mistakes."""
    if arguments is None:
        use_utf8()
    parser = Parser(description="Train TSN or SlowOnly jointly on videos and photos.")
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_argument(
        "--resume",
        default="none",
        metavar="auto|none|PATH",
        help="auto: go on where run_dir stopped, if it holds a run; PATH: a checkpoint or run folder",
    )
    parser.add_argument(
        "--dry-run", type=int, metavar="N", help="train N steps and write nothing but the catalog"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved config and stop"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="any setting of the config"
    )
    options = parser.parse_intermixed_args(arguments)

    def story() -> None:
        if options.dry_run is not None and options.dry_run < 1:
            raise UserError(
                "--dry-run", "1 step or more", str(options.dry_run), "Correct the number."
            )
        if options.print_config:
            say(*dump_config(load_config(options.config, options.overrides)).splitlines())
            return
        streams.never_wait()
        # first, so that a mistake in one machine's copy of the config ends all ranks
        ranks = start_ranks()
        train(
            load_config(options.config, options.overrides), ranks, options.resume, options.dry_run
        )
        end_ranks()

    return run_reporting_errors(story, rank=int(os.environ.get("RANK", 0)))


if __name__ == "__main__":
    sys.exit(main())
