"""Loggers that a config names: the table, factories of users, and the lines of docs for others."""

import csv
import re
import sys
import types
from pathlib import Path

import pytest

from helpers.running import run, step_of
from omnidali.config.load import load_config
from omnidali.errors import UserError
from omnidali.training.csv_log import CsvLog
from omnidali.training.loggers import Logger
from omnidali.training.train import train

pytestmark = pytest.mark.usefixtures("small_network")
SHORT = ["train.steps=4"]
EVALUATED = (
    "evaluation={source: {kind: video, root: shorts, list: shorts.txt}, every_steps: 4, batch: 5,"
    " validation: {num_clips: 1, size: 32, short_side: 32}}"
)
PAGE = Path(__file__).parent.parent / "docs" / "loggers.md"


class Recording(Logger):
    """A logger that keeps what it gets."""

    def __init__(self, config):
        self.config = config
        self.rows = []
        self.is_closed = False

    def log_values(self, kind, step, values):
        self.rows.append((kind, step))

    def close(self):
        self.is_closed = True


@pytest.fixture
def module(monkeypatch):
    """A module of a user's, with factories."""
    made = types.ModuleType("my_loggers")
    made.made = []

    def make(config):
        made.made.append(Recording(config))
        return made.made[-1]

    def fail(config):
        raise ValueError("no key\nfor the service")

    made.make = make
    made.leave = lambda config: sys.exit("not today")
    made.fail = fail
    made.give_nothing = lambda config: None
    made.give_class = lambda config: Recording
    made.number = 3
    monkeypatch.setitem(sys.modules, "my_loggers", made)
    return made


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_factory_gets_the_config_and_its_logger_the_figures(options, module):
    code, _, err = run(*options, *SHORT, EVALUATED, "logger=my_loggers:make")
    assert code == 0, err
    (logger,) = module.made
    assert logger.config.train.steps == 4 and logger.is_closed
    assert ("train", 2) in logger.rows and logger.rows[-1] == ("evaluation", 4)


def test_null_clears_loggers_and_factors_of_a_base(options, tmp_path):
    words = ["logger=csv", "optimizer.lr_factors={head: 2}"]
    config = load_config(options[1], [*options[2:], *words])
    assert config.logger == ("csv",)
    cleared = ["logger=null", "optimizer.lr_factors=null"]
    for before in ([], words):
        config = load_config(options[1], [*options[2:], *before, *cleared])
        assert config.logger == () and not config.optimizer.lr_factors


def test_dry_run_makes_no_logger_but_refuses_a_wrong_one(options, module):
    config = [*options[2:], *SHORT]
    train(load_config(options[1], [*config, "logger=my_loggers:make"]), dry_run=1)
    assert not module.made
    with pytest.raises(UserError, match="Did you mean make"):
        train(load_config(options[1], [*config, "logger=my_loggers:mak"]), dry_run=1)


WRONG = {
    "no_such_module:make": "no module no_such_module",
    "my_loggers:mak": "no mak. Did you mean make?",
    "my_loggers:number": "a function, got my_loggers:number",
    "my_loggers:fail": "ends with ValueError: no key",
    "my_loggers:leave": "ends with SystemExit: not today",
    "my_loggers:give_nothing": "which returns a NoneType",
    "my_loggers:give_class": "which returns a type",
    "wandb": "csv, or package.module:factory, got wandb. docs/loggers.md has the lines",
    "TensorBoard": "are always written; leave it out",
    "[csv, csv]": "each name once, got csv twice",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_logger_is_refused_before_the_data_are_read(options, tmp_path, module, name):
    code, _, err = run(*options, *SHORT, f"logger={name}")
    assert code == 2 and "Traceback" not in err
    assert "logger: expected" in err and WRONG[name] in err
    assert not (tmp_path / "run/catalog.sqlite").exists()


def test_loggers_before_a_wrong_one_are_closed(options, module):
    assert run(*options, *SHORT, "logger=[my_loggers:make, my_loggers:fail]")[0] == 2
    assert module.made[0].is_closed


def test_error_of_a_logger_within_the_run(options, tmp_path, module):
    """A disk's or service's is a warning; a mistake ends the run, after a save."""

    class Late(Recording):
        error: Exception = OSError("the service does not answer")

        def log_values(self, kind, step, values):
            if step in (6, 8):
                raise self.error

    module.make = Late
    code, _, err = run(*options, "train.steps=6", "logger=my_loggers:make")
    assert code == 0 and "the service does not answer" in err and step_of(tmp_path / "run") == 6

    Late.error = KeyError("a mistake")
    with pytest.raises(KeyError):
        run(*options, "train.steps=8", "train.log_every=1", "logger=my_loggers:make", "auto")
    assert step_of(tmp_path / "run") == 8


def test_table_holds_training_and_evaluations_over_resumes(options, tmp_path):
    for steps in (4, 8):
        code, _, err = run(*options, f"train.steps={steps}", EVALUATED, "logger=csv", "auto")
        assert code == 0, err
    rows = rows_of(tmp_path / "run")
    found = [(row["kind"], int(row["step"])) for row in rows]
    assert ("train", 2) in found and ("evaluation", 4) in found and ("evaluation", 8) in found
    assert len([row for row in found if row[0] == "evaluation"]) == 2
    assert all(float(row["sources/all/loss"]) > 0 for row in rows if row["kind"] == "train")
    assert all(row["top1"] != "" for row in rows if row["kind"] == "evaluation")
    text = (tmp_path / "run/metrics.csv").read_text()
    assert text.count("kind,step,time,") == 1 and text.startswith("kind,step,time,lr,")


def test_columns_keep_their_places(tmp_path):
    CsvLog(tmp_path).log_values("train", 1, {"lr": 0.1, "sources": {"a": {"loss": 2.0}}})
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    log = CsvLog(tmp_path)
    log.log_values("evaluation", 1, {"top1": 50.0, "loss, mean": 1})
    log.log_values("train", 2, {"sources": {"b": {"loss": 3.0}}, "lr": 0.2})
    log.log_values("train", 3, {"lr": 0.3})
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == f'{header},top1,"loss, mean",sources/b/loss'
    rows = rows_of(tmp_path)
    assert [row["lr"] for row in rows] == ["0.1", "", "0.2", "0.3"]
    assert [row["sources/b/loss"] for row in rows] == ["", "", "3.0", ""]
    assert len({line.count(",") for line in lines[1:]}) == 1


@pytest.mark.parametrize("data", ["", "kind,st", "kind,step,time,lr\ntrain,1,5.0,0.1\ntrain,2,6"])
def test_line_that_a_crash_has_cut_off_is_removed(tmp_path, data):
    (tmp_path / "metrics.csv").write_text(data)
    CsvLog(tmp_path).log_values("train", 3, {"lr": 0.3})
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == (["1", "3"] if "0.1" in data else ["3"])
    assert rows[-1]["lr"] == "0.3"


def test_rows_of_a_full_disk_wait(tmp_path, monkeypatch):
    from omnidali.training import csv_log

    log = CsvLog(tmp_path)
    log.log_values("train", 1, {"lr": 0.1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(csv_log, "append_whole", fail)
        patch.setattr(csv_log, "write_whole", fail)
        for step, values in ((2, {"lr": 0.2}), (3, {"top1": 1.0})):
            with pytest.raises(OSError):
                log.log_values("train", step, values)
    log.log_values("train", 4, {"lr": 0.4})
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[2]["top1"] == "1.0" and rows[3]["lr"] == "0.4"


class FakeService(types.ModuleType):
    """wandb and mlflow, as far as docs/loggers.md uses them: it notes each call."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def note(*arguments, **words):
            self.calls.append((name, arguments, words))
            return self

        return note


def readme_module(name):
    """The Python file that docs/loggers.md shows under a name."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"```python\n# {name}\n(.*?)```", text, re.DOTALL)
    assert found, name
    return found[1]


@pytest.mark.parametrize(("name", "service"), [("my_wandb", "wandb"), ("my_mlflow", "mlflow")])
def test_readmes_lines_log_to_other_services(options, tmp_path, monkeypatch, name, service):
    fake = FakeService(service)
    monkeypatch.setitem(sys.modules, service, fake)
    (tmp_path / f"{name}.py").write_text(readme_module(f"{name}.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)

    code, _, err = run(*options, *SHORT, EVALUATED, f"logger={name}:make_logger")
    assert code == 0, err
    logged = [call for call in fake.calls if call[0] in ("log", "log_metrics")]
    figures = {key: value for _, arguments, _ in logged for key, value in arguments[0].items()}
    assert {"train/lr", "train/sources/all/loss", "evaluation/top1"} <= figures.keys()
    assert all(isinstance(value, (int, float)) for value in figures.values())
    steps = [words["step"] for _, _, words in logged]
    assert steps == sorted(steps) and steps[-1] == 4
    assert fake.calls[-1][0] in ("finish", "end_run")


def test_printing_a_config_imports_nothing(options, monkeypatch, tmp_path, capsys):
    from omnidali.cli import main as cli

    (tmp_path / "noisy_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = [*options, *SHORT, "logger=noisy_module:make", "--print-config"]
    assert cli.main(words, verb="train") == 0
    assert "noisy_module:make" in capsys.readouterr().out
