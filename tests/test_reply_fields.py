"""Every field of a reply stands everywhere it has to."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from hatespeech.bulk.command import DESCRIPTION as SCORE_HELP
from hatespeech.contract import COLUMNS, FIELDS, Reply, ReplyField, TextScore, fields_table
from hatespeech.formats.scores import SCORES
from hatespeech.serving.http_errors import STATUSES
from hatespeech.serving.openapi import ManyReply, NotScored, OneReply
from tests.paths import ROOT
from tests.support.stand_ins.snet_daemon import compile_proto

# What a kind of field is in service.proto: its type, and whether it is repeated.
PROTO_KINDS: Final[dict[str, tuple[int, bool]]] = {
    "text": (FieldDescriptor.TYPE_STRING, False),
    "probability": (FieldDescriptor.TYPE_FLOAT, False),
    "label": (FieldDescriptor.TYPE_STRING, False),
    "flags": (FieldDescriptor.TYPE_STRING, True),
    "count": (FieldDescriptor.TYPE_INT32, False),
    "span": (FieldDescriptor.TYPE_INT32, True),
    "words": (FieldDescriptor.TYPE_MESSAGE, True),
    "warnings": (FieldDescriptor.TYPE_STRING, True),
    "reading": (FieldDescriptor.TYPE_STRING, False),
    "error": (FieldDescriptor.TYPE_STRING, False),
    "items": (FieldDescriptor.TYPE_MESSAGE, True),
    "timing": (FieldDescriptor.TYPE_MESSAGE, False),
    "thresholds": (FieldDescriptor.TYPE_MESSAGE, False),
    "versions": (FieldDescriptor.TYPE_MESSAGE, False),
}


@pytest.fixture(scope="module")
def results() -> Descriptor:
    output = compile_proto(ROOT / "service.proto")[0].output_type
    found = output.fields_by_name["output"].message_type
    assert found is not None
    return found


def places(results: Descriptor) -> dict[str, Callable[[ReplyField], bool]]:
    """Where a field has to stand, and how to see that it does."""
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    classes = (TextScore, Reply)
    attributes = {field.name for each in classes for field in dataclasses.fields(each)}
    models = {*OneReply.model_fields, *ManyReply.model_fields, *NotScored.model_fields}

    def in_proto(field: ReplyField) -> bool:
        found = results.fields_by_name.get(field.name)
        kind = PROTO_KINDS[field.kind]
        return (
            found is not None
            and found.number == field.proto
            and (found.type, found.is_repeated) == kind
        )

    def in_tables(field: ReplyField) -> bool:
        return field.column is None or field.name in SCORES.names

    def in_score_help(field: ReplyField) -> bool:
        return field.column is None or re.search(rf"\b{field.name}\b", SCORE_HELP) is not None

    return {
        "contract.py: an attribute of TextScore or Reply": lambda field: field.name in attributes,
        "OpenAPI": lambda field: field.name in models,
        "service.proto": in_proto,
        "docs/contract.md": lambda field: f"\n| `{field.name}` | {field.kind} |" in page,
        "tables": in_tables,
        "score.py --help": in_score_help,
    }


def missing(fields: Sequence[ReplyField], results: Descriptor) -> list[str]:
    checks = places(results).items()
    return [
        f"{field.name}: {place}" for field in fields for place, there in checks if not there(field)
    ]


def test_every_field_stands_in_every_place(results: Descriptor) -> None:
    assert missing(FIELDS, results) == []


def test_pages_that_list_the_columns_list_all_of_them() -> None:
    listed = {"http.md": r"with the columns\s(.*?) added", "python.md": r"as attributes:\s(.*?);"}
    found = {}
    for page, sentence in listed.items():
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        found[page] = re.findall(r"`(\w+)`", re.findall(sentence, text, re.DOTALL)[0])
    assert found["http.md"] == list(COLUMNS)
    # Of an item, which has an id only if one was sent with its text.
    assert [*found["python.md"], "id"] == [each.name for each in dataclasses.fields(TextScore)]


def test_a_new_field_is_missed_wherever_it_is_not_written_yet(results: Descriptor) -> None:
    new = ReplyField("sarcasm", "probability", 99, "Probability of sarcasm.", column="float")
    assert missing([*FIELDS, new], results) == [f"sarcasm: {place}" for place in places(results)]


def test_no_place_has_a_field_that_the_contract_has_not(results: Descriptor) -> None:
    names = {field.name for field in FIELDS}
    assert {field.name for field in results.fields} == names
    assert {*OneReply.model_fields, *ManyReply.model_fields, *NotScored.model_fields} == names
    assert {field.name for field in dataclasses.fields(TextScore)} <= names


def test_the_page_holds_the_table_of_fields_and_every_error() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    assert fields_table() in page
    listed = re.findall(r"^\| `(\w+)` \| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert sorted(listed) == sorted(
        (kind.code, str(status), (kind.__doc__ or "").splitlines()[0])
        for kind, status in STATUSES.items()
    )


def example_replies(page: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects on a page that have a label, wherever they are nested."""

    def walk(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if "label" in value:
                yield value
            for each in value.values():
                yield from walk(each)
        elif isinstance(value, list):
            for each in value:
                yield from walk(each)

    for block in re.findall(r"```(?:json)?\n(\{.*?\})\n```", page.read_text("utf-8"), re.DOTALL):
        try:
            yield from walk(json.loads(block))
        except ValueError:
            continue  # an example that is cut short


def test_every_example_reply_has_the_fields_that_are_always_there_and_no_other() -> None:
    names = {field.name for field in FIELDS}
    always = {field.name for field in FIELDS if field.always and not field.once}
    found = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for reply in example_replies(page):
            found += 1
            assert always <= reply.keys() <= names, page.name
    assert found
