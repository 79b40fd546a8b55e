"""The stages of an external network, from its input on, for what treats them one by one.

timm says which weights belong together. Elsewhere the order of the children tells: blocks stand one
after the other in a list, and what is small before them is the stem.
"""

from collections.abc import Iterator, Mapping

from torch import nn

from omnidali.models.recognizers import Stage

_STEM = "stem"
# Words of the settings that speak of stages.
_RESERVED = ("classifier", "head", "backbone", _STEM)
# A child with this share of the weights is the network itself, in a wrapper.
_IS_ALMOST_ALL = 0.8
_MOST_OF_STEM = 6  # layers


def find_stages(module: nn.Module, prefix: str, classifier: str | None) -> tuple[Stage, ...]:
    """The stages of a network without its classifier.

    Args:
        module: the network.
        prefix: of its names in the recognizer.
        classifier: name of the module in it that is the classifier; None if it has none.

    Returns:
        Stages that hold each other parameter exactly once.
    """
    names = [
        name
        for name, _ in module.named_parameters()
        if classifier is None or not f"{name}.".startswith(f"{classifier}.")
    ]
    groups = _groups_of_timm(module) or _groups_by_order(module)
    order = {group: place for place, group in enumerate(dict.fromkeys(groups.values()))}
    stage_of = {name: order[groups[name]] for name in names if name in groups}
    numbers = sorted(set(stage_of.values()))
    members = [{name for name in stage_of if stage_of[name] == number} for number in numbers]
    _merge_last_norms(module, members)

    stages: list[Stage] = []
    for group in members:
        prefixes = tuple(_cover(module, group, ""))
        taken = {*_RESERVED, *(stage.name for stage in stages)}
        name = prefixes[0] if prefixes[0] not in taken else _name_of_first(module, group)
        name = _STEM if not stages else name
        stages.append(Stage(name, tuple(f"{prefix}.{inner}" for inner in prefixes)))
    return tuple(stages)


def _merge_last_norms(module: nn.Module, members: list[set[str]]) -> None:
    """Give norms that follow the last block to its stage."""
    sizes = {name: parameter.ndim for name, parameter in module.named_parameters()}
    while len(members) > 1 and all(sizes[name] == 1 for name in members[-1]):
        last = members.pop()
        members[-1] |= last


def _name_of_first(module: nn.Module, members: set[str]) -> str:
    """The name of the first layer of a stage."""
    first = next(name for name, _ in module.named_parameters() if name in members)
    return first.rpartition(".")[0] or first


def _groups_of_timm(module: nn.Module) -> dict[str, int]:
    """The number of the group of each parameter, where the network has timm's matcher."""
    matcher = getattr(module, "group_matcher", None)
    if not callable(matcher):
        return {}
    try:
        from timm.models import group_parameters

        groups: Mapping[int, list[str]] = group_parameters(module, matcher(coarse=False))
    except Exception:  # of another project that has the same name for something else
        return {}
    found = {name: number for number, names in sorted(groups.items()) for name in names}
    return found if found.keys() >= {name for name, _ in module.named_parameters()} else {}


def _groups_by_order(module: nn.Module) -> dict[str, int]:
    """The number of the group of each parameter, by the order of the children.

    A layer alone belongs to the stem, or else to the block before it.
    """
    groups: dict[str, int] = {}
    number = 0
    for prefix, unit in _units(module, ""):
        is_block = isinstance(unit, nn.Module) and any(True for _ in unit.children())
        if is_block and groups:
            number += 1
        parameters = unit.named_parameters() if isinstance(unit, nn.Module) else [("", unit)]
        for name, _ in parameters:
            groups[f"{prefix}.{name}".strip(".")] = number
    return groups


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Parameters, layers and blocks of a network, in order; wrappers and lists are opened."""
    total = sum(weight.numel() for weight in module.parameters())
    for name, parameter in module.named_parameters(recurse=False):
        yield f"{prefix}{name}", parameter
    for name, child in module.named_children():
        size = sum(weight.numel() for weight in child.parameters())
        if size == 0:
            continue
        has_list = any(isinstance(inner, nn.ModuleList) for inner in child.children())
        is_open = isinstance(child, nn.ModuleList) or has_list or size > _IS_ALMOST_ALL * total
        # a network begins with its stem, which has no such number of blocks
        is_first = child is next(
            inner for inner in module.children() if any(True for _ in inner.parameters())
        )
        is_open |= is_first and not prefix and len(list(child.children())) > _MOST_OF_STEM
        if isinstance(module, nn.ModuleList) or not is_open or not any(child.children()):
            yield f"{prefix}{name}", child
        else:
            yield from _units(child, f"{prefix}{name}.")


def _cover(module: nn.Module, members: set[str], prefix: str) -> Iterator[str]:
    """The largest modules that hold members alone, and members that stand beside others."""
    for name, _ in module.named_parameters(recurse=False):
        if f"{prefix}{name}" in members:
            yield f"{prefix}{name}"
    for name, child in module.named_children():
        inside = {f"{prefix}{name}.{inner}" for inner, _ in child.named_parameters()}
        if inside and inside <= members:
            yield f"{prefix}{name}"
        elif inside & members:
            yield from _cover(child, members, f"{prefix}{name}.")
