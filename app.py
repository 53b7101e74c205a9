"""Run the Runpod worker, or score test_input.json: ``python app.py``; see ``--help``."""

import sys

from hatespeech.worker.command import main

if __name__ == "__main__":
    sys.exit(main())
