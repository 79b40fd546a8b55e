"""Train TSN or SlowOnly jointly on videos and images: the same as ``omnidali train``.

    python train.py --config configs/demo.yaml
    torchrun --nproc-per-node 8 train.py --config configs/tsn_omni.yaml data_root=/data

The loop is in omnidali/training/trainer.py.
"""

import sys

from omnidali.cli.main import main

if __name__ == "__main__":
    sys.exit(main(verb="train"))
