"""Pictures with stripes of three colours, which are their classes: several labels a picture."""

import cv2
import numpy as np

NAMES = ["red", "green", "blue"]
SETS = [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)]
CONFIG = """
device: cpu
multi_label: true
classes: names.txt
sources:
  pics: {kind: image, root: pics, list: train.txt}
  crawl: {kind: image, root: pics, list: crawl.txt, weight: 0.5, loss_weight: 0.5}
clip: {num_clips: 1, size: 32, crop: center, flip: 0}
model: {depth: 18, dropout: 0}
optimizer: {lr: 0.1, schedule: cosine}
train: {batch: 14, steps: 60, log_every: 20}
loader: {threads: 1}
evaluation:
  source: {kind: image, root: pics, list: val.txt}
  every_steps: 30
  batch: 7
  validation: {num_clips: 1, size: 32, short_side: 32}
  test: {num_clips: 1, size: 32, short_side: 32}
"""


def write_stripes(path, labels, noise):
    """A picture with a stripe for each label, and noise that makes it another one."""
    image = np.random.default_rng(noise).integers(30, 90, (32, 48, 3)).astype(np.uint8)
    for label in labels:
        image[:, 16 * label : 16 * label + 16, 2 - label] = 250
    cv2.imwrite(str(path), image)


def make_world(root, train=42, val=21, crawl=14):
    """Pictures, lists and a config; every seventh line of the crawl has a wrong label more."""
    (root / "pics").mkdir(parents=True)
    for part, count in (("train", train), ("val", val), ("crawl", crawl)):
        lines = []
        for number in range(count):
            labels = SETS[number % 7]
            path = root / "pics" / f"{part} {number}.png"
            write_stripes(path, labels, noise=len(part) * 1000 + number)
            if part == "crawl" and number % 7 == 0:
                labels = (0, 1)
            lines.append(f"{path.name} {' '.join(map(str, labels))}\n")
        (root / f"{part}.txt").write_text("".join(lines))
    (root / "names.txt").write_text("\n".join(NAMES))
    (root / "config.yaml").write_text(CONFIG)
    return root
