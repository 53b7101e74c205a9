"""Score files of tweets: ``python score.py IN OUT``; see ``--help`` and docs/bulk.md."""

import sys

from hatespeech.bulk.command import main
from hatespeech.cli import leave

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
