"""What a step of a training costs: frames, and the seconds that a CPU needs at least."""

import math
import time

import torch

from omnidali.config.schema import Config
from omnidali.distributed.ranks import Ranks
from omnidali.models.build import build_model
from omnidali.models.dry_pass import count_operations
from omnidali.models.precision import make_autocast
from omnidali.models.recognizers import Recognizer, memory_format
from omnidali.planning.mixing import make_mixing

# Floating-point operations of a forward pass on one pixel of a frame of 224 x 224.
OPERATIONS = {
    "tsn": {18: 72e3, 34: 146e3, 50: 163e3, 101: 311e3},
    "slowonly": {18: 137e3, 34: 303e3, 50: 208e3, 101: 426e3},
}
# forward passes that cost as much as one with its backward pass, which has two products for each
# of the forward pass: one for the weights, one for the activations
TRAINING = 3
_MEASURED_FRAMES = 4  # at once: enough to keep all cores busy
_MEASURED_SECONDS = 1.0  # the shortest pass counts: the first one also chooses algorithms


def frames_of_step(config: Config) -> float:
    """Frames that the network sees in a step of all ranks; the mean if steps differ."""
    sources = list(config.sources.values())
    ratio = config.train.ratio_of(len(sources))
    mixing = make_mixing(sources, config.batch, ratio)

    clip = config.clip.num_clips * config.clip.clip_len
    frames = [1 if source.shows_single_frames else clip for source in sources]
    return float(mixing.batch * (mixing.shares @ frames))


def operations_of_step(config: Config, external: Recognizer | None = None) -> float:
    """Floating-point operations of a step on all ranks, within a fifth.

    Args:
        config: of the run.
        external: the network, if it is none of ours: its operations are counted, and infinite
            where they cannot be.
    """
    if external is not None:
        return TRAINING * _operations_of_frame(config, external) * frames_of_step(config)
    of_pixel = OPERATIONS[config.model.name][config.model.depth]
    return TRAINING * of_pixel * config.clip.size**2 * frames_of_step(config)


def measure_step(config: Config, ranks: Ranks, external: Recognizer | None = None) -> float:
    """Seconds that a step takes at least on this CPU, by a forward pass on one clip.

    Decoding, gradients' sums over the ranks, and the optimizer come on top. Random numbers, and the
    number of torch's threads, are the same afterwards.

    Args:
        config: of the run.
        ranks: this process and its peers, which share the cores of this machine.
        external: the network, if it is none of ours.
    """
    frames = _MEASURED_FRAMES if external is None else config.clip.clip_len
    clip = torch.zeros(1, 3, frames, config.clip.size, config.clip.size)
    model = _make_ours(config) if external is None else external.eval()
    passes: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(ranks.threads)
    try:
        with torch.inference_mode(), make_autocast(config.train.precision, clip.device):
            while sum(passes) < _MEASURED_SECONDS:
                begun = time.perf_counter()
                model(clip)
                passes.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    rank_frames = frames_of_step(config) / ranks.world
    return TRAINING * min(passes) * rank_frames / frames


def _operations_of_frame(config: Config, network: Recognizer) -> float:
    """Floating-point operations of a forward pass of an external network, for each frame."""
    frames, size = config.clip.clip_len, config.clip.size
    count = count_operations(network, 1, 3, frames, size, size)
    return math.inf if count is None else count / frames


def _make_ours(config: Config) -> torch.nn.Module:
    """Our network with weights of zero; random numbers stay as they are."""
    with torch.device("meta"):
        model = build_model(config.model, 1, config.clip.clip_len)
    model = model.to_empty(device="cpu").eval()
    for tensor in model.state_dict().values():
        tensor.zero_()
    layout = memory_format(model, channels_last=config.model.channels_last)
    return model.to(memory_format=layout)  # type: ignore[call-overload]
