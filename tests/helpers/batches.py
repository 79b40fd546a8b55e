"""What tests compare of a loader's batches."""

import torch

from omnidali.utils.constants import MEAN, STD


def content(batch):
    """A batch as comparable values: what it says, and its pixels."""
    return [
        (
            group.slot.tolist(),
            group.record.tolist(),
            group.labels.tolist(),
            group.source.tolist(),
            group.clips.numpy().tobytes(),
        )
        for group in batch.groups
    ]


def pictures(clips):
    """Normalised clips (N, 3, T, H, W) as pixels on the scale 0..255: (N, T, H, W, 3)."""
    return (clips.permute(0, 2, 3, 4, 1) * torch.tensor(STD) + torch.tensor(MEAN)).numpy()


def assert_decoded_by_dali(loader, *names):
    """DALI has decoded clips of these sources, and left none of their files to the CPU."""
    stats = loader.stats()
    for name in names:
        assert stats[name].by_dali > 0 and stats[name].left_to_cpu == 0, (name, stats[name])


def assert_restores_at_every_step(make, steps):
    """The rest of the stream after a restore at any step equals the uninterrupted one.

    Args:
        make: returns a fresh iterator.
        steps: length of the iterator.
    """
    with make() as batches:
        states = [batches.state_dict()]
        whole = []
        for batch in batches:
            whole.append(content(batch))
            states.append(batches.state_dict())
    assert len(whole) == steps
    for step, state in enumerate(states):
        with make() as batches:
            batches.load_state_dict(state)
            assert [content(batch) for batch in batches] == whole[step:]
