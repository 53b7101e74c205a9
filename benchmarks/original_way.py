"""Loading model and tokenizer for every request, as the service once did, against a warm handler.

Both score one tweet a request with the weights of the embedded checkpoint in float32. The old way
is rebuilt from transformers: for each request it unpickles the module, reads the tokenizer from its
folder, and normalises and scores the tweet. Imports are not counted.

    python -m benchmarks.original_way
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks import models, report
from hatespeech.engine.scorer import Scorer
from hatespeech.labels import LABELS
from hatespeech.model import checkpoint as checkpoints
from hatespeech.settings import EngineSettings
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.worker.handler import JobHandler

PICKLE = "model"


class OriginalModel(nn.Module):
    """The published module: transformers' RoBERTa and the head over its first token."""

    def __init__(self, encoder: nn.Module, hidden: int, wide: int, labels: int) -> None:
        super().__init__()
        self.model = encoder
        self.linear1 = nn.Linear(hidden, wide)
        self.dropout = nn.Dropout(0.3)
        self.linear2 = nn.Linear(wide, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits ``[texts, labels]``."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.linear2(self.dropout(self.linear1(states[:, 0]).relu()))
        return logits


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--texts", type=report.positive, default=20, help="(%(default)s)")
    options = parser.parse_args(arguments)
    texts = models.sample_texts()[: options.texts]
    scorer = Scorer(models.load(), EngineSettings())
    handler = JobHandler(scorer)
    with tempfile.TemporaryDirectory() as name, asyncio.Runner() as runner:
        folder = Path(name)
        write_original(folder)

        async def warm(text: str) -> list[float]:
            reply = await handler({"input": {"prompt": text}})
            return [reply[label] for label in LABELS]

        def ours(text: str) -> list[float]:
            return runner.run(warm(text))

        theirs = partial(load_and_score, folder)
        for text in texts:
            pairs = zip(ours(text), theirs(text), strict=True)
            assert all(abs(one - other) < 1e-4 for one, other in pairs), text
        rates = report.in_turn(
            partial(report.rate, ours, texts), partial(report.rate, theirs, texts), options.rounds
        )
    scorer.close()
    figure = report.at_least(
        "one tweet after another through the warm handler, mini, texts/s",
        "loading model and tokenizer for every request",
        rates,
    )
    report.publish([figure], options.json)


def write_original(folder: Path) -> None:
    """Pickle the embedded checkpoint as the published one is, with its tokenizer beside it."""
    import transformers

    library: Any = transformers  # partly without types
    mini = models.embedded()
    sizes = mini.model
    encoder = library.RobertaModel(models.roberta_config(sizes))
    model = OriginalModel(encoder, sizes.hidden_size, sizes.classifier_size, sizes.num_labels)
    weights = load_file(mini.path / checkpoints.WEIGHTS)
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    torch.save(model.eval(), folder / PICKLE)
    models.transformers_tokenizer().save_pretrained(folder)


@torch.inference_mode()
def load_and_score(folder: Path, text: str) -> list[float]:
    """Score one tweet from nothing."""
    import transformers

    library: Any = transformers
    model = torch.load(folder / PICKLE, weights_only=False)
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(normalize_tweet(text), truncation=True, return_tensors="pt")
    logits = model(encoded["input_ids"], encoded["attention_mask"])
    scores: list[float] = torch.softmax(logits, dim=-1)[0].tolist()
    return scores


if __name__ == "__main__":
    main()
