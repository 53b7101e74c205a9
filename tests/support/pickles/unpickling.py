"""What the tests of reading a pickled module share."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hatespeech.fetching.pickle.module import UnsafePickleError, read_pickled_module
from tests.paths import ROOT
from tests.support.pickles.torch_files import archive, read_archive, with_pickle

CHECKPOINTS = ROOT / "tests" / "data" / "checkpoints"
PUBLISHED = [CHECKPOINTS / "tiny_eval_zip.pt", CHECKPOINTS / "tiny_train_zip.pt"]
ENTRIES = read_archive(PUBLISHED[0])
CONFIG = {
    "model_type": "roberta",
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "hidden_act": "gelu",
    "classifier_size": 512,
    "num_labels": 4,
}


def run(module: str, *args: object) -> list[Any]:
    """Run one of the helpers that need a process of their own; return what it printed, as JSON."""
    result = subprocess.run(
        [sys.executable, "-m", module, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=900,
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


def refusal(folder: Path, content: bytes) -> str:
    """Return the reason why a file of this content is refused: one short printable line."""
    path = folder / "model_7"
    path.write_bytes(content)
    with pytest.raises(UnsafePickleError) as caught:
        read_pickled_module(path)
    reason = str(caught.value)
    assert reason.isprintable()
    assert len(reason) < 250
    return reason


def whole_pickle(value: bytes) -> bytes:
    """Return the published archive with a pickle of this value in place of its own."""
    return archive(with_pickle(ENTRIES, b"\x80\x02" + value + b"."))
