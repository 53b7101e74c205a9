"""The embedded checkpoint as it is committed: small, sound, and as good as its card says."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from benchmarks.embedded_figures import SUITES, balanced_accuracy, figures, suite_hits
from benchmarks.models import load, rows, sample_texts
from hatespeech.labels import LABELS
from hatespeech.model import checkpoint
from hatespeech.model.network import CustomModel
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.training.evaluation import evaluate, functional_figures
from hatespeech.training.functional import held_out_corpus, read_grammars
from tests.paths import EMBEDDED, ROOT, SAMPLE

MINI = EMBEDDED


@pytest.fixture(scope="module")
def model() -> CustomModel:
    return checkpoint.load_model(checkpoint.describe(MINI))


def token_ids(texts: list[str]) -> list[list[int]]:
    tokenizer = checkpoint.load_tokenizer(checkpoint.describe(MINI))
    return [tokenizer.encode(normalize_tweet(text)).ids for text in texts]


def sample() -> tuple[list[str], list[int]]:
    return sample_texts(), [LABELS.index(row["label"]) for row in rows()]


def test_the_folder_is_sound_and_small_enough_to_commit() -> None:
    assert checkpoint.verify(MINI).name == "mini"
    assert sum(file.stat().st_size for file in MINI.iterdir()) <= 12_000_000


def test_the_sample_is_scored_about_as_well_as_the_card_says(model: CustomModel) -> None:
    texts, labels = sample()
    assert len(texts) == 500
    found = model.forward_sequences(token_ids(texts)).argmax(1).tolist()
    hits = sum(a == b for a, b in zip(found, labels, strict=True))
    assert hits / len(labels) > 0.78  # 0.814 as it was written
    assert set(found) == set(range(len(LABELS))), "a label is never given"


def test_a_window_of_512_tokens_is_scored_as_well_as_a_tweet(model: CustomModel) -> None:
    """Long texts made of sample texts of one label: every position row has to be trained."""
    texts, labels = sample()
    long, truth = [], []
    for label in range(len(LABELS)):
        ids = [
            token
            for sequence, of in zip(token_ids(texts), labels, strict=True)
            if of == label
            for token in sequence[1:-1]
        ]
        windows = [ids[at : at + 510] for at in range(0, len(ids) - 509, 510)]
        long += [[0, *window, 2] for window in windows]
        truth += [label] * len(windows)
    assert len(long) >= 20
    found = model.forward_sequences(long).argmax(1).tolist()
    hits = sum(a == b for a, b in zip(found, truth, strict=True))
    assert hits / len(truth) > 0.8


def test_the_card_and_the_provenance_tell_the_whole_story() -> None:
    card = (MINI / "README.md").read_text(encoding="utf-8")
    for part in (
        "What it is for",
        "Never moderate people",
        "Biases",
        "Known failures",
        "CC BY 4.0",
        "Apache License 2.0",
        "confusion.png",
        "calibration.png",
        "g CO2e",
    ):
        assert part in card
    figures = re.search(r"Accuracy (0\.\d+), macro-F1 (0\.\d+), over 7635 texts", card)
    assert figures is not None
    assert float(figures[1]) >= 0.78
    assert float(figures[2]) >= 0.765
    provenance = json.loads((MINI / checkpoint.CONFIG).read_text(encoding="utf-8"))["provenance"]
    assert {"train", "dev", "test"} == set(provenance["data"])
    for text in (card, json.dumps(provenance)):
        assert not re.search(r"/(work|home|tmp|root|shared)/", text)


def test_the_card_holds_the_text_that_is_kept_for_the_next_training() -> None:
    about = (ROOT / "hatespeech" / "training" / "mini.md").read_text(encoding="utf-8")
    assert about.strip() in (MINI / "README.md").read_text(encoding="utf-8")


def test_hate_is_told_from_what_only_looks_like_it(model: CustomModel) -> None:
    tokenizer = checkpoint.load_tokenizer(checkpoint.describe(MINI))
    figures = functional_figures(evaluate(model, tokenizer, held_out_corpus()))
    assert figures.balanced_accuracy >= 0.72
    assert figures.hate_found >= 0.6
    assert max(figures.neutral_called_hate, figures.abusing_called_hate) <= 0.25


def test_suites_that_it_was_not_made_with_are_told_as_the_card_says() -> None:
    classifier = load(MINI)
    hits = {name: suite_hits(classifier, path) for name, path in SUITES.items()}
    for suite in hits.values():
        assert balanced_accuracy(suite) >= 0.8
    card = (MINI / "README.md").read_text(encoding="utf-8")
    section = card.partition("## Suites it was not made with")[2].partition("\n## ")[0]
    told = re.findall(
        r"^\| (\w+) \| ([\w ]+) \| (\w+) \| (\d+) of (\d+) \|$", section, re.MULTILINE
    )
    assert len(told) == sum(map(len, hits.values())) == 45
    for suite_name, functionality, label, right, texts in told:
        found = hits[suite_name][label, functionality.replace(" ", "_")]
        assert len(found) == int(texts)
        # A text at the border may fall on either side, as kernels of other CPUs round.
        assert abs(sum(found) - int(right)) <= 1, functionality


@pytest.mark.slow
def test_the_table_of_the_card_is_what_the_script_prints() -> None:
    """All of it but the figures on labelled texts that are not part of the repository."""
    card = (MINI / "README.md").read_text(encoding="utf-8")
    section = card.partition("## What it is measured by")[2].partition("\n## ")[0]
    shown = dict(re.findall(r"^\| (.+) \| (.+) \|$", section, re.MULTILINE))
    measured = dict(figures(load(MINI), [SAMPLE]))
    missing = {name for name in measured if not name.startswith(SAMPLE.name)} - shown.keys()
    assert not missing
    for name in shown.keys() & measured.keys():
        # A text at the border may fall on either side, as kernels of other CPUs round.
        numbers = [re.match(r"-?[\d.]+", row[name]) for row in (shown, measured)]
        assert None not in numbers
        expected, found = (float(number[0]) for number in numbers if number)
        assert found == pytest.approx(expected, abs=1.0 if " of " in shown[name] else 0.01), name


def test_suites_have_no_text_that_training_can_invent() -> None:
    def bare(text: str) -> str:
        return " ".join(re.sub("[^a-z ]", "", text.lower()).split())

    grammar, _ = read_grammars()
    groups = dict(zip(("groups", "group", "adj"), zip(*grammar.groups, strict=True), strict=True))
    fillings = {**grammar.words, **groups}

    def pattern(template: str) -> re.Pattern[str]:
        """Return what a filled template matches, whatever its case and points."""
        literals, places = re.split(r"\{\w+\}", template), re.findall(r"\{(\w+)\}", template)
        choices = [
            ".+" if name == "quote" else "|".join({bare(word) for word in fillings[name]})
            for name in places
        ]
        spaces = [re.escape(bare(part)) for part in literals]
        return re.compile(
            r" ?".join(
                spaces[:1] + [f"({c}) ?{t}" for c, t in zip(choices, spaces[1:], strict=True)]
            )
        )

    every = [pattern("{opener}" + t + "{closer}") for ts in grammar.templates.values() for t in ts]
    rng = np.random.default_rng(0)
    known = [grammar.fill(ts[0], rng) for ts in grammar.templates.values()]
    assert all(any(one.fullmatch(bare(text)) for one in every) for text in known)
    texts = [bare(text) for path in SUITES.values() for text in sample_texts(path)]
    assert len(texts) == 699
    found = [text for text in texts if any(one.fullmatch(text) for one in every)]
    assert not found


def test_the_failures_that_the_card_names_are_those_it_has(model: CustomModel) -> None:
    card = (MINI / "README.md").read_text(encoding="utf-8")
    section = card.partition("## Known failures")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (\w+) \| (\w+) \|$", section, re.MULTILINE)
    failures = [(text, wanted, got) for text, wanted, got in rows if wanted in LABELS]
    assert len(failures) >= 8
    found = model.forward_sequences(token_ids([text for text, _, _ in failures])).argmax(1)
    assert [LABELS[label] for label in found] == [got for _, _, got in failures]
    assert all(wanted != got for _, wanted, got in failures)


def test_recommended_thresholds_are_published_with_a_version() -> None:
    config = json.loads((MINI / checkpoint.CONFIG).read_text(encoding="utf-8"))
    thresholds = config["thresholds"]
    assert thresholds.keys() == {"version", "balanced", "strict", "measured"}
    assert thresholds["measured"]["on"] == "test"
    card = (MINI / "README.md").read_text(encoding="utf-8")
    for name in ("balanced", "strict"):
        for label, least in thresholds[name].items():
            measured = thresholds["measured"][name][label]
            row = re.search(rf"^\| {name} \| {label} \| {least} \| (.+) \| (.+) \|$", card, re.M)
            assert row is not None
            figures = [measured["precision"], measured["recall"]]
            # Both are rounded, to three and to four digits.
            assert [float(shown) for shown in row.groups()] == pytest.approx(figures, abs=6e-4)
            assert thresholds["strict"].get(label, 1) >= least
    without = thresholds["balanced"].keys() - thresholds["strict"].keys()
    assert ("There is no strict threshold for" in card) == bool(without)
