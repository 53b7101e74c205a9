"""train.py end to end on synthetic sentences: learning, resuming, fine-tuning, refusing."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from hatespeech.evaluation import command as evaluate
from hatespeech.evaluation.figures import measure
from hatespeech.labels import LABELS
from hatespeech.model import checkpoint
from hatespeech.model.network import CustomModel
from hatespeech.model.packing import PackedBatch
from hatespeech.paths import file_sha256
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.training import TrainingError, checkpoint_writer
from hatespeech.training import command as train
from hatespeech.training.corpus import Corpus, read_corpus
from hatespeech.training.initial_models import fresh_model, pretrained_model
from hatespeech.training.recipe import SCRATCH
from hatespeech.training.sequences import (
    Sample,
    batches,
    finetuning_samples,
    parts_by_tokens,
    pretraining_samples,
)
from hatespeech.training.stages import Classification, Pretraining, class_weights
from hatespeech.training.vocabulary import train_tokenizer
from tests.paths import ROOT
from tests.support.corpora import TOPICS, sentence, write_splits

SIZES = [
    "--encoder",
    "scratch",
    "--vocab-size",
    "400",
    "--hidden-size",
    "64",
    "--layers",
    "1",
    "--batch-size",
    "8",
]
SCHEDULE = ["--epochs", "6", "--patience", "6", "--pretrain-epochs", "1", "--learning-rate", "2e-3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    rows = {"train": 480, "dev": 80, "test": 90}
    return write_splits(tmp_path_factory.mktemp("data"), rows)


@pytest.fixture(scope="module")
def trained(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "toy"
    assert train.main([*data, *SIZES, *SCHEDULE, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Tokenizer:
    return train_tokenizer(corpus.texts, 400)


def predictions(folder: Path, texts: list[str]) -> list[int]:
    """Label indices the way a service would get them: one text at a time."""
    described = checkpoint.describe(folder)
    model, tok = checkpoint.load_model(described), checkpoint.load_tokenizer(described)
    return [
        int(model.forward_sequences([tok.encode(normalize_tweet(text)).ids]).argmax())
        for text in texts
    ]


def test_a_trained_folder_is_sound_complete_and_has_learnt(trained: Path) -> None:
    assert checkpoint.verify(trained).name == "toy"
    assert {file.name for file in trained.iterdir()} == {
        "README.md",
        "calibration.png",
        "config.json",
        "confusion.png",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (trained / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert not trained.with_name("toy.partial").exists()
    rng = random.Random(99)
    labels = [i % 4 for i in range(80)]
    found = predictions(trained, [sentence(LABELS[label], rng) for label in labels])
    assert sum(a == b for a, b in zip(found, labels, strict=True)) >= 76


def test_the_model_card_shows_the_figures_that_the_written_weights_have(
    trained: Path, data: list[str]
) -> None:
    lines = Path(data[5]).read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    truth = [LABELS.index(row[0]) for row in rows]
    found = predictions(trained, [row[1] for row in rows])
    accuracy = sum(a == b for a, b in zip(found, truth, strict=True)) / len(truth)
    f1 = []
    for label in range(4):
        both = sum(a == b == label for a, b in zip(found, truth, strict=True))
        f1.append(2 * both / (found.count(label) + truth.count(label)))
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert f"Accuracy {accuracy:.3f}, macro-F1 {sum(f1) / 4:.3f}, over 90 texts" in card
    for name, value in zip(LABELS, f1, strict=True):
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        assert row.split("|")[4].strip() == f"{value:.3f}"
    hits = [a == b for a, b, row in zip(found, truth, rows, strict=True) if row[2] == "x-forum"]
    assert f"| x-forum | {sum(hits) / len(hits):.3f} |" in card


def test_evaluating_the_test_file_gives_the_figures_of_the_card_to_the_last_digit(
    trained: Path, data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(trained))
    monkeypatch.setenv("DTYPE", "float32")
    written = tmp_path / "figures.json"
    arguments = [data[5], "--group-column", "source", "--json", str(written)]
    assert evaluate.main(arguments) == 0
    found = json.loads(written.read_text(encoding="utf-8"))
    figures = found["figures"]
    lines = [
        f"Accuracy {figures['accuracy']['value']:.3f}, "
        f"macro-F1 {figures['macro_f1']['value']:.3f}, over {figures['texts']} texts.",
        f"to {figures['calibration']['error']:.4f} on the test set,",
    ]
    for each in figures["flags"]:
        values = [each[name]["value"] for name in ("precision", "recall", "f1")]
        shown = " | ".join(f"{value:.3f}" for value in values)
        if each["flag"] != "toxic":
            lines.append(f"| {each['flag']} | {shown} | {each['positives']} |")
    for each in figures["groups"]:
        shown = f"{each['accuracy']:.3f} | {each['macro_f1']:.3f} | {each['texts']}"
        lines.append(f"| {each['group']} | {shown} |")
    for name, flags in found["recommended"].items():
        for flag, (least, precision, recall) in flags.items():
            shown = f"{precision['value']:.3f} | {recall['value']:.3f}"
            lines.append(f"| {name} | {flag} | {least} | {shown} |")
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert [line for line in lines if line not in card] == []
    assert len(lines) > 10


def test_provenance_names_hashes_versions_and_seed_but_no_place(
    trained: Path, data: list[str]
) -> None:
    config = (trained / "config.json").read_text(encoding="utf-8")
    record = json.loads(config)["provenance"]
    assert record["data"]["train"] == {
        "rows": 480,
        "sha256": file_sha256(Path(data[1])),
    }
    assert record["hyperparameters"]["seed"] == SCRATCH.seed
    assert record["versions"]["torch"] == torch.__version__
    assert record["command"].startswith("python train.py --train train.tsv --dev dev.tsv")
    card = (trained / "README.md").read_text(encoding="utf-8")
    for place in (str(trained.parent), str(Path(data[1]).parent), os.uname().nodename):
        assert place not in config
        assert place not in card


def wait_for(path: Path, newer_than: int, process: subprocess.Popen[bytes]) -> int:
    """Wait until a file has been written again; returns its time."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_mtime_ns > newer_than:
            return path.stat().st_mtime_ns
        assert process.poll() is None, "ended before it could be interrupted"
        time.sleep(0.002)
    raise AssertionError(f"{path.name} was not written")


@pytest.mark.slow
def test_killed_and_interrupted_runs_end_with_the_weights_of_an_uninterrupted_one(
    data: list[str], trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "toy"
    arguments = [*data, *SIZES, *SCHEDULE, "--output", str(folder)]
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    state = tmp_path / "toy.partial" / "state.pt"
    written = 0
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            try:
                wait_for(state, written, process)
                process.send_signal(number)
                _, complaint = process.communicate(timeout=60)
            finally:
                process.kill()
        written = state.stat().st_mtime_ns  # the process may have saved once more before it ended
        assert process.returncode == code
        assert b"Traceback" not in complaint
        assert not folder.exists()
    place = torch.load(state, weights_only=True)
    assert (place["epoch"], place["step"]) != (0, 0)
    assert train.main(arguments) == 0
    assert "fine-tuning" in caplog.text
    assert "pre-training" not in caplog.text, "it started over"
    assert file_sha256(folder / checkpoint.WEIGHTS) == file_sha256(trained / checkpoint.WEIGHTS)


def test_a_crash_while_writing_leaves_no_output_folder_and_the_rerun_completes_it(
    data: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = tmp_path / "toy"
    short = ["--epochs", "1", "--pretrain-epochs", "0"]
    arguments = [*data, *SIZES, *short, "--output", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer, "draw_confusion", full_disk)
        assert train.main(arguments) == 1
    assert "No space left" in capsys.readouterr().err
    assert not folder.exists()
    assert "fine-tuning" in caplog.text
    caplog.clear()
    assert train.main(arguments) == 0
    assert "wrote" in caplog.text
    assert "fine-tuning" not in caplog.text, "it trained again"
    checkpoint.verify(folder)


def test_an_existing_output_folder_is_not_touched(
    data: list[str], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file_sha256(trained / "README.md")
    assert train.main([*data, *SIZES, "--output", str(trained)]) == 1
    assert (
        capsys.readouterr().err == f"error: --output {trained}: already exists; remove it "
        "or choose another\n"
    )
    assert file_sha256(trained / "README.md") == before


def test_an_interrupted_run_is_not_continued_with_other_settings(
    data: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    short = [*data, *SIZES, "--epochs", "1", "--pretrain-epochs", "0"]
    monkeypatch.setattr(checkpoint_writer, "draw_confusion", full_disk)
    assert train.main([*short, "--output", str(tmp_path / "toy")]) == 1
    capsys.readouterr()
    assert train.main([*short, "--seed", "5", "--output", str(tmp_path / "toy")]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "other data or settings" in message


@pytest.fixture(scope="module")
def roberta(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa with its tokenizer, as save_pretrained leaves them."""
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("hub") / "tiny-roberta"
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    RobertaModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it so
        tokenizer_object=tokenizer,
        bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_max_length=512,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_pretrained_encoder_arrives_with_its_weights_and_its_token_ids(
    roberta: Path, corpus: Corpus
) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, tok = pretrained_model(str(roberta))
    theirs = AutoModel.from_pretrained(roberta).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(roberta)
    texts = corpus.texts[:12]
    ids = [tok.encode(text).ids for text in texts]
    assert ids == [their_tokenizer(text)["input_ids"] for text in texts]
    assert all(sequence[0] == 0 and sequence[-1] == 2 for sequence in ids)
    batch = PackedBatch.pack(ids, 1, "cpu")
    with torch.inference_mode():
        hidden = model.eval().model(batch)
        for place, index in enumerate(batch.order):
            expected = theirs(input_ids=torch.tensor([ids[index]])).last_hidden_state[0]
            start = int(batch.first[place])
            torch.testing.assert_close(
                hidden[start : start + len(ids[index])], expected, atol=1e-5, rtol=0
            )


def test_a_pretrained_tokenizer_that_cuts_and_adds_no_sentence_marks_is_set_right(
    roberta: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(roberta, folder)
    bare = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    bare["post_processor"] = None
    bare["truncation"] = {
        "direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(bare), encoding="utf-8")
    _, tok = pretrained_model(str(folder))
    ids = tok.encode("near the small river far from the large brook").ids
    assert len(ids) > 9
    assert (ids[0], ids[-1]) == (0, 2)


def test_a_pretrained_encoder_is_fine_tuned_into_a_sound_folder(
    roberta: Path, data: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "tuned"
    schedule = ["--epochs", "5", "--learning-rate", "1e-3", "--batch-size", "8"]
    assert train.main([*data, "--encoder", str(roberta), *schedule, "--output", str(folder)]) == 0
    described = checkpoint.verify(folder)
    assert described.model.num_hidden_layers == 2
    assert described.provenance["encoder"] == "tiny-roberta"
    assert described.provenance["hyperparameters"]["pretrain_epochs"] == 0
    assert checkpoint.load_model(described).linear1.weight.shape == (32, 64)
    rng = random.Random(99)
    labels = [i % 4 for i in range(40)]
    found = predictions(folder, [sentence(LABELS[label], rng) for label in labels])
    assert sum(a == b for a, b in zip(found, labels, strict=True)) >= 34


def test_an_encoder_of_another_kind_is_refused_in_one_line(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    folder = tmp_path / "distilbert"
    DistilBertModel(
        DistilBertConfig(vocab_size=50, dim=8, n_layers=1, n_heads=1, hidden_dim=8)
    ).save_pretrained(folder)
    capsys.readouterr()
    output_folder = str(tmp_path / "out")
    assert train.main([*data, "--encoder", str(folder), "--output", output_folder]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: --encoder ")
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_whose_weights_are_not_an_encoders_is_refused_not_filled_at_random(
    trained: Path, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*data, "--encoder", str(trained), "--output", str(tmp_path / "out")]
    assert train.main(arguments) == 1
    message = capsys.readouterr().err
    assert message == f"error: --encoder {trained}: lacks weights of its encoder\n"


HEADER = "label\ttext\tsource\n"
GOOD = "neutral\tconfidential words\tx\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("label\ttext\nneutral\tconfidential words\n", "line 1: the column source is missing"),
        (HEADER + GOOD + "rude\tconfidential words\tx\n", "line 3: label must be one of"),
        (HEADER + "confidential words\tneutral\tx\n", "line 2: label must be one of"),
        (HEADER + GOOD + "neutral\tconfidential\twords\tx\n", "line 3: 4 fields, expected 3"),
        (HEADER + "neutral\t \tx\n", "line 2: text is empty"),
        (HEADER, "no rows below the header"),
        ("", "the file is empty"),
        (HEADER + "neutral\tconfidential \udcff\tx\n", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_place_and_quotes_no_text(
    content: str | None,
    expected: str,
    data: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.tsv"
    if content is not None:
        bad.write_bytes(content.encode("utf-8", "surrogateescape"))
    out = tmp_path / "out"
    assert train.main(["--train", str(bad), *data[2:], *SIZES, "--output", str(out)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {bad}")
    assert expected in message
    assert message.count("\n") == 1
    assert "confidential" not in message
    assert not out.exists()


def test_quotation_marks_and_carriage_returns_belong_to_the_text(tmp_path: Path) -> None:
    path = tmp_path / "quotes.tsv"
    rows = 'neutral\t"half\tx\r\nspam\ta\rb "c" "\tx\r\n'
    path.write_bytes((HEADER.replace("\n", "\r\n") + rows).encode())
    read = read_corpus(path)
    assert read.labels == [2, 3]
    assert read.texts == [normalize_tweet('"half'), normalize_tweet('a\rb "c" "')]


@pytest.mark.parametrize(
    "option",
    [
        ["--class-weights", "1,2,3"],
        ["--class-weights", "1,1,1,0"],
        ["--epochs", "0"],
        ["--learning-rate", "-1"],
        ["--seed", "-1"],
    ],
)
def test_an_impossible_option_is_refused(
    option: list[str], data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main([*data, "--output", "unused", *option])
    assert ended.value.code == 2
    assert f"argument {option[0]}" in capsys.readouterr().err


def test_help_explains_data_encoders_and_resuming(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for part in ("label, text, source", "vinai/bertweet-large", "OUTPUT.partial", "examples:"):
        assert part in shown


@pytest.mark.parametrize("favoured", ["hate", "neutral"])
def test_a_heavier_class_wins_what_the_texts_leave_open(favoured: str, tmp_path: Path) -> None:
    undecided = "".join(f"{label}\tsame words each time\tx\n" for label in ("hate", "neutral") * 24)
    path = tmp_path / "undecided.tsv"
    path.write_text(HEADER + undecided, encoding="utf-8")
    weights = ",".join("8" if label == favoured else "1" for label in LABELS)
    folder = tmp_path / "toy"
    arguments = ["--train", str(path), "--dev", str(path), *SIZES, "--output", str(folder)]
    schedule = ["--epochs", "3", "--pretrain-epochs", "0", "--learning-rate", "1e-2"]
    assert train.main([*arguments, *schedule, "--class-weights", weights]) == 0
    assert predictions(folder, ["same words each time"]) == [LABELS.index(favoured)]


def test_rarer_labels_weigh_more_unless_weights_are_given() -> None:
    labels = [0] * 100 + [1] * 200 + [2] * 400
    hate, abusing, neutral, spam = class_weights(labels, SCRATCH)
    assert hate > abusing > neutral == 1.0
    assert spam == 1.0, "a label that never occurs"
    given = dataclasses.replace(SCRATCH, class_weights=(4.0, 3.0, 2.0, 1.0))
    assert class_weights(labels, given) == (4.0, 3.0, 2.0, 1.0)


def test_the_tokenizer_follows_roberta_and_knows_every_byte(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.token_to_id(name) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    assert ids == [0, 1, 2, 3, 4]
    for text in ("plain words", "naïve 東京 \U0001f600", "\x00\x7f"):
        encoded = tokenizer.encode(text).ids
        assert (encoded[0], encoded[-1]) == (0, 2)
        assert 3 not in encoded
        assert tokenizer.decode(encoded) == text


def test_pretraining_shows_every_text_once_and_reaches_the_last_position(
    corpus: Corpus, tokenizer: Tokenizer
) -> None:
    # Digits are a token each here, so that many joined texts come to more than 512 tokens.
    many = Corpus(["1234567 98765"] * 3000, [2] * 3000, ["x"] * 3000)
    samples = pretraining_samples(many, tokenizer, 0.5, np.random.default_rng(3))
    lengths = [len(sample.ids) for sample in samples]
    assert max(lengths) == 512
    assert sum(length < 20 for length in lengths) == 1500
    assert any(64 < length < 512 for length in lengths)
    assert all(sample.ids[0] == 0 and sample.ids[-1] == 2 for sample in samples)
    joined = pretraining_samples(corpus, tokenizer, 0.5, np.random.default_rng(3))
    assert max(len(sample.ids) for sample in joined) < 512, "else the next line cannot hold"
    words = sorted(" ".join(tokenizer.decode(s.ids) for s in joined).split())
    assert words == sorted(" ".join(corpus.texts).split())
    alone = pretraining_samples(corpus, tokenizer, 0.0, np.random.default_rng(3))
    assert sorted(tokenizer.decode(s.ids) for s in alone) == sorted(corpus.texts)


def test_long_fine_tuning_texts_mix_their_label_with_neutral_only(
    corpus: Corpus, tokenizer: Tokenizer
) -> None:
    recipe = dataclasses.replace(SCRATCH, long_share=0.25)
    samples = finetuning_samples(corpus, tokenizer, recipe, np.random.default_rng(3))
    long = samples[len(corpus) :]
    assert len(long) == 120
    assert max(len(sample.ids) for sample in long) > 400
    assert all(sample.ids[0] == 0 and sample.ids[-1] == 2 for sample in long)
    for sample in long:
        words = set(tokenizer.decode(sample.ids).split())
        topics = {label for label, known in TOPICS.items() if words & set(known)}
        assert topics <= {LABELS[sample.label], "neutral"}
        assert sample.label == 2 or LABELS[sample.label] in topics or len(sample.ids) == 512


def test_batches_hold_every_sample_once_with_texts_of_similar_length() -> None:
    rng = random.Random(1)
    samples = [Sample([0] * rng.randint(2, 100), i) for i in range(1000)]
    cut = batches(samples, 16, np.random.default_rng(1))
    assert sorted(sample.label for batch in cut for sample in batch) == list(range(1000))
    assert max(map(len, cut)) == 16
    spread = [max(len(s.ids) for s in b) - min(len(s.ids) for s in b) for b in cut]
    assert float(np.median(spread)) < 10


@pytest.mark.parametrize("soft_share", [0.0, 0.7])
def test_a_batch_computed_in_parts_has_the_gradient_of_the_whole(
    soft_share: float, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    recipe = dataclasses.replace(
        SCRATCH, token_dropout=0.0, class_weights=(4.0, 1.0, 2.0, 0.5), soft_share=soft_share
    )
    model = fresh_model(tokenizer.get_vocab_size(), 32, 1).eval()
    targets = [(3.0, 0.0, 1.0, float(i % 5)) for i in range(len(corpus))]
    stage = Classification(model, tokenizer, corpus, recipe, targets)
    batch = sorted(stage.samples(np.random.default_rng(0))[:24], key=lambda s: s.label)

    def gradient(parts: list[list[Sample]]) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            loss = stage.loss(part) * (stage.weight(part) / stage.weight(batch))
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        used = [p.grad for p in model.parameters() if p.grad is not None]
        return torch.cat([grad.flatten() for grad in used])

    parts = parts_by_tokens(batch, 60)
    assert len(parts) > 3
    assert all(sum(len(s.ids) for s in part) <= 60 for part in parts)
    torch.testing.assert_close(gradient(parts), gradient([batch]), atol=1e-6, rtol=1e-4)


def test_masking_hides_words_never_sentence_marks(corpus: Corpus, tokenizer: Tokenizer) -> None:
    model = fresh_model(tokenizer.get_vocab_size(), 32, 1)
    stage = Pretraining(model, tokenizer, corpus, dataclasses.replace(SCRATCH, mask_share=0.5))
    batch = PackedBatch.pack([tokenizer.encode(text).ids for text in corpus.texts], 1, "cpu")
    torch.manual_seed(0)
    masked, chosen = stage._masking.mask(batch, 0.5)
    words = batch.input_ids > 4
    assert not chosen[~words].any()
    assert 0.45 < chosen.sum().item() / words.sum().item() < 0.55
    assert torch.equal(masked.input_ids[~chosen], batch.input_ids[~chosen])
    hidden = (masked.input_ids[chosen] == 4).float().mean().item()
    assert 0.75 < hidden < 0.85


def test_fresh_weights_start_small_and_padding_at_zero() -> None:
    model = fresh_model(400, 64, 2)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight.shape[0] > 1:
            assert 0.015 < module.weight.std().item() < 0.025
    assert not model.model.embeddings.word_embeddings.weight[1].any()
    assert isinstance(model, CustomModel)
    with pytest.raises(TrainingError, match="--hidden-size"):
        fresh_model(400, 100, 2)


def test_macro_f1_counts_only_labels_that_occur() -> None:
    labels, found = np.array([0, 0, 2, 2]), np.array([0, 0, 2, 1])
    scores = np.eye(4, dtype=np.float32)[found]
    figures = measure(scores, labels.tolist(), ["x", "x", "y", "y"])
    assert figures.accuracy == 0.75
    assert figures.macro_f1 == pytest.approx((1 + 2 / 3) / 2)
    assert figures.by_source["x"].accuracy == 1.0
    assert figures.by_source["y"].macro_f1 == pytest.approx(2 / 3)
    assert figures.by_class["spam"].texts == 0
    assert figures.confusion[2].tolist() == [0, 1, 1, 0]
