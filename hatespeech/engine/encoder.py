"""A text as the model reads it: normalised, tokenised, cut into windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import regex
from tokenizers import Tokenizer

from hatespeech.errors import TooLargeError, UnreadError, ValidationError
from hatespeech.labels import WarningCode
from hatespeech.text import language
from hatespeech.text.folding import fold
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.text.readable import ScriptReader

WINDOW_OVERLAP: Final = 128

# White space, control characters and what Unicode says is not shown: nothing a person could read.
INVISIBLE: Final = regex.compile(r"[\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]*")

# The token for what the vocabulary does not have, where a tokenizer does not name it.
UNKNOWN: Final = "<unk>"

# A token in plain Latin letters, with the marks of WordPiece and SentencePiece. The tokens of bytes
# have other signs for all letters outside ASCII.
PLAIN: Final = regex.compile(r"(?:##|▁)?[A-Za-z0-9]+")

REASONS: Final[dict[WarningCode, str]] = {
    "unread": "has too many letters that this model does not know",
    "language": "is in a language that this model was not trained on",
}

Windows = list[list[int]]  # token ids of each window, with special tokens


@dataclass(frozen=True)
class Encoded:
    """A text as the model reads it."""

    normalized: str
    windows: Windows  # each at most as long as the model reads
    spans: list[tuple[int, int]]  # start and end of each window, in code points of ``normalized``
    warnings: tuple[WarningCode, ...]
    language: tuple[str, float] | None  # the most probable one, if the identifier was asked


@dataclass(frozen=True)
class Readings:
    """The windows of all readings of one text."""

    windows: Windows  # of the text as sent, then those of the folded text
    as_sent: int  # how many of them are of the text as sent
    warnings: tuple[WarningCode, ...] = ()


class Encoder:
    """Turns texts into the token ids that one model reads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        max_windows: int,
        languages: Sequence[str],
        refuses: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._max_windows = max_windows
        self._languages = tuple(languages)
        self._refuses = refuses
        self._script_reader = ScriptReader(languages)
        unknown = getattr(tokenizer.model, "unk_token", None) or UNKNOWN
        self._unknown = tokenizer.token_to_id(unknown)
        nothing = tokenizer.encode("").ids
        self.begin, self.end = nothing[0], nothing[-1]

    def read(self, text: str, robust: bool = False) -> list[Encoded]:
        """Encode a text as sent and, if it is ``robust``, folded, if the model then sees others.

        A disguise alone is no reason for a warning, so only those that both spellings have stand.

        Raises the errors of :meth:`encode`, :class:`TooLargeError` if both readings together need
        more than ``max_windows`` windows, and :class:`UnreadError` for a text with warnings if the
        encoder refuses those.
        """
        as_sent = self.encode(text)
        readings = [as_sent]
        warnings = as_sent.warnings
        if robust and (changed := fold(text)) != text:
            folded = self.encode(changed)
            warnings = tuple(code for code in warnings if code in folded.warnings)
            if folded.windows != as_sent.windows:
                readings.append(folded)
        needed = sum(len(reading.windows) for reading in readings)
        if needed > self._max_windows:
            raise TooLargeError(
                f"needs {needed} windows of {self._max_tokens} tokens, "
                f"the limit is {self._max_windows}"
            )
        if self._refuses and warnings:
            raise UnreadError(REASONS[warnings[0]])
        return [replace(reading, warnings=warnings) for reading in readings]

    def read_windows(self, text: str, robust: bool) -> Readings:
        """Return the windows of all readings of a text; raises the errors of :meth:`read`."""
        readings = self.read(text, robust)
        windows = [window for reading in readings for window in reading.windows]
        return Readings(windows, len(readings[0].windows), readings[0].warnings)

    def encode(self, text: str) -> Encoded:
        """Normalise, tokenise, judge whether the model can read it, and cut into windows.

        Raises :class:`ValidationError` if nothing visible is left, and :class:`TooLargeError` if
        the text needs more than ``max_windows`` windows.
        """
        normalized = normalize_tweet(text)
        if INVISIBLE.fullmatch(normalized):
            raise ValidationError("holds nothing but white space or invisible characters")
        encoding = self._tokenizer.encode(normalized)
        ids, offsets = encoding.ids, encoding.offsets
        unknown = []
        if self._unknown in ids:
            pairs = zip(ids, offsets, strict=True)
            unknown = [place for token, place in pairs if token == self._unknown]
        plain = []
        if not normalized.isascii():
            tokens = zip(encoding.tokens, offsets, strict=True)
            plain = [place for token, place in tokens if PLAIN.fullmatch(token)]
        warnings, spoken = self.judge(normalized, unknown, plain)
        if len(ids) <= self._max_tokens:
            return Encoded(normalized, [ids], [(0, len(normalized))], warnings, spoken)
        room = self._max_tokens - 2
        overlap = min(WINDOW_OVERLAP, room // 2)  # half the room if a model has very few positions
        content, offsets = ids[1:-1], offsets[1:-1]
        starts = range(0, len(content) - overlap, room - overlap)
        if len(starts) > self._max_windows:
            raise TooLargeError(
                f"needs {len(starts)} windows of {self._max_tokens} tokens, "
                f"the limit is {self._max_windows}"
            )
        cuts = [(start, min(start + room, len(content))) for start in starts]
        return Encoded(
            normalized,
            [[self.begin, *content[start:end], self.end] for start, end in cuts],
            [(offsets[start][0], offsets[end - 1][1]) for start, end in cuts],
            warnings,
            spoken,
        )

    def judge(
        self,
        normalized: str,
        unknown: Sequence[tuple[int, int]],
        plain: Sequence[tuple[int, int]],
    ) -> tuple[tuple[WarningCode, ...], tuple[str, float] | None]:
        """Return the warnings for a normalised text, and its language if the identifier was asked.

        ``unknown`` and ``plain`` are those of :meth:`.ScriptReader.read`. The identifier is not
        asked where scripts decide, nor about a text with few letters. The language is another one
        only if the checkpoint's are all improbable, and in both halves of the text: a text that
        mixes languages, and slang that looks like several, get the benefit of the doubt.
        """
        warnings: list[WarningCode] = []
        content = self._script_reader.read(normalized, unknown, plain)
        if content.is_unread:
            warnings.append("unread")
        if content.is_foreign or content.letters - content.foreign < language.LEAST_LETTERS:
            return tuple(warnings), None
        found = language.identify(content.readable)
        if (
            found
            and found.keys().isdisjoint(self._languages)
            and language.known_languages().issuperset(self._languages)
            and not language.partly_in(content.readable, self._languages)
        ):
            warnings.append("language")
        return tuple(warnings), next(iter(found.items()), None)
