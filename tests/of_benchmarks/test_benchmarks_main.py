"""``python -m benchmarks``: its grammar, its help, and mistakes of the user."""

from benchmarks import __main__ as cli
from benchmarks.__main__ import BENCHMARKS
from omnidali.cli.start import parse_command


def test_mistakes_end_with_code_2(tmp_path, capsys):
    cases = [
        (
            ["loader", "--out", str(tmp_path), "--workloads", "W9"],
            "expected beginnings of: W1 jpeg",
        ),
        (
            ["peers", "--out", str(tmp_path), "--loaders", "ffcv"],
            "expected some of: omnidali, omnidali, 2 ranks, codec alone",
        ),
        (
            ["report", "--records", str(tmp_path / "none.jsonl")],
            "Run `python -m benchmarks peers` first",
        ),
        (["train", "--config", str(tmp_path / "none.yaml"), "--out", str(tmp_path)], "none.yaml"),
        (["train", "--config", "x", "--steps", "2"], "more than the 3 of the warm-up"),
    ]
    for arguments, said in cases:
        assert cli.main(arguments) == 2
        assert said in capsys.readouterr().err


def test_every_measurement_with_a_config_takes_settings():
    for command in BENCHMARKS.commands:
        names = [option.name for option in command.options]
        assert command.has_settings == ("--config" in names), command.name


def test_measurements_have_their_help(capsys):
    options = parse_command(BENCHMARKS, ["--help"])
    options.run(options)
    text = capsys.readouterr().out
    assert all(f"\n  {command.name} " in text for command in BENCHMARKS.commands)
    assert all(len(line) <= 80 for line in text.splitlines())
