"""Train a checkpoint: ``python train.py``; see ``--help``."""

import sys

from hatespeech.training.command import main

if __name__ == "__main__":
    sys.exit(main())
