"""The fields of a form that go with an uploaded file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from hatespeech.errors import ValidationError
from hatespeech.formats.file_options import FileOptions
from hatespeech.formats.names import COMPRESSIONS, Format

# What a reply can be compressed with; the names are the endings of files.
PACKINGS: Final[Mapping[str, str | None]] = {
    "none": None,
    **{ending.removeprefix("."): name for ending, name in COMPRESSIONS.items()},
}
QUOTINGS: Final[Mapping[str, bool]] = {"csv": True, "none": False}
FIELDS: Final[Mapping[str, dict[str, Any]]] = {
    "text_column": {
        "type": "string",
        "default": "text",
        "maxLength": 200,
        "description": "The column, or the key, with the texts.",
    },
    "prefix": {
        "type": "string",
        "default": "",
        "maxLength": 50,
        "description": "Begins the names of the new columns, for a file that has such columns.",
    },
    "thresholds": {
        "type": "string",
        "maxLength": 200,
        "description": "Adds a column `flagged` with the labels that reach their threshold: the "
        "name of thresholds, or `label=number` joined by commas.",
        "examples": ["balanced", "toxic=0.7,spam=0.9"],
    },
    "quoting": {
        "type": "string",
        "enum": list(QUOTINGS),
        "description": "Whether fields of TSV are in double quotes where they need it, as pandas "
        "and R write them. A TSV file whose fields look so is refused without it.",
    },
    "compression": {
        "type": "string",
        "enum": list(PACKINGS),
        "description": "Of the reply; that of the file if left out. Parquet has its own.",
    },
}


def read_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Return the fields of a form beside its file.

    Raises :class:`ValidationError` for a field that is unknown, too long, given twice, or not one
    line of text.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in FIELDS:
            raise ValidationError(f"fields are file, {', '.join(FIELDS)}", field="body")
        if name in found:
            raise ValidationError("must be given only once", field=name)
        most = FIELDS[name].get("maxLength", 10)
        if not isinstance(value, str) or len(value) > most or not value.isprintable():
            raise ValidationError(f"must be at most {most} printable characters", field=name)
        found[name] = value
    return found


def file_options(fields: Mapping[str, str], form: Format) -> FileOptions:
    """Return what the fields ask of a file of this format.

    Raises :class:`ValidationError` for a value that is unknown, and for a compression that Parquet
    can't have.
    """
    quoting = fields.get("quoting")
    if quoting is not None and quoting not in QUOTINGS:
        raise ValidationError(f"must be one of {', '.join(QUOTINGS)}", field="quoting")
    packing = fields.get("compression")
    if packing is not None and packing not in PACKINGS:
        raise ValidationError(f"must be one of {', '.join(PACKINGS)}", field="compression")
    if form.kind == "Parquet" and packing not in (None, "none"):
        raise ValidationError("must be none for Parquet, which has its own", field="compression")
    return FileOptions(
        fields.get("text_column", "text"),
        fields.get("prefix", ""),
        "thresholds" in fields,
        form.compression if packing is None else PACKINGS[packing],
        None if quoting is None else QUOTINGS[quoting],
    )
