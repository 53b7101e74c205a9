"""``hatespeech TEXT``: score one text and show the result."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from hatespeech.collector import starting
from hatespeech.contract import parse_request
from hatespeech.errors import (
    CheckpointError,
    ServiceError,
    SettingsError,
    ValidationError,
    describe_exception,
)
from hatespeech.labels import FLAGS
from hatespeech.libraries import set_library_defaults
from hatespeech.logs import LOGGER, warn_of_mistyped
from hatespeech.settings import EngineSettings


def read_standard_input() -> str:
    """Return all of standard input as one text, without the line break that ends it.

    Raises :class:`ValidationError` for what is not UTF-8.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValidationError("is not UTF-8", field="text") from None
    return text.removesuffix("\n").removesuffix("\r")


def show_scores(text: str, as_json: bool) -> int:
    """Score a text and print its label and probabilities, or the contract's reply as JSON.

    The text ``-`` stands for standard input. Returns the exit code: 1, after one line on standard
    error, if there is no score.
    """
    set_library_defaults(os.environ)
    try:
        body = {"text": read_standard_input() if text == "-" else text}
        settings = EngineSettings.from_environment(os.environ)
        parse_request(body, settings)  # what is refused needs no model
        reply = score(body, settings)
    except (ServiceError, SettingsError, CheckpointError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except Exception as exc:  # its message may quote the text
        sys.stderr.write(f"error: unexpected: {describe_exception(exc)}\n")
        return 1
    shown = json.dumps(reply, ensure_ascii=False, indent=2) if as_json else summary(reply)
    sys.stdout.buffer.write(f"{shown}\n".encode())
    sys.stdout.flush()
    return 0


def score(body: Mapping[str, Any], settings: EngineSettings) -> dict[str, Any]:
    """Return the contract's reply to a request.

    Raises :class:`ServiceError`, :class:`SettingsError` or :class:`CheckpointError`.
    """
    show_warnings()
    warn_of_mistyped(os.environ)
    with starting():
        from hatespeech.engine.predictor import Predictor
        from hatespeech.engine.scorer import Scorer

        scorer = Scorer(Predictor.from_settings(settings), settings)
    try:
        return asyncio.run(scorer.score(body)).to_dict()
    finally:
        scorer.close()


def show_warnings() -> None:
    """Show what the package warns of, such as the small model, and nothing less."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    log = logging.getLogger(LOGGER)
    log.handlers = [handler]
    log.setLevel(logging.WARNING)
    log.propagate = False


def summary(reply: Mapping[str, Any]) -> str:
    """Return the label on a line of its own, then a line for each score."""
    return "\n".join([reply["label"], *(f"  {name:<8} {reply[name]:.4f}" for name in FLAGS)])
