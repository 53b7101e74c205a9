"""Inputs that must be refused, and the error each must give; every front is held to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, SupportsIndex

from typing_extensions import override

# In every text and value below: an error or a log that holds it has quoted its caller.
MARKER: Final = "Quizzaciously"


class UntouchedText(str):
    """A text that may be measured, and no more: what is too long must not be worked on first."""

    __slots__ = ()

    @override
    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        raise AssertionError("encoded")

    @override
    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        raise AssertionError("split")


@dataclass(frozen=True)
class BadInput:
    """``input`` as sent, and the whole error it gives."""

    name: str
    input: Any
    error: str


_MANY = [MARKER] * 1025

BAD_INPUTS: Final = (
    BadInput("null_input", None, "validation: input: must be an object with prompt or prompts"),
    BadInput("list_input", [MARKER], "validation: input: must be an object with prompt or prompts"),
    BadInput("string_input", MARKER, "validation: input: must be an object with prompt or prompts"),
    BadInput("number_input", 7, "validation: input: must be an object with prompt or prompts"),
    BadInput(
        "missing",
        {},
        "validation: prompt: is missing; give prompt, a string, or prompts, a list",
    ),
    BadInput("null", {"prompt": None}, "validation: prompt: must be a string, not null"),
    BadInput("null_list", {"prompts": None}, "validation: prompts: must be a list of strings"),
    BadInput("empty", {"prompt": ""}, "validation: prompt: must not be empty"),
    BadInput("empty_list", {"prompts": []}, "validation: prompts: must hold at least one text"),
    BadInput("number", {"prompt": 7}, "validation: prompt: must be a string"),
    BadInput("object", {"text": {"a": MARKER}}, "validation: text: must be a string"),
    BadInput("list_for_one", {"prompt": [MARKER]}, "validation: prompt: must be a string"),
    BadInput("one_for_list", {"texts": MARKER}, "validation: texts: must be a list of strings"),
    BadInput(
        "both",
        {"prompt": MARKER, "prompts": [MARKER]},
        "validation: prompt, prompts: give only one of them",
    ),
    BadInput(
        "alias_twice",
        {"prompt": MARKER, "text": MARKER},
        "validation: prompt, text: give only one of them",
    ),
    BadInput(
        "unknown_key",
        {"prompt": MARKER, "promt": MARKER},
        "validation: 'promt': is not a known field",
    ),
    BadInput(
        "too_many", {"prompts": _MANY}, "too_large: prompts: holds 1025 texts, the limit is 1024"
    ),
    BadInput(
        "too_long",
        {"prompt": MARKER + "a" * 10_000},
        f"too_large: prompt: has {10_000 + len(MARKER)} characters, the limit is 10000",
    ),
    BadInput(
        "too_long_together",
        {"prompts": [MARKER.ljust(1001)] * 1000},
        "too_large: prompts: 1001000 characters in all, the limit is 1000000",
    ),
    BadInput(
        "too_many_words_to_explain",
        {"prompt": f"{MARKER} " + "a " * 256, "explain": True},
        "too_large: prompt: has 257 words to explain, the limit is 256",
    ),
    BadInput(
        "explain_not_bool",
        {"prompt": MARKER, "explain": MARKER},
        "validation: explain: must be true, false, shapley or leave_one_out",
    ),
    BadInput(
        "explain_number",
        {"prompt": MARKER, "explain": 1},
        "validation: explain: must be true, false, shapley or leave_one_out",
    ),
    BadInput(
        "robust_not_bool",
        {"prompt": MARKER, "robust": MARKER},
        "validation: robust: must be true, false or null",
    ),
    BadInput(
        "thresholds_list",
        {"prompt": MARKER, "thresholds": [0.5]},
        "validation: thresholds: must be an object of numbers, or balanced or strict",
    ),
    BadInput(
        "thresholds_unknown_name",
        {"prompt": MARKER, "thresholds": MARKER},
        "validation: thresholds: names are balanced and strict",
    ),
    BadInput(
        "thresholds_name_and_number",
        {"prompt": MARKER, "thresholds": {"name": "strict", "hate": 0.5}},
        "validation: thresholds: ask for recommended ones or give numbers, not both",
    ),
    BadInput(
        "thresholds_name_number",
        {"prompt": MARKER, "thresholds": {"name": 1}},
        "validation: thresholds: names are balanced and strict",
    ),
    BadInput(
        "threshold_over_1",
        {"prompt": MARKER, "thresholds": {"hate": 1.01}},
        "validation: thresholds.hate: must be a number from 0 to 1",
    ),
    BadInput(
        "threshold_below_0",
        {"prompt": MARKER, "thresholds": {"spam": -0.01}},
        "validation: thresholds.spam: must be a number from 0 to 1",
    ),
    BadInput(
        "threshold_bool",
        {"prompt": MARKER, "thresholds": {"hate": True}},
        "validation: thresholds.hate: must be a number from 0 to 1",
    ),
    BadInput(
        "threshold_string",
        {"prompt": MARKER, "thresholds": {"hate": "0.5"}},
        "validation: thresholds.hate: must be a number from 0 to 1",
    ),
    BadInput(
        "threshold_unknown_label",
        {"prompt": MARKER, "thresholds": {MARKER: 0.5}},
        "validation: thresholds: may be set for hate, abusing, neutral, spam, toxic",
    ),
    BadInput(
        "spaces",
        {"prompt": " \t\r\n\u00a0\u3000 "},
        "validation: prompt: holds nothing but white space or invisible characters",
    ),
    BadInput(
        "zero_width",
        {"prompt": "\u200b\u200d\u2060\ufeff\u00ad"},
        "validation: prompt: holds nothing but white space or invisible characters",
    ),
)

# In a list, only these items fail; the rest of the list is scored.
BAD_ITEMS: Final[tuple[tuple[Any, str], ...]] = (
    (None, "validation: {place}: must be a string, not null"),
    (7, "validation: {place}: must be a string"),
    ([MARKER], "validation: {place}: must be a string"),
    ("", "validation: {place}: must not be empty"),
    (
        MARKER * 1000,
        f"too_large: {{place}}: has {1000 * len(MARKER)} characters, the limit is 10000",
    ),
    ("\u200b ", "validation: {place}: holds nothing but white space or invisible characters"),
)
