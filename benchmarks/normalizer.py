"""Tweets a second through `normalize_tweet`, next to the tokeniser that it replaces.

On one thread: `normalize_tweet`, the whole way from raw tweet to normalised text, against
`TweetTokenizer().tokenize` of the installed NLTK, which is only a part of that way. Neither keeps
anything from one text, or one round, to the next.

    python -m benchmarks.normalizer [FILE]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import nltk
from nltk.tokenize import TweetTokenizer

from benchmarks import models, report
from hatespeech.text.normalizer import NORMALIZER_VERSION, normalize_tweet

TARGET = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=9)
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=models.SAMPLE,
        metavar="FILE",
        help="UTF-8, tab-separated, with a column `text` (benchmarks/data/sample.tsv)",
    )
    options = parser.parse_args(arguments)
    try:
        texts = models.sample_texts(options.file)
    except (OSError, UnicodeDecodeError, KeyError) as exc:
        parser.error(f"cannot read FILE: {type(exc).__name__}")
    tokenize = TweetTokenizer().tokenize
    tokenize("compiles its expression at the first call")
    figure = report.at_least(
        f"normalising, version {NORMALIZER_VERSION}, one thread, texts/s",
        f"NLTK {nltk.__version__} TweetTokenizer().tokenize",
        report.in_turn(
            partial(report.rate, normalize_tweet, texts),
            partial(report.rate, tokenize, texts),
            options.rounds,
        ),
        TARGET,
        texts=len(texts),
    )
    report.publish([figure], options.json)


if __name__ == "__main__":
    main()
