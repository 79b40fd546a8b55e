"""From logits to probabilities, by the kind of labels that a network was trained on."""

import torch


def to_probabilities(logits: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """The probabilities of classes, in the precision of the logits but at least float32.

    Args:
        logits: (N, classes), of any floating-point type.
        multi_label: whether the network was trained on several labels an item: then each class has
            a probability of its own (sigmoid); else they sum to 1 (softmax).

    >>> to_probabilities(torch.tensor([[0.0, 0.0]]), multi_label=False).tolist()
    [[0.5, 0.5]]
    >>> to_probabilities(torch.tensor([[0.0, 0.0]]), multi_label=True).sum().item()
    1.0
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.sigmoid() if multi_label else logits.softmax(dim=1)


def to_log_probabilities(logits: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """The logarithms of :func:`to_probabilities`, also where those round to 0."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if multi_label:
        return torch.nn.functional.logsigmoid(logits)
    return logits.log_softmax(dim=1)
