"""The training loop: its verbs, and their order."""

import contextlib
import functools
import gc
import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from omnidali.config.schema import Config
from omnidali.distributed.failure_monitor import reporting_to_peers
from omnidali.distributed.ranks import Ranks
from omnidali.evaluation.accuracy import Accuracy
from omnidali.evaluation.precision import LabelPrecision, measure_scores
from omnidali.evaluation.score import score_items
from omnidali.loading.batch import StepBatch
from omnidali.loading.data import Data
from omnidali.loading.fusion import FusionIterator
from omnidali.models.checkpoint_file import BEST, LAST
from omnidali.models.precision import make_autocast, make_scaler
from omnidali.models.recognizers import Recognizer
from omnidali.planning.train_plan import TrainPlan
from omnidali.training.augmentation import Augmentation
from omnidali.training.console import ThroughputMeter, evaluation_line, print_on_main, step_line
from omnidali.training.ema import Ema
from omnidali.training.ending import Ending
from omnidali.training.gc_control import closing_loader, collecting_manually
from omnidali.training.hooks import NO_HOOKS, Hooks
from omnidali.training.meters import SourceMeter
from omnidali.training.model_setup import make_model, make_network, seed_step, summing_gradients
from omnidali.training.objective import Objective
from omnidali.training.optimizer import make_optimizer, set_learning_rate
from omnidali.training.run_folder import RunFolder
from omnidali.training.save_clock import SaveClock
from omnidali.training.schedule import Due, Schedule
from omnidali.training.state import NotFiniteError, TrainingState
from omnidali.training.stop_signals import StopSignals
from omnidali.utils.plots import confusion_image


class Trainer:
    """Trains one network on all sources, in plain PyTorch.

    Each method is a verb, and :meth:`loop` is their order. :class:`Hooks` and subclasses change a
    part; everything else stays as it is.

    Args:
        config: of the run.
        ranks: this process among its peers.
        data: of the config.
        loader: of the data; it is closed at the end of :meth:`run`.
        folder: where the run writes.
        dry_run: steps after which it ends without having written anything; None: a whole run.
        hooks: functions that it calls at fixed places.

    Attributes:
        model: the network itself.
        network: what the forward pass calls: the model compiled and averaged over the ranks.
        ema: the averaged weights, which are evaluated; None without ``train.ema``.
        schedule: what is due when.
        figures: those of the last evaluation; None before.
        speed: those of the last line; None before.
        ending: sees whether a signal, the time or patience ends the run before its last step.
        is_stopped: whether one of these has ended it.

    Raises:
        UserError: if the pretrained weights do not fit the network.
    """

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        data: Data,
        loader: FusionIterator,
        folder: RunFolder,
        *,
        dry_run: int | None = None,
        hooks: Hooks = NO_HOOKS,
    ):
        assert isinstance(loader.plan, TrainPlan) and loader.end is not None
        self.config = config
        self.ranks = ranks
        self.data = data
        self.loader = loader
        self.plan = loader.plan
        self.folder = folder
        self.checkpointer = folder.checkpoints
        self.hooks = hooks
        self.say = functools.partial(print_on_main, ranks)
        self.source_names = tuple(config.sources)

        self.model = make_model(config, data.class_names, ranks, say=self.say)
        self.ema = Ema(self.model, config.train.ema) if config.train.ema is not None else None
        self.network = make_network(self.model, config, ranks)

        self.optimizer = make_optimizer(self.model, config.optimizer, ranks.device)
        self.scaler = make_scaler(config.train.precision, ranks.device)
        self.autocast = make_autocast(config.train.precision, ranks.device)
        self.augment = Augmentation(config.train.augment, config.seed, ranks.device)
        self.objective = Objective(config)
        loss_weights = [source.loss_weight for source in config.sources.values()]
        self.loss_weights = torch.tensor(loss_weights, device=ranks.device)

        self.schedule = Schedule.of(
            config,
            steps=loader.end,
            steps_per_epoch=self.plan.steps_per_epoch,
            evaluates=data.evaluation is not None,
            dry_run=dry_run,
        )
        self.state = TrainingState(
            config,
            self.model,
            ema=self.ema,
            optimizer=self.optimizer,
            scaler=self.scaler,
            loader=loader,
            classes=data.class_names,
        )
        self.meter = SourceMeter(self.source_names, ranks)
        self.throughput = ThroughputMeter(loader.end)
        self.save_clock = SaveClock(config.train.checkpoint_minutes)
        self.signals = StopSignals(ranks)
        limit = folder.time_limit
        self.ending = Ending(self.signals, self.state, schedule=self.schedule, time_limit=limit)
        self.figures: dict | None = None
        self.speed: dict | None = None
        self.is_stopped = False

    def state_dict(self) -> dict[str, object]:
        """Everything that a resume needs, as it was after the last optimizer step."""
        return self.state.state_dict()

    def load_state_dict(self, saved: dict) -> list[str]:
        """Continue from a checkpoint; see :meth:`TrainingState.load_state_dict`."""
        notes = self.state.load_state_dict(saved)
        self.schedule = replace(self.schedule, first=self.state.first_step)
        return notes

    def run(self) -> dict | None:
        """Train until the last step or a signal; returns the figures of the last evaluation."""
        self.loader.end = self.schedule.last
        self.throughput.begin(self.schedule.first)
        self.save_clock.restart()
        self.model.train()
        with self._guarded():
            self.make_up_evaluation()
            self.is_stopped = self.is_stopped or self.ending.lost_patience()
            if not self.is_stopped:
                self.loop()
            if self.is_stopped:
                self.say(self.ending)
        return self.figures

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever ends the run inside: close the loader, save, and let the other ranks know."""
        with (
            closing_loader(self.loader),
            self.signals,
            self.folder.rescuing(self.state),
            reporting_to_peers(),
            collecting_manually(),
        ):
            yield

    def loop(self) -> None:
        """Train step by step; between two steps log, save and evaluate where that is due."""
        for batch in self.batches():
            self.train_step(batch)
            due = self.agree_on_due(batch.step + 1)
            if due.logs:
                self.log(due.step)
            if due.files:
                self.save(due)
            if due.evaluates:
                self.validate(due)
            if self.is_stopped:
                break

    def batches(self) -> Iterator[StepBatch]:
        """Yield the batch of each step, as the hooks give it.

        Raises:
            RuntimeError: if the hooks leave a step out or end early: a run that lacks steps must
                not look finished.
        """
        step = self.schedule.first
        for batch in self.throughput.timing(self.hooks.wrap_loader(self.loader)):
            seed_step(self.config.seed, step, self.ranks.rank)
            batch = self.hooks.on_batch(self.augment(batch))
            if not isinstance(batch, StepBatch) or batch.step != step:
                raise RuntimeError(f"the hooks gave no batch of step {step}, but {batch!r:.80}")
            yield batch
            step += 1
        if step < self.schedule.last:
            end = self.schedule.last
            raise RuntimeError(f"wrap_loader ended after step {step}, not after {end}")

    def train_step(self, batch: StepBatch) -> None:
        """Forward and backward; the last of ``accumulate`` batches moves the weights."""
        self.folder.show_batch(batch, self.source_names, self.data.class_names)
        set_learning_rate(self.optimizer, self.learning_rate(batch.step))

        updates = self.schedule.updates(batch.step + 1)
        with summing_gradients(self.network, updates):
            losses, logits = self.forward(batch)
            loss = (losses * self.loss_weights[batch.source]).mean()
            self.scaler.scale(loss / self.config.optimizer.accumulate).backward()
        if updates:
            self.update(batch.step + 1)
        self.meter.add(losses.detach(), logits.detach(), batch.labels, batch.source)

    def learning_rate(self, step: int) -> float:
        """That of the schedule for a step, counted from 0, before the factors of its groups."""
        return self.schedule.learning_rate(self.plan.mixing.schedule_step(step))

    def forward(self, batch: StepBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses (N,) and logits (N, classes) of a batch's clips."""
        is_apart = self.config.model.norm == "target_only"
        with self.autocast:
            logits = self.network(batch.clips, batch.auxiliary if is_apart else ())
        return self.objective(logits, batch.labels), logits

    def update(self, step: int) -> None:
        """Move the weights and their average; ``step`` is the number of steps done then."""
        with self.state.updating(step, self.schedule.evaluates(step)):
            self.scaler.unscale_(self.optimizer)
            largest = self.config.optimizer.clip_grad_norm
            if largest:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            if self.ema is not None:
                self.ema.update(self.model)

    def agree_on_due(self, step: int) -> Due:
        """What is due after a step; the ranks agree on a stop, and on a save by time."""
        saves = False
        if self.schedule.updates(step) and step != self.schedule.last:
            self.ending.check_time()
            wants_save = self.ranks.is_main and self.save_clock.is_old
            self.is_stopped, saves = self.signals.agreed(wants_save)

        # a save that has failed is tried again with the next line
        retries = self.checkpointer.owes_save and self.schedule.is_due(
            step, self.schedule.log_every
        )
        return self.schedule.due(step, saves=saves or retries, stops=self.is_stopped)

    def log(self, step: int) -> None:
        """Print the step's line, and write its figures.

        Raises:
            NotFiniteError: if the loss is not finite.
        """
        stats = self.loader.stats()
        sources = self.meter.read(stats)
        clips = sources["all"]["clips"]
        self.speed = self.throughput.read(step, clips, stats, self.ranks.device)
        lr = self.learning_rate(step - 1)
        self.folder.log("train", step, {"lr": lr, "sources": sources, **self.speed})
        self.say(
            step_line(step, self.schedule.steps, sources=sources, throughput=self.speed, lr=lr)
        )

        gc.collect(1)
        if not math.isfinite(sources["all"]["loss"]):
            raise NotFiniteError(step, f"a loss of {sources['all']['loss']}")

    def save(self, due: Due) -> None:
        """Save; before an evaluation last.pt alone, which owes it then."""
        with self.throughput.paused():
            self.ranks.broadcast_buffers(self.model)  # each rank gathers statistics of its own
            if self.ema is not None:
                self.ranks.broadcast_buffers(self.ema.average)
            gc.collect()
            files = (LAST,) if due.evaluates else due.files
            self.checkpointer.save(self.state_dict(), *files, final=due.is_end or self.is_stopped)
            self.save_clock.restart()

    def validate(self, due: Due) -> None:
        """Evaluate, and save the result.

        A signal can end an evaluation. One that was not finished, for whatever reason, stays owed:
        a resumed run begins with it.
        """
        with self.throughput.paused():
            accuracy = self.evaluate(due.step)
            if accuracy is None:
                self.say(f"evaluation at step {due.step} abandoned")
                self.is_stopped = True
                files = due.files
                # what was trained is saved already, unless that failed
                is_final = self.checkpointer.owes_save
            else:
                self.figures = accuracy.as_row()
                files = (*self.record(due.step, accuracy.result), *due.files)
                self.is_stopped = self.ending.lost_patience()
                is_final = due.is_end or self.is_stopped
            self.checkpointer.save(self.state_dict(), *files, final=is_final)
            self.save_clock.restart()

    def record(self, step: int, result: float) -> list[str]:
        """Note an evaluation's result, percent; returns the files that are to hold the best."""
        is_best = self.state.record_evaluation(result)
        kept = self.checkpointer.best_files.name_for(step, result)
        return [name for name in (BEST if is_best else None, kept) if name is not None]

    def make_up_evaluation(self) -> None:
        """Finish the evaluation that an earlier process of this run owes, if there is one."""
        can_evaluate = self.data.evaluation is not None and self.schedule.dry_run is None
        self.state.owes_evaluation = self.state.owes_evaluation and can_evaluate
        if self.state.owes_evaluation:
            step = self.schedule.first
            due = Due(step, is_end=step == self.schedule.steps, files=(LAST,), evaluates=True)
            self.save(due)
            self.validate(due)

    def evaluate(self, step: int) -> Accuracy | LabelPrecision | None:
        """Score the evaluation source, and report the accuracy; None after a signal."""
        assert self.data.evaluation is not None and self.config.evaluation.source is not None
        scored = self.ema.average if self.ema is not None else self.model
        assert isinstance(scored, Recognizer)
        scores = score_items(
            scored,
            self.data.evaluation,
            source=self.config.evaluation.source,
            views=self.config.evaluation.validation,
            config=self.config,
            ranks=self.ranks,
            autocast=self.autocast,
            trial=self.loader.trial,
            stop=self.ending.abandons_evaluation,
        )
        if scores is None:
            return None

        accuracy = measure_scores(scores, self.data.evaluation)
        self.folder.log("evaluation", step, accuracy.as_row())
        if isinstance(accuracy, Accuracy):
            picture = confusion_image(accuracy.confusion)
            self.folder.show_image("evaluation/confusion", step, picture)
        self.say(evaluation_line(step, accuracy))
        return accuracy
