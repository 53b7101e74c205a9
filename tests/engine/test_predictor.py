"""What the predictor makes of a text: windows, words, errors, devices and formats."""

from __future__ import annotations

import asyncio
import csv
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hatespeech import paths
from hatespeech.contract import Prediction
from hatespeech.engine import predictor as predictors
from hatespeech.engine.pass_size import PASS_SECONDS
from hatespeech.engine.predictor import (
    Predictor,
    Probabilities,
    Reading,
    Sequences,
    choose_folder,
)
from hatespeech.engine.scorer import Scorer
from hatespeech.engine.spans import locate
from hatespeech.errors import (
    CheckpointError,
    InternalError,
    SettingsError,
    TooLargeError,
    ValidationError,
)
from hatespeech.model import checkpoint as checkpoints
from hatespeech.model.prepared import PreparedModel, onednn_dtypes
from hatespeech.settings import EngineSettings
from hatespeech.text.normalizer import normalize_tweet
from tests.paths import ROOT

SAMPLE = ROOT / "benchmarks" / "data" / "sample.tsv"
LONG = " ".join(f"the train number {n} was late again, nobody knows why 😀" for n in range(60))


def scored(classifier: Predictor, text: str) -> Prediction:
    (result,) = classifier.score([text])
    assert isinstance(result, Prediction), result
    return result


def sample_texts() -> list[str]:
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def test_scores_are_probabilities_in_float32(small_classifier: Predictor) -> None:
    result = scored(small_classifier, "good morning")
    assert sum(result.scores) == pytest.approx(1, abs=1e-6)
    assert (result.windows, result.window, result.words) == (1, None, None)


def test_a_text_scores_the_same_in_any_company(small_classifier: Predictor) -> None:
    texts = [*sample_texts()[:120], LONG]
    together = small_classifier.score(texts, max_batch_tokens=4096)
    for text, result in zip(texts, together, strict=True):
        assert isinstance(result, Prediction)
        assert result.scores == pytest.approx(scored(small_classifier, text).scores, abs=1e-5)


def test_no_pass_exceeds_the_token_budget(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = small_classifier.probabilities

    def counted(sequences: list[list[int]]) -> list[list[float]]:
        sizes.append(sum(map(len, sequences)))
        return forward(sequences)

    monkeypatch.setattr(small_classifier, "probabilities", counted)
    small_classifier.score([*sample_texts()[:100], LONG], max_batch_tokens=700)
    assert max(sizes) <= 700
    assert len(sizes) < 40, "batches are not filled"


def test_windows_cover_the_text_and_overlap_by_128_tokens(small_classifier: Predictor) -> None:
    encoded = small_classifier.encode(LONG)
    whole = small_classifier._tokenizer.encode(normalize_tweet(LONG)).ids
    assert len(encoded.windows) > 2
    rebuilt: list[int] = []
    for window in encoded.windows:
        assert len(window) <= 512
        assert (window[0], window[-1]) == (whole[0], whole[-1])
        content = window[1:-1]
        if rebuilt:
            assert rebuilt[-128:] == content[:128]
            content = content[128:]
        rebuilt += content
    assert rebuilt == whole[1:-1]
    assert all(len(window) == 512 for window in encoded.windows[:-1])


@pytest.mark.parametrize(("words", "windows"), [(1, 1), (510, 1), (511, 2), (892, 2), (893, 3)])
def test_a_window_more_only_where_it_is_needed(
    small_classifier: Predictor, words: int, windows: int
) -> None:
    text = "".join("QZ"[n % 2] for n in range(words))  # no merges in the small vocabulary
    encoded = small_classifier.encode(text)
    assert len(small_classifier._tokenizer.encode(encoded.normalized).ids) == words + 2
    assert len(encoded.windows) == windows


def test_the_least_neutral_window_speaks_and_says_where_it_is(small_classifier: Predictor) -> None:
    result = scored(small_classifier, LONG)
    rows = small_classifier.probabilities(small_classifier.encode(LONG).windows)
    least = min(rows, key=lambda row: row[2])
    assert result.windows == len(rows)
    assert result.scores == pytest.approx(least, abs=1e-5)
    assert result.window is not None
    start, end = result.window
    encoded = small_classifier.encode(LONG)
    spoke = encoded.spans[rows.index(least)]
    # The raw span normalises to what the window read, a token at either end apart.
    dense = "".join(encoded.normalized[slice(*spoke)].split())
    cut = "".join(normalize_tweet(LONG[start:end]).split())
    assert dense[20:-20] in cut
    assert abs(len(cut) - len(dense)) < 20


@pytest.mark.parametrize(
    "text",
    [
        "word " * 50,
        "😀😁" * 40,
        "&amp;&lt;" * 30,
        "https://example.com/a " * 20,
        "don't @me …" * 25,
        "日本語のテキスト" * 20,
    ],
)
def test_places_in_the_normalised_text_are_found_in_the_text_as_sent(text: str) -> None:
    normalized = normalize_tweet(text)
    assert locate(text, normalized, 0, len(normalized)) == (0, len(text))
    places = [
        locate(text, normalized, start, start + 10) for start in range(0, len(normalized) - 10, 7)
    ]
    for start, end in places:
        assert 0 <= start < end <= len(text)
    assert places == sorted(places)


def test_too_many_windows_are_refused(small_checkpoint: Path) -> None:
    narrow = Predictor.from_settings(
        EngineSettings(model_dir=small_checkpoint, device="cpu", max_windows=2)
    )
    (result,) = narrow.score([LONG])
    assert isinstance(result, TooLargeError)
    assert "windows" in result.message


@pytest.mark.parametrize(
    "text", ["   ", "\n\t", "\u200b\u200d", "\ufe0f", "\u2060 \ufeff\u00ad", "\x00", "\u3164\u115f"]
)
def test_nothing_visible_is_an_error_of_its_text_alone(
    small_classifier: Predictor, text: str
) -> None:
    before, result, after = small_classifier.score(["good", text, "morning"])
    assert isinstance(result, ValidationError)
    assert isinstance(before, Prediction)
    assert isinstance(after, Prediction)


def test_scores_that_are_not_finite_are_an_error(small_checkpoint: Path) -> None:
    broken = Predictor.from_settings(EngineSettings(model_dir=small_checkpoint, device="cpu"))
    broken._model.linear2.bias.fill_(float("nan"))
    assert isinstance(broken.score(["good morning"])[0], InternalError)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_agrees_on_the_label(dtype: str) -> None:
    texts = sample_texts()[::4]  # float16 is slow on a CPU
    labels = []
    for each in ("float32", dtype):
        classifier = Predictor.from_settings(
            EngineSettings.model_validate(
                {"model_dir": paths.EMBEDDED, "device": "cpu", "dtype": each}
            )
        )
        results = classifier.score(texts)
        labels.append([r.scores.index(max(r.scores)) for r in results if isinstance(r, Prediction)])
    assert len(labels[0]) == len(texts)
    agreed = sum(a == b for a, b in zip(*labels, strict=True))
    assert agreed >= 0.99 * len(texts)


@pytest.mark.slow
def test_scoring_imports_neither_transformers_nor_the_oracles() -> None:
    code = (
        "import sys; from hatespeech.engine.predictor import Predictor\n"
        "from hatespeech.settings import EngineSettings\n"
        f"c = Predictor.from_settings(EngineSettings(model_dir={str(paths.EMBEDDED)!r}))\n"
        "assert c.score(['good morning 😀'])[0].windows == 1\n"
        "print(sorted({'transformers', 'nltk', 'emoji', 'huggingface_hub'} & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip() == "[]", run.stderr


@pytest.mark.slow
def test_loading_a_model_imports_no_part_of_torch_that_takes_seconds() -> None:
    code = (
        "import sys, torch; from hatespeech.engine.predictor import Predictor\n"
        "from hatespeech.settings import EngineSettings\n"
        "before = set(sys.modules)\n"
        f"Predictor.from_settings(EngineSettings(model_dir={str(paths.EMBEDDED)!r}))\n"
        "print(len(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert int(run.stdout) < 50, run.stderr


def test_the_folder_asked_for_is_served_or_nothing(
    tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="not a folder"):
        choose_folder(EngineSettings(model_dir=tmp_path / "absent"))
    assert choose_folder(EngineSettings(model_dir=small_checkpoint)) == small_checkpoint
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "absent")
    assert choose_folder(EngineSettings()) == paths.EMBEDDED
    monkeypatch.setattr(paths, "PUBLISHED", small_checkpoint)
    assert choose_folder(EngineSettings()) == small_checkpoint


def test_a_device_that_is_not_there_is_refused(small_checkpoint: Path) -> None:
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(SettingsError, match="DEVICE"):
        Predictor.from_settings(EngineSettings(model_dir=small_checkpoint, device=absent))


def test_a_short_list_is_read_without_a_thread(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting one takes as long as a short text takes the embedded model."""
    readers: set[threading.Thread] = set()
    read = small_classifier.read

    def watched(*arguments: Any) -> Reading:
        readers.add(threading.current_thread())
        return read(*arguments)

    monkeypatch.setattr(small_classifier, "read", watched)
    small_classifier.score(["good morning"] * predictors.READ_AT_ONCE)
    assert readers == {threading.current_thread()}
    small_classifier.score(["good morning"] * (predictors.READ_AT_ONCE + 1))
    assert len(readers) > 1  # a longer list is read ahead


@pytest.mark.skipif(not onednn_dtypes(), reason="this build of torch has no oneDNN")
def test_after_warming_up_a_tweet_meets_no_new_shape(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: set[tuple[int, int]] = set()
    pass_hook = small_classifier._model.register_forward_pre_hook(
        lambda _model, inputs: shapes.add((len(inputs[0].input_ids), len(inputs[0].first)))
    )
    monkeypatch.setattr(predictors, "WARM_UP_SECONDS", 60)  # a busy machine
    small_classifier.warm_up(16_384)
    built = set(shapes)
    texts = [" ".join(["good"] * words) for words in range(1, 60)]
    assert max(len(small_classifier.encode(text).windows[0]) for text in texts) > 60
    for text in texts:
        small_classifier.score([text])
    pass_hook.remove()
    assert len(built) > 5
    assert shapes == built


def test_on_a_gpu_a_full_batch_that_does_not_fit_is_no_reason_not_to_start(
    small_classifier: Predictor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sizes: list[int] = []
    probabilities = small_classifier.probabilities

    def limited(sequences: Sequences) -> Probabilities:
        sizes.append(sum(map(len, sequences)))
        if sizes[-1] > 1000:
            raise torch.OutOfMemoryError("out of memory")
        return probabilities(sequences)

    monkeypatch.setattr(small_classifier, "probabilities", limited)
    monkeypatch.setattr(small_classifier, "device", torch.device("cuda"))
    small_classifier.warm_up(16_384)
    assert 0.9 * 16_384 < max(sizes) <= 16_384
    assert "does not fit" in caplog.text


def test_loading_and_warming_up_leave_no_openmp_threads_in_the_thread_that_asks(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that stayed would make all others sleep; see :func:`threads.in_passing`."""
    seen: list[str] = []

    def noted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            seen.append(threading.current_thread().name)
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(checkpoints, "load_model", noted(checkpoints.load_model))
    monkeypatch.setattr(Predictor, "probabilities", noted(Predictor.probabilities))
    environ = {"DEVICE": "cpu", "MODEL_DIR": str(small_checkpoint)}
    Predictor.from_settings(EngineSettings.from_environment(environ)).warm_up(16_384)
    assert len(seen) >= 3
    assert set(seen) == {"passing"}


def test_the_first_pass_for_callers_follows_the_speed_of_the_warm_up(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EngineSettings()
    monkeypatch.setattr(small_classifier, "tokens_per_second", None)
    small_classifier.warm_up(settings.max_batch_tokens)
    assert small_classifier.tokens_per_second is not None
    monkeypatch.setattr(small_classifier, "tokens_per_second", 20_000.0)

    async def tokens() -> int:
        scorer = Scorer(small_classifier, settings)
        try:
            return scorer.batcher._pass_size.tokens
        finally:
            scorer.close()

    assert asyncio.run(tokens()) == 20_000 * PASS_SECONDS


def test_warming_up_raises_what_keeps_the_model_from_scoring(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        small_classifier, "probabilities", lambda rows: [[float("nan")] * 4 for _ in rows]
    )
    with pytest.raises(InternalError):
        small_classifier.warm_up(16_384)


@pytest.mark.skipif(not onednn_dtypes(), reason="this build of torch has no oneDNN")
def test_a_cpu_serves_weights_in_the_order_of_onednn(small_checkpoint: Path) -> None:
    settings = EngineSettings.from_environment(
        {"MODEL_DIR": str(small_checkpoint), "DEVICE": "cpu", "DTYPE": "float32"}
    )
    model = Predictor.from_settings(settings)._model.prepared
    assert isinstance(model, PreparedModel)
    products = [layer[:4] for layer in model._tensors[1:-1]]
    assert products
    assert all(product[0].is_mkldnn for layer in products for product in layer)
