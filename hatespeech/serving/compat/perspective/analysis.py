"""From requests to the texts that need a score, and from scores to ``AnalyzeCommentResponse``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

from hatespeech.contract import readable
from hatespeech.errors import TooLargeError, UnreadError, ValidationError
from hatespeech.serving.compat.perspective.errors import (
    CommentError,
    LanguageError,
    empty_comment,
    long_comment,
)
from hatespeech.serving.compat.perspective.requests import PROBABILITY, Analysis, Terms
from hatespeech.serving.compat.perspective.sentences import sentences, utf16_places
from hatespeech.serving.compat.texts import ScoredText, version_headers
from hatespeech.text import language

Places = Sequence[tuple[int, int]]  # start and end, in code points of the comment


class Work:
    """One request while it is answered: the comment and, if it asks for them, its sentences."""

    def __init__(self, analysis: Analysis, terms: Terms) -> None:
        self._analysis = analysis
        self._terms = terms
        self._text = analysis.text
        whole = (0, len(self._text))
        self._places = [whole]
        if analysis.spans:
            self._places += [place for place in sentences(self._text) if place != whole]

    @property
    def texts(self) -> list[str]:
        """The texts to score: the comment, and each of its sentences."""
        return [self._text[start:end] for start, end in self._places]

    def response(self, scored: Sequence[ScoredText]) -> JSONResponse:
        """Return the reply, given the scores of :attr:`texts`, and the versions as headers.

        Raises the errors of :meth:`reply`.
        """
        versions = version_headers(self._terms.model, self._terms.meanings.version)
        return JSONResponse(self.reply(scored), headers=versions)

    def reply(self, scored: Sequence[ScoredText]) -> dict[str, Any]:
        """Return the reply as ``json.dumps`` takes it.

        Raises :class:`CommentError` if the comment can't be read, and what failed otherwise.
        """
        comment, *parts = scored
        detected = self._languages(comment)
        spans = [
            (place, part)
            for place, part in zip(self._places[1:], parts, strict=True)
            if part.item.error is None
        ] or [(self._places[0], comment)]
        places = utf16_places(self._text, [place for place, _ in spans])
        scores = {}
        for attribute in self._analysis.attributes:
            value = attribute.meaning.value(comment.item)
            if value < attribute.threshold:
                continue
            scores[attribute.key] = {
                "spanScores": [
                    {
                        "begin": begin,
                        "end": end,
                        "score": _score(attribute.meaning.value(part.item)),
                    }
                    for (begin, end), (_, part) in zip(places, spans, strict=True)
                ],
                "summaryScore": _score(value),
            }
        reply: dict[str, Any] = {
            "attributeScores": scores,  # first: R's client peRspective looks nowhere else
            "languages": list(self._analysis.languages or detected or self._terms.languages),
            "detectedLanguages": detected,
        }
        if self._analysis.client_token is not None:
            reply["clientToken"] = readable(self._analysis.client_token)
        # What Perspective's replies have no field for.
        reply["hatespeech"] = {
            "model": self._terms.model,
            "mapping": self._terms.meanings.version,
            "scores": comment.item.scores,
            "label": comment.item.label,
            "warnings": list(comment.item.warnings or ()),
        }
        return reply

    def _languages(self, comment: ScoredText) -> list[str]:
        """Return the language that was detected, if one was.

        Raises :class:`CommentError` if the request names no language and the model can't read the
        comment's, and the comment's own error.
        """
        error = comment.item.error
        unread = isinstance(error, UnreadError) or bool(comment.item.warnings)
        found = [comment.language] if comment.language else []
        if unread and not found:
            # The engine does not ask the identifier where letters alone decide.
            found = list(language.identify(self._text))[:1]
        trusted = self._analysis.languages or self._terms.mapping.languages == "accept"
        if isinstance(error, UnreadError) or (unread and not trusted):
            if not found:
                raise CommentError("LANGUAGE_DETECTION_FAILED", "Unable to detect language")
            key = self._analysis.attributes[0].key
            raise LanguageError(key, found, requested=False)
        if isinstance(error, TooLargeError):
            raise long_comment()
        if isinstance(error, ValidationError):
            raise empty_comment()  # nothing but white space or invisible characters
        if error is not None:
            raise error
        return found


def _score(value: float) -> dict[str, Any]:
    return {"value": value, "type": PROBABILITY}
