"""A text as the model reads it: normalised, tokenised, cut into windows.

This module does not import torch, so processes that only read texts start fast and stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import regex
from tokenizers import Tokenizer

from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.text.folding import fold
from hatespeech.text.normalizer import normalize_tweet

WINDOW_OVERLAP: Final = 128

# White space, control characters and what Unicode says is not shown: nothing a person could read.
INVISIBLE: Final = regex.compile(r"[\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]*")

Windows = list[list[int]]  # token ids of each window, with special tokens


@dataclass(frozen=True)
class Encoded:
    """A text as the model reads it."""

    normalized: str
    windows: Windows  # each at most as long as the model reads
    spans: list[tuple[int, int]]  # start and end of each window, in code points of ``normalized``


@dataclass(frozen=True)
class Readings:
    """The windows of all readings of one text."""

    windows: Windows  # of the text as sent, then those of the folded text
    as_sent: int  # how many of them are of the text as sent


@dataclass(frozen=True)
class EncoderState:
    """What an encoder is made of, in a form that can be sent to another process."""

    tokenizer: str  # the content of tokenizer.json
    max_tokens: int
    max_windows: int


class Encoder:
    """Turns texts into the token ids that one model reads."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, max_windows: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._max_windows = max_windows
        nothing = tokenizer.encode("").ids
        self.begin, self.end = nothing[0], nothing[-1]

    @classmethod
    def from_state(cls, state: EncoderState) -> Self:
        """Return an encoder equal to the one that gave this state."""
        return cls(Tokenizer.from_str(state.tokenizer), state.max_tokens, state.max_windows)

    def state(self) -> EncoderState:
        """Return what :meth:`from_state` makes an equal encoder of."""
        return EncoderState(self._tokenizer.to_str(), self._max_tokens, self._max_windows)

    def read(self, text: str, robust: bool) -> list[Encoded]:
        """Encode a text as sent and, if it is ``robust``, folded, if the model then sees others.

        Raises the errors of :meth:`encode`, and :class:`TooLargeError` if both readings together
        need more than ``max_windows`` windows.
        """
        as_sent = self.encode(text)
        if not robust or (changed := fold(text)) == text:
            return [as_sent]
        folded = self.encode(changed)
        if folded.windows == as_sent.windows:
            return [as_sent]
        needed = len(as_sent.windows) + len(folded.windows)
        if needed > self._max_windows:
            raise TooLargeError(
                f"needs {needed} windows of {self._max_tokens} tokens, "
                f"the limit is {self._max_windows}"
            )
        return [as_sent, folded]

    def encode(self, text: str) -> Encoded:
        """Normalise, tokenise and cut into windows.

        Raises :class:`ValidationError` if nothing visible is left, and :class:`TooLargeError` if
        the text needs more than ``max_windows`` windows.
        """
        normalized = normalize_tweet(text)
        if INVISIBLE.fullmatch(normalized):
            raise ValidationError("holds nothing but white space or invisible characters")
        encoding = self._tokenizer.encode(normalized)
        ids, offsets = encoding.ids, encoding.offsets
        if len(ids) <= self._max_tokens:
            return Encoded(normalized, [ids], [(0, len(normalized))])
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
        )
