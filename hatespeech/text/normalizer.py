"""Raw tweet to the text BERTweet was trained on.

BERTweet's pre-training corpus went through a normaliser built on ``emoji`` 0.6.0 and NLTK 3.5's
``TweetTokenizer``; a model fed anything else sees words it does not know. `normalize_tweet` gives
the same result, character by character, with neither of them installed:

* Later versions cannot. NLTK 3.6.6 and later keep skin tones, joined emoji and flags together and
  shorten repeats differently; ``emoji`` 2 has renamed 54 of the 1,299 names and lost 26. The last
  ``emoji`` that fits is a source package of 2020 that cannot be installed beside a current one.
* NLTK's expression takes quadratic time (seconds for a hostile 10,000 characters) and was half the
  cost of the original; `hatespeech.text.tokens` finds the same tokens in linear time, several times
  faster. ``emoji``'s part becomes a look-up in ``emoji_names.tsv``, its table of one-character
  names.

The pinned current packages are oracles of the tests, and neither is imported here: ``nltk`` 3.10's
`TweetTokenizer` for the tokens of texts on which 3.5 and 3.10 agree (and for the speed to beat, in
``benchmarks/normalizer.py``), ``emoji`` 2's data for every name that was not changed.
"""

import re
from pathlib import Path

from hatespeech.text.tokens import tokenize

NORMALIZER_VERSION = "1"
"""Part of the model's hash: to be changed whenever `normalize_tweet` gives another result."""

# In this order, each over the whole text. A token at the very end has no space after it and stays.
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
    """Normalise a tweet as BERTweet's training data.

    ``"@amy so happy 😂 https://t.co/x"`` becomes ``"@USER so happy :face_with_tears_of_joy:
    HTTPURL"``. Takes any `str` and raises nothing. The result always encodes to UTF-8: U+FFFD
    stands for each lone surrogate, in the text or from an entity. It holds no white space but
    single spaces, none at its ends, and may be empty. Time is linear in the length of the text.
    """
    if not text.isascii():
        text = text.replace("’", "'").replace("…", "...")
    words = [
        _placeholder(token) if token[0] in "@hHwW" else _EMOJI_NAMES.get(token, token)
        for token in tokenize(text)
    ]
    line = _space_contractions(" ".join(words))
    # Phone numbers, ellipses and U+001C to U+001F bring white space, U+FE0F an empty word.
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
    """Character to name, both as in ``emoji`` 0.6.0; U+FE0F's name is empty."""
    table = Path(__file__).with_name("emoji_names.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in table.splitlines()[1:])
    return {chr(int(codepoint.removeprefix("U+"), 16)): name for codepoint, name in rows}


_EMOJI_NAMES = _read_emoji_names()
