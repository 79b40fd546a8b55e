"""A run from top to bottom: data, model, optimizer, resume, then the loop."""

import contextlib
import functools
import gc
import math
import os
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from omnidali.config.schema import Config
from omnidali.distributed.failure_monitor import reporting_to_peers
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.accuracy import Accuracy, measure_accuracy
from omnidali.evaluation.score import score_items
from omnidali.loading.data import check_shares, open_data, open_loader
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.fusion import FusionIterator, LoaderOptions
from omnidali.models.checkpoint_file import BEST, LAST
from omnidali.models.precision import DTYPES, make_autocast, make_scaler
from omnidali.models.pretrained import load_pretrained
from omnidali.models.recognizers import Recognizer, build_model
from omnidali.planning.train_plan import TrainPlan
from omnidali.training.console import ThroughputMeter, print_on_main, step_line
from omnidali.training.ema import Ema
from omnidali.training.gc_control import closing_loader, collecting_manually
from omnidali.training.meters import SourceMeter
from omnidali.training.run_folder import RunFolder
from omnidali.training.schedule import SaveClock, learning_rate
from omnidali.training.state import NotFiniteError, TrainingState
from omnidali.training.stop_signals import StopSignals
from omnidali.utils.plots import confusion_image


def train(
    config: Config,
    ranks: Ranks,
    resume: str = "none",
    dry_run: int | None = None,
    wrap_loader: Callable[[FusionIterator], FusionIterator] = lambda loader: loader,
) -> dict | None:
    """Run a training; returns the last evaluation's figures.

    Args:
        config: of the run.
        ranks: this process among its peers.
        resume: ``auto`` resumes this run folder, ``none`` starts anew, a path names a
            checkpoint or another run's folder.
        dry_run: stop after so many steps and write nothing but the catalog.
        wrap_loader: puts something between the loader and the loop, such as the clock of
            `python -m benchmarks train`.

    Raises:
        UserError: for everything that the user can correct.
    """
    with RunFolder(config, ranks, resume, writes=not dry_run) as folder, reporting_to_peers():
        return run_training(
            config, ranks, folder, resume=resume, dry_run=dry_run, wrap_loader=wrap_loader
        )


def run_training(
    config: Config,
    ranks: Ranks,
    folder: RunFolder,
    *,
    resume: str,
    dry_run: int | None,
    wrap_loader: Callable[[FusionIterator], FusionIterator],
) -> dict | None:
    """Run a training in a folder of its own; arguments and result as of :func:`train`."""
    say = functools.partial(print_on_main, ranks)
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True

    check_before_data(config, ranks)

    # Data: the catalog is brought up to date once, the plan is made, decoding starts with the loop.
    data = open_data(config, ranks, as_begun=folder.goes_on(resume))
    options: LoaderOptions = {"dtype": DTYPES[config.train.precision]}
    if dry_run:
        options["quarantine"] = Quarantine()  # which is not written
    loader = wrap_loader(open_loader(config, data, ranks, **options))
    say(*data.summary, *loader.routes)
    plan = loader.plan
    steps = loader.end
    assert isinstance(plan, TrainPlan) and steps is not None
    per_epoch = plan.steps_per_epoch
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
    model = model.to(  # type: ignore[call-overload]  # torch's hints lack it
        ranks.device,
        memory_format=layout if config.model.channels_last else torch.contiguous_format,
    )
    ema = Ema(model, config.train.ema) if config.train.ema is not None else None
    compiled = torch.compile(model) if config.train.compile else model
    assert isinstance(compiled, torch.nn.Module)
    network = ranks.wrap(compiled)

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
    training = TrainingState(
        config,
        model,
        ema=ema,
        optimizer=optimizer,
        scaler=scaler,
        loader=loader,
        classes=data.class_names,
    )
    saved, found = folder.checkpoints.load(resume)
    if saved is not None:
        found += training.load(saved)
    ranks.require_equal(training.step, "resume", "the same checkpoint on every rank")

    # nothing refuses this start any more: from here on it writes
    changes = ranks.on_main(lambda: folder.begin(config, saved))
    data.keep_catalog(ranks)
    say(*found, *changes)

    def share_statistics() -> None:  # each rank gathers batch-norm statistics of its own
        ranks.broadcast_buffers(model)
        if ema:
            ranks.broadcast_buffers(ema.average)

    figures: dict | None = None

    def evaluate(step: int) -> Accuracy | None:
        assert data.evaluation is not None and config.evaluation.source is not None
        scored = ema.average if ema else model
        assert isinstance(scored, Recognizer)
        scores = score_items(
            scored,
            data.evaluation,
            source=config.evaluation.source,
            views=config.evaluation.validation,
            config=config,
            ranks=ranks,
            autocast=autocast,
            stop=lambda: stop.received is not None,
        )
        if scores is None:
            say(f"evaluation at step {step} abandoned")
            return None

        accuracy = measure_accuracy(scores, data.evaluation.labels)
        folder.log("evaluation", step, accuracy.as_row())
        image = confusion_image(accuracy.confusion)
        folder.show_image(image, step, name="confusion", tag="evaluation/confusion")
        say(
            f"evaluation at step {step}: top1 {100 * accuracy.top1 / accuracy.items:.2f}"
            f" ({accuracy.top1}/{accuracy.items}), mean class {100 * accuracy.mean_class:.2f}"
            + (f", {accuracy.unreadable} items unreadable" if accuracy.unreadable else "")
        )
        return accuracy

    def keep(files: list[str], stops: bool, final: bool) -> bool:
        """Save, then evaluate if that is owed, then save the result.

        Returns whether the run stops, as a signal can end an evaluation. One that was not finished,
        for whatever reason, stays owed: a resumed run begins with it. LAST comes last in ``files``,
        as it records the best that a file holds.
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
        figures = found.as_row()
        training.owes_evaluation = False
        best = [BEST] if found.top1_of_all > training.best else []
        training.best = max(training.best, found.top1_of_all)
        folder.checkpoints.save(training.as_dict(), *best, *files, final=final)
        return False

    def say_stopped() -> None:
        received = stop.received or "a signal to another rank"
        say(f"stopped by {received} after step {training.step}; go on with --resume auto")

    # The loop
    meter = SourceMeter(names, ranks)
    first_step = loader.next_step
    loader.end = min(steps, first_step + dry_run) if dry_run else steps
    throughput = ThroughputMeter(first_step, steps)
    save_clock = SaveClock(config.train.checkpoint_minutes)
    model.train()
    with (
        closing_loader(loader),
        StopSignals(ranks) as stop,
        folder.rescuing(training),
        reporting_to_peers(),
        collecting_manually(),
    ):
        training.owes_evaluation &= data.evaluation is not None and not dry_run
        if training.owes_evaluation and keep([LAST], stops=False, final=first_step == steps):
            say_stopped()
            return None
        asked = time.perf_counter()
        for batch in loader:
            now = time.perf_counter()
            step = batch.step
            seed_step(config.seed, step, ranks.rank)
            throughput.add_wait(now - asked)
            folder.show_batch(batch, names, data.class_names)

            lr = learning_rate(plan.mixing.schedule_step(step), steps, per_epoch, settings)
            for group in optimizer.param_groups:
                group["lr"] = lr
            updates = (step + 1) % settings.accumulate == 0 or step + 1 == steps
            with (
                network.no_sync()
                if isinstance(network, DistributedDataParallel) and not updates
                else contextlib.nullcontext()
            ):
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
            def due(every: int, updates: bool = updates, done: int = done) -> bool:
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
                    wants_save=ranks.is_main and save_clock.is_due and not dry_run
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
                speed = throughput.read(done, sources["all"]["clips"], stats, ranks.device)
                folder.log("train", done, {"lr": lr, "sources": sources, **speed})
                say(step_line(done, steps, sources=sources, throughput=speed, lr=lr))
                gc.collect(1)
                if not math.isfinite(sources["all"]["loss"]):
                    raise NotFiniteError(done, f"a loss of {sources['all']['loss']}")
            paused = time.perf_counter()
            if to_save and not dry_run:
                stops = keep(to_save, stops, final=at_end)
                save_clock.restart()
            if stops:
                say_stopped()
                break
            asked = time.perf_counter()
            throughput.exclude(asked - paused)
    return figures


def check_before_data(config: Config, ranks: Ranks) -> None:
    """Refuse what can be refused without reading the data, which may take hours.

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
            "Correct the path, which starts from the current folder, or clear it to start from"
            " scratch.",
        )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout a function of (seed, step, rank), so that a resumed run repeats it."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**63)
