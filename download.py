"""Fetch and convert the published checkpoint: ``python download.py``; see ``--help``."""

import sys

from hatespeech.fetching.command import main

if __name__ == "__main__":
    sys.exit(main())
