"""``comments:suggestscore``: scores that moderators suggest, in a file of the operator's.

Perspective trained on them. This server only keeps them, and only if ``SUGGESTIONS_FILE`` is set: a
reply of success to a suggestion that is thrown away would be a lie.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from hatespeech.errors import SettingsError, UnhealthyError
from hatespeech.serving.compat.perspective.errors import SuggestionsOffError, invalid_request
from hatespeech.serving.compat.perspective.requests import (
    MOST_NAMES,
    Comment,
    read_comment,
    read_fields,
)

Value = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_@.-]{1,64}$")]
Id = Annotated[str, Field(max_length=256)]

OFF: Final = "This server stores no suggested scores; its operator can set SUGGESTIONS_FILE"


class _Score(BaseModel):
    value: Value


class _Span(BaseModel):
    begin: int | None = None
    end: int | None = None
    score: _Score


class _Scores(BaseModel):
    summaryScore: _Score | None = None
    spanScores: Annotated[list[_Span] | None, Field(max_length=1024)] = None


class Suggestion(BaseModel):
    """What is kept of ``SuggestCommentScoreRequest``."""

    model_config = ConfigDict(extra="ignore")

    comment: Comment = Comment()
    attributeScores: Annotated[dict[Name, _Scores], Field(min_length=1, max_length=MOST_NAMES)]
    languages: Annotated[list[Id] | None, Field(max_length=MOST_NAMES)] = None
    communityId: Id | None = None
    clientToken: Id | None = None


class Suggestions:
    """An operator's file of suggestions, one JSON object a line; without a file, a refusal."""

    def __init__(self, path: Path | None) -> None:
        """Open the file; raise :class:`SettingsError` if it can't be written."""
        self._path = path
        self._lock = threading.Lock()
        if path is not None:
            try:
                os.close(self._open(path))
            except OSError as exc:
                reason = (exc.strerror or type(exc).__name__).lower()
                raise SettingsError(
                    f"SUGGESTIONS_FILE={str(path)!r} cannot be written: {reason}"
                ) from None

    def read(self, body: Mapping[str, Any]) -> Suggestion:
        """Read a request.

        Raises :class:`CommentError` for a bad one, :class:`SuggestionsOffError` without a file.
        """
        if self._path is None:
            raise SuggestionsOffError(OFF)
        scores = body.get("attributeScores")
        if not scores:
            raise invalid_request("Missing attribute_scores")
        suggestion = read_fields(Suggestion, body)
        text = read_comment(suggestion.comment)
        return suggestion.model_copy(update={"comment": Comment(text=text)})

    def keep(self, suggestion: Suggestion) -> None:
        """Add a line to the file, wholly or not at all; raise :class:`UnhealthyError`."""
        assert self._path is not None  # noqa: S101 - read() has refused otherwise
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **suggestion.model_dump(exclude_none=True),
        }
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            try:
                file = self._open(self._path)
                try:
                    size = os.fstat(file).st_size
                    if os.write(file, data) != len(data):
                        os.ftruncate(file, size)
                        raise OSError
                finally:
                    os.close(file)
            except OSError:
                raise UnhealthyError("suggestions cannot be stored now; try again") from None

    @staticmethod
    def _open(path: Path) -> int:
        return os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
