"""Runs ``download.py``: in a process of its own, or in this one, which has torch loaded."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from hatespeech.fetching import command as download
from tests.paths import DATA, ROOT
from tests.support.small_tokenizer import train_tokenizer

PICKLE = DATA / "checkpoints" / "tiny_eval_zip.pt"
CONTENT = PICKLE.read_bytes()
SHA256 = sha256(CONTENT).hexdigest()


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return this environment without what could lead a run elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "MODEL_DIR", "TOKENIZER_"))
        and not name.lower().endswith("_proxy")
    }
    return {**kept, "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1", **more}


def start(arguments: Sequence[str], env: dict[str, str], **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "download.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        **more,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert "Traceback" not in out + err
    return process.returncode, out, err


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Run ``main`` here; return its exit code and what it wrote."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = download.main([str(argument) for argument in arguments])
        except SystemExit as exc:
            code = int(str(exc.code))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return code, out.getvalue(), err.getvalue()


def train_small_tokenizer(folder: Path) -> Path:
    """Train on the normaliser's vectors a tokenizer that the tiny checkpoint has tokens for."""
    rows = (DATA / "normalise.jsonl").read_text(encoding="utf-8").splitlines()
    return train_tokenizer(folder, [json.loads(row)["normalised"] for row in rows])


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return everything under a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def is_one_line(text: str) -> bool:
    return text.startswith("error: ") and text.endswith("\n") and text.count("\n") == 1


def arguments_for(checkpoint: str | Path, tokenizer: Path, output: Path) -> list[str | Path]:
    return [
        "--checkpoint",
        checkpoint,
        "--tokenizer",
        tokenizer,
        "--output",
        output,
        "--retries",
        "0",
    ]


def last_line(err: str) -> str:
    """Return the error: before it a log holds the progress bar, redrawn in place."""
    return err.rstrip("\n").rpartition("\n")[2]
