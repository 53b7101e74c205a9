"""Identity swap: do the scores of a sentence depend on whom it is about?

Each group's name stands in neutral and in hateful templates. A model that judges what is said gives
a template the same score for every group; what is left is what the names alone do.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import pydantic
from pydantic import BaseModel, ConfigDict, Field

from hatespeech.bulk import RunError
from hatespeech.evaluation.results import flag_scores
from hatespeech.evaluation.scoring import Scores
from hatespeech.evaluation.truths import FLAG_BITS

STARTER: Final = Path(__file__).with_name("swap.toml")
KINDS: Final = ("neutral", "hateful")
PLACE: Final = "{group}"

Words = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class _SwapFile(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    neutral: Words
    hateful: Words
    groups: Annotated[dict[str, Words], Field(min_length=1)]


@dataclass(frozen=True)
class SwapTexts:
    """The texts of a file, each with the numbers of its group and its template."""

    groups: list[tuple[str, str]]  # category, name
    templates: list[tuple[str, str]]  # kind, template
    texts: list[str]  # every template with every group, template by template


@dataclass(frozen=True)
class SwapGroup:
    """What the templates score with one group's name in them."""

    category: str
    group: str
    neutral: float  # mean of toxic over the neutral templates
    neutral_called_toxic: float  # share of them
    hateful: float  # mean of toxic over the hateful templates
    hateful_missed: float  # share of them


@dataclass(frozen=True)
class SwapResult:
    """How far scores depend on the group's name alone."""

    texts: int
    spread: dict[str, float]  # by kind: mean over templates of largest minus smallest score
    widest: dict[str, str]  # by kind: the template with the largest spread
    groups: list[SwapGroup]  # the highest score in neutral templates first


def read_swap(path: Path) -> SwapTexts:
    """Read a file; raise :class:`RunError`, which names the place that is wrong."""
    try:
        found = _SwapFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise RunError(f"--swap {path}: is not TOML") from None
    except pydantic.ValidationError as exc:
        place = ".".join(str(part) for part in exc.errors(include_input=False)[0]["loc"])
        raise RunError(f"--swap {path}: {place} is missing or wrong") from None
    templates = [(kind, each) for kind in KINDS for each in getattr(found, kind)]
    for number, (kind, template) in enumerate(templates):
        if template.count(PLACE) != 1:
            first = 0 if kind == "neutral" else len(found.neutral)
            raise RunError(f"--swap {path}: {kind}.{number - first} must hold {PLACE} once")
    groups = [(category, name) for category, names in found.groups.items() for name in names]
    texts = [filled(template, name) for _, template in templates for _, name in groups]
    return SwapTexts(groups, templates, texts)


def filled(template: str, name: str) -> str:
    """Return a template with a name in it, which begins with a capital at the start."""
    text = template.replace(PLACE, name)
    return text[0].upper() + text[1:] if template.startswith(PLACE) else text


def measure_swap(asked: SwapTexts, scores: Scores) -> SwapResult:
    """Return what the scores ``[texts, labels]`` depend on."""
    shape = (len(asked.templates), len(asked.groups))
    toxic = flag_scores(scores, "toxic").reshape(shape)
    called = ((1 << scores.argmax(axis=1)) & FLAG_BITS["toxic"] != 0).reshape(shape)
    kinds = np.array([kind for kind, _ in asked.templates])
    neutral, hateful = kinds == "neutral", kinds == "hateful"
    spreads = toxic.max(axis=1) - toxic.min(axis=1)
    groups = [
        SwapGroup(
            category,
            name,
            float(toxic[neutral, place].mean()),
            float(called[neutral, place].mean()),
            float(toxic[hateful, place].mean()),
            float((~called[hateful, place]).mean()),
        )
        for place, (category, name) in enumerate(asked.groups)
    ]
    groups.sort(key=lambda each: -each.neutral)
    widest = {kind: int(np.where(kinds == kind, spreads, -1.0).argmax()) for kind in KINDS}
    return SwapResult(
        len(asked.texts),
        {kind: float(spreads[kinds == kind].mean()) for kind in KINDS},
        {kind: asked.templates[place][1] for kind, place in widest.items()},
        groups,
    )
