"""When a training ends because its evaluations no longer get better."""

from collections.abc import Mapping


class EarlyStop:
    """Counts evaluations without a better one; the same on every rank, and in each checkpoint.

    Args:
        patience: evaluations without a better one after which the training ends; None: it goes on.
        min_delta: an evaluation is better if it gains more than this, percent.

    Attributes:
        best: result of the last better evaluation, percent; -1 before the first one.
        stale: evaluations since then.

    >>> stop = EarlyStop(patience=2)
    >>> [stop.record(result) or stop.is_due for result in (50.0, 60.0, 60.0, 59.0)]
    [False, False, False, True]
    """

    def __init__(self, patience: int | None, min_delta: float = 0.0):
        self.best = -1.0
        self.stale = 0
        self._patience = patience
        self._min_delta = min_delta

    @property
    def is_due(self) -> bool:
        """Whether the training ends now."""
        return self._patience is not None and self.stale >= self._patience

    def record(self, result: float) -> None:
        """Count an evaluation; ``result`` is in percent."""
        is_better = self.best < 0 or result > self.best + self._min_delta
        self.stale = 0 if is_better else self.stale + 1
        self.best = result if is_better else self.best

    def __str__(self) -> str:
        return f"none of the last {self.stale} evaluations is better than {self.best:.2f}"

    def state_dict(self) -> dict[str, float]:
        """What a resume needs."""
        return {"best": self.best, "stale": self.stale}

    def load_state_dict(self, saved: Mapping[str, float]) -> None:
        """Continue from a checkpoint, with the present patience."""
        self.best = float(saved["best"])
        self.stale = int(saved["stale"])
