"""The command line of train.py: trains a checkpoint folder that ``MODEL_DIR`` takes.

    python train.py --train train.tsv --dev dev.tsv --test test.tsv --output checkpoints/mine

The encoder is a small one, distilled or trained from scratch, or a pre-trained one, fine-tuned.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from hatespeech.cli import interruptible, make_parser, whole_number
from hatespeech.errors import CheckpointError
from hatespeech.labels import LABELS
from hatespeech.logs import shown_logs, warn_of_mistyped
from hatespeech.paths import file_sha256
from hatespeech.text.normalizer import NORMALIZER_VERSION
from hatespeech.training import TrainingError
from hatespeech.training.checkpoint_writer import FinishedTraining, shape, write_folder
from hatespeech.training.corpus import read_corpus
from hatespeech.training.foreign import SENTENCES
from hatespeech.training.functional import TEMPLATES
from hatespeech.training.initial_models import pretrained_model
from hatespeech.training.loop import Interrupted, StateFile, stop_requests
from hatespeech.training.recipe import (
    MINI,
    MINI_ENCODER,
    PRETRAINED,
    SCRATCH,
    SCRATCH_ENCODER,
    SHAPES,
    TEACHER_PACKAGE,
    Recipe,
    teacher_recipe,
)
from hatespeech.training.session import Session

log = logging.getLogger(__name__)

DESCRIPTION = """\
Train a checkpoint folder that the service can serve (MODEL_DIR=OUTPUT).

Data: tab-separated files in UTF-8 with the header label, text, source, and without quoting. Labels
are hate, abusing, neutral and spam. Texts are normalised as the service normalises them.

--encoder mini fine-tunes a small pre-trained teacher, cuts a smaller student out of it, and trains
the student on the labels, the teacher's scores and invented texts
(hatespeech/training/functional.toml). --encoder scratch trains a small RoBERTa from scratch: a
tokenizer, masked-language pre-training on the training texts, then classification. Any other value
names a RoBERTa or BERT to fine-tune: a name on the Hugging Face hub, such as vinai/bertweet-large,
or a folder made by save_pretrained.

The output holds the weights of the epoch with the best macro-F1 on --dev; training stops early when
that no longer improves. The weights are calibrated on --dev, which also gives the recommended
thresholds. To resume after an interruption (Ctrl-C, SIGTERM, even a power cut), run the same
command again: the state is saved in OUTPUT.partial. OUTPUT appears only when it is complete.
"""

EPILOG = """\
examples:
  COMMAND --train train.tsv --dev dev.tsv --test test.tsv --output checkpoints/mine
  COMMAND --encoder vinai/bertweet-large --train train.tsv --dev dev.tsv \\
      --test test.tsv --output checkpoints/tuned
"""


def training_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line; ``prog`` is how the program was called."""
    parser = make_parser(prog, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("--train", type=Path, required=True, metavar="TSV", help="texts to learn from")
    add("--dev", type=Path, required=True, metavar="TSV", help="texts to choose the best epoch on")
    add(
        "--test",
        type=Path,
        metavar="TSV",
        help="texts to measure the model card's figures on (default: those of --dev)",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="new checkpoint folder")
    add(
        "--encoder",
        default=MINI_ENCODER,
        help="mini, scratch, a hub name or a folder (default: mini)",
    )
    add("--name", help="the model's name in replies (default: the output folder's name)")
    add("--about", type=Path, metavar="MD", help="model card's text on purpose, data and biases")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda[:N]")
    add("--seed", type=whole_number(0), help=_default("seed"))
    add("--epochs", type=whole_number(1), help=f"maximum ({_default('epochs')})")
    add(
        "--patience",
        type=whole_number(1),
        help=f"epochs without a better F1 before training stops ({_default('patience')})",
    )
    add("--batch-size", type=whole_number(1), help=f"texts per step ({_default('batch_size')})")
    add("--learning-rate", type=_rate, help=f"peak ({_default('learning_rate')})")
    add(
        "--class-weights",
        type=_class_weights,
        metavar="W,W,W,W",
        help="weight of a text of each label, in the order hate, abusing, neutral, spam (default: "
        f"its relative frequency to the power of -{MINI.class_weight_power})",
    )
    add(
        "--vocab-size",
        type=whole_number(1),
        help="default: 4900 for mini, 8000 for scratch; other encoders have their own",
    )
    mini = parser.add_argument_group("only with --encoder mini")
    mini.add_argument(
        "--teacher",
        help="an installed package that holds a folder named model, a hub name, or a folder "
        f"(default: {TEACHER_PACKAGE}, from requirements-train.txt)",
    )
    mini.add_argument(
        "--teacher-layers",
        type=_layers,
        metavar="N,N,…",
        help="the teacher's layers that the student keeps (default: 0,2,5)",
    )
    mini.add_argument("--intermediate-size", type=whole_number(1), help="default: 768")
    scratch = parser.add_argument_group("only with --encoder scratch")
    scratch.add_argument("--hidden-size", type=whole_number(1), help="default: 256")
    scratch.add_argument("--layers", type=whole_number(1), help="default: 4")
    scratch.add_argument(
        "--pretrain-epochs",
        type=whole_number(0),
        help=f"default: {SCRATCH.pretrain_epochs}; 0: none",
    )
    return parser


def parse(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Read the command line; exit with 2 if it does not make sense."""
    parser = training_parser(prog)
    options = parser.parse_args(arguments)
    own = SHAPES.get(options.encoder, {})
    for name in set().union(*SHAPES.values()) - own.keys():
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"argument {option}: not allowed with --encoder {options.encoder}")
    for name, default in own.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options


def _default(field: str) -> str:
    mini, scratch, other = (getattr(recipe, field) for recipe in (MINI, SCRATCH, PRETRAINED))
    if mini == scratch == other:
        return f"default: {mini}"
    return f"default: {mini} for mini, {scratch} for scratch, {other} for others"


def _layers(value: str) -> tuple[int, ...]:
    parts = value.split(",")
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError("must be whole numbers from 0, such as 0,2,5")
    return tuple(map(int, parts))


def _rate(value: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1:
        raise argparse.ArgumentTypeError("must be a number between 0 and 1, such as 1e-5")
    return rate


def _class_weights(value: str) -> tuple[float, ...]:
    try:
        weights = tuple(float(part) for part in value.split(","))
    except ValueError:
        weights = ()
    if len(weights) != len(LABELS) or not all(0 < weight < 1e6 for weight in weights):
        raise argparse.ArgumentTypeError("must be four numbers above 0, such as 1.2,1,0.9,2")
    return weights


def main(arguments: Sequence[str] | None = None, prog: str = "train.py") -> int:
    """Run the command; return the exit code (130 after an interruption)."""
    options = parse(arguments, prog)
    try:
        with interruptible(), shown_logs(logging.Formatter("%(message)s"), logging.INFO):
            warn_of_mistyped(os.environ)
            train(options)
    except (TrainingError, CheckpointError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("interrupted; run the same command again to resume\n")
        return 130
    return 0


def train(options: argparse.Namespace) -> None:
    """Train, evaluate and write the folder."""
    output: Path = options.output
    if output.exists():
        raise TrainingError(f"--output {output}: already exists; remove it or choose another")
    check_about(options.about)
    recipe = choose_recipe(options)
    device = training_device(options.device)
    train, dev = read_corpus(options.train), read_corpus(options.dev)
    test = read_corpus(options.test) if options.test else None

    partial = output.with_name(output.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    state_file = StateFile(partial / "state.pt", fingerprint(options, recipe))
    progress = state_file.load()

    torch.manual_seed(recipe.seed)
    with stop_requests() as stop_requested:
        session = Session(recipe, train, dev, device, partial, state_file, progress, stop_requested)
        if options.encoder == MINI_ENCODER:
            model, tokenizer, targets = session.taught(options)
        elif options.encoder == SCRATCH_ENCODER:
            model, tokenizer, targets = *session.from_scratch(options), None
        else:
            model, tokenizer, targets = *pretrained_model(options.encoder), None
        best = session.fine_tune(model, tokenizer, targets)

    result = FinishedTraining(options, recipe, session.progress, device, train, dev, test)
    folder = write_folder(partial / "checkpoint", best, model.config, tokenizer, result)
    # The folder appears in one step, so that no process can load half of it.
    folder.path.rename(output)
    shutil.rmtree(partial)
    log.info("wrote %s (%s)", output, folder.model_id)


def check_about(path: Path | None) -> None:
    """Raise :class:`TrainingError` now, not after hours of training, if the file can't be read."""
    try:
        if path:
            path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise TrainingError(f"--about {path}: cannot be read") from exc


def choose_recipe(options: argparse.Namespace) -> Recipe:
    """Return the encoder's recipe, with the command line's changes."""
    base = {MINI_ENCODER: MINI, SCRATCH_ENCODER: SCRATCH}.get(options.encoder, PRETRAINED)
    names = ["seed", "epochs", "patience", "batch_size", "learning_rate", "class_weights"]
    if options.encoder == SCRATCH_ENCODER:
        names.append("pretrain_epochs")
    given = {name: getattr(options, name) for name in names}
    return dataclasses.replace(base, **{k: v for k, v in given.items() if v is not None})


def training_device(name: str) -> torch.device:
    """Return the device; raise :class:`TrainingError` if this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as exc:  # torch without CUDA raises AssertionError
        raise TrainingError(f"--device {name}: is not available on this machine") from exc
    return device


def fingerprint(options: argparse.Namespace, recipe: Recipe) -> str:
    """Return a digest of everything that the final weights depend on."""
    parts = {
        "recipe": dataclasses.asdict(recipe),
        "encoder": [options.encoder, *(getattr(options, name) for name in shape(options))],
        "templates": [file_sha256(TEMPLATES), file_sha256(SENTENCES)],
        "teacher": dataclasses.asdict(teacher_recipe(recipe)),
        "files": [file_sha256(options.train), file_sha256(options.dev)],
        "normalizer": NORMALIZER_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
