"""How many tweets a second `normalize_tweet` takes, next to the tokeniser it stands in for.

Prints texts per second, on one thread, of

* `normalize_tweet`, the whole way from raw tweet to normalised text, and
* `TweetTokenizer().tokenize` of the installed NLTK, only a part of that way,

and the ratio of the two. They are timed in turn, over all texts, in each round; the figures are
the medians of the rounds. Neither keeps anything from one text, or one round, to the next.

    python -m benchmarks.normalizer [FILE] [--rounds N]
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

if not __package__:  # run as a file, `python benchmarks/normalizer.py`, rather than with -m
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nltk
from nltk.tokenize import TweetTokenizer

from utils.tweet_normalizer import NORMALIZER_VERSION, normalize_tweet

SAMPLE = Path(__file__).resolve().parent / "data" / "sample.tsv"


def read_texts(path: Path) -> list[str]:
    """The `text` column of a tab-separated file whose header has one, else every line."""
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if "text" in lines[0].split("\t"):
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["text"] for row in rows]
    return lines


def seconds(function: Callable[[str], object], texts: Sequence[str]) -> float:
    """Time one pass over the texts."""
    start = time.perf_counter()
    for text in texts:
        function(text)
    return time.perf_counter() - start


def processor() -> str:
    """The processor's name, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the texts, time both, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=SAMPLE,
        metavar="FILE",
        help="UTF-8: tab-separated with a header and a column `text`, or a text a line "
        "(default: benchmarks/data/sample.tsv)",
    )
    parser.add_argument(
        "--rounds", type=int, default=9, metavar="N", help="passes of each (default: 9)"
    )
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {args.rounds}")
    try:
        texts = read_texts(args.file)
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"cannot read FILE: {error}")
    if not any(texts):
        parser.error(f"no texts in {args.file}")

    tokenize = TweetTokenizer().tokenize
    tokenize("compiles its expression at the first call")
    normalizer_seconds, tokenizer_seconds = [], []
    for _ in range(args.rounds):
        normalizer_seconds.append(seconds(normalize_tweet, texts))
        tokenizer_seconds.append(seconds(tokenize, texts))
    ratio = median(
        theirs / ours for ours, theirs in zip(normalizer_seconds, tokenizer_seconds, strict=True)
    )

    characters = sum(map(len, texts)) / len(texts)
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}")
    print(processor())
    print(f"{len(texts):,} texts of {characters:.0f} characters on average, {args.rounds} rounds")
    for name, durations in (
        (f"normalize_tweet, version {NORMALIZER_VERSION}", normalizer_seconds),
        (f"NLTK {nltk.__version__} TweetTokenizer().tokenize", tokenizer_seconds),
    ):
        print(f"{name:42} {len(texts) / median(durations):9,.0f} texts/s")
    print(f"{'ratio':42} {ratio:9.2f}")


if __name__ == "__main__":
    main()
