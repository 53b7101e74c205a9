"""The model card: a checkpoint folder's README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.evaluation import Metrics
from utils.schema import LABELS

CONFUSION_PICTURE = "confusion.png"

NO_ABOUT = """\
Nothing was written about this model's purpose, data and biases (`train.py --about FILE.md` puts
such a text here). Do not use it before you know them.
"""

LONG_TEXTS = """\
## Long texts

The service reads up to 512 tokens at once, while nearly all training texts are shorter than 150.
RoBERTa's position embeddings are learnt row by row, and untrained rows would be noise, so part of
the training is on texts joined to random lengths of up to 512 tokens: {joined_share:.0%} of the
texts in masked-language pre-training, and in fine-tuning one joined text for every {long_ratio:.0f}
texts, its parts all of one label or neutral. {long_result}
"""


def model_card(
    name: str,
    about: str | None,
    corpus_name: str,
    metrics: Metrics,
    provenance: Mapping[str, Any],
    long_accuracy: float | None,
) -> str:
    """Return the card in Markdown, with figures measured on the folder's own weights."""
    recipe = provenance["hyperparameters"]
    sections = [
        f"# {name}\n\nScores a tweet: {', '.join(LABELS)} (four probabilities, sum 1).\n",
        about or NO_ABOUT,
        _figures(corpus_name, metrics),
    ]
    if long_accuracy is not None:
        sections.append(
            LONG_TEXTS.format(
                joined_share=recipe["joined_share"],
                long_ratio=1 / recipe["long_share"],
                long_result=(
                    f"On {corpus_name} texts\njoined in this way to at most 512 tokens, "
                    f"accuracy is {long_accuracy:.3f}."
                ),
            )
        )
    sections.append(_training(provenance))
    return "\n".join(section.strip() + "\n" for section in sections)


def _figures(corpus_name: str, metrics: Metrics) -> str:
    lines = [
        f"## Figures on the {corpus_name} set",
        "",
        f"Accuracy {metrics.accuracy:.3f}, macro-F1 {metrics.macro_f1:.3f}, "
        f"over {int(metrics.confusion.sum())} texts.",
        "",
        "| label | precision | recall | F1 | texts |",
        "|---|---:|---:|---:|---:|",
    ]
    for label, row in metrics.by_class.items():
        lines.append(
            f"| {label} | {row.precision:.3f} | {row.recall:.3f} | {row.f1:.3f} | {row.texts} |"
        )
    lines += [
        "",
        f"![Confusion matrix]({CONFUSION_PICTURE})",
        "",
        "By source (macro-F1 over the labels that the source has):",
        "",
        "| source | accuracy | macro-F1 | texts |",
        "|---|---:|---:|---:|",
    ]
    for source, figures in metrics.by_source.items():
        lines.append(
            f"| {source} | {figures.accuracy:.3f} | {figures.macro_f1:.3f} | {figures.texts} |"
        )
    return "\n".join(lines)


def _training(provenance: Mapping[str, Any]) -> str:
    lines = [
        "## Training",
        "",
        f"Made with `train.py` on {provenance['created']}, in {provenance['minutes']} minutes on "
        f"{provenance['machine']}.",
        "",
        "```",
        provenance["command"],
        "```",
        "",
        "| setting | value |",
        "|---|---|",
        f"| encoder | {provenance['encoder']} |",
    ]
    for key, value in provenance["hyperparameters"].items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"| {key.replace('_', ' ')} | {shown} |")
    for key, value in provenance["versions"].items():
        lines.append(f"| {key} version | {value} |")
    lines += ["", "| file | rows | SHA-256 |", "|---|---:|---|"]
    for split, entry in provenance["data"].items():
        lines.append(f"| {split} | {entry['rows']} | `{entry['sha256']}` |")
    return "\n".join(lines)
