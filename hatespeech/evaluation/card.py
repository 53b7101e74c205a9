"""Writes an evaluation's figures into the card of a checkpoint, its README.md.

Each file that was evaluated has a section of its own, which a second evaluation of that name
replaces. What else the card says stays.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from hatespeech.bulk import RunError
from hatespeech.evaluation.results import Figures
from hatespeech.paths import EMBEDDED, PUBLISHED
from hatespeech.settings import EngineSettings

CARD: Final = "README.md"


def card_folder(settings: EngineSettings) -> Path:
    """Return the folder whose card is written: ``MODEL_DIR``, or the published checkpoint.

    Raises :class:`RunError` if the embedded checkpoint would answer, whose card is the project's,
    or one in a cache, which is only a copy.
    """
    if settings.model_id is not None:
        raise RunError("--card: MODEL_ID names a copy; set MODEL_DIR to the folder that it is of")
    folder = settings.model_dir or PUBLISHED
    if not folder.is_dir() or folder.resolve() == EMBEDDED.resolve():
        raise RunError("--card: set MODEL_DIR to the checkpoint folder, or run download.py first")
    return folder


def write_card(folder: Path, name: str, model: str | None, sha256: str, figures: Figures) -> Path:
    """Write the section; return the card's path."""
    path = folder / CARD
    card = path.read_text(encoding="utf-8") if path.exists() else f"# {folder.name}\n"
    begin, end = f"<!-- evaluated on {name} -->", f"<!-- end of {name} -->"
    section = f"{begin}\n{section_of(name, model, sha256, figures)}{end}\n"
    there = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}\n", re.DOTALL)
    if there.search(card):
        card = there.sub(lambda _: section, card)
    else:
        card = f"{card.rstrip()}\n\n{section}"
    temporary = path.with_name(f"{CARD}.tmp")
    temporary.write_text(card, encoding="utf-8")
    temporary.replace(path)
    return path


def section_of(name: str, model: str | None, sha256: str, figures: Figures) -> str:
    """Return the section in Markdown."""
    macro = f", macro-F1 {figures.macro_f1}" if figures.macro_f1.value is not None else ""
    lines = [
        f"## Figures on {name}",
        "",
        f"Measured by `evaluate.py` on {figures.texts} texts (SHA-256 of texts and labels "
        f"`{sha256}`) with {model}. Brackets hold the interval of 95 %.",
        "",
        f"Accuracy {figures.accuracy}{macro}.",
        "",
        "| label | precision | recall | F1 | texts |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {each.flag} | {each.precision} | {each.recall} | {each.f1} | {each.positives} |"
            for each in figures.flags
        ),
        "",
    ]
    if figures.calibration is not None:
        error = figures.calibration.error
        lines += [f"The expected calibration error (15 bins) is {error:.4f}.", ""]
    if figures.groups:
        lines += [
            f"False positives are texts that are not {figures.flag} but are called so.",
            "",
            "| group | texts | accuracy | false positives | false negatives |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {_cell(each.column)} {_cell(each.group)} | {each.texts} "
                f"| {each.accuracy:.3f} | {each.false_positives} | {each.false_negatives} |"
                for each in figures.groups
            ),
            "",
        ]
    return "\n".join(lines)


def _cell(name: str) -> str:
    """Return a name from the data as a table's cell can hold it."""
    return " ".join(name.split()).replace("|", "\\|").replace("<", "&lt;")
