"""Catalogs from before an item could have several labels."""

import pytest
import torch

from helpers.old_runs import unpack_world
from omnidali.config.load import load_config
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import open_loader


@pytest.fixture
def seventh(tmp_path, monkeypatch):
    """A run folder with a catalog of version 7, which keeps one label an item."""
    return unpack_world("catalog-7", tmp_path, monkeypatch)


def test_run_resumes_with_a_catalog_of_version_7(seventh, capfd):
    """Nothing is read or probed again: the order and the fingerprints stay."""
    config = load_config("run/config.yaml", ["train.steps=4"])
    state = torch.load("run/checkpoints/last.pt")["loader"]
    for as_begun in (True, False):
        data = open_data(config, as_begun=as_begun)
        assert not any("probed now" in line for line in data.summary)
        with open_loader(config, data) as loader:
            assert loader.load_state_dict(state) == []
            next(loader)
    printed = capfd.readouterr().err
    assert printed.count("brought up to date: it can keep several labels of an item now") == 1


def test_labels_of_a_catalog_of_version_7_are_read_anew_where_there_may_be_several(seventh):
    open_data(load_config("run/config.yaml"))
    data = open_data(load_config("run/config.yaml", ["multi_label=true"]))
    assert [table.label_sets.sizes.max() for table in data.tables] == [1, 1]
    assert not any("probed now" in line for line in data.summary)
