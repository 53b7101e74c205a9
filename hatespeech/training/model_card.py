"""Writes the model card, the README.md of a checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hatespeech.evaluation.calibration import Calibration
from hatespeech.evaluation.figures import CorpusFigures
from hatespeech.evaluation.thresholds import (
    STRICT_PRECISION,
    STRICT_RECALL,
    THRESHOLDS_VERSION,
)
from hatespeech.labels import LABELS
from hatespeech.training.evaluation import FunctionalFigures

CONFUSION_PICTURE: Final = "confusion.png"
RELIABILITY_PICTURE: Final = "calibration.png"

# For an estimate of the training's emissions: a busy core of a server with its share of the other
# parts and of cooling, and the world average (https://ember-energy.org, 2024).
WATTS_PER_CORE: Final = 10.0
GRAMS_CO2E_PER_KWH: Final = 473.0

NO_ABOUT = """\
This card does not describe the model's purpose, data and biases (`train.py --about FILE.md` adds
such a text). Do not use the model before you know them.
"""

LONG_TEXTS_SECTION = """\
## Long texts

The service reads up to 512 tokens at once, but nearly all training texts have fewer than 150. So a
part of the training uses texts joined to random lengths of up to 512 tokens: {shares}. {result}
"""


@dataclass(frozen=True)
class CardFigures:
    """What was measured on the finished weights; the corpus is ``test``, or ``dev`` without one."""

    corpus: str
    metrics: CorpusFigures
    calibration: Calibration
    error_before: float  # expected calibration error on the corpus
    error_after: float
    thresholds: Mapping[str, Mapping[str, float]]
    flagged: Mapping[str, Mapping[str, tuple[float, float]]]  # precision and recall
    functional: FunctionalFigures
    long_accuracy: float | None


def model_card(
    name: str, about: str | None, figures: CardFigures, provenance: Mapping[str, Any]
) -> str:
    """Return the card in Markdown, with figures measured on the folder's own weights."""
    recipe = provenance["hyperparameters"]
    sections = [
        f"# {name}\n\nScores a tweet: {', '.join(LABELS)} (four probabilities that sum to 1).\n",
        about or NO_ABOUT,
        _figures(figures.corpus, figures.metrics),
        _functional(figures.functional),
        _calibration(figures),
        _thresholds(figures),
    ]
    if figures.long_accuracy is not None:
        shares = (
            f"fine-tuning adds one joined text for every {1 / recipe['long_share']:.0f} texts, and "
            "its parts have its label or are neutral"
        )
        if recipe["pretrain_epochs"]:
            share = f"masked-language pre-training joins {recipe['joined_share']:.0%} of the texts"
            shares = f"{share}, and {shares}"
        accuracy = f"accuracy is {figures.long_accuracy:.3f}"
        result = f"On {figures.corpus} texts joined in this way, {accuracy}."
        sections.append(LONG_TEXTS_SECTION.format(shares=shares, result=result))
    sections.append(_training(provenance))
    return "\n".join(section.strip() + "\n" for section in sections)


def _functional(figures: FunctionalFigures) -> str:
    return f"""\
## Hate and what only looks like it

On {figures.texts} invented texts (`hatespeech/training/functional.toml`): hate in plain words,
neutral and kind words about groups, quoted and countered hate, abuse of things, of individuals and
of professions, reclaimed words. Training does not use their templates and groups. It does use the
words that fill the templates, and the authors are the same.

| figure | |
|---|---:|
| balanced accuracy of hate against the rest | {figures.balanced_accuracy:.3f} |
| hate predicted as hate | {figures.hate_found:.1%} |
| neutral texts predicted as hate | {figures.neutral_called_hate:.1%} |
| abusing texts predicted as hate | {figures.abusing_called_hate:.1%} |
"""


def _calibration(figures: CardFigures) -> str:
    calibration = figures.calibration
    named = zip(LABELS, calibration.biases, strict=True)
    biases = ", ".join(f"{label} {bias:+.3f}" for label, bias in named)
    return f"""\
## Calibration

Logits are divided by a temperature of {calibration.temperature:.3f}, and each label has a bias:
{biases}. They were fitted on the dev set and are
already part of the weights. They change the expected calibration error (15 bins)
from {figures.error_before:.4f} to {figures.error_after:.4f} on the {figures.corpus} set,
and from {calibration.error_before:.4f} to {calibration.error_after:.4f} on the dev set.

![Accuracy over confidence]({RELIABILITY_PICTURE})
"""


def _thresholds(figures: CardFigures) -> str:
    lines = [
        f"""\
## Recommended thresholds

A request may name them (`"thresholds": "balanced"`). They were chosen on the dev set: `balanced`
for the best F1, `strict` as the lowest threshold with a precision of {STRICT_PRECISION} and a
recall of at least {STRICT_RECALL}, if there is one. `toxic` is the sum of hate and abusing.
Precision and recall are those on the {figures.corpus} set. The way of choosing them has version
{THRESHOLDS_VERSION}.
""",
        *_without_strict(figures.thresholds),
        "| name | flag | threshold | precision | recall |",
        "|---|---|---:|---:|---:|",
    ]
    for name, thresholds in figures.thresholds.items():
        for flag, least in thresholds.items():
            precision, recall = figures.flagged[name][flag]
            lines.append(f"| {name} | {flag} | {least} | {precision:.3f} | {recall:.3f} |")
    return "\n".join(lines)


def _without_strict(thresholds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a paragraph about the flags that have no strict threshold; empty if all have one."""
    strict = thresholds.get("strict", {})
    without = [flag for flag in thresholds.get("balanced", {}) if flag not in strict]
    if not without:
        return []
    said = f"**There is no strict threshold for {' or '.join(without)}**: "
    said += "a request for `strict` never flags it.\n"
    if "hate" in without and "toxic" in strict:
        said += "`toxic` has one: it finds hate without telling it from abuse.\n"
    return [said]


def _figures(corpus_name: str, metrics: CorpusFigures) -> str:
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
        f"Trained with `train.py` on {provenance['created']}, in {provenance['minutes']} minutes "
        f"on {provenance['machine']}." + _carbon(provenance),
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
    if "teacher" in provenance:
        lines.append(f"| teacher | {provenance['teacher']['name']} |")
        shown = ("epochs", "batch_size", "learning_rate")
        made = provenance["teacher"]["hyperparameters"]
        lines += [f"| teacher's {key.replace('_', ' ')} | {made[key]} |" for key in shown]
    for key, value in provenance["versions"].items():
        lines.append(f"| {key} version | {value} |")
    lines += ["", "| file | rows | SHA-256 |", "|---|---:|---|"]
    for split, entry in provenance["data"].items():
        lines.append(f"| {split} | {entry['rows']} | `{entry['sha256']}` |")
    return "\n".join(lines)


def _carbon(provenance: Mapping[str, Any]) -> str:
    """Return an estimate of a CPU training's emissions; a GPU's power is not known."""
    cores = provenance["cores"]
    if cores is None:
        return ""
    kwh = provenance["minutes"] / 60 * cores * WATTS_PER_CORE / 1000
    return (
        f" At {WATTS_PER_CORE:.0f} W per core that is {kwh:.3f} kWh, about "
        f"{kwh * GRAMS_CO2E_PER_KWH:.0f} g CO2e at the world average of "
        f"{GRAMS_CO2E_PER_KWH:.0f} g per kWh (an estimate, without earlier experiments)."
    )
