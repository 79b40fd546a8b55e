"""Evaluate a checkpoint on held-out data: the same as ``omnidali evaluate``.

python evaluate.py --config configs/demo.yaml
torchrun --nproc-per-node 8 evaluate.py --config configs/tsn_omni.yaml --checkpoint runs/tsn_omni
"""

import sys

from omnidali.cli.main import main

if __name__ == "__main__":
    sys.exit(main(verb="evaluate"))
