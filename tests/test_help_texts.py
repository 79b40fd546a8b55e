"""What ``--help``, ``omnidali help`` and ``--version`` print."""

import dataclasses
import re
import shlex
import subprocess
import sys
import typing

import pytest
import yaml

import omnidali
from omnidali.cli import main as cli
from omnidali.cli.main import OMNIDALI
from omnidali.cli.start import parse_command
from omnidali.config.files import shipped_names
from omnidali.config.load import load_config
from omnidali.config.schema import Config

COMMANDS = {command.name: command for command in OMNIDALI.commands}
EXAMPLES = [example for command in OMNIDALI.commands for example in command.examples]


def printed(capsys, *words):
    assert cli.main([*words]) == 0
    return capsys.readouterr().out


def wide_lines(text):
    return [line for line in text.splitlines() if len(line) > 80]


def test_help_lists_every_verb_once_in_its_group(capsys):
    text = printed(capsys, "--help")
    assert text == printed(capsys, "help") == printed(capsys, "-h")
    assert re.findall(r"(?m)^([a-z ]+):$", text)[:7] == [
        "try",
        "train",
        "evaluate",
        "predict",
        "prepare data",
        "look",
        "measure",
    ]
    verbs = re.findall(r"(?m)^  (\w+(?: \w+)?)  +\S", text)
    assert verbs == list(COMMANDS) and len(set(verbs)) == len(verbs)
    assert not wide_lines(text)


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_a_verb_has_its_options_and_an_example(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(capsys, "help", *verb.split())
    assert text == printed(capsys, *verb.split(), "--help")
    assert text == printed(capsys, *verb.split(), "--nonsense", "-h")
    command = COMMANDS[verb]
    for option in command.options:
        assert f"\n  {option.name}" in text, option.name
    assert command.examples and all(f"\n  {example}\n" in text for example in command.examples)
    assert ("omnidali help settings" in text) == (command.has_settings or verb == "help")
    assert not wide_lines(text)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_is_parsed_and_its_config_loads(example):
    words = shlex.split(example)
    words = words[words.index("omnidali") + 1 :]
    options = parse_command(OMNIDALI, words)
    assert options.run is OMNIDALI.find(words).run
    config = "demo" if words[0] == "demo" else getattr(options, "config", None)
    if config:
        assert config in shipped_names()
        load_config(config, options.overrides)


@pytest.mark.parametrize("word", ["--version", "--help", "help", "train --help", "help settings"])
def test_help_and_version_load_neither_torch_nor_dali(word):
    code = (
        "import sys; from omnidali.cli.main import main; main(sys.argv[1:]);"
        "print({'torch', 'nvidia.dali', 'numpy', 'av', 'cv2'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *word.split()], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_version_is_that_of_the_package(capsys):
    assert printed(capsys, "--version") == f"omnidali {omnidali.__version__}\n"


def test_help_lists_the_shipped_configs(capsys):
    text = printed(capsys, "help", "configs")
    blocks = dict(block.split("\n", 1) for block in text.rstrip().split("\n\n")[1:])
    assert list(blocks) == shipped_names() and "tsn_omni" in blocks
    assert all(meaning.strip().endswith(".") for meaning in blocks.values())
    assert not wide_lines(text)


def schema_fields(schema, above=""):
    """Key, field and type hint of every setting below a class of the schema."""
    hints = typing.get_type_hints(schema, include_extras=True)
    for field in dataclasses.fields(schema):
        key, hint = f"{above}{field.name}", hints[field.name]
        yield key, field, hint
        for part in (hint, *typing.get_args(hint)):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from schema_fields(part, f"{key}.NAME." if key == "sources" else f"{key}.")


def blocks_of(text):
    """What is printed about each setting, by its key: the rest of its line, and the text below."""
    found = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        head, _, below = block.partition("\n")
        key, mark, rest = re.match(r"([\w.-]+)([=:])(.*)", head).groups()
        found[key] = (mark, rest, " ".join(below.split()))
    return found


def test_settings_are_all_printed_as_the_schema_has_them(capsys):
    text = printed(capsys, "help", "settings")
    assert not wide_lines(text)
    introduction, rest = text.split("\n\n", 1)
    assert "key=value" in introduction
    blocks = blocks_of(rest.replace("\n\n", "\n"))
    fields = list(schema_fields(Config))
    assert list(blocks) == [key for key, _, _ in fields]

    for key, field, hint in fields:
        mark, default, about = blocks[key]
        is_group = mark == ":"
        assert field.metadata["meaning"] in (f"{default} {about}" if is_group else about)
        assert field.metadata["unit"] in about
        allowed = " ".join(map(str, metadata_of(hint)))
        assert all(word in about for word in allowed.split()), (key, about)
        if is_group or field.default is dataclasses.MISSING:
            # {}: names of the user's
            assert default.strip() in ("", "{}", field.metadata["meaning"])
        else:
            value = yaml.safe_load(default)
            assert value == (
                list(field.default) if isinstance(field.default, tuple) else field.default
            ), key


def metadata_of(hint):
    """The choices of Literal and the bounds of numbers in a type hint."""
    if typing.get_origin(hint) is typing.Literal:
        yield from typing.get_args(hint)
    for found in getattr(hint, "__metadata__", ()):
        yield from [f"{bound:g}" for bound in (found.low, found.high) if bound != float("inf")]
    for part in typing.get_args(hint):
        if not isinstance(part, str):
            yield from metadata_of(part)


def test_printed_lines_are_settings(capsys, tmp_path):
    """Each line can be copied behind a command."""
    text = printed(capsys, "help", "settings")
    lines = re.findall(r"(?m)^[\w.]+=.+$", text.split("\n\n", 1)[1])
    lines = [line.replace(".NAME.", ".videos.") for line in lines]
    kept = [line for line in lines if "null" not in line]
    assert len(kept) > 50
    (tmp_path / "c.yaml").write_text("sources: {videos: {kind: video}}\ntrain: {steps: 1}\n")
    config = load_config(tmp_path / "c.yaml", [*kept, "evaluation.source.kind=video"])
    assert config.optimizer.milestones == (40.0, 80.0) and config.optimizer.weight_decay == 1e-4


@pytest.mark.parametrize(
    "key, keys",
    [
        ("train.precision", ["train.precision"]),
        ("evaluation.validation", ["evaluation.validation", "evaluation.validation.num_clips"]),
        ("loader", ["loader", "loader.threads"]),
        ("sources.NAME.weight", ["sources.NAME.weight"]),
        ("sources.my-web.weight", ["sources.my-web.weight"]),
        ("sources.my.web.weight", ["sources.my.web.weight"]),
        ("sources.k400", ["sources.k400.kind", "sources.k400.root"]),
        ("sources.k400.resample", ["sources.k400.resample", "sources.k400.resample.power"]),
        ("sources.k400.resample.power", ["sources.k400.resample.power"]),
        ("milestones", ["optimizer.milestones"]),
        ("clip.size=64", ["clip.size"]),
        ("sources.k400.list=a=b.txt", ["sources.k400.list"]),
        ("validation.size", ["evaluation.validation.size"]),
        ("size", ["clip.size", "evaluation.validation.size"]),
    ],
)
def test_a_key_may_be_a_group_a_source_or_an_end(capsys, key, keys):
    text = printed(capsys, "help", "settings", key)
    assert list(blocks_of(text.replace("\n\n", "\n")))[: len(keys)] == keys


@pytest.mark.parametrize(
    "key, advice",
    [
        ("train.presicion", "Did you mean train.precision"),
        ("milestons", "Did you mean optimizer.milestones"),
        ("train-steps", "Did you mean train.steps"),
        ("sources.k400.wieght", "Did you mean sources.k400.weight"),
        ("sources.my.web.wieght", "Did you mean sources.my.web.weight"),
        ("sources.k400.xyzzy", "`omnidali help settings` lists all."),
        ("xyzzy", "`omnidali help settings` lists all."),
    ],
)
def test_unknown_key_is_refused_with_the_nearest(capsys, key, advice):
    assert cli.main(["help", "settings", key]) == 2
    error = capsys.readouterr().err
    assert (
        f"omnidali help settings: expected a key, a group or the last part of keys, got {key}."
        in error
    )
    assert advice in error


def test_help_ends_where_its_reader_leaves(capsys):
    """A pager that is closed early causes no traceback."""
    command = f"{shlex.quote(sys.executable)} -m omnidali help settings | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("Every setting") and done.stderr == ""
