"""``python -m tune_ablation``: the command line."""

import sys

from tune_ablation.cli import main

if __name__ == "__main__":
    sys.exit(main())
