"""``python -m benchmarks``: mistakes of the user."""

from benchmarks import __main__ as cli


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
