"""What ``--help`` and ``omnidali help`` say."""

import textwrap
from collections.abc import Sequence

from omnidali.cli.arguments import make_parser
from omnidali.cli.command import Program
from omnidali.cli.mistakes import explain_topic
from omnidali.config.files import purpose_of, shipped_names
from omnidali.config.reference import SettingHelp, all_settings, find_settings, suggest_keys
from omnidali.errors import UserError
from omnidali.models.released_weights import RELEASED

_WIDTH = 80
_INTRODUCTION = """\
Every setting of a config, with its default. On a command line a setting is
written as here, key=value; in a config file, the parts of its key are nested.
Values are YAML; null clears a setting. On a command line, text is taken as it
is: sources.web.pattern={id}.mp4 needs only the shell's quotes.
"""


def program_help(program: Program) -> str:
    """The help of a program: its verbs, by what users want, one a line."""
    lines = [f"usage: {program.name} {program.usage}", "", program.description]
    wide = max(len(command.name) for command in program.commands)
    for title, commands in program.groups.items():
        lines += ["", f"{title}:"]
        lines += [f"  {command.name:{wide}}  {command.summary}" for command in commands]
    return "\n".join([*lines, *program.closing])


def topic_help(program: Program, topic: Sequence[str]) -> str:
    """The help of a topic.

    Args:
        program: whose help it is.
        topic: a verb, ``settings`` and keys, ``configs``, ``weights``, or nothing for the whole
            program.

    Raises:
        UserError: for another topic, and an unknown key.
    """
    if not topic:
        return program_help(program)
    if topic[0] == "settings":
        return settings_help(topic[1:])
    if list(topic) == ["configs"]:
        return _configs_help()
    if list(topic) == ["weights"]:
        return _weights_help()
    command = program.find(topic)
    if command is None or len(command.name.split()) < len(topic):
        raise explain_topic(topic, program)
    return make_parser(command, program.name).format_help().rstrip("\n")


def _configs_help() -> str:
    lines = [
        "The shipped configs, for --config NAME, and for base: NAME in a config of your",
        "own. `omnidali train --config NAME --print-config` prints all settings of one.",
    ]
    for name in shipped_names():
        lines += ["", name, _indented(purpose_of(name))]
    return "\n".join(lines)


def _weights_help() -> str:
    lines = [
        "Weights that others have released, for model.pretrained=NAME and --checkpoint",
        "NAME. Their files are downloaded once, into $TORCH_HOME/hub/checkpoints (by",
        "default ~/.cache/torch/hub/checkpoints). Of ResNets the classifier is left out.",
    ]
    for name, weights in RELEASED.items():
        lines += ["", name, _indented(str(weights)), f"    {weights.url}"]
    return "\n".join(lines)


def _indented(text: str) -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )


def settings_help(keys: Sequence[str]) -> str:
    """Settings with their meaning, values and default, in at most 80 columns.

    Each setting begins a line with ``key=default``, as it is written on a command line; indented
    lines about it follow. The line of a group has a colon instead.

    Args:
        keys: of settings or groups, or last parts of keys; a value after one, as in
            ``train.batch=64``, changes nothing. None: all settings.

    Raises:
        UserError: for a key that there is not.
    """
    settings: list[SettingHelp] = []
    for word in keys:
        key, _, _ = word.partition("=")
        found = find_settings(key)
        if not found:
            close = suggest_keys(key)
            advice = "`omnidali help settings` lists all."
            if close:
                advice = f"Did you mean {' or '.join(close)}?"
            raise UserError(
                "omnidali help settings", "a key, a group or the last part of keys", key, advice
            )
        settings += found

    text = "\n".join(_describe(setting) for setting in settings or all_settings())
    return text.lstrip("\n") if keys else f"{_INTRODUCTION}\n{text}"


def _describe(setting: SettingHelp) -> str:
    """The lines about a setting; a group has an empty line before it."""
    if setting.is_group and setting.default is None:
        return "\n" + textwrap.fill(
            f"{setting.key}: {setting.meaning}", _WIDTH, subsequent_indent="    "
        )

    values = setting.expects
    if setting.unit:
        values += f"; in {setting.unit}"
    if setting.default is None:
        values += "; it has to be set"
    head = f"{setting.key}={setting.default or ''}"
    return "\n".join([head, _indented(setting.meaning), _indented(values)])
