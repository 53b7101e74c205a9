"""Train a checkpoint: a small encoder from nothing, or a pre-trained RoBERTa fine-tuned.

    python train.py --train train.tsv --dev dev.tsv --test test.tsv --output checkpoints/mine

See ``--help``. The folder it writes is what ``MODEL_DIR`` takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from training.corpus import Corpus, read_corpus
from training.encoders import fresh_model, pretrained_model
from training.loop import Interrupted, Progress, StateFile, stop_requests, train_stage
from training.output import BestKeeper, Result, write_folder
from training.recipe import MINI, MINI_ENCODER, PRETRAINED, Recipe, TrainingError
from training.stages import Classification, Pretraining
from training.vocabulary import train_tokenizer
from utils import checkpoint
from utils.custom_model import CustomModel
from utils.errors import CheckpointError
from utils.schema import LABELS
from utils.tweet_normalizer import NORMALIZER_VERSION

logger = logging.getLogger("train")

DESCRIPTION = """\
Train a checkpoint folder that the service can serve (MODEL_DIR=OUTPUT).

Data: tab-separated files, UTF-8, with the header label, text, source; labels are hate, abusing,
neutral and spam; no quoting. Texts are normalised as the service normalises them.

--encoder mini trains a small RoBERTa from nothing: a tokenizer, masked-language pre-training on
the training texts, then classification. Any other value is a RoBERTa to fine-tune: a name on the
Hugging Face hub, such as vinai/bertweet-large, or a folder made by save_pretrained.

The weights kept are those of the epoch with the best macro-F1 on --dev; training ends early when
that stops rising. Interrupted (Ctrl-C, SIGTERM, even a power cut), the same command goes on from
the last saved state, in OUTPUT.partial; OUTPUT itself appears only when it is complete.
"""

EPILOG = """\
examples:
  python train.py --train train.tsv --dev dev.tsv --test test.tsv --output checkpoints/mine
  python train.py --encoder vinai/bertweet-large --train train.tsv --dev dev.tsv \\
      --test test.tsv --output checkpoints/tuned
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--train", type=Path, required=True, metavar="TSV", help="texts to learn from")
    add("--dev", type=Path, required=True, metavar="TSV", help="texts that choose the best epoch")
    add("--test", type=Path, metavar="TSV", help="texts for the model card's figures (else: --dev)")
    add("--output", type=Path, required=True, metavar="DIR", help="new checkpoint folder")
    add("--encoder", default=MINI_ENCODER, help="mini, a hub name or a folder (default: mini)")
    add("--name", help="the model's name in replies (default: the output folder's name)")
    add("--about", type=Path, metavar="MD", help="text for the model card: purpose, data, biases")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda[:N]")
    add("--seed", type=_not_negative, help=_default("seed"))
    add("--epochs", type=_positive, help="at most; " + _default("epochs"))
    add("--patience", type=_positive, help="epochs without a better F1; " + _default("patience"))
    add("--batch-size", type=_positive, help="texts per step; " + _default("batch_size"))
    add("--learning-rate", type=_rate, help="peak; " + _default("learning_rate"))
    add(
        "--class-weights",
        type=_class_weights,
        metavar="W,W,W,W",
        help="how much a text of each label counts, in the order hate, abusing, neutral, spam "
        "(default: more for rarer ones: relative frequency to the power of "
        f"-{MINI.class_weight_power})",
    )
    mini = parser.add_argument_group("only with --encoder mini")
    mini.add_argument("--vocab-size", type=_positive, default=8000, help="default: 8000")
    mini.add_argument("--hidden-size", type=_positive, default=256, help="default: 256")
    mini.add_argument("--layers", type=_positive, default=4, help="default: 4")
    mini.add_argument(
        "--pretrain-epochs", type=_not_negative, help=f"default: {MINI.pretrain_epochs}; 0: none"
    )
    return parser.parse_args(arguments)


def _default(field: str) -> str:
    mini, pretrained = getattr(MINI, field), getattr(PRETRAINED, field)
    return f"default: {mini}" + ("" if mini == pretrained else f" for mini, else {pretrained}")


def _positive(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(value)


def _not_negative(value: str) -> int:
    return 0 if value == "0" else _positive(value)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (130 after an interruption)."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        run(options)
    except (TrainingError, CheckpointError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130
    return 0


def run(options: argparse.Namespace) -> None:
    """Train, evaluate and write the folder."""
    output: Path = options.output
    if output.exists():
        raise TrainingError(f"--output {output}: exists already; remove it or choose another")
    check_about(options.about)
    recipe = choose_recipe(options)
    device = choose_device(options.device)
    train, dev = read_corpus(options.train), read_corpus(options.dev)
    test = read_corpus(options.test) if options.test else None

    partial = output.with_name(output.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    state_file = StateFile(partial / "state.pt", fingerprint(options, recipe))
    progress = state_file.load()

    torch.manual_seed(recipe.seed)
    model, tokenizer = start(options, train, partial)
    model.to(device)
    with stop_requests() as stop_requested:
        if progress.stage == 0:
            pretraining = Pretraining(model, tokenizer, train, recipe)
            train_stage(
                pretraining, recipe, progress, state_file, stop_requested, lambda _epoch: False
            )
            progress = Progress(1, seconds=progress.seconds, module=model.state_dict())
            state_file.save(progress)
        keeper = BestKeeper(model, tokenizer, dev, progress, recipe, partial / "best.safetensors")
        train_stage(
            Classification(model, tokenizer, train, recipe),
            recipe,
            progress,
            state_file,
            stop_requested,
            keeper.end_epoch,
        )

    result = Result(options, recipe, progress, device, train, dev, test)
    folder = write_folder(partial / "checkpoint", keeper.path, model.config, tokenizer, result)
    # The folder appears in one step, so that nobody ever loads half of it.
    folder.path.rename(output)
    shutil.rmtree(partial)
    logger.info("wrote %s (%s)", output, folder.model_id)


def check_about(path: Path | None) -> None:
    """Raise :class:`TrainingError` now rather than hours later if the file cannot be read."""
    try:
        if path:
            path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise TrainingError(f"--about {path}: cannot be read") from exc


def choose_recipe(options: argparse.Namespace) -> Recipe:
    """Return the encoder's recipe with what the command line changes."""
    base = MINI if options.encoder == MINI_ENCODER else PRETRAINED
    names = ["seed", "epochs", "patience", "batch_size", "learning_rate", "class_weights"]
    if options.encoder == MINI_ENCODER:
        names.append("pretrain_epochs")
    given = {name: getattr(options, name) for name in names}
    return dataclasses.replace(base, **{k: v for k, v in given.items() if v is not None})


def choose_device(name: str) -> torch.device:
    """Return the device; raises :class:`TrainingError` if it is not here."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as exc:  # torch without CUDA asserts
        raise TrainingError(f"--device {name}: is not available here") from exc
    return device


def start(
    options: argparse.Namespace, train: Corpus, partial: Path
) -> tuple[CustomModel, Tokenizer]:
    """Return the untrained model and its tokenizer, which a resumed run reads from ``partial``."""
    if options.encoder != MINI_ENCODER:
        return pretrained_model(options.encoder)
    path = partial / checkpoint.TOKENIZER
    if not path.exists():
        logger.info("training the tokenizer")
        temporary = path.with_suffix(".tmp")
        train_tokenizer(train.texts, options.vocab_size).save(str(temporary))
        temporary.replace(path)
    tokenizer = Tokenizer.from_file(str(path))
    return fresh_model(tokenizer.get_vocab_size(), options.hidden_size, options.layers), tokenizer


def fingerprint(options: argparse.Namespace, recipe: Recipe) -> str:
    """Return a digest of all that the final weights depend on."""
    parts = {
        "recipe": dataclasses.asdict(recipe),
        "encoder": [options.encoder, options.vocab_size, options.hidden_size, options.layers],
        "files": [checkpoint.file_sha256(options.train), checkpoint.file_sha256(options.dev)],
        "normalizer": NORMALIZER_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
