"""Child processes import from where this process does, and not from the current folder."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from omnidali.processes.child_imports import import_variables, sharing_imports
from omnidali.processes.launch import run_program


@pytest.fixture
def foreign_folder(tmp_path, monkeypatch):
    """The current folder holds a clone that is called omnidali, and a file like one of Python's."""
    (tmp_path / "omnidali" / "omnidali").mkdir(parents=True)
    (tmp_path / "pickle.py").write_text("raise RuntimeError('the foreign pickle')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_programs_do_not_import_from_the_current_folder(foreign_folder, capfd):
    run_program("info", "--help", ranks=1)
    assert "usage: omnidali info" in capfd.readouterr().out


def test_pools_do_not_import_from_the_current_folder(foreign_folder):
    with sharing_imports(), ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(abs, -1).result() == 1


def test_child_imports_from_the_current_folder_if_this_process_does(foreign_folder, monkeypatch):
    monkeypatch.syspath_prepend("")
    places = import_variables()["PYTHONPATH"].split(os.pathsep)
    assert places == [str(foreign_folder), *sys.path[1:]]
