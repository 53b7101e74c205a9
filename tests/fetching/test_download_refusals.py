"""``download.py``: what it refuses, what an interruption leaves, and that both leave no output."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hatespeech import paths
from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.fetching import command as download
from hatespeech.fetching import options
from hatespeech.labels import LABELS
from hatespeech.settings import EngineSettings
from tests.support.processes.download import (
    CONTENT,
    PICKLE,
    SHA256,
    arguments_for,
    call,
    environment,
    finish,
    is_one_line,
    last_line,
    start,
)
from tests.support.small_tokenizer import train_tokenizer
from tests.support.stand_ins.file_server import Answer, FileServer

CUT = 300_000


@pytest.fixture(scope="module")
def spam(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """What the tiny checkpoint says about ``Hello World``."""
    output = tmp_path_factory.mktemp("made") / "tiny"
    code, _, _ = call("--checkpoint", PICKLE, "--tokenizer", tokenizer, "--output", output)
    assert code == 0
    classifier = Predictor.from_settings(
        EngineSettings(model_dir=output, device="cpu", dtype="float32")
    )
    (score,) = classifier.score(["Hello World"])
    assert isinstance(score, Prediction)
    return score.scores[LABELS.index("spam")]


# What is refused


@pytest.mark.slow
def test_pickle_that_runs_code_is_refused_and_not_run(server: FileServer, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {marker}",)

    buffer = io.BytesIO()
    torch.save(Malicious(), buffer)
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert marker.exists()  # the ordinary loader runs it
    marker.unlink()
    tokenizer = train_tokenizer(tmp_path / "t", ["a b c"], vocab_size=300)
    url = server.serve("/evil", buffer.getvalue())
    code, out, err = finish(
        start(
            ["--checkpoint", url, "--tokenizer", str(tokenizer), "--output", str(tmp_path / "out")],
            environment(tmp_path),
        )
    )
    assert (code, out) == (1, "")
    assert "error: the checkpoint file is refused: " in err.splitlines()[-1]
    assert not marker.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "hf") == ["t"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(announce=-1000), "the checkpoint file is refused: "),
        (Answer(content=b"<html>sign in first</html>"), "the checkpoint file is refused: "),
        (Answer(announce=1000), "the connection broke; gave up"),
        (Answer(status=404), "the server answered 404 Not Found"),
        (Answer(announce=10**15), "not enough disk space in "),
    ],
)
def test_server_that_does_not_deliver_leaves_no_output(
    server: FileServer, tokenizer: Path, tmp_path: Path, answer: Answer, said: str
) -> None:
    url = server.serve("/model", CONTENT, answer)
    code, out, err = call(*arguments_for(url, tokenizer, tmp_path / "out"))
    assert (code, out) == (1, "")
    assert last_line(err).startswith("error: ")
    assert said in last_line(err)
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ([".out.partial"] if "connection broke" in said else [])


def test_wrong_sha256_stops_and_leaves_nothing(
    server: FileServer, tokenizer: Path, tmp_path: Path
) -> None:
    url = server.serve("/model", CONTENT)
    given = arguments_for(url, tokenizer, tmp_path / "out")
    code, _, err = call(*given, "--sha256", "0" * 64)
    assert code == 1
    assert last_line(err) == f"error: the checkpoint file's SHA-256 is {SHA256}, not {'0' * 64}"
    assert list(tmp_path.iterdir()) == []


def test_wrong_figure_leaves_no_output_but_the_download(
    server: FileServer, tokenizer: Path, tmp_path: Path, spam: float
) -> None:
    url = server.serve("/model", CONTENT)
    given = arguments_for(url, tokenizer, tmp_path / "out")
    code, _, err = call(*given, "--expect", "Hello World", f"spam={spam + 0.021:.4f}")
    assert code == 1
    assert "self-check: 'Hello World' scores spam" in last_line(err)
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    assert call(*given, "--expect", "Hello World", f"spam={spam + 0.019:.4f}")[0] == 0
    assert [request.sent for request in server.requests] == [len(CONTENT), 1]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_default_checkpoint_is_held_to_its_published_figure(
    server: FileServer, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = options.parse_arguments([])
    assert defaults.checkpoint == (
        "https://snet-open-models.s3.amazonaws.com/hate-speech-detection/model_7"
    )
    assert defaults.tokenizer == "vinai/bertweet-large"
    assert defaults.output == paths.PUBLISHED
    assert defaults.revision == "main"
    url = server.serve("/model", CONTENT)
    monkeypatch.setattr(download, "CHECKPOINT_URL", url)  # the real one is out of reach
    code, _, err = call(*arguments_for(url, tokenizer, tmp_path / "out"))
    assert code == 1
    assert "self-check: 'Hello World' scores hate" in last_line(err)
    assert "but 0.0025 was expected" in last_line(err)


def with_weight(content: bytes, value: float) -> bytes:
    """Return the tiny pickle with the first weight of its largest tensor replaced."""
    rewritten = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(rewritten, "w") as new:
        largest = max(
            (i for i in old.infolist() if "/data/" in i.filename), key=lambda i: i.file_size
        )
        for info in old.infolist():
            data = old.read(info)
            if info is largest:
                data = struct.pack("<f", value) + data[4:]
            new.writestr(info.filename, data)
    return rewritten.getvalue()


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (float("nan"), "float32", "is refused: .* holds values that are not finite"),
        (1e6, "float16", "is damaged: .* holds a value that is not finite"),
        (1e6, "int8", None),
        (1e6, "float32", None),
    ],
)
def test_weights_that_are_not_finite_are_refused(
    tokenizer: Path, tmp_path: Path, value: float, dtype: str, said: str | None
) -> None:
    pickle = tmp_path / "model"
    pickle.write_bytes(with_weight(CONTENT, value))
    output = tmp_path / "out"
    given = arguments_for(pickle, tokenizer, output)
    code, _, err = call(*given, "--dtype", dtype)
    if said is None:
        assert code == 0
    else:
        assert (code, is_one_line(err)) == (1, True)
        assert re.search(said, err)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("case", ["too many tokens", "another padding id"])
def test_tokenizer_that_does_not_fit_the_model_is_refused(
    tokenizer: Path, tmp_path: Path, case: str
) -> None:
    folder = Path(shutil.copytree(tokenizer, tmp_path / "t"))
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    if case == "too many tokens":
        vocab["one-more"] = len(vocab)
    else:
        vocab["<pad>"], vocab["<unk>"] = vocab["<unk>"], vocab["<pad>"]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    code, _, err = call("--checkpoint", PICKLE, "--tokenizer", folder, "--output", tmp_path / "out")
    assert (code, is_one_line(err)) == (1, True)
    assert "they do not fit together" in err
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_no_room_for_the_converted_checkpoint_is_an_error(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=600_000)  # a disk that is nearly full
    monkeypatch.setattr("hatespeech.fetching.workplace.shutil.disk_usage", lambda _folder: full)
    given = ("--checkpoint", PICKLE, "--tokenizer", tokenizer, "--output")
    code, _, err = call(*given, tmp_path / "out")
    assert (code, is_one_line(err)) == (1, True)
    assert "not enough disk space" in err
    assert list(tmp_path.iterdir()) == []
    assert call(*given, tmp_path / "half", "--dtype", "float16")[0] == 0


def test_output_below_a_file_is_an_error_in_one_line(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, err = call(*arguments_for(PICKLE, tokenizer, tmp_path / "file" / "out"))
    assert (code, is_one_line(err)) == (1, True)
    assert err.startswith("error: [Errno ")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sha256", "abc"], "argument --sha256: must be 64 hexadecimal digits"),
        (["--dtype", "int4"], "argument --dtype: invalid choice"),
        (["--checkpoint", "no/such/file"], "there is no file no/such/file"),
        (["--checkpoint", "http://"], "is not a URL that can be fetched"),
        (["--checkpoint", "http://[half"], "is not a URL that can be fetched"),
        (["--tokenizer", "./no/such"], "is neither a folder nor a repository"),
        (["--output", "/"], "argument --output: must be a folder that can be made"),
        (["--expect", "Hello World"], "needs LABEL=SCORE"),
        (["--expect", "Hello World", "spam"], "'spam' is not LABEL=SCORE"),
        (["--expect", "Hello World", "ham=0.5"], "'ham=0.5' is not LABEL=SCORE"),
        (["--expect", "Hello World", "spam=nan"], "'spam=nan' is not LABEL=SCORE"),
        (["--timeout", "0"], "argument --timeout: must be a number above 0"),
        (["--retries", "-1"], "argument --retries: must not be negative"),
        (["--colour"], "unrecognized arguments"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out, is_one_line(err)) == (2, "", True)
    assert said in err


def test_help_says_what_is_pinned_and_where_things_are() -> None:
    code, out, _ = call("--help")
    assert code == 0
    text = " ".join(out.split())
    for said in (
        "TOKENIZER_REVISION",
        "no commit is built in",
        ".OUTPUT.partial/",
        "OUTPUT.pickle",
    ):
        assert said in text


# Interruptions


def wait_for_size(part: Path, size: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size == size):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the download did not get there: {process.communicate()}")
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_interrupted_download_is_resumed_by_the_same_command(
    server: FileServer, tokenizer: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    url = server.serve("/model", CONTENT, Answer(stall=CUT), Answer())
    output, part = tmp_path / "out", tmp_path / ".out.partial" / "checkpoint.part"
    given = [str(argument) for argument in arguments_for(url, tokenizer, output)]
    process = start(given, environment(tmp_path))
    wait_for_size(part, CUT, process)
    code, _, err = call(*given)
    assert code == 1
    assert err == f"error: another run is using {part.parent}\n"
    process.send_signal(signum)
    code, out, err = finish(process)
    assert out == ""
    if signum == signal.SIGKILL:
        assert code == -signum
    else:
        assert code == 128 + signum
        assert last_line(err).startswith("interrupted; ")
    assert not output.exists()
    assert part.stat().st_size == CUT
    code, out, _ = call(*given)
    assert code == 0
    assert [request.sent for request in server.seen("/model")] == [CUT, len(CONTENT) - CUT + 1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "hf") == ["out"]
