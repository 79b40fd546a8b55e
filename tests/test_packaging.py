"""The wheel and the source distribution: what they hold, and that the wheel needs no checkout."""

import email
import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import omnidali

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
IS_SDIST = (ROOT / "PKG-INFO").exists()  # the tests run in an unpacked source distribution
VERSION = omnidali.__version__
# without isolation: nothing is fetched
BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"
FOREIGN = "raise RuntimeError('a file of somebody else is imported')\n"


def run(*command, folder):
    """Run a program; returns its output, and fails with it if the program does."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def copy_project(target):
    """Copy the project's files, links as links, and nothing that users leave among them."""
    if IS_SDIST:
        names = (ROOT / "omnidali.egg-info" / "SOURCES.txt").read_text().splitlines()
    else:
        command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = run(*command, folder=ROOT).rstrip("\0").split("\0")

    for name in names:
        if os.path.lexists(ROOT / name):  # git lists deleted files as well
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


def files_below(folder):
    """The names of all files below a folder, those behind links among them."""
    return {
        str(Path(place, name).relative_to(folder))
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
    }


def read_wheel(path):
    """The bytes of a wheel's files by name."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert len(names) == len(set(names))
        return {name: archive.read(name) for name in names}


@dataclass
class Packages:
    """What is built from a copy of the project.

    Attributes:
        names: of the project's files.
        sdist: the source distribution, unpacked; wheel_of_sdist was built there.
        sdist_names: of the source distribution's files.
        wheel: the file.
        wheel_of_sdist: the one that is built from the source distribution.
    """

    names: set[str]
    sdist: Path
    sdist_names: set[str]
    wheel: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    project = folder / "project"
    copy_project(project)
    names = files_below(project)

    for kind in ("sdist", "wheel"):
        run(sys.executable, "-c", BUILD.format(kind, str(folder)), folder=project)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")

    sdist = folder / f"omnidali-{VERSION}"
    sdist_names = files_below(sdist)
    run(sys.executable, "-c", BUILD.format("wheel", str(folder / "again")), folder=sdist)
    (wheel,) = folder.glob("*.whl")
    (wheel_of_sdist,) = folder.glob("again/*.whl")
    return Packages(
        names=names,
        sdist=sdist,
        sdist_names=sdist_names,
        wheel=wheel,
        wheel_of_sdist=wheel_of_sdist,
    )


@pytest.fixture(scope="module")
def environment(packages, tmp_path_factory):
    """A fresh environment with the wheel, which sees this one's packages, but no editable ones.

    Its own folder of packages holds a file that is called like one of Python's modules.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python")
    run(*pip, "install", "-q", "--no-deps", "--no-index", packages.wheel, folder=home)

    (own,) = home.glob("lib/python*/site-packages")
    # after the installation, as pip would take what is in these folders for installed
    (own / "others.pth").write_text("\n".join(site.getsitepackages()))
    (own / "pickle.py").write_text(FOREIGN)
    return home


@pytest.fixture
def foreign_folder(tmp_path):
    """A folder with files and folders that are called like ours, or like Python's."""
    for name in ("train.py", "evaluate.py", "pickle.py", "pipelines/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(FOREIGN)
    (tmp_path / "omnidali").mkdir()  # such as a clone
    return tmp_path


def test_wheel_holds_the_package_alone(packages):
    held = {name for name in read_wheel(packages.wheel) if ".dist-info/" not in name}
    assert held == {name for name in packages.names if name.startswith("omnidali/")}
    assert {"omnidali/py.typed", "omnidali/planning/motion.json"} < held
    assert {"omnidali/configs/demo.yaml", "omnidali/pipelines/graphs.py"} < held
    assert "omnidali/doctor/child.py" in held  # runs as a program


def test_sdist_holds_all_but_the_benchmarks(packages):
    left_out = (".", "benchmarks/", "tests/of_benchmarks/")
    assert IS_SDIST or "tests/of_benchmarks/test_soak.py" in packages.names
    wanted = {name for name in packages.names if not name.startswith(left_out)}
    made = {name for name in packages.sdist_names if name.startswith("omnidali.egg-info/")}
    made.add("PKG-INFO")
    assert packages.sdist_names - made == wanted - made


def test_wheel_of_the_sdist_is_that_of_the_project(packages):
    assert read_wheel(packages.wheel_of_sdist) == read_wheel(packages.wheel)


def test_metadata_names_version_pages_and_readme(packages):
    files = read_wheel(packages.wheel)
    page = email.message_from_bytes(files[f"omnidali-{VERSION}.dist-info/METADATA"])
    assert page["Version"] == VERSION and page["License-Expression"] == "Apache-2.0"
    assert {link.partition(",")[0] for link in page.get_all("Project-URL")} == {
        "Source",
        "Issues",
        "Changelog",
    }
    assert page.get_payload().startswith("# OmniDALI\n")


def test_tests_of_the_sdist_are_collected_and_its_documents_are_true(packages):
    """A file that imports what is not there would be an error, whatever is selected."""
    command = (sys.executable, "-m", "pytest", "-k", "test_documents")
    assert " passed, " in run(*command, folder=packages.sdist)


def test_environment_has_no_module_train(environment, foreign_folder):
    """-P leaves out the current folder, whose own train.py Python would find."""
    code = "import importlib.util, omnidali; print(importlib.util.find_spec('train'), {})"
    python = environment / "bin" / "python"
    found = run(python, "-P", "-c", code.format("omnidali.__file__"), folder=foreign_folder)
    (module,) = environment.glob("lib/python*/site-packages/omnidali/__init__.py")
    assert found == f"None {module}\n"


def test_wheel_runs_beside_files_of_the_same_names(environment, foreign_folder):
    """The demo trains and evaluates on two ranks; its run goes on with the config of that name."""
    command = environment / "bin" / "omnidali"
    few = "evaluation.test.num_clips=2"
    assert run(command, "--version", folder=foreign_folder) == f"omnidali {VERSION}\n"
    shown = run(command, "demo", "train.steps=4", few, folder=foreign_folder)
    assert "tensorboard --logdir omnidali-demo/run-0/tb" in shown
    assert "% on 96 held-out videos of 8 classes (chance 12.5 %)" in shown

    settings = ("--config", "demo", "train.steps=5")
    trained = run(command, "train", *settings, "--resume", "auto", folder=foreign_folder)
    assert "step 5/5" in trained
    printed = run(command, "evaluate", *settings, few, folder=foreign_folder)
    row = json.loads(printed.splitlines()[-1])
    assert row["items"] == 96 and row["num_clips"] == 2
