"""Everything that a run needs to continue, as it was after the last optimizer step."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

import torch

from omnidali.config.convert import config_to_dict
from omnidali.config.schema import Config
from omnidali.errors import UserError
from omnidali.loading.fusion import FusionIterator
from omnidali.models.checkpoint_file import LAST, load_weights
from omnidali.models.recognizers import Recognizer
from omnidali.training.early_stop import EarlyStop
from omnidali.training.ema import Ema
from omnidali.training.optimizer import load_optimizer_state

_STEP_SECONDS = 10.0  # that an optimizer step may take; after that the state counts as incomplete


class NotFiniteError(UserError):
    """A loss or weights that are not finite: what was trained last is not worth saving."""

    def __init__(self, step: int, got: str):
        super().__init__(
            f"step {step}",
            "a finite loss and finite weights",
            got,
            f"Lower optimizer.lr or lengthen the warm-up; {LAST} is from before.",
        )


class TrainingState:
    """Weights, averages, momentum and the loader's place: what a checkpoint holds.

    Batch norms move their statistics in the forward pass, long before the optimizer moves the
    weights. A copy of them is kept at every optimizer step, so that the state of that step can be
    saved at any later moment: when the loader fails, when the memory runs out in the next forward
    pass, or when another rank dies.

    Args:
        config: of the run.
        model: the network itself, without wrappers.
        ema: the averaged weights, if there are any.
        optimizer: of the model.
        scaler: of its gradients.
        loader: gives the batches.
        classes: names of the classes, in label order.

    Attributes:
        first_step: steps done before this process began.
        step: steps done up to the last optimizer step.
        best: top-1 of the best evaluation, percent; -1 before the first one.
        owes_evaluation: whether an evaluation is due that has not been finished.
        early_stop: whether the evaluations no longer get better.
    """

    def __init__(
        self,
        config: Config,
        model: Recognizer,
        *,
        ema: Ema | None,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        loader: FusionIterator,
        classes: Sequence[str],
    ):
        self.first_step: int = loader.next_step
        self.step = self.first_step
        self.best = -1.0
        self.owes_evaluation = False
        self.early_stop = EarlyStop(config.train.patience, config.train.min_delta)
        self._config = config
        self._model = model
        self._ema = ema
        self._optimizer = optimizer
        self._scaler = scaler
        self._loader = loader
        self._classes = list(classes)
        self._is_complete = True  # False during an optimizer step
        self._updating = threading.Lock()  # held during an optimizer step

        saved = model.state_dict().keys()
        self._buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
        self._statistics = {name: buffer.clone() for name, buffer in self._buffers.items()}

    @contextlib.contextmanager
    def updating(self, step: int, evaluates: bool) -> Iterator[None]:
        """Enclose an optimizer step.

        Args:
            step: number of steps done after it.
            evaluates: whether an evaluation is due then. It is owed until it is finished.
        """
        with self._updating:
            self._is_complete = False
            yield
            self.step = step
            self.owes_evaluation = evaluates
            self._remember_statistics()
            self._is_complete = True

    def record_evaluation(self, result: float) -> bool:
        """Note that the evaluation that was due is finished.

        Args:
            result: its top-1 accuracy, or mean average precision of several labels, percent.

        Returns:
            Whether it is the best one so far.
        """
        self.owes_evaluation = False
        self.early_stop.record(result)
        is_best = result > self.best
        self.best = max(self.best, result)
        return is_best

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep another thread from an optimizer step while this one saves the last, if possible."""
        is_held = self._updating.acquire(timeout=_STEP_SECONDS)
        try:
            yield
        finally:
            if is_held:
                self._updating.release()

    @torch.no_grad()
    def _remember_statistics(self) -> None:
        if self._buffers:
            torch._foreach_copy_(list(self._statistics.values()), list(self._buffers.values()))

    def state_dict(self) -> dict[str, object]:
        """The checkpoint of the last optimizer step; its tensors are the model's own.

        Raises:
            NotFiniteError: if a weight is not finite.
            RuntimeError: if an error occurred in the middle of an optimizer step.
        """
        if not self._is_complete:
            raise RuntimeError("the error came in the middle of an optimizer step")
        weights = {**self._model.state_dict(), **self._statistics}
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise NotFiniteError(self.step, "weights that are not")

        config = self._config
        return {
            "state_dict": weights,
            "ema": self._ema.average.state_dict() if self._ema else None,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "loader": {**self._loader.state_dict(), "step": self.step},
            "best": self.best,
            "owes_evaluation": self.owes_evaluation,
            "early_stop": self.early_stop.state_dict(),
            "classes": self._classes,
            "hold_out": {
                name: list(source.hold_out)
                for name, source in config.sources.items()
                if source.hold_out
            },
            "model": self._model.description,
            "config": config_to_dict(config),
        }

    def load_state_dict(self, saved: dict) -> list[str]:
        """Continue from a checkpoint.

        Returns:
            A line for everything that changes the pixels but not the order; see
            :meth:`~omnidali.loading.fusion.FusionIterator.load_state_dict`.

        Raises:
            UserError: if the checkpoint is of another model, plan or set of classes.
        """
        load_weights(self._model, saved, "resume", resumes=True)
        notes = self._loader.load_state_dict(saved["loader"])
        if saved["classes"] != self._classes:
            raise UserError(
                "resume",
                "the classes that the checkpoint was trained with",
                "others",
                "Restore the old class names, or start anew in another run_dir.",
            )

        kind = self._config.optimizer.name
        note = load_optimizer_state(self._optimizer, saved["optimizer"], self._model, kind)
        notes += [note] if note else []
        self._scaler.load_state_dict(saved["scaler"])
        if self._ema is not None:
            self._ema.average.load_state_dict(saved["ema"] or saved["state_dict"])

        self.best = saved["best"]
        self.owes_evaluation = saved.get("owes_evaluation", False)
        self.early_stop.load_state_dict(saved.get("early_stop", {"best": self.best, "stale": 0}))
        self.first_step = self._loader.next_step
        self.step = self.first_step
        self._remember_statistics()
        return notes
