"""Write the words of a labelled corpus: what :mod:`hatespeech.text.spellings` takes for words.

    python -m hatespeech.training.words train.tsv > hatespeech/text/words.txt

A word stands in at least ``LEAST`` texts that are not spam. The most frequent come first.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hatespeech.cli import make_parser
from hatespeech.training.corpus import read_rows

LEAST: Final = 4
# Letters alone, so that neither names of people and tags nor addresses count.
_WORD: Final = re.compile(r"(?<![\w@#&$/.'’-])[a-z]{2,24}(?![\w@/’'-]|\.\w)")
_STRETCHED: Final = re.compile(r"(.)\1\1")


def words_of(path: Path) -> list[str]:
    """Return the words of a file with the columns ``label``, ``text`` and ``source``."""
    texts = [text for label, text, _ in read_rows(path) if label != "spam"]
    counted = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
    kept = [word for word, count in counted.items() if count >= LEAST]
    return sorted(
        (word for word in kept if not _STRETCHED.search(word)),
        key=lambda word: (-counted[word], word),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the words of a corpus, one a line."""
    parser = make_parser(None, __doc__)
    parser.add_argument("corpus", type=Path, help="label, text, source; tab-separated")
    options = parser.parse_args(arguments)
    sys.stdout.write("".join(f"{word}\n" for word in words_of(options.corpus)))


if __name__ == "__main__":
    main()
