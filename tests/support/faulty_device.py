"""A device that can be held, made to fail on a text, run out of memory or break.

Only the forward pass is replaced; everything around it is real. It is steered by files in a folder,
since what scores may be another process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch

from hatespeech.engine.predictor import Predictor, Probabilities, Sequences


class Switches:
    """The files: while ``hold`` exists, a forward pass waits, having made ``held``; once
    ``broken`` exists, every one fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hold(self) -> None:
        """Have the next forward pass wait."""
        (self.folder / "hold").touch()

    def release(self) -> None:
        """Let the device go on."""
        (self.folder / "hold").unlink(missing_ok=True)

    @property
    def held(self) -> bool:
        """Whether a forward pass waits."""
        return (self.folder / "held").exists()

    @property
    def broken(self) -> bool:
        """Whether every forward pass fails."""
        return (self.folder / "broken").exists()

    def break_device(self) -> None:
        """Have every forward pass fail from now on."""
        (self.folder / "broken").touch()

    def replace_device(self) -> None:
        """Undo whatever was done to the device; also what a process left that was killed."""
        for name in ("hold", "held", "broken"):
            (self.folder / name).unlink(missing_ok=True)

    def wait(self) -> None:
        """Wait while the device is held; called by the forward pass."""
        if (self.folder / "hold").exists():
            (self.folder / "held").touch()
            while (self.folder / "hold").exists():
                time.sleep(0.005)
            (self.folder / "held").unlink()


@contextlib.contextmanager
def faulty_device(
    switches: Switches, culprit: str = "", memory_tokens: int | None = None
) -> Iterator[None]:
    """Put the device under every classifier of this process.

    It fails on the text ``culprit``, and has memory for ``memory_tokens`` in a pass. Its exceptions
    quote texts, as real ones may.
    """
    forward = Predictor.probabilities

    def probabilities(self: Predictor, sequences: Sequences) -> Probabilities:
        switches.wait()
        if switches.broken:
            raise RuntimeError(f"device-side assert triggered {culprit}")
        if culprit and self.encode(culprit).windows[0] in sequences:
            raise ValueError(f"cannot score {culprit}")
        tokens = sum(map(len, sequences))
        if memory_tokens and tokens > memory_tokens:
            raise torch.OutOfMemoryError(f"{tokens} tokens do not fit")
        return forward(self, sequences)

    with patch.object(Predictor, "probabilities", probabilities):
        yield
