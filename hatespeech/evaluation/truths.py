"""What a label says about a text, in terms of the four labels.

A label of another system often says less than one of the four: *toxic* is hate or abusing, *not
toxic* is neutral or spam. So a truth is the set of labels that are possible, as bits: bit 0 is
hate, in the order of ``LABELS``; 0 is a text without a label. A flag is such a set too. A truth
decides it if all or none of its labels are in the flag; otherwise the text does not count for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hatespeech.labels import FLAGS, LABELS, LABELS_OF

Truths = NDArray[np.uint8]  # [texts]

HATE, ABUSING, NEUTRAL, SPAM = (1 << index for index in range(len(LABELS)))
EVERY: Final = HATE | ABUSING | NEUTRAL | SPAM
FLAG_BITS: Final[Mapping[str, int]] = {
    flag: sum(1 << LABELS.index(label) for label in LABELS_OF[flag]) for flag in FLAGS
}
# The truths that a label may be mapped to, in the order in which tables show them.
TRUTHS: Final[Mapping[str, int]] = {
    "hate": HATE,
    "abusing": ABUSING,
    "toxic": FLAG_BITS["toxic"],
    "neutral": NEUTRAL,
    "spam": SPAM,
    "not-toxic": EVERY - FLAG_BITS["toxic"],
    "not-hate": EVERY - HATE,
    "not-abusing": EVERY - ABUSING,
    "not-spam": EVERY - SPAM,
}
NAMES: Final = {bits: name for name, bits in TRUTHS.items()}
SKIP: Final = "skip"  # a label that is mapped to it leaves its texts out

# What other data sets call the truths: Founta and others, Davidson and others, HateXplain, OLID,
# HateCheck, Jigsaw, the SMS Spam Collection, and files with yes or no.
SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = {
    "hate": ("hateful", "hatespeech", "hate-speech", "identity-hate"),
    "abusing": ("abusive", "offensive", "offensive-language"),
    "neutral": ("normal",),
    "toxic": ("off", "1", "true", "yes"),
    "not-toxic": ("not", "non-toxic", "nontoxic", "neither", "0", "false", "no"),
    "not-hate": ("non-hate", "nothate", "non-hateful", "not-hateful"),
    "not-spam": ("ham",),
}
KNOWN: Final[Mapping[str, int]] = {
    **TRUTHS,
    **{other: TRUTHS[name] for name, others in SYNONYMS.items() for other in others},
}


@dataclass(frozen=True)
class Layout:
    """The columns of a well-known data set, for a file whose columns are not named."""

    name: str
    text: str
    label: str | None = None
    names: Mapping[str, int] = field(default_factory=dict)  # before KNOWN
    # Columns of 0 and 1, one for each kind: the first that is 1 decides.
    kinds: Mapping[str, int] = field(default_factory=dict)

    @property
    def columns(self) -> set[str]:
        """The columns by which it is recognised."""
        return {self.text, *([self.label] if self.label else []), *self.kinds}


LAYOUTS: Final = (
    Layout(
        "Davidson and others",
        "tweet",
        "class",
        {"0": HATE, "1": ABUSING, "2": TRUTHS["not-toxic"]},
    ),
    Layout("OLID", "tweet", "subtask_a"),
    Layout("HateCheck", "test_case", "label_gold"),
    Layout(
        "Jigsaw",
        "comment_text",
        kinds={
            "identity_hate": HATE,
            **dict.fromkeys(("toxic", "severe_toxic", "obscene", "threat", "insult"), ABUSING),
        },
    ),
)


def plain_name(value: Any) -> str:
    """Return a label as :data:`KNOWN` has it; "" for a missing one."""
    if value is None:
        return ""
    name = "-".join(str(value).strip().lower().replace("_", " ").split())
    # A column of whole numbers in which one is missing is written as 1.0 and 0.0, by pandas too.
    return re.sub(r"^(-?\d+)\.0+$", r"\1", name)


def truth_of(value: Any, names: Mapping[str, int]) -> int | None:
    """Return the truth of a label, 0 for a missing one, ``None`` for an unknown one.

    ``names`` come before the known ones. A number between 0 and 1 is the share of the annotators
    who called the text toxic, as Jigsaw's later data has it: the truth is what most of them said.
    """
    name = plain_name(value)
    if not name:
        return 0
    found = names.get(name, KNOWN.get(name))
    if found is not None:
        return found
    try:
        share = float(name)
    except ValueError:
        return None
    if not 0 < share < 1:
        return None
    return TRUTHS["toxic"] if share >= 0.5 else TRUTHS["not-toxic"]


def read_map(value: str) -> dict[str, int]:
    """Read ``NAME=TRUTH,…``; raise :class:`ValueError` if it is not that."""
    names = {}
    for part in value.split(","):
        name, equals, truth = part.rpartition("=")
        if not equals or (truth.strip() not in TRUTHS and truth.strip() != SKIP):
            raise ValueError("not NAME=LABEL")
        names[plain_name(name)] = TRUTHS.get(truth.strip(), 0)
    return names


def decided(truths: Truths, flag: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which texts are known to be of a flag, and which are known not to be."""
    bits = FLAG_BITS[flag]
    has_label = truths != 0
    return has_label & ((truths & ~np.uint8(bits)) == 0), has_label & ((truths & bits) == 0)


def flags_decided(truths: Truths) -> list[str]:
    """Return the flags of which there are texts that are, and texts that are not."""
    return [flag for flag in FLAGS if all(part.any() for part in decided(truths, flag))]


def indices(truths: Truths) -> NDArray[np.int64] | None:
    """Return the index of each text's label; ``None`` unless every text has one of the four."""
    singles = np.array([1 << index for index in range(len(LABELS))])
    if not np.isin(truths, singles).all():
        return None
    return np.searchsorted(singles, truths).astype(np.int64)
