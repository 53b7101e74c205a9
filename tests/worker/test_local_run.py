"""`python app.py` off the platform: one job in, one JSON document out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import LABELS
from hatespeech.model.checkpoint import CONFIG, TOKENIZER, WEIGHTS
from hatespeech.worker import command as app
from tests.paths import ROOT
from tests.support.bad_inputs import BAD_INPUTS, BAD_ITEMS, MARKER, BadInput
from tests.support.processes.worker import APP, clean_environment

Run = Callable[[Sequence[str], Mapping[str, str]], subprocess.CompletedProcess[bytes]]
Main = Callable[..., "Outcome"]

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
ARABIC_AND_EMOJI = f"{MARKER} صباح الخير 👩‍👩‍👧 🇵🇪 e\u0301"


class Outcome:
    """What a run of ``app.main`` left behind."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out
        self.err = err.decode()

    @property
    def reply(self) -> Any:
        """Standard output, which must be one JSON document in UTF-8 and nothing else."""
        return json.loads(self.out.decode("utf-8"))


@pytest.fixture
def run(small_checkpoint: Path, tmp_path: Path) -> Run:
    """Runs Python in a process of its own, in an empty folder, with a clean environment."""

    def run_python(
        command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        base = clean_environment(tmp_path, small_checkpoint)
        return subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**base, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )

    return run_python


@pytest.fixture
def main(clean_process: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Main:
    """Runs ``app.main`` in this process, which is quicker, in an empty folder."""
    clean_process.setenv("TOKENIZERS_PARALLELISM", "false")

    def run_main(*arguments: str, **environment: str) -> Outcome:
        for name, value in environment.items():
            clean_process.setenv(name, value)
        code = app.main(arguments)
        return Outcome(code, *capsysbinary.readouterr())

    return run_main


def job(value: Any) -> str:
    """Return ``--test_input`` for an ``input``."""
    return json.dumps({"input": value})


def check_scores(
    classifier: Predictor, items: Sequence[Mapping[str, Any]], texts: Sequence[str]
) -> None:
    for item, text, expected in zip(items, texts, classifier.score(texts), strict=True):
        assert isinstance(expected, Prediction)
        assert item["text"] == text
        assert [item[label] for label in LABELS] == pytest.approx(expected.scores, abs=1e-5)


# In a process of its own.


@pytest.mark.slow
def test_test_input_json_gives_one_json_document_whatever_the_log_level_and_locale(
    run: Run, tmp_path: Path, small_classifier: Predictor
) -> None:
    texts = [ARABIC_AND_EMOJI, *(f"{MARKER} number {i}" for i in range(100))]
    test_input = {"input": {"prompts": texts}}
    (tmp_path / "test_input.json").write_text(
        json.dumps(test_input, ensure_ascii=False), encoding="utf-8"
    )
    done = run(
        [APP, "--rp_log_level", "DEBUG"],
        {
            "LOG_LEVEL": "DEBUG",
            "RUNPOD_LOG_LEVEL": "DEBUG",
            "LANG": "C",
            "LC_ALL": "C",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONUTF8": "0",
            "PYTHONIOENCODING": "ascii",
        },
    )
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout.decode("utf-8"))
    assert len(done.stdout) > 4096
    assert reply.keys() == {"items", "model", "timing", "versions"}
    check_scores(small_classifier, reply["items"], texts)
    # Emoji and Arabic can be read as they are, not as escapes.
    assert ARABIC_AND_EMOJI in done.stdout.decode("utf-8")
    log = done.stderr.decode()
    assert re.search(rf" scored {len(texts)} texts of 1 request in \d+ pass", log)
    assert "counters of" not in log  # the job's own line has said it all
    assert "Counters(" not in log
    assert MARKER.encode() not in done.stderr


@pytest.mark.slow
def test_without_a_file_of_its_own_the_shipped_test_input_is_scored_in_silence(
    run: Run, small_classifier: Predictor
) -> None:
    shipped = json.loads((ROOT / "test_input.json").read_text(encoding="utf-8"))
    done = run([APP], {"LOG_LEVEL": "ERROR"})
    assert (done.returncode, done.stderr) == (0, b"")
    check_scores(small_classifier, [json.loads(done.stdout)], [shipped["input"]["prompt"]])


@pytest.mark.slow
def test_a_worker_that_has_scored_never_imported_transformers(run: Run) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from hatespeech.worker import command\n"
        f"assert command.main(['--test_input', {job({'prompt': 'good morning'})!r}]) == 0\n"
        "assert 'torch' in sys.modules\n"
        "assert 'transformers' not in sys.modules\n"
    )
    done = run(["-c", code], {})
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "environment", "error"),
    [
        (
            ["--test_input", job({"prompt": MARKER}) + "}"],
            {},
            "validation: --test_input: is not valid JSON at line 1",
        ),
        (
            [],
            {"MAX_BATCH_TOKENS": "abc"},
            "MAX_BATCH_TOKENS='abc' is not allowed: it must be a whole number from 512 to 1048576",
        ),
        ([], {"MODEL_DIR": "/no/such/folder"}, "MODEL_DIR=/no/such/folder is not a folder"),
    ],
    ids=["broken_json", "bad_setting", "no_model"],
)
def test_a_start_that_fails_says_why_in_one_line(
    run: Run, arguments: list[str], environment: dict[str, str], error: str
) -> None:
    done = run([APP, *arguments], environment)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode() == f"error: {error}\n"


@pytest.mark.slow
def test_help_teaches_by_examples_and_loads_no_model(run: Run) -> None:
    done = run([APP, "--help"], {"MODEL_DIR": "/no/such/folder"})
    assert done.returncode == 0
    text = done.stdout.decode()
    assert "examples:\n  python app.py\n" in text
    for option in ("--test_input", "--rp_serve_api", "--rp_api_port", "--rp_log_level"):
        assert option in text


# In this process.


@pytest.mark.parametrize("port", ["0", "65536", "99999", "-1", "8e3"])
def test_a_port_that_does_not_exist_is_refused_by_name(
    main: Main, port: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main("--rp_serve_api", f"--rp_api_port={port}")
    said = "argument --rp_api_port: must be a whole number from 1 to 65535"
    assert capsysbinary.readouterr().err.decode().endswith(f"{said}\n")


def test_a_single_text_is_scored_from_the_command_line(
    main: Main, small_classifier: Predictor
) -> None:
    outcome = main("--test_input", job({"prompt": ARABIC_AND_EMOJI}))
    assert outcome.code == 0
    check_scores(small_classifier, [outcome.reply], [ARABIC_AND_EMOJI])
    assert outcome.reply["model"] == small_classifier.model_id
    assert MARKER not in outcome.err


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.name)
def test_a_bad_input_gets_one_line_that_names_the_field(main: Main, bad: BadInput) -> None:
    outcome = main("--test_input", job(bad.input), LOG_LEVEL="DEBUG")
    assert outcome.code == 1
    assert outcome.reply == {"error": bad.error}
    assert MARKER not in bad.error + outcome.err
    assert "Traceback" not in outcome.err


def test_only_the_bad_items_of_a_list_fail(main: Main, small_classifier: Predictor) -> None:
    values = ["good", *(value for value, _ in BAD_ITEMS), "morning"]
    outcome = main("--test_input", job({"texts": values}))
    assert outcome.code == 0
    first, *bad, last = outcome.reply["items"]
    check_scores(small_classifier, [first, last], ["good", "morning"])
    for index, (item, (value, error)) in enumerate(zip(bad, BAD_ITEMS, strict=True), 1):
        text = value if isinstance(value, str) else ""
        assert item == {"text": text, "error": error.format(place=f"texts[{index}]")}
    assert MARKER not in outcome.err


def test_a_list_of_nothing_but_bad_items_is_answered(main: Main) -> None:
    outcome = main("--test_input", job({"prompts": [None, ""]}))
    assert outcome.code == 0
    assert [item["text"] for item in outcome.reply["items"]] == ["", ""]
    assert outcome.reply["timing"] == {"queue_ms": 0.0, "compute_ms": 0.0}


def test_a_lone_surrogate_is_read_and_echoed_as_a_replacement_character(
    main: Main, small_classifier: Predictor
) -> None:
    outcome = main("--test_input", job({"prompt": "half \ud83d an emoji"}))
    assert outcome.code == 0
    check_scores(small_classifier, [outcome.reply], ["half \ufffd an emoji"])


def test_too_many_tokens_for_one_request_are_refused(main: Main) -> None:
    value = {"prompts": ["good morning " * 100] * 10}
    outcome = main("--test_input", job(value), MAX_REQUEST_TOKENS="600")
    assert outcome.code == 1
    error = "too_large: input: needs over 600 tokens; send fewer or shorter texts"
    assert outcome.reply == {"error": error}


def test_a_text_of_too_many_windows_is_refused(main: Main) -> None:
    outcome = main("--test_input", job({"prompt": "x1" * 5000}), MAX_WINDOWS="2")
    assert outcome.code == 1
    assert outcome.reply["error"].startswith("too_large: prompt: needs ")
    assert outcome.reply["error"].endswith(" windows of 512 tokens, the limit is 2")


@pytest.mark.parametrize(
    ("test_input", "error"),
    [
        ("{", "--test_input: is not valid JSON at line 1"),
        ("", "--test_input: is not valid JSON at line 1"),
        ('{"input":\n' + MARKER, "--test_input: is not valid JSON at line 2"),
        ("[" * 100_000, "--test_input: is nested too deeply"),
        ("9" * 5000, "--test_input: is not valid JSON"),
        ("[]", '--test_input: must be an object with "input"'),
        ("{}", '--test_input: must be an object with "input"'),
        (f'"{MARKER}"', '--test_input: must be an object with "input"'),
    ],
    ids=["cut", "nothing", "word", "deep", "long_number", "list", "no_input", "string"],
)
def test_a_broken_test_input_is_one_line_on_standard_error(
    main: Main, test_input: str, error: str
) -> None:
    outcome = main("--test_input", test_input)
    assert (outcome.code, outcome.out) == (1, b"")
    assert outcome.err == f"error: validation: {error}\n"


def test_a_missing_test_input_json_is_one_line_on_standard_error(
    main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(app, "ROOT", tmp_path)
    outcome = main()
    assert (outcome.code, outcome.out) == (1, b"")
    error = "test_input.json: cannot be read (FileNotFoundError)"
    assert outcome.err == f"error: validation: {error}\n"


def test_a_test_input_json_that_is_not_utf_8_is_one_line_on_standard_error(
    main: Main, tmp_path: Path
) -> None:
    (tmp_path / "test_input.json").write_bytes(job({"prompt": "é"}).encode() + b"\xe9")
    outcome = main()
    assert (outcome.code, outcome.out) == (1, b"")
    error = "test_input.json: cannot be read (UnicodeDecodeError)"
    assert outcome.err == f"error: validation: {error}\n"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MAX_BATCH_TOKENS", "511", "a whole number from 512 to 1048576"),
        ("MAX_CONCURRENCY", "0", "a whole number from 1 to 10000"),
        ("MAX_TEXT_CHARS", "1e4", "a whole number from 1 to 1000000"),
        ("DEVICE", "gpu", "auto, cpu, cuda or cuda:N"),
        ("DTYPE", "fp16", "auto, float32, bfloat16, float16 or int8"),
        ("LOG_LEVEL", "debug", "DEBUG, INFO, WARNING or ERROR"),
        ("LOG_FORMAT", "yaml", "text or json"),
    ],
)
def test_a_bad_setting_names_variable_value_and_what_is_allowed(
    main: Main, name: str, value: str, allowed: str
) -> None:
    outcome = main("--test_input", job({"prompt": "hi"}), **{name: value})
    assert (outcome.code, outcome.out) == (1, b"")
    assert outcome.err == f"error: {name}={value!r} is not allowed: it must be {allowed}\n"


def test_a_queue_smaller_than_a_request_names_both_settings(main: Main) -> None:
    outcome = main("--test_input", job({"prompt": "hi"}), MAX_QUEUE_TEXTS="1000")
    assert (outcome.code, outcome.out) == (1, b"")
    assert outcome.err == (
        "error: MAX_QUEUE_TEXTS=1000 is not allowed: "
        "it must be at least MAX_TEXTS_PER_REQUEST (1024)\n"
    )


def test_a_collector_without_opentelemetry_is_one_line_on_standard_error(
    main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hatespeech.telemetry.tracing", None)
    outcome = main("--test_input", job({"prompt": "a"}), **{ENDPOINT: "http://127.0.0.1:4318"})
    assert (outcome.code, outcome.out) == (1, b"")
    assert outcome.err == (
        f"error: {ENDPOINT} needs opentelemetry: pip install -r requirements-otel.txt\n"
    )


def test_a_mistyped_setting_is_a_warning_without_its_value(main: Main) -> None:
    outcome = main("--test_input", job({"prompt": "hi"}), MAX_WINDOW="secret")
    assert outcome.code == 0
    (line,) = (line for line in outcome.err.splitlines() if "WARNING" in line)
    assert line.endswith("MAX_WINDOW is not a setting; did you mean MAX_WINDOWS?")
    assert "secret" not in outcome.err


def test_a_gpu_that_is_not_there_is_one_line_on_standard_error(main: Main) -> None:
    outcome = main("--test_input", job({"prompt": "hi"}), DEVICE="cuda:99")
    assert (outcome.code, outcome.out) == (1, b"")
    assert outcome.err == "error: DEVICE='cuda:99' is not allowed: there is no such device\n"


def test_an_empty_setting_counts_as_unset(main: Main) -> None:
    outcome = main("--test_input", job({"prompt": "hi"}), MAX_BATCH_TOKENS="", LOG_LEVEL=" ")
    assert outcome.code == 0


def cut_weights(folder: Path) -> None:
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["linear1.bias"]
    save_file(weights, folder / WEIGHTS)


def remove_tokenizer(folder: Path) -> None:
    (folder / TOKENIZER).unlink()


def cut_tokenizer(folder: Path) -> None:
    (folder / TOKENIZER).write_text("{")


def cut_config(folder: Path) -> None:
    (folder / CONFIG).write_text("{")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def swap_labels(folder: Path) -> None:
    change_config(folder, labels=["abusing", "hate", "neutral", "spam"])


def shrink_vocabulary(folder: Path) -> None:
    change_config(folder, vocab_size=100)


def widen_layers(folder: Path) -> None:
    change_config(folder, intermediate_size=256)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (cut_weights, "model.safetensors does not load: "),
        (drop_a_weight, "model.safetensors does not load: "),
        (remove_tokenizer, "tokenizer.json is missing"),
        (cut_tokenizer, "tokenizer.json does not load: "),
        (cut_config, "config.json cannot be read: "),
        (swap_labels, "labels must be hate, abusing, neutral, spam, in this order"),
        (shrink_vocabulary, "model.safetensors does not load: "),
        (widen_layers, "model.safetensors does not load: "),
    ],
)
def test_a_damaged_checkpoint_stops_the_start_and_no_other_model_answers(
    main: Main,
    small_checkpoint: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    error: str,
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(small_checkpoint, folder)
    damage(folder)
    outcome = main("--test_input", job({"prompt": "hi"}), MODEL_DIR=str(folder))
    assert (outcome.code, outcome.out) == (1, b"")
    assert outcome.err.startswith(f"error: {folder}: {error}")
    assert outcome.err.count("\n") == 1
