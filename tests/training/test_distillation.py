"""What makes the mini encoder: teacher, student, invented texts, calibration, thresholds."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from hatespeech.evaluation import calibration, thresholds
from hatespeech.evaluation.figures import macro_f1, measure
from hatespeech.labels import LABELS
from hatespeech.model import checkpoint
from hatespeech.model.network import CustomModel
from hatespeech.model.packing import PackedBatch
from hatespeech.paths import file_sha256
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.training import checkpoint_writer, functional, model_card
from hatespeech.training import command as train
from hatespeech.training.compression import cut_student
from hatespeech.training.corpus import Corpus, read_corpus
from hatespeech.training.evaluation import compute_logits, functional_figures
from hatespeech.training.initial_models import pretrained_model
from hatespeech.training.loop import TrainingProgress
from hatespeech.training.recipe import MINI, SCRATCH, TEACHER, TEACHER_PACKAGE
from hatespeech.training.sequences import Sample, finetuning_samples
from hatespeech.training.session import package_folder
from hatespeech.training.stages import Classification
from tests.paths import EMBEDDED, SAMPLE
from tests.support.checkpoints import train_tokenizer
from tests.support.corpora import sentence, write_splits

MINI_FOLDER = EMBEDDED
LAYERS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    rows = {"train": 320, "dev": 80, "test": 80}
    return write_splits(tmp_path_factory.mktemp("data"), rows)


@pytest.fixture(scope="module")
def bert(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its lower-casing WordPiece, as save_pretrained leaves them."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    # Said often, so that they are words of their own; the tests' letters, so that none is unknown.
    tokenizer.train_from_iterator([*corpus.texts, "zebra zebra zebra qjkxz"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    folder = tmp_path_factory.mktemp("hub") / "tiny-bert"
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=96,
        initializer_range=0.125,  # 1 / sqrt(hidden_size); BERT's 0.02 hardly learns
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it so
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        unk_token="[UNK]", mask_token="[MASK]", model_max_length=512,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT whose tokenizer is byte-level BPE."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("hub") / "byte-level"
    small = BertConfig(
        vocab_size=600, hidden_size=8, num_hidden_layers=6, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    BertModel(small).save_pretrained(folder)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it so
        tokenizer_object=train_tokenizer(), cls_token="<s>", sep_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>",
    ).save_pretrained(folder)  # fmt: skip
    return folder


def hidden_states(model: CustomModel, ids: list[list[int]]) -> list[torch.Tensor]:
    """Return each sequence's last hidden state, ``[tokens, hidden]``."""
    batch = PackedBatch.pack(ids, model.config.pad_token_id, "cpu")
    with torch.inference_mode():
        hidden = model.eval().model(batch)
    starts = {index: int(batch.first[place]) for place, index in enumerate(batch.order)}
    return [hidden[starts[i] : starts[i] + len(each)] for i, each in enumerate(ids)]


@pytest.mark.parametrize("source", ["tiny", "packaged"])
def test_a_bert_arrives_with_its_weights_and_its_token_ids(
    source: str, bert: Path, corpus: Corpus
) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = str(bert) if source == "tiny" else package_folder(TEACHER_PACKAGE)
    assert Path(folder).is_dir()
    model, tok = pretrained_model(folder)
    theirs = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [*corpus.texts[:8], "Zebra " * 100, "@USER said :joy: HTTPURL"]
    ids = [tok.encode(text).ids for text in texts]
    assert ids == [their_tokenizer(text)["input_ids"] for text in texts]
    for sequence, ours in zip(ids, hidden_states(model, ids), strict=True):
        with torch.inference_mode():
            expected = theirs(input_ids=torch.tensor([sequence])).last_hidden_state[0]
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)
    assert model.config.max_tokens == 512


def test_a_student_that_keeps_everything_is_its_teacher(bert: Path, corpus: Corpus) -> None:
    teacher, tokenizer = pretrained_model(str(bert))
    student, small = cut_student(teacher, tokenizer, corpus.texts, 10_000, range(LAYERS), 10_000)
    assert [small.token_to_id(name) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip
    for text in [*corpus.texts[:8], "the large river " * 150]:
        pairs = [(teacher, tokenizer), (student, small)]
        encoded = [(model, tok.encode(text)) for model, tok in pairs]
        assert encoded[0][1].tokens == encoded[1][1].tokens
        states = [hidden_states(model, [found.ids])[0] for model, found in encoded]
        torch.testing.assert_close(*states, atol=1e-5, rtol=0)
    assert student.config.max_tokens == teacher.config.max_tokens


def test_a_student_keeps_the_layers_it_is_told_and_the_strongest_neurons(
    bert: Path, corpus: Corpus
) -> None:
    teacher, tokenizer = pretrained_model(str(bert))
    output = teacher.get_submodule("model.encoder.layer.2.output.dense")
    with torch.no_grad():
        assert isinstance(output.weight, torch.Tensor)
        output.weight[:, 10:] *= 1e-6
    student, small = cut_student(teacher, tokenizer, corpus.texts, 90, [0, 2], 10)
    assert (student.config.num_hidden_layers, student.config.intermediate_size) == (2, 10)
    for theirs, ours in ((0, 0), (2, 1)):
        name = "model.encoder.layer.{}.attention.self.query.weight"
        kept = student.state_dict()[name.format(ours)]
        assert torch.equal(kept, teacher.state_dict()[name.format(theirs)])
    name = "model.encoder.layer.{}.output.dense.weight"
    assert torch.equal(
        student.state_dict()[name.format(1)], teacher.state_dict()[name.format(2)][:, :10]
    )
    assert small.get_vocab_size() == student.config.vocab_size <= 90
    assert small.encode("zebra qjkxz").tokens.count("<unk>") == 0, "letters are always known"
    assert len(small.encode("zebra").tokens) > len(tokenizer.encode("zebra").tokens)


def test_neurons_that_stay_silent_go_first(bert: Path, corpus: Corpus) -> None:
    teacher, tokenizer = pretrained_model(str(bert))
    weights = teacher.state_dict()
    prefix = "model.encoder.layer.1.intermediate.dense."
    with torch.no_grad():
        weights[prefix + "weight"][12:] = 0.0
        weights[prefix + "bias"][12:] = 0.0  # GELU of nothing
        weights[prefix + "bias"][:12] += 1.0
    student, _ = cut_student(teacher, tokenizer, corpus.texts, 90, [1], 12)
    kept = student.state_dict()["model.encoder.layer.0.intermediate.dense.weight"]
    assert torch.equal(kept, weights[prefix + "weight"][:12])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--teacher-layers", "0,3"], "--teacher-layers: the teacher has layers 0 to 2"),
        (
            ["--teacher", "BYTE_LEVEL"],
            "--teacher: its tokenizer is not a WordPiece, and can't be cut",
        ),
        (["--teacher", "NOTHING"], "--teacher "),
    ],
    ids=["layers", "tokenizer", "missing"],
)
def test_a_teacher_that_cannot_be_cut_is_refused_before_it_is_taught(
    option: list[str],
    message: str,
    bert: Path,
    byte_level: Path,
    data: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"BYTE_LEVEL": str(byte_level), "NOTHING": str(tmp_path / "nothing")}
    chosen = [places.get(word, word) for word in option]
    arguments = [*data, "--teacher", str(bert), *chosen, "--output", str(tmp_path / "out")]
    assert train.main(arguments) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"error: {message}")
    assert complaint.count("\n") == 1
    assert not (tmp_path / "out.partial" / "teacher.safetensors").exists()


@pytest.mark.parametrize(
    "option",
    [
        ["--hidden-size", "64"],
        ["--pretrain-epochs", "1"],
        ["--encoder", "scratch", "--teacher", "x"],
        ["--encoder", "some/model", "--vocab-size", "9"],
    ],
)
def test_an_option_of_another_encoder_is_refused(
    option: list[str], data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main([*data, "--output", "unused", *option])
    assert ended.value.code == 2
    assert f"argument {option[-2]}: not allowed with --encoder" in capsys.readouterr().err


def test_a_mini_is_taught_interrupted_and_ends_as_if_it_had_not_been(
    bert: Path,
    data: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick = dataclasses.replace(
        MINI, functional_texts=40, foreign_texts=20, learning_rate=1e-3, batch_size=8
    )
    monkeypatch.setattr(train, "MINI", quick)
    # Both learn the sentences in two of their epochs, whatever the processor rounds.
    teacher = dataclasses.replace(TEACHER, learning_rate=1e-3, batch_size=8)
    monkeypatch.setattr("hatespeech.training.recipe.TEACHER", teacher)
    options = ["--teacher", str(bert), "--teacher-layers", "0,2", "--vocab-size", "250"]
    arguments = [*data, *options, "--intermediate-size", "48", "--epochs", "4"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train.main([*arguments, "--output", str(whole)]) == 0

    def unplugged(*_: object) -> None:
        raise OSError(5, "Input/output error")

    for name in (
        "hatespeech.training.session.compute_logits",
        "hatespeech.training.session.cut_student",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, unplugged)
            assert train.main([*arguments, "--output", str(broken)]) == 1
        assert not broken.exists()
    caplog.clear()
    assert train.main([*arguments, "--output", str(broken)]) == 0
    assert "fine-tuning" in caplog.text
    assert "teacher 1/3" not in caplog.text, "the teacher was trained anew"
    weights = [file_sha256(folder / checkpoint.WEIGHTS) for folder in (whole, broken)]
    assert weights[0] == weights[1]

    described = checkpoint.verify(whole)
    assert described.model.num_hidden_layers == 2
    assert described.provenance["command"].count("--teacher tiny-bert --teacher-layers 0,2") == 1
    assert described.thresholds.keys() == {"balanced", "strict"}
    card = (whole / "README.md").read_text(encoding="utf-8")
    for part in ("## Calibration", "calibration.png", "| strict | ", "g CO2e", "countered"):
        assert part in card
    model, tok = checkpoint.load_model(described), checkpoint.load_tokenizer(described)
    rng = random.Random(99)
    truth = [i % 4 for i in range(40)]
    texts = [normalize_tweet(sentence(LABELS[label], rng)) for label in truth]
    found = [int(model.forward_sequences([tok.encode(text).ids]).argmax()) for text in texts]
    assert sum(a == b for a, b in zip(found, truth, strict=True)) >= 34


def test_the_loss_falls_towards_the_teacher_where_it_differs_from_the_label(
    bert: Path, corpus: Corpus
) -> None:
    """With only the teacher to go by, the student ends at its probabilities, not at the labels."""
    model, tokenizer = pretrained_model(str(bert))
    recipe = dataclasses.replace(SCRATCH, soft_share=1.0, token_dropout=0.0, long_share=0.0)
    few = Corpus(corpus.texts[:8], corpus.labels[:8], corpus.sources[:8])
    wanted = (2.0, 1.0, 0.0, -1.0)
    stage = Classification(model.eval(), tokenizer, few, recipe, [wanted] * 8)
    samples = stage.samples(np.random.default_rng(0))
    assert all(sample.target == wanted for sample in samples)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        stage.loss(samples).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    with torch.inference_mode():
        scores = torch.softmax(model.forward_sequences([s.ids for s in samples]), dim=1)
    expected = torch.softmax(torch.tensor(wanted), dim=0).expand(8, 4)
    torch.testing.assert_close(scores, expected, atol=0.03, rtol=0)


def test_the_loss_is_the_mean_of_labels_and_targets_by_their_weights(
    bert: Path, corpus: Corpus
) -> None:
    model, tokenizer = pretrained_model(str(bert))
    recipe = dataclasses.replace(
        SCRATCH,
        soft_share=0.7,
        soft_temperature=2.0,
        token_dropout=0.0,
        class_weights=(3.0, 1.0, 1.0, 1.0),
    )
    stage = Classification(model.eval(), tokenizer, corpus, recipe)
    ids = [tokenizer.encode(text).ids for text in corpus.texts[:2]]
    samples = [Sample(ids[0], 0, (1.0, 2.0, 0.0, -1.0)), Sample(ids[1], 2)]
    with torch.inference_mode():
        logits = model.forward_sequences(ids).double().numpy()
    with_target, without = (log_softmax(row) for row in logits)
    target = np.exp(log_softmax(np.array([1.0, 2.0, 0.0, -1.0]) / 2))
    soft = -(target * log_softmax(logits[0] / 2)).sum() * 4
    expected = (0.9 * -with_target[0] + 0.7 * soft + 1.0 * -without[2]) / (0.9 + 0.7 + 1.0)
    assert stage.loss(samples).item() == pytest.approx(expected, rel=1e-4)
    assert stage.weight(samples) == pytest.approx(2.6)


def log_softmax(row: Any) -> Any:
    return row - np.log(np.exp(row).sum())


def test_added_texts_have_no_target_and_changed_ones_keep_theirs(
    bert: Path, corpus: Corpus
) -> None:
    _, tokenizer = pretrained_model(str(bert))
    targets = [(float(i), 0.0, 0.0, 0.0) for i in range(len(corpus))]
    recipe = dataclasses.replace(SCRATCH, functional_texts=30, changed_share=1.0, long_share=0.1)
    samples = finetuning_samples(corpus, tokenizer, recipe, np.random.default_rng(0), targets)
    assert [s.target for s in samples[: len(corpus)]] == targets
    assert [s.label for s in samples[: len(corpus)]] == corpus.labels
    added = samples[len(corpus) :]
    assert len(added) == 30 + round(0.1 * len(corpus))
    assert all(sample.target is None for sample in added)


def test_invented_texts_measure_with_templates_and_groups_that_are_not_trained_on() -> None:
    learnt, held_out = functional.read_grammars()
    templates = [
        {each for some in g.templates.values() for each in some} for g in (learnt, held_out)
    ]
    assert not templates[0] & templates[1]
    assert learnt.templates.keys() == set(functional.DRAWN)
    names = [{name.lower() for group in g.groups for name in group} for g in (learnt, held_out)]
    assert not names[0] & names[1]
    measured = functional.held_out_corpus()
    assert len(set(measured.texts)) == len(measured) > 400
    assert measured == functional.held_out_corpus()
    rng = np.random.default_rng(5)
    trained_on = functional.functional_corpus(3000, rng)
    assert not set(trained_on.texts) & set(measured.texts)
    lowered = " ".join(trained_on.texts).lower()
    assert not [name for name in names[1] if name in lowered]
    shares = np.bincount(trained_on.labels, minlength=4) / 3000
    assert shares == pytest.approx([0.4, 0.1, 0.5, 0], abs=0.03)
    assert not any("{" in text or "}" in text for text in trained_on.texts + measured.texts)


def test_changed_texts_keep_their_words_or_swap_groups_only() -> None:
    rng = np.random.default_rng(0)
    text = "I saw Muslims , and a LESBIAN ; all @USER did was laugh :woman: ."
    swapped = {functional.swap_groups(text, rng) for _ in range(50)}
    assert len(swapped) > 20
    for changed in swapped:
        assert changed.startswith("I saw ")
        assert changed.endswith(" ; all @USER did was laugh :woman: .")
    for other in ("the river was calm", "the White House , a black cat , Christian Bale"):
        assert functional.swap_groups(other, rng) == other
    assert functional.without_punctuation(text) == (
        "I saw Muslims and a LESBIAN all @USER did was laugh :woman:"
    )
    assert functional.vary(text, 0.0, rng) == text
    different = sum(functional.vary(text, 0.5, rng) != text for _ in range(400))
    assert 130 < different < 210


def test_however_an_invented_text_is_spelt_something_is_left_of_it() -> None:
    rng = np.random.default_rng(0)
    text = normalize_tweet("I 🤮 women, all of them")
    spelt = {functional.respell(text, rng) for _ in range(300)}
    assert len(spelt) > 12
    assert all(":face_vomiting:" in each.lower() for each in spelt)
    quoted = 'stop saying " women are pigs "'
    assert all(functional.respell(quoted, rng).count('"') == 2 for _ in range(200))
    many = functional.functional_corpus(3000, rng).texts
    assert min(len(each.split()) for each in many) >= 2


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_calibration_finds_the_temperature_that_made_the_logits_too_sure(
    temperature: float,
) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(scale=1.5, size=(6000, 4))
    labels = np.array(
        [rng.choice(4, p=row) for row in calibration.probabilities(honest.astype(np.float32))]
    )
    found = calibration.calibrate((honest * temperature).astype(np.float32), labels)
    assert found.temperature == pytest.approx(temperature, rel=0.08)
    assert found.biases == pytest.approx([0.0] * 4, abs=0.1)
    assert found.error_after < 0.02 < found.error_before


def test_calibration_finds_the_labels_that_are_predicted_too_often() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(scale=1.5, size=(6000, 4)).astype(np.float32)
    labels = np.array([rng.choice(4, p=row) for row in calibration.probabilities(honest)])
    found = calibration.calibrate(honest + np.array([0.6, 0, -0.6, 0], dtype=np.float32), labels)
    assert found.biases == pytest.approx([-0.6, 0, 0.6, 0], abs=0.12)
    assert found.error_after < found.error_before


def test_biases_that_hide_a_rare_label_are_applied_in_part() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(scale=1.5, size=(20_000, 4)).astype(np.float32)
    honest[:, 3] -= 4  # so rare that an honest network hardly ever predicts it
    labels = np.array([rng.choice(4, p=row) for row in calibration.probabilities(honest)])
    eager = honest + np.array([0, 0, 0, 2], dtype=np.float32)
    found = calibration.calibrate(eager, labels)
    assert -1.2 < found.biases[3] < -0.3, "the whole would be -1.5"
    predicted = found.apply(eager).argmax(axis=1)
    for whole in (honest, eager):
        assert macro_f1(labels, predicted) >= macro_f1(labels, whole.argmax(axis=1))


def test_the_calibration_error_is_the_gap_of_confidence_and_accuracy() -> None:
    sure = np.log(np.array([[0.9, 0.1, 1e-9, 1e-9]] * 10, dtype=np.float32))
    labels = np.array([0] * 6 + [1] * 4)
    assert calibration.expected_calibration_error(sure, labels) == pytest.approx(0.3, abs=1e-6)


def test_folded_weights_give_the_calibrated_logits() -> None:
    described = checkpoint.describe(MINI_FOLDER)
    model = checkpoint.load_model(described)
    ids = [[0, 20, 30, 2], [0, 400, 2]]
    before = model.forward_sequences(ids)
    found = calibration.Calibration(2.5, (0.5, -1.0, 0.25, 0.25), 0.0, 0.0)
    model.load_state_dict(checkpoint_writer.fold(model.state_dict(), found))
    after = model.forward_sequences(ids)
    expected = before / 2.5 + torch.tensor(found.biases)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found.apply(before.numpy()), after.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.undo(after.numpy()), before.numpy(), atol=1e-5)


def test_a_saved_checkpoint_is_calibrated(tmp_path: Path) -> None:
    described = checkpoint.describe(MINI_FOLDER)
    tokenizer = checkpoint.load_tokenizer(described)
    rows = read_corpus(SAMPLE)
    sharp = calibration.Calibration(1 / 3, (0.0,) * 4, 0.0, 0.0)
    too_sure = checkpoint_writer.fold(checkpoint.load_model(described).state_dict(), sharp)
    result = checkpoint_writer.FinishedTraining(
        argparse.Namespace(), MINI, TrainingProgress(), torch.device("cpu"), rows, rows, None
    )
    saved, found = checkpoint_writer.save_calibrated(
        tmp_path / "saved", too_sure, described.model, tokenizer, result,
        name="saved", provenance={}, dtype=torch.float32,
    )  # fmt: skip
    assert 2 < found.temperature < 4
    logits = compute_logits(checkpoint.load_model(saved), tokenizer, rows.texts)
    again = calibration.calibrate(logits, np.array(rows.labels))
    assert again.temperature == pytest.approx(1.0, rel=0.01)
    assert again.error_before == pytest.approx(found.error_after, abs=0.005)
    assert saved.thresholds.keys() == {"balanced", "strict"}


def test_recommended_thresholds_have_the_precision_they_promise() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(4, size=4000)
    logits = rng.normal(size=(4000, 4)) + 1.8 * np.eye(4)[labels]
    scores = calibration.probabilities(logits.astype(np.float32))
    found = thresholds.recommend(scores, labels)
    assert found["version"] == thresholds.THRESHOLDS_VERSION
    assert found["balanced"].keys() == found["strict"].keys() == {*LABELS, "toxic"} - {"neutral"}
    strict = thresholds.flagged_figures(scores, labels, found["strict"])
    balanced = thresholds.flagged_figures(scores, labels, found["balanced"])
    for label in found["strict"]:
        assert strict[label][0] >= thresholds.STRICT_PRECISION
        assert strict[label][1] >= thresholds.STRICT_RECALL
        lower = {label: found["strict"][label] - 0.01}
        assert thresholds.flagged_figures(scores, labels, lower)[label][0] < 0.9
        assert f1(*balanced[label]) > f1(*strict[label])
        for step in (-0.1, 0.1):
            moved = {label: found["balanced"][label] + step}
            other = thresholds.flagged_figures(scores, labels, moved)[label]
            assert f1(*balanced[label]) > f1(*other)


def test_a_label_that_dev_lacks_gets_no_threshold() -> None:
    labels = np.array([0, 1, 2] * 40)
    scores = calibration.probabilities(4 * np.eye(4, dtype=np.float32)[labels])
    found = thresholds.recommend(scores, labels)
    assert found["balanced"].keys() == found["strict"].keys() == {"hate", "abusing", "toxic"}
    assert all(0 < least < 1 for name in ("balanced", "strict") for least in found[name].values())


def test_a_precise_threshold_that_finds_too_little_is_not_recommended() -> None:
    labels = np.repeat([0, 1, 2], 40)
    scores = np.zeros((120, 4))
    scores[:40, 0] = np.linspace(0.3, 0.9, 40)  # well told from neutral, badly from abusing
    scores[40:80, 0] = np.linspace(0.1, 0.7, 40)
    scores[:80, 1] = 1 - scores[:80, 0]
    scores[80:, 2] = 1
    found = thresholds.recommend(scores, labels)
    assert found["balanced"].keys() == {"hate", "abusing", "toxic"}
    assert found["strict"].keys() == {"toxic"}
    precise = thresholds.flagged_figures(scores, labels, {"hate": 0.75})["hate"]
    assert precise[0] >= thresholds.STRICT_PRECISION, "the case has a precise threshold"
    assert precise[1] < thresholds.STRICT_RECALL


def test_a_name_without_thresholds_is_not_recommended() -> None:
    labels = np.array([0, 2] * 60)
    found = thresholds.recommend(np.full((120, 4), 0.25), labels)
    assert found.keys() == {"version", "balanced"}


@pytest.mark.parametrize(
    ("strict", "said"),
    [
        ({"hate": 0.8, "toxic": 0.7}, None),
        (
            {"toxic": 0.7},
            "strict threshold for hate**: a request for `strict` never flags it.\n`toxic`",
        ),
        ({"hate": 0.8}, "strict threshold for toxic**: a request for `strict` never flags it.\n"),
    ],
)
def test_a_card_names_what_strict_never_flags(strict: dict[str, float], said: str | None) -> None:
    thresholds = {"balanced": {"hate": 0.4, "toxic": 0.5}, "strict": strict}
    text = "\n".join(model_card._without_strict(thresholds))
    assert (said in text) if said else (text == "")


def f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall)


def test_functional_figures_count_what_is_called_hate() -> None:
    labels = np.array([0] * 4 + [1] * 2 + [2] * 4)
    found = np.array([0, 0, 0, 1, 0, 1, 2, 2, 2, 0])
    scores = np.eye(4, dtype=np.float32)[found]
    figures = functional_figures(measure(scores, labels.tolist(), ["x"] * 10))
    assert figures.hate_found == 0.75
    assert (figures.neutral_called_hate, figures.abusing_called_hate) == (0.25, 0.5)
    assert figures.balanced_accuracy == pytest.approx((0.75 + 1 - 2 / 6) / 2)


def test_a_teacher_is_a_package_or_a_folder_or_a_name(tmp_path: Path) -> None:
    folder = Path(package_folder(TEACHER_PACKAGE))
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384
    assert package_folder(str(tmp_path)) == str(tmp_path)
    assert package_folder("org/some-model") == "org/some-model"
    assert package_folder("no_such_package") == "no_such_package"
