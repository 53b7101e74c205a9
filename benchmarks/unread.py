"""How often a text is warned of, rightly and wrongly, and what it costs to find out.

Prints two tables of docs/unread.md: sentences in many languages, which must be warned of, and
English texts by their source, which must not. Then the cost on one core: judging a text, against
scoring it with the embedded checkpoint, from raw text to scores. The published checkpoint costs a
hundred times as much.

    python -m benchmarks.unread [FILE]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch

from benchmarks import models, report
from hatespeech.engine.encoder import Encoder
from hatespeech.labels import WARNINGS
from hatespeech.model import checkpoint as checkpoints
from hatespeech.settings import EngineSettings

SENTENCES: Final = Path(__file__).resolve().parent / "data" / "sentences.tsv"
MOST_WRONG: Final = 0.01
LEAST_RIGHT: Final = 0.95
LEAST_CHARS: Final = 40
MOST_COST: Final = 0.1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=9)
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=models.SAMPLE,
        metavar="FILE",
        help="English texts: UTF-8, tab-separated, with the columns `text` and `source` "
        "(benchmarks/data/sample.tsv)",
    )
    options = parser.parse_args(arguments)
    encoder = embedded_encoder()
    print(table("language", counted(encoder, read(SENTENCES, "language"))))
    try:
        english = read(options.file, "source")
    except (OSError, UnicodeDecodeError, KeyError) as exc:
        parser.error(f"cannot read FILE: {type(exc).__name__}")
    print(table("source", counted(encoder, english)))
    report.publish([cost(options.rounds)], options.json)


def embedded_encoder() -> Encoder:
    """Return the encoder of the embedded checkpoint."""
    checkpoint = models.embedded()
    tokenizer = checkpoints.load_tokenizer(checkpoint)
    return Encoder(tokenizer, checkpoint.model.max_tokens, 32, checkpoint.languages, False)


def read(path: Path, column: str) -> list[tuple[str, str]]:
    """Return another column of a tab-separated file, and its texts."""
    return [(row[column], row["text"]) for row in models.rows(path)]


def counted(encoder: Encoder, rows: Iterable[tuple[str, str]]) -> dict[str, Counter[str]]:
    """Count by group: ``texts``, each warning, and ``any``."""
    found: dict[str, Counter[str]] = {}
    for group, text in rows:
        warnings = encoder.encode(text).warnings
        found.setdefault(group, Counter()).update(["texts", *warnings, *["any"][: len(warnings)]])
    return found


def table(name: str, counts: dict[str, Counter[str]]) -> str:
    """Return a Markdown table with a line for each group, and one for all."""
    lines = [f"| {name} | texts | {' | '.join(f'`{code}`' for code in WARNINGS)} | warned of |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    everything = sum(counts.values(), Counter())
    for group, found in [*sorted(counts.items()), ("all", everything)]:
        numbers = " | ".join(f"{found[key]:,}" for key in ("texts", *WARNINGS))
        lines.append(f"| {group} | {numbers} | {found['any'] / found['texts']:.1%} |")
    return "\n".join(lines) + "\n"


def cost(rounds: int) -> report.Figure:
    """Measure microseconds a text of both."""
    torch.set_num_threads(1)
    texts = models.sample_texts()
    predictor = models.load()
    predictor.warm_up(EngineSettings().max_batch_tokens)
    normalized = models.normalized(texts)

    def judged() -> float:
        return 1e6 / report.rate(lambda text: predictor.encoder.judge(text, [], []), normalized)

    def scored() -> float:
        return report.seconds(partial(predictor.score, texts)) / len(texts) * 1e6

    judged(), scored()
    return report.at_most(
        "judging whether a text can be read, µs a text",
        "scoring it with the embedded checkpoint, float32, one thread",
        report.in_turn(judged, scored, rounds),
        MOST_COST,
        texts=len(texts),
    )


if __name__ == "__main__":
    main()
