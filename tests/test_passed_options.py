"""Mistakes in the options of a curation, and in those that it passes on to filter and dedup."""

import pytest

from conftest import SMALL
from helpers.curation import EVALUATION, curate_command, fake_programs
from omnidali.cli import main as cli


@pytest.fixture
def faked(monkeypatch):
    return fake_programs(monkeypatch)


@pytest.mark.parametrize(
    "config, options, message",
    [
        (SMALL + EVALUATION, ["--rounds", "0"], "--rounds: expected 1 or more, got 0."),
        (
            SMALL + EVALUATION,
            ["--rounds", "2", "--folds", "0"],
            "--folds: expected 1 or more, and --rounds of 2 or more",
        ),
        (SMALL + EVALUATION, ["--folds", "3"], "got --folds 3 --rounds 1."),
        (SMALL + EVALUATION, ["--ranks", "0"], "--ranks: expected 1 or more, got 0."),
        (
            SMALL + EVALUATION,
            ["--filter", "--window 2"],
            "--filter: expected no --window, as dedup cuts the long videos",
        ),
        (SMALL, [], "evaluation.source: expected labelled data to compare on, got nothing."),
        (
            "sources: {a: {kind: video}}\n" + EVALUATION,
            [],
            "sources: expected the target and at least one crawled source",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_runs(
    tmp_path, faked, capsys, config, options, message
):
    (tmp_path / "c.yaml").write_text(config + "train: {steps: 2}\n")
    paths = ["--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out")]
    assert cli.main(["curate", *paths, *options]) == 2
    assert message in capsys.readouterr().err and not faked


@pytest.mark.parametrize(
    "option, words, message",
    [
        (
            "--filter",
            "--rule 'quantile",
            "--filter: expected options of `omnidali filter`, quoted as for a shell, got --rule"
            " 'quantile (No closing quotation). Correct the quotes.",
        ),
        (
            "--dedup",
            '"',
            "--dedup: expected options of `omnidali dedup`, quoted as for a shell,"
            ' got " (No closing quotation)',
        ),
        ("--filter", "\\", "got \\ (No escaped character)"),
        (
            "--filter",
            "--nonsense 3",
            "--filter, omnidali filter: expected options and settings key.path=value, got"
            " --nonsense 3. `omnidali filter --help` shows what it takes.",
        ),
        ("--filter", "stray", "got stray. `omnidali filter --help` shows"),
        ("--filter", "--help", "got --help. `omnidali filter --help` shows"),
        ("--filter", "--rule best", "--filter, --rule: expected one of threshold, topk, quantile"),
        (
            "--filter",
            "--out else",
            "--filter: expected no --out, which curate sets itself, got --out else. Leave it out.",
        ),
        ("--filter", "--ou=else", "got --ou=else. Did you mean --out?"),
        ("--filter", "--config c.yaml", "--filter: expected no --config, which curate sets itself"),
        (
            "--filter",
            "--checkpoint a b",
            "--filter: expected no --checkpoint, which curate sets itself",
        ),
        (
            "--filter",
            "--score-only",
            "--filter: expected no --score-only, as the students need the lists",
        ),
        (
            "--filter",
            "--window 2",
            "--filter: expected no --window, as dedup cuts the long videos before",
        ),
        ("--filter", "loader.threads=1 seed=3", "--filter: expected settings of loader.* alone"),
        (
            "--filter",
            "--keep 0.5",
            "--filter, --keep: expected --rule quantile with it, got --rule threshold.",
        ),
        ("--filter", "--rule topk --top 0", "--filter, --top: expected 1 or more, got 0."),
        (
            "--filter",
            "--threshold nan",
            "--filter, --threshold: expected a number above 0 and at most 1, got nan.",
        ),
        (
            "--filter",
            "--sources nobody",
            "--filter, --sources: expected some of the training sources",
        ),
        (
            "--filter",
            "--sources evaluation",
            "--filter, --sources: expected some of the training sources",
        ),
        ("--dedup", "--out else", "--dedup: expected no --out, which curate sets itself"),
        ("--dedup", "--threshold 0.9", "--dedup, --threshold: expected --checkpoint with it"),
        ("--dedup", "--fps 0", "--dedup, --fps: expected more than 0, and up to 1000, got 0.0."),
        ("--dedup", "--window 2", "--dedup, --window: expected a source of long videos"),
        ("--dedup", "--checkpoint no.pt", "--dedup, no.pt: expected"),
        (
            "--dedup",
            "--sources nobody",
            "--dedup, --sources: expected some of the training sources",
        ),
        ("", "model.pretrained=no.pt", "no.pt: expected"),
        ("", "sources.photos.list=no.txt", "sources.photos.list: expected a list file, got no.txt"),
        ("--seeds", "-1", "--seeds: expected numbers of 0 or more, each once, got [-1]."),
    ],
)
def test_passed_options_are_checked_before_anything_is_written(
    media_root, tmp_path, faked, capsys, option, words, message
):
    command = curate_command(media_root, tmp_path)
    given = f"{option}={words}" if option else words
    passed = [command[0], given, *command[1:]]
    assert cli.main(passed) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1], error
    assert not faked
    assert all(path.name.startswith("catalog.sqlite") for path in (tmp_path / "out").glob("*"))
    assert cli.main(command) == 0  # the folder is free


def test_batch_that_ranks_cannot_share_is_refused_at_the_start(media_root, tmp_path, faked, capsys):
    (tmp_path / "c.yaml").write_text(SMALL + EVALUATION + "train: {steps: 4}\n")
    each = [
        f"sources.{name}={{kind: {kind}, root: {name}, list: {name}.txt, batch: {size}}}"
        for name, kind, size in (("clips", "video", 4), ("photos", "image", 3))
    ]
    for command in ("curate", "ablate"):
        paths = ["--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / command)]
        settings = [f"data_root={media_root}", *each]
        assert cli.main([command, *paths, "--ranks", "2", *settings]) == 2
        assert "expected a multiple of 2 for 2 ranks, got 7." in capsys.readouterr().err
        assert not (tmp_path / command / ".omnidali.json").exists() and not faked
