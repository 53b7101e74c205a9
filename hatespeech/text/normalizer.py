"""From a raw tweet to the text that BERTweet was trained on.

BERTweet's pre-training corpus was normalised with ``emoji`` 0.6.0 and NLTK 3.5's
``TweetTokenizer``; text in any other form has words that the model does not know.
`normalize_tweet` gives the same result, character by character, without either package:

* Later versions give other results. NLTK 3.6.6 and later keep skin tones, joined emoji and flags
  together and shorten repeats differently; ``emoji`` 2 has renamed 54 of the 1,299 names and lost
  26. The last ``emoji`` that fits is a source package of 2020 that cannot be installed beside a
  current one.
* NLTK's regular expression takes quadratic time (seconds for a hostile 10,000 characters) and was
  half the cost of the original; `hatespeech.text.tokens` finds the same tokens in linear time,
  several times faster. A look-up in ``emoji_names.tsv``, a table of one-character names, replaces
  ``emoji``.

The tests compare with the pinned current packages, which this module does not import: with the
tokens of ``nltk`` 3.10's `TweetTokenizer` for texts on which 3.5 and 3.10 agree (its speed is the
one to beat in ``benchmarks/normalizer.py``), and with ``emoji`` 2 for every name that has not
changed.
"""

import re
from pathlib import Path

from hatespeech.text.tokens import tokenize

NORMALIZER_VERSION = "1"
"""Part of the model's hash: change it whenever `normalize_tweet` gives another result."""

# Applied in this order, each to the whole text. A token at the very end has no space after it and
# stays as it is.
_CONTRACTIONS = (
    ("n't ", " n't "),
    ("n 't ", " n't "),
    ("ca n't", "can't"),
    ("ai n't", "ain't"),
    ("'m ", " 'm "),
    ("'re ", " 're "),
    ("'s ", " 's "),
    ("'ll ", " 'll "),
    ("'d ", " 'd "),
    ("'ve ", " 've "),
)
_HALVES_OF_THE_DAY = (
    (" p . m .", "  p.m."),
    (" p . m ", " p.m "),
    (" a . m .", "  a.m."),
    (" a . m ", " a.m "),
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def normalize_tweet(text: str) -> str:
    """Normalise a tweet as BERTweet's training data was.

    ``"@amy so happy 😂 https://t.co/x"`` becomes ``"@USER so happy :face_with_tears_of_joy:
    HTTPURL"``. Takes any `str` and never raises. The result always encodes to UTF-8: U+FFFD
    replaces each lone surrogate, whether it stood in the text or came from an entity. Its only
    white space is single spaces, never at its ends, and it may be empty. Time is linear in the
    length of the text.
    """
    if not text.isascii():
        text = text.replace("’", "'").replace("…", "...")
    words = [
        _placeholder(token) if token[0] in "@hHwW" else _EMOJI_NAMES.get(token, token)
        for token in tokenize(text)
    ]
    line = _space_contractions(" ".join(words))
    # Tokens may hold white space (phone numbers, ellipses, U+001C to U+001F); U+FE0F becomes an
    # empty word.
    line = " ".join(line.split())
    return line if line.isascii() else _LONE_SURROGATE.sub("\ufffd", line)


def _placeholder(token: str) -> str:
    if token[0] == "@":
        return "@USER"
    return "HTTPURL" if token.lower().startswith(("http", "www")) else token


def _space_contractions(line: str) -> str:
    line = line.replace("cannot ", "can not ")
    if "'" in line:
        for joined, spaced in _CONTRACTIONS:
            line = line.replace(joined, spaced)
    if " . m" in line:
        for spaced, joined in _HALVES_OF_THE_DAY:
            line = line.replace(spaced, joined)
    return line


def _read_emoji_names() -> dict[str, str]:
    """Return a name for each character, as in ``emoji`` 0.6.0; that of U+FE0F is empty."""
    table = Path(__file__).with_name("emoji_names.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in table.splitlines()[1:])
    return {chr(int(codepoint.removeprefix("U+"), 16)): name for codepoint, name in rows}


_EMOJI_NAMES = _read_emoji_names()
