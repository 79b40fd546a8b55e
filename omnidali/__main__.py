"""``python -m omnidali`` is the command ``omnidali``."""

import sys

from omnidali.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
