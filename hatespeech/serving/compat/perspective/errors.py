"""The errors that Perspective alone has, and what clients read of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hatespeech.errors import ValidationError
from hatespeech.serving.http_errors import NotFoundError


class CommentError(ValidationError):
    """A comment cannot be analysed; ``error_type`` is one that Perspective documents."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type

    def detail(self) -> dict[str, Any]:
        """Return what clients look for in ``error.details[0]``."""
        return {
            "@type": "type.googleapis.com/google.commentanalyzer.v1alpha1.Error",
            "errorType": self.error_type,
        }


class LanguageError(CommentError):
    """An attribute cannot be scored; clients leave it out and ask again."""

    def __init__(self, attribute: str, languages: Sequence[str], *, requested: bool) -> None:
        super().__init__(
            "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
            f"Attribute {attribute} does not support request languages: {', '.join(languages)}",
        )
        self.attribute = attribute
        self.languages = languages
        self.requested = requested

    def detail(self) -> dict[str, Any]:
        """Return the attribute and the languages beside what every error has."""
        which = "requestedLanguages" if self.requested else "detectedLanguages"
        place = {which: list(self.languages), "attribute": self.attribute}
        return {**super().detail(), "languageNotSupportedByAttributeError": place}


class SuggestionsOffError(NotFoundError):
    """This server stores no suggested scores."""


def invalid_request(message: str) -> CommentError:
    """Return the error for every other fault of a request."""
    return CommentError("INVALID_REQUEST", message)


def empty_comment() -> CommentError:
    """Return the error for a comment that holds nothing to read."""
    return CommentError("COMMENT_EMPTY", "Comment must be non-empty.")


def long_comment() -> CommentError:
    """Return the error for a comment that is longer than Perspective's limit, or than ours."""
    return CommentError("COMMENT_TOO_LONG", "Comment text too long.")
