"""The training loop: optimiser, schedule, progress bar, and resuming after an interruption.

Each step seeds its randomness (dropout, masking) with (seed, stage, epoch, step), and each epoch
its order with (seed, stage, epoch). So a resumed run needs the weights, the optimiser's state and
its position, but no generator's state. It ends with the weights of an uninterrupted run.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from hatespeech.cli import restored_signals
from hatespeech.training import TrainingError
from hatespeech.training.recipe import Recipe
from hatespeech.training.sequences import Sample, batches, parts_by_tokens
from hatespeech.training.stages import Stage

log = logging.getLogger(__name__)

PART_TOKENS: Final = 4096  # a larger batch is computed in parts: less memory, the same gradient
SAVE_SECONDS: Final = 60.0
SAVE_SHARE: Final = 20.0  # time between two saves, as a multiple of the time that a save takes


class Interrupted(Exception):
    """A signal asked training to stop; its state is saved."""


@dataclass
class TrainingProgress:
    """How far training has come, and the state to resume from."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0  # of computing, without interruptions
    best_f1: float = -1.0
    best_epoch: int = -1
    module: dict[str, Tensor] | None = None
    optimizer: dict[str, Any] | None = None


class StateFile:
    """Keeps :class:`TrainingProgress` in a file that is complete at any moment."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Keep it at ``path``, only for runs with this fingerprint of data and settings."""
        self.path = path
        self.fingerprint = fingerprint

    def load(self) -> TrainingProgress:
        """Return the saved progress, or a new one if there is none.

        Raises :class:`TrainingError` if it belongs to other data or settings, or is damaged.
        """
        if not self.path.exists():
            return TrainingProgress()
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            fingerprint = saved.pop("fingerprint")
            progress = TrainingProgress(**saved)
        except Exception as exc:  # torch raises many types for a damaged file
            raise TrainingError(f"{self.path}: damaged; delete the folder to start over") from exc
        if fingerprint != self.fingerprint:
            raise TrainingError(
                f"{self.path.parent}: holds an interrupted run with other data or settings; "
                "repeat its command to finish it, or delete the folder to start over"
            )
        return progress

    def save(self, progress: TrainingProgress) -> None:
        """Write a new file and replace the old one by it in one step."""
        temporary = self.path.with_suffix(".tmp")
        torch.save(vars(progress) | {"fingerprint": self.fingerprint}, temporary)
        temporary.replace(self.path)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request to stop; a second one acts as usual.

    Yields a function that says whether there was a request.
    """
    stopped = False
    numbers = (signal.SIGINT, signal.SIGTERM)
    with restored_signals(*numbers) as restore:

        def note(_signal: int, _frame: FrameType | None) -> None:
            nonlocal stopped
            stopped = True
            restore()

        for number in numbers:
            signal.signal(number, note)
        yield lambda: stopped


def train_stage(
    stage: Stage,
    recipe: Recipe,
    progress: TrainingProgress,
    state_file: StateFile,
    stop_requested: Callable[[], bool],
    end_epoch: Callable[[int], bool],
) -> None:
    """Train one stage from ``progress`` to its end.

    ``end_epoch`` is called with each epoch's index and returns whether to stop early. After a
    signal this saves the state and raises :class:`Interrupted`.
    """
    device = next(stage.module.parameters()).device
    optimizer = make_optimizer(stage.module, recipe)
    if progress.module is not None:
        stage.module.load_state_dict(progress.module)
    if progress.optimizer is not None:
        optimizer.load_state_dict(progress.optimizer)

    half = computes_bfloat16(device)
    clock = saved_at = time.monotonic()
    saving = 0.0

    def save() -> None:
        nonlocal clock, saved_at, saving
        now = time.monotonic()
        progress.seconds += now - clock
        progress.module = stage.module.state_dict()
        progress.optimizer = optimizer.state_dict()
        state_file.save(progress)
        clock = saved_at = time.monotonic()
        saving = clock - now

    for epoch in range(progress.epoch, stage.epochs):
        rng = np.random.default_rng([recipe.seed, stage.index, epoch])
        epoch_batches = batches(stage.samples(rng), recipe.batch_size, rng)
        stage.module.train(stage.dropout)
        bar = tqdm(
            total=len(epoch_batches),
            initial=progress.step,
            desc=f"{stage.name} {epoch + 1}/{stage.epochs}",
            unit="batches",
            disable=None,
        )
        losses = []
        for step in range(progress.step, len(epoch_batches)):
            torch.manual_seed(step_seed(recipe.seed, stage.index, epoch, step))
            done = (epoch + step / len(epoch_batches)) / stage.epochs
            for group in optimizer.param_groups:
                group["lr"] = stage.learning_rate * schedule(done, recipe.warmup)
            optimizer.zero_grad()
            losses.append(add_gradients(stage, epoch_batches[step], device, half))
            nn.utils.clip_grad_norm_(stage.module.parameters(), recipe.clip_norm)
            optimizer.step()
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-100:]):.3f}", refresh=False)
            progress.step = step + 1
            waited = time.monotonic() - saved_at
            if stop_requested():
                save()
                bar.close()
                raise Interrupted
            if waited > max(SAVE_SECONDS, SAVE_SHARE * saving):
                save()
        bar.close()
        if losses:
            log.info("%s %d/%d: loss %.3f", stage.name, epoch + 1, stage.epochs, np.mean(losses))
        last = end_epoch(epoch)
        # After an early stop all epochs count as done, so that a resumed run does not continue.
        progress.epoch, progress.step = stage.epochs if last else epoch + 1, 0
        save()
        if last:
            break


def add_gradients(stage: Stage, batch: Sequence[Sample], device: torch.device, half: bool) -> float:
    """Add up the gradients of a batch, part by part; return its loss.

    ``half`` has the passes compute in bfloat16. Raises :class:`TrainingError` if the loss is not
    finite.
    """
    loss = 0.0
    for part in parts_by_tokens(batch, PART_TOKENS):
        with attention_kernels(device):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                share = stage.loss(part) * (stage.weight(part) / stage.weight(batch))
            share.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        loss += share.item()
    if not math.isfinite(loss):
        raise TrainingError("the loss is not finite; try a lower --learning-rate")
    return loss


def computes_bfloat16(device: torch.device) -> bool:
    """Say whether the device multiplies bfloat16 natively; emulated, it is slower than float32.

    Older GPUs train in float32, because float16 would need loss scaling.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def attention_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Choose the attention kernels for training: plain matrix products on a CPU.

    The fused CPU kernel's backward pass takes five times as long as its forward pass, a third of a
    step. For texts as short as tweets it saves hardly any memory.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW, without weight decay for vectors: biases and layer norms."""
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,
    )


def schedule(done: float, warmup: float) -> float:
    """Return the learning rate's factor after a share ``done`` (0 to 1) of the steps."""
    return min(done / warmup, 1.0) * min((1 - done) / (1 - warmup), 1.0) if warmup else 1 - done


def step_seed(*parts: int) -> int:
    """Return a seed for a step, different from that of every other step."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
