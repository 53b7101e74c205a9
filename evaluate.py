"""Measure a model on labelled texts: ``python evaluate.py IN``; see ``--help``."""

import sys

from hatespeech.cli import leave
from hatespeech.evaluation.command import main

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
