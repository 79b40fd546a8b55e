"""Names of weights: the project that they come from, what stands before them, and ours for them.

The name of the first convolution identifies the family of a file's names:

- ``backbone.conv1.conv.weight``: ours, and mmaction2 0.x and 1.x; the names are kept.
- ``conv1.weight``: torchvision and timm; ``layer1.0.conv1.weight`` becomes
  ``backbone.layer1.0.conv1.conv.weight`` and so on. mmaction2 1.x OmniSource has the same names
  below ``backbone.``, and heads without a counterpart.

Before it may stand ``module.`` (DistributedDataParallel), ``_orig_mod.`` (torch.compile),
``model.`` (Lightning), ``encoder.`` and ``backbone.``, in any order and number. What stands before
tells two networks of one file apart. The one with the fewest such words counts, and weights are
never taken from both: all of the backbone's have the same words, and the classifier has some of
these, from the first on.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from omnidali.models.resnet import LAYERS, Depth

# The networks that weights can be of, for errors.
OUR_RESNETS = f"ResNet{', '.join(f'-{depth}' for depth in LAYERS)}"
# The names of the classifier begin so.
HEAD = "cls_head.fc_cls."

# Reasons for which a tensor is left out.
UNKNOWN = "unknown to this model"
FRESH_HEAD = "asked for with pretrained_head: fresh"
_OTHER_NORMALISATION = "normalisation of the input, which is ours"
_OTHER_HEAD = "classifier of another kind"
_NO_COUNTERPART = "no counterpart"

_STEM = "backbone.conv1.conv.weight"
_STEM_ENDINGS = ("conv1.conv.weight", "conv1.weight")  # mmaction2's, torchvision's
_WRAPPERS = ("module", "_orig_mod")
_PREFIXES = ("model", "encoder", "backbone", *_WRAPPERS)
# These precede the name of any module, also within a network.
_INNER_WRAPPERS = re.compile(rf"(?<=\.)(?:{'|'.join(_WRAPPERS)})\.")
_BACKBONE_END = re.compile(rf"(?<![^.])backbone\.((?:{'|'.join(_WRAPPERS)})\.)*$")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# ResNets that other projects have, by the blocks of their stages and whether these are bottlenecks.
_OTHER_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((1, 1, 1, 1), False): "ResNet-10",
    ((1, 1, 1, 1), True): "ResNet-14",
    ((2, 2, 2, 2), True): "ResNet-26",
    ((3, 8, 36, 3), True): "ResNet-152",
    ((3, 24, 36, 3), True): "ResNet-200",
}
# Names that give other networks away: those of ResNets whose first convolution is called as ours,
# and those of all others. The first one that is found counts.
_OTHER_BLOCKS = {
    r"\.conv1\.(conv\.)?net\.": "TSM, with temporal shifts",
    r"\.se\.|\.se_module\.": "a ResNet with squeeze-and-excitation",
    r"\.downsample\.2\.": "ResNet-D",
}
_OTHER_STEMS = {
    r"(slow|fast)_path|pathway1": "SlowFast, with two pathways",
    r"conv1_s\.|\.conv_xy\.": "X3D",
    r"\.conv_s\.|conv[123]\.0\.0\.weight$": "R(2+1)D, with convolutions in two parts",
    r"cls_token|pos_embed|patch_embed|\.attn\.|attention": "a transformer",
    r"(^|\.)stem\.0\.weight$": "R3D, or a ResNet with several convolutions in its stem",
    r"(^|\.)(conv1|stem)\.0\.(conv\.)?weight$": "ResNet-D",
    r"pathway0": "PySlowFast's, with names of its own",
}


def first_few(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    return "; ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def rename_weights(
    weights: Mapping[str, torch.Tensor],
) -> tuple[str, dict[str, torch.Tensor], dict[str, str]]:
    """Give weights our names.

    Returns:
        The family of the names, the weights under ours, and the names without a counterpart with
        the reason.

    >>> names = ("module.model.conv1.weight", "module.model.bn1.bias", "module.model.fc.bias")
    >>> family, known, left_out = rename_weights(dict.fromkeys(names, torch.zeros(9)))
    >>> family, list(known)
    ('torchvision', ['backbone.conv1.conv.weight', 'backbone.conv1.bn.bias'])
    >>> left_out
    {'module.model.fc.bias': 'classifier of another kind'}
    """
    weights = _unwrap(weights)
    backbones = _find_backbones(weights)
    if len(backbones) > 1:
        return "two networks", {}, dict.fromkeys(weights, UNKNOWN)
    prefix, ending = backbones[0]
    is_ours = ending == _STEM_ENDINGS[0]
    head_prefix = _find_head(weights, prefix)
    has_cls_head = False

    known: dict[str, torch.Tensor] = {}
    left_out = {}
    for name, value in weights.items():
        before, bare = _split_prefix(name)
        has_cls_head |= bare.startswith("cls_head.")
        is_head = is_ours and bare.startswith("cls_head.")
        is_inside = before == (head_prefix if is_head else prefix)
        ours, reason = _our_name(bare, is_inside=is_inside, is_ours=is_ours)
        if ours is None:
            left_out[name] = reason
        else:
            known[ours] = value

    if is_ours:
        return "mmaction2", known, left_out
    words = [word for word in prefix.split(".")[:-1] if word not in _WRAPPERS]
    is_omni = has_cls_head and words[-1:] == ["backbone"]
    return "mmaction2 1.x OmniSource" if is_omni else "torchvision", known, left_out


def _unwrap(weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Remove what wrappers of modules add within a network; nothing where two names become one.

    >>> list(_unwrap({"module.backbone.layer1._orig_mod.0.conv1.weight": torch.zeros(1)}))
    ['module.backbone.layer1.0.conv1.weight']
    """
    bare = {}
    for name, value in weights.items():
        before, rest = _split_prefix(name)
        bare[before + _INNER_WRAPPERS.sub("", rest)] = value
    return bare if len(bare) == len(weights) else weights


def _split_prefix(name: str) -> tuple[str, str]:
    """A name as the words that may stand before a network, and its name within that.

    >>> _split_prefix("model.encoder.cls_head.fc_cls.bias")
    ('model.encoder.', 'cls_head.fc_cls.bias')
    """
    parts = name.split(".")
    first = next((at for at, part in enumerate(parts) if part not in _PREFIXES), 0)
    return "".join(f"{part}." for part in parts[:first]), ".".join(parts[first:])


def _stems(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """What stands before each first convolution, and how its name ends."""
    for name in weights:
        for ending in _STEM_ENDINGS:
            prefix = name.removesuffix(ending)
            is_inner = re.search(r"(^|\.)layer\d", prefix)
            if prefix != name and (not prefix or prefix.endswith(".")) and not is_inner:
                yield prefix, ending


def _find_backbones(weights: Mapping[str, torch.Tensor]) -> list[tuple[str, str]]:
    """What stands before the names of the backbone, and how that of its first convolution ends.

    Of two networks the one with the fewest words before its names counts.

    Returns:
        One, or several if they are complete and have equally many words.
    """
    found = [
        (prefix, ending)
        for prefix, ending in _stems(weights)
        if all(part in _PREFIXES for part in prefix.split(".")[:-1])
    ]
    fewest = min((prefix.count(".") for prefix, _ in found), default=0)
    found = [(prefix, ending) for prefix, ending in found if prefix.count(".") == fewest]
    if len(found) > 1:
        complete = [one for one in found if _is_complete(weights, *one)]
        return complete or found[:1]
    return found or [("", _STEM_ENDINGS[1])]


def _is_complete(weights: Mapping[str, torch.Tensor], prefix: str, ending: str) -> bool:
    """Whether the names after a prefix are those of one of our networks."""
    is_ours = ending == _STEM_ENDINGS[0]
    names = (_split_prefix(name) for name in weights)
    ours = (
        _our_name(bare, is_inside=before == prefix, is_ours=is_ours)[0] for before, bare in names
    )
    return depth_of(dict.fromkeys(filter(None, ours), torch.empty(0))) is not None


def _find_head(weights: Iterable[str], prefix: str) -> str | None:
    """What stands before the names of a backbone's own classifier; None if that is not clear.

    It lies beside the backbone, or else above it, if only one does.

    Args:
        weights: all names.
        prefix: of the backbone's names.
    """
    found = {before for before, bare in map(_split_prefix, weights) if bare.startswith("cls_head.")}
    beside = _BACKBONE_END.sub("", prefix)
    if beside in found:
        return beside
    above = [before for before in found if beside.startswith(before)]
    return above[0] if len(above) == 1 else None


def _our_name(bare: str, *, is_inside: bool, is_ours: bool) -> tuple[str | None, str]:
    """Our name for a weight, or None with the reason.

    Args:
        bare: the name without known prefixes.
        is_inside: whether these are the ones of the network.
        is_ours: whether the network has our names.
    """
    if is_ours:
        if bare.startswith("data_preprocessor."):
            return None, _OTHER_NORMALISATION
        if not is_inside:
            return None, UNKNOWN
        return bare if bare.startswith("cls_head.") else f"backbone.{bare}", _NO_COUNTERPART

    if bare.startswith(("fc.", "head.fc.", "cls_head.")):
        return None, _OTHER_HEAD
    return _from_torchvision(bare) if is_inside else None, _NO_COUNTERPART


def _from_torchvision(name: str) -> str | None:
    """Our name of one of torchvision's weights.

    >>> _from_torchvision("layer1.0.bn2.running_mean")
    'backbone.layer1.0.conv2.bn.running_mean'
    >>> _from_torchvision("layer2.0.downsample.0.weight")
    'backbone.layer2.0.downsample.conv.weight'
    """
    match = re.fullmatch(r"(layer[1-4]\.\d+\.)?(conv|bn)([1-3])\.(\w+)", name)
    if match and (match[1] or match[3] == "1"):
        block, kind, number, part = match.groups(default="")
        ours = f"backbone.{block}conv{number}.{kind}.{part}"
    else:
        match = re.fullmatch(r"(layer[1-4]\.0\.)downsample\.([01])\.(\w+)", name)
        if not match:
            return None
        block, number, part = match.groups()
        kind = "conv" if number == "0" else "bn"
        ours = f"backbone.{block}downsample.{kind}.{part}"

    parts = ("weight",) if kind == "conv" else _NORM
    return ours if part in parts else None


def depth_of(known: Mapping[str, torch.Tensor]) -> Depth | None:
    """Layers of the ResNet of weights with our names; None if it is none of ours."""
    return {layers: depth for depth, layers in LAYERS.items()}.get(_layers(known))


def _layers(known: Mapping[str, torch.Tensor]) -> tuple[tuple[int, ...], bool]:
    """Blocks of the stages, and whether they are bottlenecks."""
    blocks = tuple(
        len({name.split(".")[2] for name in known if name.startswith(f"backbone.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    return blocks, any(".conv3." in name for name in known)


def find_other_network(weights: Mapping[str, torch.Tensor]) -> tuple[str, str] | None:
    """Why weights are of none of our networks: what they are, and what to do.

    Args:
        weights: with the file's names.

    Returns:
        None if their names and stages are those of one of our networks.
    """
    backbones = _find_backbones(_unwrap(weights))
    if len(backbones) > 1:
        names = " and ".join(f"`{(prefix + ending)[:100]}`" for prefix, ending in backbones)
        advice = "Keep the names of one of them alone under state_dict."
        return f"several networks, with {names}", advice
    known = rename_weights(weights)[1]
    has_stem = _STEM in known
    what = _find_telling_name(weights, _OTHER_BLOCKS if has_stem else _OTHER_STEMS)
    if what is None and has_stem:
        what = _describe_other_resnet(known)
        if what is None:
            return None

    prefix = None if what else _find_unknown_prefix(weights)
    if prefix is not None:
        return (
            f"names that begin with `{prefix[:100]}`",
            "Strip it from the names under state_dict, and leave out those that do not begin so.",
        )
    what = what or first_few([name[:100] for name in weights]) or "no names"
    return f"weights of another network: {what}", f"Use those of a {OUR_RESNETS}."


def _find_telling_name(weights: Iterable[str], table: Mapping[str, str]) -> str | None:
    """The network that a name gives away, with the name."""
    for pattern, network in table.items():
        for name in weights:
            if re.search(pattern, name):
                return f"{network} ({name[:100]})"
    return None


def _find_unknown_prefix(weights: Mapping[str, torch.Tensor]) -> str | None:
    """What stands before the names of a network that is one of ours without it."""
    for stem_prefix, _ in _stems(weights):
        # known words at its end may stay
        prefix = re.sub(rf"(?<=\.)(({'|'.join(_PREFIXES)})\.)+$", "", stem_prefix)
        inner = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        if depth_of(rename_weights(inner)[1]) is not None:
            return prefix
    return None


def _describe_other_resnet(known: Mapping[str, torch.Tensor]) -> str | None:
    """What tells a ResNet with our names from ours; None if nothing does."""
    blocks, is_bottleneck = _layers(known)
    if depth_of(known) is None:
        name = _OTHER_RESNETS.get((blocks, is_bottleneck))
        stages = f"stages of {', '.join(map(str, blocks))} blocks"
        return f"{stages} ({name})" if name else stages

    stem = known[_STEM]
    inner = known.get("backbone.layer1.0.conv1.conv.weight")
    if stem.ndim == 5 and stem.shape[2] != 1:
        return f"a first convolution over {stem.shape[2]} frames (I3D or R3D)"
    if stem.ndim not in (4, 5):
        return f"a first convolution of shape {tuple(stem.shape)}"
    if inner is not None and len(inner) != 64:
        return f"{len(inner)} channels in the first block instead of 64 (ResNeXt or wide ResNet)"
    return None
