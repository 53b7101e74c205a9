"""What comes out: the best weights while training, and the finished checkpoint folder."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import platform
import shlex
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from training.corpus import Corpus
from training.evaluation import draw_confusion, evaluate
from training.loop import Progress
from training.model_card import CONFUSION_PICTURE, model_card
from training.recipe import MINI_ENCODER, Recipe
from training.sequences import long_corpus
from training.stages import class_weights
from utils import checkpoint
from utils.checkpoint import Checkpoint
from utils.custom_model import CustomModel, ModelConfig
from utils.tweet_normalizer import NORMALIZER_VERSION

logger = logging.getLogger("train")

SIZES: Final = ("vocab_size", "hidden_size", "layers")  # options of the small encoder alone
LONG_TEXTS: Final = 1000  # joined texts that the card's figure on long texts is measured on


class BestKeeper:
    """Evaluates on the dev set after every epoch and keeps the best weights on disk."""

    def __init__(
        self,
        model: CustomModel,
        tokenizer: Tokenizer,
        dev: Corpus,
        progress: Progress,
        recipe: Recipe,
        path: Path,
    ) -> None:
        """Keep the best of ``model``'s weights at ``path``, and their figures in ``progress``."""
        self.path = path
        self._model, self._tokenizer, self._dev = model, tokenizer, dev
        self._progress, self._recipe = progress, recipe

    def end_epoch(self, epoch: int) -> bool:
        """Evaluate; returns whether patience has run out."""
        metrics = evaluate(self._model, self._tokenizer, self._dev)
        logger.info("  dev accuracy %.4f, macro-F1 %.4f", metrics.accuracy, metrics.macro_f1)
        # Of equal epochs the later one: it has settled at a lower learning rate.
        if metrics.macro_f1 >= self._progress.best_f1:
            temporary = self.path.with_suffix(".tmp")
            save_file({k: v.contiguous() for k, v in self._model.state_dict().items()}, temporary)
            temporary.replace(self.path)
            self._progress.best_f1, self._progress.best_epoch = metrics.macro_f1, epoch
        return epoch - self._progress.best_epoch >= self._recipe.patience


@dataclass(frozen=True)
class Result:
    """A finished training: how it was asked for, and what it was given."""

    options: argparse.Namespace
    recipe: Recipe
    progress: Progress
    device: torch.device
    train: Corpus
    dev: Corpus
    test: Corpus | None


def write_folder(
    folder: Path, best: Path, config: ModelConfig, tokenizer: Tokenizer, result: Result
) -> Checkpoint:
    """Write weights, tokenizer, configuration, picture and model card into ``folder``.

    The card's figures come from the written weights, read back as the service reads them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    options = result.options
    record = provenance(result)
    written = checkpoint.save(
        folder,
        load_file(best),
        config,
        tokenizer,
        name=options.name or options.output.name,
        provenance=record,
        # The embedded model is small on disk too; a large one stays as exact as it was trained.
        dtype=torch.float16 if options.encoder == MINI_ENCODER else torch.float32,
    )
    model = checkpoint.load_model(written, result.device)
    corpus_name, corpus = ("test", result.test) if result.test else ("dev", result.dev)
    metrics = evaluate(model, tokenizer, corpus)
    logger.info("%s accuracy %.4f, macro-F1 %.4f", corpus_name, metrics.accuracy, metrics.macro_f1)
    long_accuracy = None
    if result.recipe.long_share:
        rng = np.random.default_rng(result.recipe.seed)
        long_accuracy = evaluate(model, tokenizer, long_corpus(corpus, LONG_TEXTS, rng)).accuracy
    about = options.about.read_text(encoding="utf-8") if options.about else None
    card = model_card(written.name, about, corpus_name, metrics, record, long_accuracy)
    (folder / "README.md").write_text(card, encoding="utf-8")
    draw_confusion(metrics.confusion, folder / CONFUSION_PICTURE)
    return written


def provenance(result: Result) -> dict[str, Any]:
    """Return what ``config.json`` records of the making; no path of this machine is in it."""
    options, progress = result.options, result.progress
    corpora = {"train": result.train, "dev": result.dev, "test": result.test}
    weights = class_weights(result.train.labels, result.recipe)
    return {
        "created": datetime.now(UTC).date().isoformat(),
        "encoder": portable(options.encoder),
        "command": command(options),
        "minutes": round(progress.seconds / 60, 1),
        "machine": machine(result.device),
        "best_epoch": progress.best_epoch + 1,
        "dev_macro_f1": round(progress.best_f1, 4),
        "hyperparameters": dataclasses.asdict(result.recipe) | {"class_weights": weights},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tokenizers": version("tokenizers"),
            "normaliser": NORMALIZER_VERSION,
        },
        "data": {
            split: {
                "rows": len(corpus),
                "sha256": checkpoint.file_sha256(getattr(options, split)),
            }
            for split, corpus in corpora.items()
            if corpus is not None
        },
    }


def machine(device: torch.device) -> str:
    """Return the class of machine, never its name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"a CPU, {threads} core" + ("s" if threads > 1 else "")


def command(options: argparse.Namespace) -> str:
    """Return the command that makes the model again, with :func:`portable` paths."""
    words = ["python", "train.py"]
    for key, value in vars(options).items():
        # --device says where, not what; an option that was left out stays out.
        if value is None or key in ("device", *(() if options.encoder == MINI_ENCODER else SIZES)):
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += [f"--{key.replace('_', '-')}", portable(text)]
    return shlex.join(words)


def portable(value: str) -> str:
    """Shorten a path that only means something on this machine to its last part."""
    path = PurePath(value)
    return path.name if path.is_absolute() or ".." in path.parts else value
