"""What other services' names mean in ours: ``mapping.toml``, and an operator's file over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from hatespeech.contract import TextScore
from hatespeech.errors import SettingsError
from hatespeech.labels import FLAGS, Flag

# A name that a header can hold, and that a person reads in a reply.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_/-]{1,64}$")]


class Meaning(BaseModel):
    """What one name of another service means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score: Flag | None = None  # None: the model does not tell
    reason: Annotated[str, Field(pattern=r"^\S.{0,300}$")]

    def value(self, item: TextScore) -> float:
        """Return the probability that a scored text has for it; it must have a score."""
        assert self.score is not None  # noqa: S101 - callers ask for what is scored alone
        probability: float = getattr(item, self.score)
        return probability


class PerspectiveMapping(BaseModel):
    """What Perspective's attributes mean, and what to do about those that mean nothing here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unsupported: Literal["refuse", "drop"] = "refuse"
    languages: Literal["refuse", "accept"] = "refuse"
    attributes: dict[Name, Meaning] = {}


class OpenAIMapping(BaseModel):
    """What OpenAI's categories of moderation mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spam_flags: bool = False
    categories: dict[Name, Meaning] = {}


class Meanings(BaseModel):
    """The whole mapping."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Word
    thresholds: Word  # their name
    perspective: PerspectiveMapping
    openai: OpenAIMapping


SHIPPED: Final = "mapping.toml"
# What a message says of the values above.
WORD: Final = "1 to 32 letters, digits, dots, hyphens or underscores, in quotes"
NAME: Final = "1 to 64 letters, digits, slashes, hyphens or underscores"
EXPECTED: Final = {
    "version": WORD,
    "thresholds": WORD,
    "unsupported": '"refuse" or "drop"',
    "languages": '"refuse" or "accept"',
    "spam_flags": "true or false",
    "score": f"one of {', '.join(FLAGS)}, in quotes",
    "reason": "a line of 1 to 301 characters, in quotes, the first of which is not a blank",
}


def load_meanings(own: Path | None) -> Meanings:
    """Return the shipped mapping, with the lines of an operator's file over it.

    The version is then ``SHIPPED+OWN``. Raises :class:`SettingsError`, which names the file and the
    line, if the file cannot be used.
    """
    text = resources.files("hatespeech.serving.compat").joinpath(SHIPPED).read_text("utf-8")
    shipped = tomllib.loads(text)
    if own is None:
        return Meanings.model_validate(shipped)
    try:
        given = tomllib.loads(own.read_text(encoding="utf-8"))
        merged = Meanings.model_validate(_over(shipped, given))
        if "version" not in given:
            raise ValueError('version is missing; give your lines one, such as "ours-1"')
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
    except pydantic.ValidationError as exc:
        reason = _fault(exc.errors(include_url=False, include_input=False)[0])
    except ValueError as exc:  # also for what is not TOML or not UTF-8
        reason = str(exc)
    else:
        version = f"{shipped['version']}+{merged.version}"
        return merged.model_copy(update={"version": version})
    raise SettingsError(f"COMPAT_MAPPING={str(own)!r} cannot be used: {reason}")


def _fault(error: Mapping[str, Any]) -> str:
    """Return the key of the first line that does not fit, and what is expected, in one line."""
    keys, kind = [str(part) for part in error["loc"]], error["type"]
    if keys[-1] == "[key]":  # so pydantic says that a name does not fit
        what = f"this name must be {NAME}"
        keys.pop()
    elif kind == "extra_forbidden":
        what = "there is no such key"
    elif kind in ("dict_type", "model_type"):
        what = "must be a table"
    else:
        what = f"{'is missing; it ' if kind == 'missing' else ''}must be {EXPECTED[keys[-1]]}"
    return f"{' '.join('.'.join(keys).split())}: {what}"


def _over(below: Mapping[str, Any], above: Mapping[str, Any], depth: int = 3) -> dict[str, Any]:
    """Return tables merged, those of ``above`` first; a line is replaced as a whole."""
    merged = {**below, **above}
    for name in below.keys() & above.keys():
        if depth > 1 and isinstance(below[name], dict) and isinstance(above[name], dict):
            merged[name] = _over(below[name], above[name], depth - 1)
    return merged


def tables() -> dict[str, str]:
    """Return the Markdown tables of ``docs/migrating.md``, one for each service."""
    meanings = load_meanings(None)
    return {
        "perspective": _table("attribute", meanings.perspective.attributes),
        "openai": _table("category", meanings.openai.categories),
    }


def _table(kind: str, names: Mapping[str, Meaning]) -> str:
    rows = [f"| {kind} | score | reason |", "| --- | --- | --- |"]
    for name, meaning in names.items():
        score = "" if meaning.score is None else f"`{meaning.score}`"
        rows.append(f"| `{name}` | {score} | {meaning.reason} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write("\n".join(tables().values()))
