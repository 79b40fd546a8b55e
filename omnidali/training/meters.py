"""Loss and top-1 per source, gathered on the device: a log line costs one synchronisation."""

from collections.abc import Mapping, Sequence

import torch

from omnidali.distributed.ranks import Ranks
from omnidali.loading.stats import SourceStats


class SourceMeter:
    """Sums over the steps since the last :meth:`read`.

    Args:
        names: of the sources, in the config's order.
        ranks: whose sums are added.
    """

    def __init__(self, names: Sequence[str], ranks: Ranks):
        self._names = tuple(names)
        self._ranks = ranks
        self._sums = torch.zeros(len(names), 3, dtype=torch.float64, device=ranks.device)

    @torch.no_grad()
    def add(
        self, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, source: torch.Tensor
    ) -> None:
        """Count a batch.

        A clip with a soft label is right by the share that the predicted class has in it; one with
        several labels if the class that scores highest is one of them.

        Args:
            losses: (N,).
            logits: (N, classes).
            labels: (N,), or soft ones (N, classes).
            source: number of each clip's source (N,).
        """
        best = logits.argmax(dim=1)
        correct = best == labels if labels.ndim == 1 else labels.gather(1, best[:, None])[:, 0]
        rows = torch.stack(
            [losses.double(), correct.double(), torch.ones_like(losses, dtype=torch.float64)], dim=1
        )
        self._sums.index_add_(0, source, rows)

    def read(self, stats: Mapping[str, SourceStats]) -> dict[str, dict[str, float]]:
        """Sums over all ranks; loss, top1 and clips start again from zero.

        Args:
            stats: of the loader, by source.

        Returns:
            {source: {loss, top1, clips, substituted, replaced_frames}}, and the same for ``all``.
        """
        faults = torch.tensor(
            [[stats[name].substituted, stats[name].replaced_frames] for name in self._names]
        )
        sums = self._ranks.sum(torch.cat([self._sums, faults.to(self._sums)], dim=1)).cpu()
        self._sums.zero_()

        table = {"all": sums.sum(dim=0)} | {
            name: row for name, row in zip(self._names, sums, strict=True) if row[2] > 0
        }
        return {
            name: {
                "loss": float(loss / max(count, 1)),
                "top1": float(100 * correct / max(count, 1)),
                "clips": int(count),
                "substituted": int(substituted),
                "replaced_frames": int(replaced),
            }
            for name, (loss, correct, count, substituted, replaced) in table.items()
        }
