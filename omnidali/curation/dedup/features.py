"""Features of frames by an image network, whitened, and the likeness from which on two frames count
as one.

OmniSource, Sec. 3.2: features of an ImageNet network, whitened, compared by their cosine;
duplicates are pairs that are more alike than different crops of one frame are on average.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from omnidali.curation.dedup.perceptual_hash import pixels_of
from omnidali.models.recognizers import TSN
from omnidali.models.weights import best_weights, load_pretrained, read_weights, rename
from omnidali.planning.crops import RANDOM_RESIZED_NUMBERS, random_resized
from omnidali.planning.philox import Purpose, Stream

SAMPLE = 32_768  # frames that the whitening is fitted on at most
CROP_AREA = (0.5, 1.0)  # share of the frame in the random crops that the threshold is measured with
_BLANK = 2.0  # contrast, of 255, below which a frame is black, white or plain: it has no features
# by blocks of layer3, and bottlenecks
_DEPTHS = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101}


@dataclass(frozen=True)
class ImageNetwork:
    """A network that gives features of frames.

    Attributes:
        backbone: (N, 3, H, W) to maps. width: numbers of a feature. digest: text that tells weights
            apart.
    """

    backbone: torch.nn.Module
    width: int
    digest: str

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Features of every frame of (N, 3, T, H, W): (N, T * width); zeros for frames without
        contrast.
        """
        return self._features(clips.transpose(1, 2).flatten(0, 1), pixels_of(clips)).view(
            len(clips), -1
        )

    def of_crops(self, clips: torch.Tensor) -> torch.Tensor:
        """Features of two random crops of every clip's only frame: (N, 2 * width).

        The crops are drawn from the frame's own pixels: they are the same on any number of ranks,
        and after a kill.
        """
        frames, pixels, side = clips[:, :, 0], pixels_of(clips[:, :, :1]), clips.shape[-1]
        draws = (pixels.double().mean(dim=(1, 2, 3)) * 1e6).long().cpu().numpy()
        both = []
        for crop in range(2):
            numbers = Stream(0, crop).uniform(Purpose.CROP, draws, RANDOM_RESIZED_NUMBERS)
            boxes = random_resized(
                np.full(len(draws), side), np.full(len(draws), side), numbers, CROP_AREA
            )
            cut = [
                F.interpolate(
                    frame[None, :, top:bottom, left:right],
                    (side, side),
                    mode="bilinear",
                    antialias=True,
                )
                for frame, (top, left, bottom, right) in zip(frames, boxes.tolist())
            ]
            both.append(self._features(torch.cat(cut), pixels))
        return torch.cat(both, dim=1)

    def _features(self, frames: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        features = self.backbone(frames).mean(dim=(2, 3)).float()
        small = F.avg_pool2d(pixels, max(1, pixels.shape[-1] // 8))
        contrast = small.flatten(2).var(dim=2, unbiased=False).mean(dim=1).sqrt()
        return features * (contrast >= _BLANK).float()[:, None]


def load_network(path: str | Path, device: torch.device) -> ImageNetwork:
    """An image network from a checkpoint file, or a run folder for its best.pt.

    The depth is told from the weights; the classifier is not used. ResNets of torchvision and timm
    will do as well as TSN's.

    Raises:
        UserError: if it cannot be read, or holds no weights of a ResNet for images.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / "checkpoints" / name for name in ("best.pt", "last.pt")]
        path = next((file for file in found if file.exists()), found[0])
    state = read_weights(path)
    weights = best_weights(state)
    model = TSN(_depth_of(weights), classes=1, dropout=0.0)
    load_pretrained(model, path, head="fresh")
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(model.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    model.eval()
    return ImageNetwork(model.backbone.to(device), model.backbone.channels, digest.hexdigest())


def _depth_of(weights: Mapping[str, torch.Tensor]) -> int:
    """The ResNet that weights are of, 50 where that cannot be told: loading them says what is
    wrong.
    """
    names = rename(weights)[1]
    blocks = {
        int(match[1]) for name in names if (match := re.match(r"backbone\.layer3\.(\d+)\.", name))
    }
    return _DEPTHS.get((len(blocks), "backbone.layer1.0.conv3.conv.weight" in names), 50)


@dataclass(frozen=True)
class Whitening:
    """A linear map after which features are uncorrelated and vary alike in all directions.

    Attributes:
        mean: float32 (D,). matrix: float32 (D, d), d directions.
        shrinkage: share of the covariance that was replaced by equal variances, 0 to 1.
        frames: on which it was fitted.
    """

    mean: np.ndarray
    matrix: np.ndarray
    shrinkage: float
    frames: int


def fit_whitening(features: np.ndarray) -> Whitening:
    """Fit to features (n, D), rows of zeros left out.

    The covariance is shrunk towards equal variances as far as Ledoit and Wolf (2004) estimate to be
    best: few frames for many numbers would otherwise blow up directions in which they do not vary
    by chance. For the same reason the directions in which they vary most are kept alone, one for
    every four frames.
    """
    features = np.asarray(features, np.float64)
    features = features[features.any(axis=1)]
    count, width = features.shape
    if count < 2:
        return Whitening(np.zeros(width, np.float32), np.eye(width, dtype=np.float32), 1.0, count)
    mean = features.mean(axis=0)
    around = features - mean
    covariance = around.T @ around / count
    level = np.trace(covariance) / width
    # of the covariance around equal variances
    spread = (covariance**2).sum() - width * level**2
    noise = ((around**2).sum(axis=1) ** 2).mean() / count - (covariance**2).sum() / count
    shrinkage = float(np.clip(noise / spread, 0, 1)) if spread > 0 else 1.0
    values, vectors = np.linalg.eigh(
        (1 - shrinkage) * covariance + shrinkage * level * np.eye(width)
    )
    matrix = (vectors / np.sqrt(np.maximum(values, 1e-12 * max(level, 1e-12))))[
        :, -max(1, count // 4) :
    ]
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32), shrinkage, count)


class FeatureLikeness:
    """Compare frames by the cosine of their whitened features; see
    :mod:`omnidali.curation.dedup.nearest`.
    """

    def __init__(self, whitening: Whitening, device: torch.device = torch.device("cpu")):
        self._mean = torch.from_numpy(whitening.mean).to(device)
        self._matrix = torch.from_numpy(whitening.matrix).to(device)
        # new memory for every block would cost a quarter of the product
        self._block = torch.empty(0)

    def prepare(self, kept: np.ndarray) -> torch.Tensor:
        """Features (n, D) whitened, of length 1; zeros stay zeros, which are like nothing."""
        features = torch.from_numpy(np.asarray(kept, np.float32)).to(self._mean.device)
        there = features.any(dim=1, keepdim=True).float()
        return F.normalize((features - self._mean) @ self._matrix, dim=1) * there

    def size(self, prepared: torch.Tensor) -> int:
        """Bytes in memory."""
        return prepared.numel() * prepared.element_size()

    def __call__(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Cosines float32 (m, k), until the next call."""
        size = len(one) * len(other)
        if self._block.numel() < size:
            self._block = one.new_empty(size)
        return torch.mm(one, other.T, out=self._block[:size].view(len(one), len(other)))
