"""One grammar for every verb: options, settings and operands in any order, and what is refused."""

import os
from dataclasses import replace

import pytest

from omnidali.cli import main as cli
from omnidali.cli.arguments import parse_options
from omnidali.cli.command import Command, option
from omnidali.cli.main import OMNIDALI
from omnidali.config.load import load_config
from omnidali.errors import ConfigError

PREDICT = Command(
    name="predict",
    summary="a verb that takes operands",
    run=print,
    options=(
        option("--config", required=True),
        option("--checkpoint", nargs="+"),
        option("--size", nargs=2, type=int),
        option("--fast", action="store_true"),
        option("--top", type=int, default=1),
    ),
    has_settings=True,
    operands="VIDEO",
)


def parse(*words):
    return parse_options(PREDICT, "tool", ["--config", "c.yaml", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["a.mp4", "b.mp4", "seed=3", "clip.size=64", "--top", "5", "--fast"],
        ["seed=3", "--top", "5", "a.mp4", "clip.size=64", "--fast", "b.mp4"],
        ["--fast", "seed=3", "a.mp4", "clip.size=64", "b.mp4", "--top=5"],
        ["--fast", "a.mp4", "--top", "5", "seed=3", "clip.size=64", "--", "b.mp4"],
    ],
)
def test_options_settings_and_operands_stand_in_any_order(words):
    options = parse(*words)
    assert options.overrides == ["seed=3", "clip.size=64"]
    assert options.operands == ["a.mp4", "b.mp4"]
    assert (options.top, options.fast) == (5, True)


def test_settings_among_the_values_of_an_option_are_settings():
    options = parse("--checkpoint", "a.pt", "seed=3", "b.pt", "loader.threads=1")
    assert options.checkpoint == ["a.pt", "b.pt"]
    assert options.overrides == ["seed=3", "loader.threads=1"]


def test_a_value_may_look_like_a_setting():
    options = parse("--checkpoint", "lr=0.1", "./seed=4.pt", "seed=3")
    assert options.checkpoint == ["lr=0.1", "./seed=4.pt"] and options.overrides == ["seed=3"]
    assert parse("--checkpoint=lr=0.1", "seed=3").checkpoint == ["lr=0.1"]


def test_an_operand_may_look_like_a_setting_or_an_option():
    options = parse("./a=b.mp4", "dir/a=b.mp4", "my-clip=1.mp4", "--", "a=b.mp4", "--top")
    assert options.overrides == [] and options.top == 1
    assert options.operands == ["./a=b.mp4", "dir/a=b.mp4", "my-clip=1.mp4", "a=b.mp4", "--top"]


def test_without_a_config_nothing_is_a_setting():
    command = replace(PREDICT, options=(), has_settings=False)
    options = parse_options(command, "tool", ["seed=3", "a.mp4", "--", "b=1.mp4"])
    assert options.operands == ["seed=3", "a.mp4", "b=1.mp4"]
    assert not hasattr(options, "overrides")


@pytest.mark.parametrize(
    "key", ["sources.my-web.weight", "sources.my web.weight", "sources.my.web.weight", "sources.猫"]
)
def test_any_source_can_be_set(tmp_path, key):
    name = key.removeprefix("sources.").removesuffix(".weight")
    (tmp_path / "c.yaml").write_text(
        f'sources: {{target: {{kind: video}}, "{name}": {{kind: image, loss_weight: 2}}}}\n'
        "train: {steps: 5}\n"
    )
    options = parse(
        f"{key}=0.5" if key.endswith("weight") else f"{key}={{kind: image, weight: 0.5}}"
    )
    config = load_config(tmp_path / "c.yaml", options.overrides)
    assert list(config.sources) == ["target", name] and config.sources[name].weight == 0.5


def test_the_last_of_repeated_settings_wins():
    config = load_config("demo", parse("seed=3", "train.steps=2", "seed=4").overrides)
    assert config.seed == 4


@pytest.mark.parametrize(
    "words, message",
    [
        ("--train.steps=5", "got --train.steps=5. Did you mean train.steps=5?"),
        ("--train-steps 5", "got --train-steps 5. Did you mean train.steps=5?"),
        ("--seed 5 seed=1", "got --seed 5. Did you mean seed=5?"),
        ("--lr 0.1", "got --lr 0.1. Did you mean optimizer.lr=0.1?"),
        ("--sources.web.weight=2", "Did you mean sources.web.weight=2?"),
        ("train-steps=5", "got train-steps=5. Did you mean train.steps=5?"),
        ("train.steps", "got train.steps. Did you mean train.steps=VALUE?"),
        ("=5", "got =5. The key of a setting is letters, digits, dots and underscores."),
        ("--res auto", "got --res auto. Did you mean --resume?"),
        ("--resmue auto", "got --resmue auto. Did you mean --resume?"),
        ("tsn_omni", "got tsn_omni. Did you mean --config tsn_omni?"),
        ("my.yaml", "got my.yaml. Did you mean --config my.yaml?"),
        ("stray", "got stray. `omnidali train --help` shows what it takes."),
        (
            "-- seed=3",
            "omnidali train: expected nothing after --, got -- seed=3. Leave the -- out.",
        ),
        ("--dry-run", "--dry-run: expected a value after it, got none."),
        ("--dry-run seed=3", "--dry-run: expected a whole number, got seed=3."),
        ("--print-config=3", "--print-config: expected no value, got 3."),
        ("caf\udce9=1", "expected arguments in UTF-8, got caf\\xe9=1, which is not."),
    ],
)
def test_mistake_says_what_was_meant(capsys, words, message):
    assert cli.main(["train", "--config", "demo", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:\n") and message in error, error


@pytest.mark.parametrize(
    "words, message",
    [
        ("trian --config demo", "omnidali: expected a verb, got trian. Did you mean train?"),
        ("motion --config demo", "Did you mean motion estimate?"),
        ("--config demo train", "The verb comes first: omnidali train --config ..."),
        ("seed=3 train --config demo", "The verb comes first: omnidali train seed=3 ..."),
        ("train", "omnidali train: expected --config, got nothing. `omnidali train --help` has an"),
        ("info seed=3", "omnidali info: expected --config or --catalog, got nothing."),
        ("info --catalog a --config b", "omnidali info: expected --config or --catalog, got both."),
        ("info --catalog a seed=3", "seed=3: expected --config, whose settings it would change"),
        (
            "export --checkpoint a --out b.pth seed=3",
            "omnidali export: expected no settings, as it has no config, got seed=3. Leave it out.",
        ),
        (
            "help xyzzy",
            "omnidali help: expected a verb, `settings`, `configs` or `weights`, got xyzzy."
            " `omnidali help` lists the verbs.",
        ),
        ("help motion", "got motion. Did you mean motion estimate?"),
        ("help trian", "got trian. Did you mean train?"),
        ("help confgs", "got confgs. Did you mean configs?"),
        ("help train.steps", "got train.steps. For a setting: omnidali help settings train.steps"),
        ("help seed=3", "got seed=3. For a setting: omnidali help settings seed"),
        ("help clip.sise=64", "For a setting: omnidali help settings clip.size"),
        ("help settings --top", "omnidali help: expected options, got --top."),
        ("curate --config demo --seeds x", "--seeds: expected a whole number, got x."),
        ("curate --config demo --seeds", "--seeds: expected values after it, got none."),
        ("ablate --config demo --fractions x", "--fractions: expected a number, got x."),
        (
            "filter --config demo --rule best",
            "--rule: expected one of threshold, topk, quantile, got best.",
        ),
    ],
)
def test_mistake_in_any_verb_has_four_parts(capsys, words, message):
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error, error
    assert "usage:" not in error and "Traceback" not in error


def test_all_mistakes_of_a_command_line_come_at_once(capsys):
    assert cli.main(["filter", "--trehsold", "0.5", "stray", "--config", "demo"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "4 errors:",
        "  omnidali filter: expected options and settings key.path=value, got --trehsold 0.5."
        " Did you mean --threshold?",
        "  omnidali filter: expected options and settings key.path=value, got stray."
        " `omnidali filter --help` shows what it takes.",
        "  omnidali filter: expected --checkpoint, got nothing. `omnidali filter --help` has an"
        " example.",
        "  omnidali filter: expected --out, got nothing. `omnidali filter --help` has an example.",
    ]


def test_fixed_number_of_values_is_checked():
    with pytest.raises(ConfigError, match="--size: expected 2 values after it, got fewer."):
        parse("--size", "1")


def test_mistake_is_printed_by_one_rank(capsys, monkeypatch):
    monkeypatch.setitem(os.environ, "RANK", "1")
    assert cli.main(["train", "--config", "demo", "train-steps=5"]) == 2
    assert capsys.readouterr().err == ""


def test_every_verb_with_a_config_takes_settings():
    """The grammar is one: only verbs that read no config take no settings."""
    for command in OMNIDALI.commands:
        names = [option.name for option in command.options]
        reads_config = "--config" in names or command.name in ("demo", "predict")
        assert command.has_settings == reads_config, command.name
