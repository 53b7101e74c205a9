"""One training, stage by stage; each stage resumes where an interruption stopped it."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from hatespeech.model import checkpoint
from hatespeech.model.network import CustomModel
from hatespeech.training.checkpoint_writer import BestKeeper
from hatespeech.training.compression import cut_student, require_cuttable
from hatespeech.training.corpus import Corpus
from hatespeech.training.evaluation import compute_logits
from hatespeech.training.initial_models import fresh_model, pretrained_model
from hatespeech.training.loop import StateFile, TrainingProgress, train_stage
from hatespeech.training.recipe import Recipe, teacher_recipe
from hatespeech.training.stages import Classification, Pretraining
from hatespeech.training.vocabulary import train_tokenizer

log = logging.getLogger(__name__)

PRETRAINING, TEACHING, FINE_TUNING = range(3)
LOGITS: Final = "teacher-logits.safetensors"

Targets = list[tuple[float, ...]]


@dataclass
class Session:
    """What the stages share. ``partial`` is the folder that survives an interruption."""

    recipe: Recipe
    train: Corpus
    dev: Corpus
    device: torch.device
    partial: Path
    state_file: StateFile
    progress: TrainingProgress
    stop_requested: Callable[[], bool]

    def from_scratch(self, options: argparse.Namespace) -> tuple[CustomModel, Tokenizer]:
        """Return a new model, pre-trained on the training texts, and its tokenizer."""
        path = self.partial / checkpoint.TOKENIZER
        if not path.exists():
            log.info("training the tokenizer")
            temporary = path.with_suffix(".tmp")
            train_tokenizer(self.train.texts, options.vocab_size).save(str(temporary))
            temporary.replace(path)
        tokenizer = Tokenizer.from_file(str(path))
        model = fresh_model(tokenizer.get_vocab_size(), options.hidden_size, options.layers)
        model.to(self.device)
        if self.progress.stage == PRETRAINING:
            train_stage(
                Pretraining(model, tokenizer, self.train, self.recipe),
                self.recipe,
                self.progress,
                self.state_file,
                self.stop_requested,
                lambda _epoch: False,
            )
            self._begin(FINE_TUNING)
            self.progress.module = model.state_dict()
            self.state_file.save(self.progress)
        return model, tokenizer

    def taught(self, options: argparse.Namespace) -> tuple[CustomModel, Tokenizer, Targets]:
        """Return a student cut out of a fine-tuned teacher, its tokenizer, and teacher logits."""
        folder = package_folder(options.teacher)
        teacher, tokenizer = pretrained_model(folder, option="--teacher")
        require_cuttable(teacher, tokenizer, options.teacher_layers)  # before an hour of training
        teacher.to(self.device)
        recipe = teacher_recipe(self.recipe)
        best = self.partial / "teacher.safetensors"
        if self.progress.stage < FINE_TUNING:
            if self.progress.stage < TEACHING:
                self._begin(TEACHING)
            self._classify(teacher, tokenizer, recipe, best, None, "teacher", TEACHING)
            self._begin(FINE_TUNING)
            self.state_file.save(self.progress)
        teacher.load_state_dict(load_file(best))
        logits = self.partial / LOGITS
        if not logits.exists():
            started = time.monotonic()
            found = compute_logits(teacher, tokenizer, self.train.texts, "asking the teacher")
            temporary = logits.with_suffix(".tmp")
            save_file({"logits": torch.from_numpy(found)}, temporary)
            temporary.replace(logits)
            self.progress.seconds += time.monotonic() - started
        targets = [tuple(row) for row in load_file(logits)["logits"].tolist()]
        student, small_tokenizer = cut_student(
            teacher,
            tokenizer,
            self.train.texts,
            options.vocab_size,
            options.teacher_layers,
            options.intermediate_size,
        )
        return student.to(self.device), small_tokenizer, targets

    def fine_tune(self, model: CustomModel, tokenizer: Tokenizer, targets: Targets | None) -> Path:
        """Train the classifier; return the file of its best weights."""
        if self.progress.stage < FINE_TUNING:
            self._begin(FINE_TUNING)
        model.to(self.device)
        best = self.partial / "best.safetensors"
        self._classify(model, tokenizer, self.recipe, best, targets, "fine-tuning", FINE_TUNING)
        return best

    def _classify(
        self,
        model: CustomModel,
        tokenizer: Tokenizer,
        recipe: Recipe,
        best: Path,
        targets: Sequence[tuple[float, ...]] | None,
        name: str,
        index: int,
    ) -> None:
        stage = Classification(model, tokenizer, self.train, recipe, targets, name, index)
        keeper = BestKeeper(model, tokenizer, self.dev, self.progress, recipe, best)
        train_stage(
            stage, recipe, self.progress, self.state_file, self.stop_requested, keeper.end_epoch
        )

    def _begin(self, stage: int) -> None:
        self.progress = TrainingProgress(stage, seconds=self.progress.seconds)


def package_folder(name: str) -> str:
    """Return the folder ``model`` of the installed package ``name``, or else ``name`` itself.

    The package is not imported.
    """
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return name
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return str(folder) if folder.is_dir() else name
