"""FusionIterator in PyTorch's DataLoader and torchdata's StatefulDataLoader: the same batches as
without them.
"""

import copy
import itertools
import os
import pickle
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from conftest import SOURCES
from helpers.batches import content
from helpers.image_source import RANDOM, make_plan
from omnidali.errors import OtherProcessError, UserError
from omnidali.loading.fusion import FusionIterator

STEPS = 5


def open_fusion(tables, **options):
    plan = make_plan(tables, SOURCES, RANDOM)
    return FusionIterator(plan, list(SOURCES.values()), **{"threads": 2, "end": STEPS, **options})


@pytest.fixture(scope="module")
def whole(tables):
    """The content of each step."""
    with open_fusion(tables) as batches:
        return [content(batch) for batch in batches]


def test_dataloader_gives_the_batches_as_they_are(tables, whole):
    with open_fusion(tables) as batches, warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = DataLoader(batches, batch_size=None)
        assert isinstance(batches, IterableDataset)
        assert len(loader) == len(batches) == STEPS
        assert [content(batch) for batch in loader] == whole


def test_loop_after_a_break_goes_on_and_after_the_end_gets_nothing(tables, whole, caplog):
    with open_fusion(tables) as batches:
        loader = DataLoader(batches, batch_size=None)
        shown = [content(batch) for batch in itertools.islice(loader, 2)]
        for batch in loader:
            shown.append(content(batch))
            break
        shown += [content(batch) for batch in batches]
        assert shown == whole
        assert not caplog.records

        assert list(loader) == [] and len(loader) == STEPS
        assert "the loader is at its end, step 5: this loop gets nothing" in caplog.text


def test_length_of_an_endless_loader_is_refused(tables):
    with open_fusion(tables, end=None) as batches:
        with pytest.raises(TypeError, match="has no end: open it with end="):
            len(batches)
        with pytest.raises(TypeError, match="has no end"):
            len(DataLoader(batches, batch_size=None))
        # these ask for a length as a hint
        assert len(list(itertools.islice(DataLoader(batches, batch_size=None), 2))) == 2


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("loader_class", [DataLoader, StatefulDataLoader])
def test_worker_processes_are_refused(tables, method, loader_class):
    with open_fusion(tables) as batches:
        loader = loader_class(
            batches, batch_size=None, num_workers=1, multiprocessing_context=method
        )
        with pytest.raises(OtherProcessError) as caught:
            next(iter(loader))
        assert isinstance(caught.value, UserError)
        assert str(caught.value) == (
            "FusionIterator: expected to be used in the process that opened it, with num_workers=0"
            " of a DataLoader, got another process, such as a worker of a DataLoader. Use"
            " num_workers=0, as it decodes on threads of its own (loader.threads); in processes of"
            " your own call open_loader in each."
        )
        assert len(list(batches)) == STEPS  # it is as before


@pytest.mark.parametrize("loader_class", [DataLoader, StatefulDataLoader])
def test_batches_of_batches_are_refused(tables, loader_class):
    with open_fusion(tables) as batches, pytest.raises(UserError) as caught:
        next(iter(loader_class(batches, batch_size=2)))
    assert str(caught.value).startswith("DataLoader.batch_size: expected None, as each StepBatch")
    assert "Write DataLoader(loader, batch_size=None)" in str(caught.value)


@pytest.mark.parametrize("carry", [pickle.dumps, copy.copy, copy.deepcopy])
def test_loader_is_not_copied(tables, carry):
    with open_fusion(tables) as batches, pytest.raises(OtherProcessError):
        carry(batches)


def test_loader_in_a_forked_process_is_refused(tables):
    with open_fusion(tables) as batches:
        next(batches)
        child = os.fork()
        if not child:
            try:
                next(batches)
            except OtherProcessError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_stateful_dataloader_goes_on_after_any_step(tables, whole, step, tmp_path):
    with open_fusion(tables) as batches:
        loader = StatefulDataLoader(batches, batch_size=None)
        iterator = iter(loader)
        assert [content(next(iterator)) for _ in range(step)] == whole[:step]
        torch.save(loader.state_dict(), tmp_path / "state.pt")

    with open_fusion(tables) as batches:
        loader = StatefulDataLoader(batches, batch_size=None)
        loader.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert len(loader) == STEPS
        assert [content(batch) for batch in loader] == whole[step:]


def test_stateful_dataloader_refuses_state_of_another_plan(tables):
    with open_fusion(tables) as batches:
        state = StatefulDataLoader(batches, batch_size=None).state_dict()
    other = FusionIterator(make_plan(tables, SOURCES, RANDOM, seed=6), list(SOURCES.values()))
    with other:
        loader = StatefulDataLoader(other, batch_size=None)
        loader.load_state_dict(state)
        with pytest.raises(UserError, match="seed: 5 became 6"):
            iter(loader)


def test_pinned_batches_hold_pinned_copies(tables, whole, monkeypatch):
    """Pinning needs a GPU; here a stand-in marks the copies."""
    pinned = []

    def pin(tensor):
        pinned.append(tensor.clone(memory_format=torch.preserve_format))
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    with open_fusion(tables) as batches:
        batch = next(batches)
        there = batch.pin_memory()
        assert content(there) == content(batch) == whole[0]
        assert (there.step, there.samples, there.auxiliary) == (
            batch.step,
            batch.samples,
            batch.auxiliary,
        )
        pointers = {tensor.data_ptr() for tensor in pinned}
        for group in there.groups:
            assert {getattr(group, name).data_ptr() for name in vars(group)} <= pointers


@pytest.mark.needs_gpu
def test_gpu_gets_the_batches_through_pinned_memory(tables, whole):
    with open_fusion(tables) as batches:
        shown = []
        for batch in DataLoader(batches, batch_size=None, pin_memory=True):
            assert all(clips.is_pinned() for clips in batch.clips)
            there = batch.to("cuda", non_blocking=True)
            assert there.labels.device.type == "cuda" and there.pin_memory() is there
            shown.append(content(there.to("cpu")))
        assert shown == whole
