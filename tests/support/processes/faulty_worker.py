"""The worker with a device that can be held, made to fail on a text, run out of memory or break.

Only the forward pass is replaced; everything around it is the real worker. What the device does is
steered by files in a folder (``--switches``): while ``hold`` exists, a forward pass waits, having
made ``held``; once ``broken`` exists, every one fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch

from hatespeech.engine.classifier import Classifier, Probabilities, Sequences
from hatespeech.worker import command as app

Forward = Callable[[Classifier, Sequences], Probabilities]


def faulty(forward: Forward, options: argparse.Namespace) -> Forward:
    """Return ``forward`` with faults; its exceptions quote texts, as real ones may."""

    def probabilities(self: Classifier, sequences: Sequences) -> Probabilities:
        switches: Path = options.switches
        if (switches / "hold").exists():
            (switches / "held").touch()
            while (switches / "hold").exists():
                time.sleep(0.005)
            (switches / "held").unlink()
        if (switches / "broken").exists():
            raise RuntimeError(f"device-side assert triggered {options.culprit}")
        if options.culprit and self.encode(options.culprit).windows[0] in sequences:
            raise ValueError(f"cannot score {options.culprit}")
        tokens = sum(map(len, sequences))
        if options.memory_tokens and tokens > options.memory_tokens:
            raise torch.OutOfMemoryError(f"{tokens} tokens do not fit")
        return forward(self, sequences)

    return probabilities


def main() -> int:
    """Run the worker on the faulty device; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switches", type=Path, required=True, help="folder of hold and broken")
    parser.add_argument("--culprit", default="", help="the one text that the device fails on")
    parser.add_argument("--memory-tokens", type=int, help="what a forward pass has memory for")
    options = parser.parse_args()
    with patch.object(Classifier, "probabilities", faulty(Classifier.probabilities, options)):
        return app.main([])


if __name__ == "__main__":
    sys.exit(main())
