"""``hatespeech TEXT``: one text in, its label and probabilities out."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hatespeech.console.commands import run
from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import FLAGS, LABELS
from tests.support.bad_inputs import MARKER

pytestmark = pytest.mark.usefixtures("clean_process")

TEXT = f"good morning {MARKER} 🌞"


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Sets what standard input holds."""

    def set_standard_input(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))

    return set_standard_input


def expected(classifier: Predictor, text: str) -> str:
    """Return what is printed for a text."""
    (score,) = classifier.score([text])
    assert isinstance(score, Prediction)
    by_label = dict(zip(LABELS, score.scores, strict=True))
    lines: list[str] = [max(by_label, key=by_label.__getitem__)]
    lines += [f"  {label:<8} {value:.4f}" for label, value in by_label.items()]
    lines.append(f"  toxic    {by_label['hate'] + by_label['abusing']:.4f}")
    return "\n".join(lines) + "\n"


def test_the_label_comes_first_and_then_a_score_a_line(
    small_classifier: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([TEXT]) == 0
    printed = capsys.readouterr()
    assert printed.out == expected(small_classifier, TEXT)
    assert printed.err == ""
    first, *rest = printed.out.splitlines()
    assert first in LABELS
    assert [line.split()[0] for line in rest] == list(FLAGS)
    assert all(re.fullmatch(r"  \w+ +[01]\.\d{4}", line) for line in rest)


def test_json_prints_the_reply_of_the_contract(
    small_classifier: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--json", TEXT]) == 0
    printed = capsys.readouterr().out
    reply = json.loads(printed)
    assert list(reply) == ["text", *FLAGS, "label", "windows", "model", "timing", "versions"]
    assert (reply["text"], reply["model"]) == (TEXT, small_classifier.model_id)
    assert TEXT in printed  # readable, not escaped


@pytest.mark.parametrize(
    "content",
    [TEXT.encode(), f"{TEXT}\n".encode(), f"{TEXT}\r\n".encode(), f"\ufeff{TEXT}\n".encode()],
    ids=["bare", "line", "windows_line", "byte_order_mark"],
)
def test_a_dash_reads_standard_input_as_one_text(
    content: bytes, give: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    give(content)
    assert run(["--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == TEXT


def test_line_breaks_within_standard_input_belong_to_the_text(
    give: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    give(b"one\ntwo\n\n")
    assert run(["--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "one\ntwo\n"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "validation: text: must not be empty"),
        (b"\n", "validation: text: must not be empty"),
        (MARKER.encode() + b"\xe9", "validation: text: is not UTF-8"),
        (MARKER.encode() * 9, "too_large: text: has 117 characters, the limit is 100"),
    ],
    ids=["nothing", "empty_line", "latin_1", "long"],
)
def test_a_text_that_cannot_be_scored_is_one_line_and_costs_no_model(
    content: bytes,
    error: str,
    give: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MODEL_DIR", "/no/such/folder")
    monkeypatch.setenv("MAX_TEXT_CHARS", "100")
    give(content)
    assert run(["-"]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"error: {error}\n")


def test_a_text_that_the_model_cannot_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAX_WINDOWS", "1")
    assert run([f"{MARKER} " * 300]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: too_large: text: needs ")
    assert MARKER not in line


def test_a_model_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_DIR", "/no/such/folder")
    assert run([TEXT]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: MODEL_DIR=/no/such/folder is not a folder\n")


def test_the_name_of_a_command_is_a_text_after_two_dashes(
    small_classifier: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--", "score"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (expected(small_classifier, "score"), "")


def test_a_misspelt_command_is_scored_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["server"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] in LABELS
    assert printed.err == "note: this scores a text; the command is hatespeech serve\n"


def test_the_name_of_a_file_is_scored_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tweets.csv").write_text("text\nhi\n")
    assert run(["tweets.csv"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] in LABELS
    assert (
        printed.err == "note: this scores a text; hatespeech score scores the file of that name\n"
    )
    Path("server").touch()  # a file's name is meant sooner than a command's
    assert run(["server"]) == 0
    assert capsys.readouterr().err == printed.err


@pytest.mark.parametrize("text", ["good morning", f"{MARKER} " * 80, "\0", "."])
def test_other_texts_have_no_note(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    run([text])
    assert "note: " not in capsys.readouterr().err


def test_words_without_quotes_are_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(["what", "a", "day"])
    assert "error: one text at a time: put it in quotes" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["in.csv", "out.csv"], ["in.csv", "--prefix", "m_"]])
def test_a_misspelt_command_with_arguments_is_bad_usage(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(["scroe", *given])
    assert "error: there is no such command; hatespeech score is one" in capsys.readouterr().err
