"""The output of training: the best weights so far, and the finished checkpoint folder."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import platform
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from hatespeech.evaluation.calibration import (
    Calibration,
    calibrate,
    expected_calibration_error,
    probabilities,
)
from hatespeech.evaluation.figures import measure
from hatespeech.evaluation.pictures import draw_confusion, draw_reliability, save_png
from hatespeech.evaluation.thresholds import flagged_figures, recommend
from hatespeech.model import checkpoint
from hatespeech.model.checkpoint import Checkpoint
from hatespeech.model.network import CustomModel, ModelConfig
from hatespeech.paths import file_sha256
from hatespeech.text.normalizer import NORMALIZER_VERSION
from hatespeech.training.corpus import Corpus
from hatespeech.training.evaluation import compute_logits, evaluate, functional_figures
from hatespeech.training.functional import TEMPLATES, held_out_corpus
from hatespeech.training.loop import TrainingProgress
from hatespeech.training.model_card import (
    CONFUSION_PICTURE,
    RELIABILITY_PICTURE,
    CardFigures,
    model_card,
)
from hatespeech.training.recipe import MINI_ENCODER, SHAPES, Recipe, teacher_recipe
from hatespeech.training.sequences import long_corpus
from hatespeech.training.stages import class_weights

log = logging.getLogger(__name__)

LONG_TEXTS: Final = 1000  # number of joined texts for the card's figure on long texts


class BestKeeper:
    """Evaluates on the dev set after every epoch and keeps the best weights on disk."""

    def __init__(
        self,
        model: CustomModel,
        tokenizer: Tokenizer,
        dev: Corpus,
        progress: TrainingProgress,
        recipe: Recipe,
        path: Path,
    ) -> None:
        """Keep the best of ``model``'s weights at ``path``, and their figures in ``progress``."""
        self.path = path
        self._model, self._tokenizer, self._dev = model, tokenizer, dev
        self._progress, self._recipe = progress, recipe

    def end_epoch(self, epoch: int) -> bool:
        """Evaluate, keep the weights if they are the best, and return whether to stop."""
        metrics = evaluate(self._model, self._tokenizer, self._dev)
        log.info("  dev accuracy %.4f, macro-F1 %.4f", metrics.accuracy, metrics.macro_f1)
        # Of equally good epochs the later one is kept: its learning rate was lower.
        if metrics.macro_f1 >= self._progress.best_f1:
            temporary = self.path.with_suffix(".tmp")
            save_file({k: v.contiguous() for k, v in self._model.state_dict().items()}, temporary)
            temporary.replace(self.path)
            self._progress.best_f1, self._progress.best_epoch = metrics.macro_f1, epoch
        return epoch - self._progress.best_epoch >= self._recipe.patience


@dataclass(frozen=True)
class FinishedTraining:
    """A finished training: its options, recipe, progress and data."""

    options: argparse.Namespace
    recipe: Recipe
    progress: TrainingProgress
    device: torch.device
    train: Corpus
    dev: Corpus
    test: Corpus | None


def write_folder(
    folder: Path, best: Path, config: ModelConfig, tokenizer: Tokenizer, result: FinishedTraining
) -> Checkpoint:
    """Write weights, tokenizer, configuration, pictures and model card into ``folder``.

    The card's figures are measured on the written weights, read back as the service reads them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    options = result.options
    record = provenance(result)
    written, calibration = save_calibrated(
        folder,
        load_file(best),
        config,
        tokenizer,
        result,
        name=options.name or options.output.name,
        provenance=record,
        # A small model is stored small, a large one as exactly as it was trained.
        dtype=torch.float16 if options.encoder in SHAPES else torch.float32,
    )
    model = checkpoint.load_model(written, result.device, reorder=result.device.type == "cpu")
    corpus_name, corpus = ("test", result.test) if result.test else ("dev", result.dev)
    labels = np.array(corpus.labels)
    logits = compute_logits(model, tokenizer, corpus.texts)
    metrics = measure(logits, corpus.labels, corpus.sources)
    log.info("%s accuracy %.4f, macro-F1 %.4f", corpus_name, metrics.accuracy, metrics.macro_f1)
    long_accuracy = None
    if result.recipe.long_share:
        rng = np.random.default_rng(result.recipe.seed)
        long_accuracy = evaluate(model, tokenizer, long_corpus(corpus, LONG_TEXTS, rng)).accuracy
    uncalibrated = calibration.undo(logits)
    figures = CardFigures(
        corpus_name,
        metrics,
        calibration,
        expected_calibration_error(uncalibrated, labels),
        expected_calibration_error(logits, labels),
        written.thresholds,
        {
            name: flagged_figures(probabilities(logits), labels, thresholds)
            for name, thresholds in written.thresholds.items()
        },
        functional_figures(evaluate(model, tokenizer, held_out_corpus())),
        long_accuracy,
    )
    about = options.about.read_text(encoding="utf-8") if options.about else None
    card = model_card(written.name, about, figures, record)
    (folder / "README.md").write_text(card, encoding="utf-8")
    save_png(draw_confusion(metrics.confusion), folder / CONFUSION_PICTURE)
    save_png(draw_reliability(uncalibrated, logits, labels), folder / RELIABILITY_PICTURE)
    record_flagged(folder / checkpoint.CONFIG, figures)
    return checkpoint.describe(folder)


def record_flagged(path: Path, figures: CardFigures) -> None:
    """Add the thresholds' precision and recall to ``config.json``."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["thresholds"]["measured"] = {
        "on": figures.corpus,
        **{
            name: {
                label: {"precision": _figure(precision), "recall": _figure(recall)}
                for label, (precision, recall) in labels.items()
            }
            for name, labels in figures.flagged.items()
        },
    }
    path.write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _figure(value: float) -> float | None:
    """Round a figure; an undefined one is null, since JSON has no NaN."""
    return None if math.isnan(value) else round(value, 4)


def save_calibrated(
    folder: Path,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: Tokenizer,
    result: FinishedTraining,
    **fields: Any,
) -> tuple[Checkpoint, Calibration]:
    """Fit the calibration and the thresholds on the dev set, and save with both."""
    model = CustomModel(config).to(result.device)
    model.load_state_dict(state)
    labels = np.array(result.dev.labels)
    logits = compute_logits(model, tokenizer, result.dev.texts)
    calibration = calibrate(logits, labels)
    thresholds = recommend(probabilities(calibration.apply(logits)), labels)
    log.info("temperature %.3f, biases %s", calibration.temperature, calibration.biases)
    state = fold(state, calibration)
    saved = checkpoint.save(folder, state, config, tokenizer, thresholds=thresholds, **fields)
    return saved, calibration


def fold(state: Mapping[str, Tensor], calibration: Calibration) -> dict[str, Tensor]:
    """Return a state dict whose logits are those of ``state``, calibrated."""
    weight, bias = state["linear2.weight"], state["linear2.bias"]
    added = torch.tensor(calibration.biases, dtype=bias.dtype, device=bias.device)
    return {
        **state,
        "linear2.weight": weight / calibration.temperature,
        "linear2.bias": bias / calibration.temperature + added,
    }


def provenance(result: FinishedTraining) -> dict[str, Any]:
    """Return what ``config.json`` records about the training, without paths of this machine."""
    options, progress = result.options, result.progress
    corpora = {"train": result.train, "dev": result.dev, "test": result.test}
    weights = class_weights(result.train.labels, result.recipe)
    return {
        "created": datetime.now(UTC).date().isoformat(),
        "encoder": portable(options.encoder),
        "command": command(options),
        "minutes": round(progress.seconds / 60, 1),
        "machine": machine(result.device),
        "cores": torch.get_num_threads() if result.device.type == "cpu" else None,
        "best_epoch": progress.best_epoch + 1,
        "dev_macro_f1": round(progress.best_f1, 4),
        "hyperparameters": dataclasses.asdict(result.recipe) | {"class_weights": weights},
        **(taught_by(result) if options.encoder == MINI_ENCODER else {}),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tokenizers": version("tokenizers"),
            "normaliser": NORMALIZER_VERSION,
        },
        "data": {
            split: {
                "rows": len(corpus),
                "sha256": file_sha256(getattr(options, split)),
            }
            for split, corpus in corpora.items()
            if corpus is not None
        },
    }


def taught_by(result: FinishedTraining) -> dict[str, Any]:
    """Return what is recorded about the teacher and the invented texts."""
    return {
        "teacher": {
            "name": portable(result.options.teacher),
            "hyperparameters": dataclasses.asdict(teacher_recipe(result.recipe)),
        },
        "templates_sha256": file_sha256(TEMPLATES),
    }


def machine(device: torch.device) -> str:
    """Return the kind of machine, never its name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"a CPU, {threads} core" + ("s" if threads > 1 else "")


def shape(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the names of the options that shape the chosen encoder."""
    return tuple(SHAPES.get(options.encoder, ()))


def command(options: argparse.Namespace) -> str:
    """Return the command that trains the model again, with :func:`portable` paths."""
    words = ["python", "train.py"]
    others = {name for names in SHAPES.values() for name in names} - {*shape(options)}
    for key, value in vars(options).items():
        # --device does not change the model; options that were not given are left out.
        if value is None or key == "device" or key in others:
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += [f"--{key.replace('_', '-')}", portable(text)]
    return shlex.join(words)


def portable(value: str) -> str:
    """Shorten a path that is only valid on this machine to its last part."""
    path = PurePath(value)
    return path.name if path.is_absolute() or ".." in path.parts else value
