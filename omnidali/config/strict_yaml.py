"""YAML that is read as it is meant: no repeated key, no huge number, no object."""

import re

import yaml

from omnidali.errors import UserError

_MAX_NUMBER = (1 << 63) - 1
_LONGEST_LINE = 2000  # characters that are searched for a text without quotes
# a key, and a text after it that YAML takes for something else: braces in a name, or a sign that
# begins an alias, an anchor or a directive
_UNQUOTED = re.compile(
    r"""([A-Za-z_]\w*):[ ]+
    ([^\s,"'{}\[\]]*\{[^{}\s"']*\}[^\s,"'{}\[\]]+
    |[^\s,"'{}\[\]]+\{[^{}\s"']*\}[^\s,"'{}\[\]]*
    |[*&%@`][^\s,"'{}\[\]]*)""",
    re.VERBOSE,
)


class _StrictLoader(yaml.SafeLoader):
    """YAML without repeated keys, of which PyYAML keeps the last in silence, and huge numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[object, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if key in lines:
                raise UserError(
                    f"{self.name}, line {line}",
                    f"every key once (first on line {lines[key]})",
                    f"{key!r} again",
                    "Remove one of them.",
                )
            lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if abs(number) > _MAX_NUMBER:
            raise UserError(
                f"{self.name}, line {node.start_mark.line + 1}",
                f"whole numbers of at most {_MAX_NUMBER:,}",
                f"{node.value[:20]}...",
                "Correct the value.",
            )
        return number


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def parse_yaml(text: str, name: str) -> object:
    """Parse YAML text.

    Args:
        text: YAML of plain values.
        name: of the text, for errors.

    Raises:
        UserError: for broken YAML, tags that would make objects, and numbers beyond 64 bits.
    """
    try:
        loader = _StrictLoader(text)
        loader.name = name
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        advice = _advise(text, mark.line) if mark else "Correct the syntax."
        raise UserError(where, "YAML", problem[:200], advice) from None
    except UserError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        # Such as a list as a key, a date that does not exist, or hundreds of levels.
        problem = str(error).splitlines()[0][:200]
        raise UserError(name, "YAML", problem, "Put the value in quotes, or correct it.") from None


def _advise(text: str, line: int) -> str:
    """Advice for a syntax error that was noticed on a line, numbered from 0, or after it."""
    lines = text.splitlines()
    for number in (line, line - 1):
        if 0 <= number < len(lines) and (found := _UNQUOTED.search(lines[number][:_LONGEST_LINE])):
            key, value = found.groups()
            return f'Put the text in quotes: {key}: "{value}"'
    return "Correct the syntax."
