"""Whitened features of frames by an image network.

OmniSource, Sec. 3.2: features of an ImageNet network are whitened and compared by their cosine;
duplicates are pairs that are more similar than two crops of one frame are on average.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from omnidali.config.schema import Config
from omnidali.curation.dedup.frame_cache import DONE, FrameCache, fill_cache
from omnidali.curation.dedup.perceptual_hash import MIN_CONTRAST, pixels_of
from omnidali.curation.dedup.search import SearchedSource
from omnidali.curation.table_sample import evenly_spread
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import BEST, find_checkpoint
from omnidali.models.pretrained import load_pretrained
from omnidali.models.recognizers import TSN
from omnidali.models.resnet import ResNet
from omnidali.models.weight_names import depth_of, rename_weights
from omnidali.models.weights import best_weights, read_weights
from omnidali.planning.crops import RANDOM_RESIZED_NUMBERS, random_resized
from omnidali.planning.philox import Purpose, Stream

CROP_AREA = (0.5, 1.0)  # share of the frame in the crops that measure the threshold
_MAX_WHITENED = 32_768  # frames that the whitening is fitted to
_MAX_CALIBRATED = 2000  # validation items whose crops are compared, one frame of each
_MAX_HALF = 65504  # the largest float16
_MIN_VARIANCE = 1e-12  # of a direction, relative to the mean one


@dataclass(frozen=True)
class ImageNetwork:
    """A network that computes features of frames.

    Attributes:
        backbone: (N, 3, H, W) to feature maps.
        width: numbers of a feature.
        digest: text that differs between weights.
    """

    backbone: torch.nn.Module
    width: int
    digest: str

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Features of every frame of (N, 3, T, H, W): (N, T * width).

        They are zeros for frames without contrast.
        """
        frames = clips.transpose(1, 2).flatten(0, 1)
        return self._features(frames, pixels_of(clips)).view(len(clips), -1)

    def features_of_crops(self, clips: torch.Tensor) -> torch.Tensor:
        """Features of two random crops of the only frame of every clip: (N, 2 * width).

        The frame's own pixels seed the crops, which are therefore the same on any number of ranks,
        and after a kill.
        """
        frames = clips[:, :, 0]
        pixels = pixels_of(clips[:, :, :1])
        side = clips.shape[-1]
        sides = np.full(len(frames), side)
        draws = (pixels.double().mean(dim=(1, 2, 3)) * 1e6).long().cpu().numpy()

        both = []
        for number in range(2):
            numbers = Stream(0, number).uniform(Purpose.CROP, draws, RANDOM_RESIZED_NUMBERS)
            boxes = random_resized(sides, sides, numbers, CROP_AREA).tolist()
            crops = [
                F.interpolate(
                    frame[None, :, top:bottom, left:right],
                    (side, side),
                    mode="bilinear",
                    antialias=True,
                )
                for frame, (top, left, bottom, right) in zip(frames, boxes, strict=True)
            ]
            both.append(self._features(torch.cat(crops), pixels))
        return torch.cat(both, dim=1)

    def _features(self, frames: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        features = self.backbone(frames).mean(dim=(2, 3)).float()
        small = F.avg_pool2d(pixels, max(1, pixels.shape[-1] // 8))
        contrast = small.flatten(2).var(dim=2, unbiased=False).mean(dim=1).sqrt()
        return features * (contrast >= MIN_CONTRAST).float()[:, None]


def load_image_network(path: str | Path, device: torch.device) -> ImageNetwork:
    """Load an image network from a checkpoint file, or from the best.pt of a run folder.

    The depth follows from the weights; the classifier is not used. ResNets of torchvision and timm
    do as well as TSN's.

    Args:
        path: checkpoint file or run folder.
        device: that gets the network.

    Raises:
        UserError: if it cannot be read, or holds no weights of a ResNet for images.
    """
    path = find_checkpoint(path, preferred=BEST)
    known = rename_weights(best_weights(read_weights(path)))[1]
    # where it is none of ours, loading reports the reason
    model = TSN(depth_of(known) or 50, classes=1, dropout=0.0)
    load_pretrained(model, path, head="fresh")
    model.eval()

    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(model.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    backbone = model.backbone
    assert isinstance(backbone, ResNet)
    return ImageNetwork(backbone.to(device), backbone.channels, digest.hexdigest())


@dataclass(frozen=True)
class Whitening:
    """A linear map after which features are uncorrelated and vary equally in all directions.

    Attributes:
        mean: float32 (D,).
        matrix: float32 (D, d), d directions.
        shrinkage: share of the covariance that was replaced by equal variances, 0 to 1.
        frames: number of frames that it was fitted to.
    """

    mean: np.ndarray
    matrix: np.ndarray
    shrinkage: float
    frames: int


def fit_whitening(features: np.ndarray) -> Whitening:
    """Fit a whitening to features (n, D), without rows of zeros.

    The covariance is shrunk towards equal variances as far as Ledoit and Wolf (2004) estimate to be
    best: few frames with many numbers would otherwise blow up directions in which they happen to
    vary little. For the same reason only the directions of the largest variance are kept, one for
    every four frames.
    """
    features = np.asarray(features, np.float64)
    features = features[features.any(axis=1)]
    count, width = features.shape
    if count < 2:
        return Whitening(np.zeros(width, np.float32), np.eye(width, dtype=np.float32), 1.0, count)

    mean = features.mean(axis=0)
    centred = features - mean
    covariance = centred.T @ centred / count
    level = np.trace(covariance) / width

    # Ledoit and Wolf: distance of the covariance from equal variances, and its sampling error.
    distance = (covariance**2).sum() - width * level**2
    noise = ((centred**2).sum(axis=1) ** 2).mean() / count - (covariance**2).sum() / count
    shrinkage = float(np.clip(noise / distance, 0, 1)) if distance > 0 else 1.0

    shrunk = (1 - shrinkage) * covariance + shrinkage * level * np.eye(width)
    variances, directions = np.linalg.eigh(shrunk)
    least = _MIN_VARIANCE * max(level, _MIN_VARIANCE)
    matrix = (directions / np.sqrt(np.maximum(variances, least)))[:, -max(1, count // 4) :]
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32), shrinkage, count)


class FeatureSimilarity:
    """Compares features by the cosine of their whitened values.

    A :class:`~omnidali.curation.dedup.nearest.Similarity`.

    Args:
        whitening: fitted to such features.
        device: that compares them.
    """

    def __init__(self, whitening: Whitening, device: torch.device | str = "cpu"):
        self._mean = torch.from_numpy(whitening.mean).to(device)
        self._matrix = torch.from_numpy(whitening.matrix).to(device)
        # New memory for every block would cost a quarter of the product.
        self._block = torch.empty(0)

    def prepare(self, rows: np.ndarray) -> torch.Tensor:
        """Whiten features (n, D) and scale them to length 1; zeros stay, similar to nothing."""
        features = torch.from_numpy(np.asarray(rows, np.float32)).to(self._mean.device)
        is_feature = features.any(dim=1, keepdim=True).float()
        return F.normalize((features - self._mean) @ self._matrix, dim=1) * is_feature

    def size(self, prepared: torch.Tensor) -> int:
        """Bytes of prepared features."""
        return prepared.numel() * prepared.element_size()

    def __call__(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Cosines, float32 (m, k), valid until the next call."""
        size = len(one) * len(other)
        if self._block.numel() < size:
            self._block = one.new_empty(size)
        return torch.mm(one, other.T, out=self._block[:size].view(len(one), len(other)))


def pack_features(outputs: np.ndarray, width: int) -> np.ndarray:
    """Pack features (n, T * width) into rows of a cache: float16 (n * T, width)."""
    return np.clip(outputs.reshape(-1, width), -_MAX_HALF, _MAX_HALF).astype(np.float16)


def sample_features(caches: Sequence[FrameCache]) -> np.ndarray:
    """Features of frames of all sources, evenly spread: float32 (n, D).

    No source has more than its share, so that a large one does not outweigh the others.
    """
    share = _MAX_WHITENED // len(caches)
    return np.concatenate(
        [
            np.asarray(cache.values[evenly_spread(len(cache.values), share)], np.float32)
            for cache in caches
        ]
    )


def measure_threshold(
    source: SearchedSource,
    network: ImageNetwork,
    similarity: FeatureSimilarity,
    config: Config,
    out: Path,
    ranks: Ranks,
) -> float:
    """Measure the mean cosine of two random crops of one frame.

    Args:
        source: the middle frames of its items are cropped, at most 2000 of them.
        network: computes the features.
        similarity: compares them.
        config: how clips are loaded.
        out: folder of the source's caches.
        ranks: all of them call this.

    Raises:
        UserError: if no frame can be used.
    """
    rows = evenly_spread(len(source.items), _MAX_CALIBRATED)
    items = source.items.take(rows, "calibration").with_one_frame()
    size = config.evaluation.test.size
    width = network.width
    cache = fill_cache(
        out / f"crops-{network.digest}-{size}",
        items,
        source.config,
        width=2 * width,
        dtype=np.float16,
        network=network.features_of_crops,
        pack=partial(pack_features, width=2 * width),
        size=size,
        precision=config.train.precision,
        title="crops of one frame",
        config=config,
        ranks=ranks,
    )

    def mean_cosine() -> float:
        crops = np.asarray(cache.values[cache.done == DONE], np.float32)
        one = similarity.prepare(crops[:, :width])
        other = similarity.prepare(crops[:, width:])
        cosines = (one * other).sum(dim=1)[one.any(dim=1) & other.any(dim=1)]
        if not len(cosines):
            raise UserError(
                "--threshold",
                "frames to measure it with",
                f"none that can be used in {source.name}",
                "Give a number.",
            )
        return float(cosines.mean())

    return ranks.on_main(mean_cosine)
