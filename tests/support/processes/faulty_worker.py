"""The worker with a device that can be held, made to fail on a text, run out of memory or break."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hatespeech.worker import command as app
from tests.support.faulty_device import Switches, faulty_device


def main() -> int:
    """Run the worker on the faulty device; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switches", type=Path, required=True, help="folder of the switches")
    parser.add_argument("--culprit", default="", help="the one text that the device fails on")
    parser.add_argument("--memory-tokens", type=int, help="what a forward pass has memory for")
    options = parser.parse_args()
    with faulty_device(Switches(options.switches), options.culprit, options.memory_tokens):
        return app.main([])


if __name__ == "__main__":
    sys.exit(main())
