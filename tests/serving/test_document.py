"""The document at /openapi.json: every field described, every status shown, and true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from hatespeech.serving.app import create_app
from hatespeech.serving.settings import ServerSettings
from tests.support.http_client import TOKEN
from tests.support.loggers import loggers_kept
from tests.support.recorded_examples import FILE, record

# What differs from run to run.
PASSING = {"queue_ms", "compute_ms", "delayTime", "executionTime"}
UNTYPED = {"text/plain; charset=utf-8", "text/plain"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    jobs = tmp_path_factory.mktemp("document") / "jobs.sqlite3"
    with loggers_kept():
        app = create_app(
            ServerSettings.from_environment({"BEARER_TOKEN": TOKEN, "JOBS_DB": str(jobs)})
        )
    found: dict[str, Any] = app.openapi()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def undescribed(schema: Any, place: str) -> Iterator[str]:
    """Yield the fields below a schema that nothing describes."""
    if isinstance(schema, list):
        for each in schema:
            yield from undescribed(each, place)
    elif isinstance(schema, dict):
        for name, field in schema.get("properties", {}).items():
            if "description" not in field and "$ref" not in field:
                yield f"{place}: {name}"
            yield from undescribed(field, f"{place}.{name}")
        for key in ("items", "anyOf", "oneOf", "allOf"):
            yield from undescribed(schema.get(key), place)


def test_every_field_and_parameter_is_described(document: dict[str, Any]) -> None:
    missing = list(undescribed(list(document["components"]["schemas"].values()), "schemas"))
    for place, operation in operations(document):
        missing += [
            f"{place}: {parameter['name']}"
            for parameter in operation.get("parameters", ())
            if not {"description"} & {*parameter, *parameter["schema"]}
        ]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            missing += undescribed(content.get("schema"), place)
    assert missing == []


def values_of_enums(schema: Any) -> Iterator[list[str]]:
    """Yield the strings of each enum, wherever it is."""
    if isinstance(schema, dict):
        if isinstance(schema.get("enum"), list):
            yield [value for value in schema["enum"] if isinstance(value, str)]
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from values_of_enums(each)


def test_values_of_an_enum_have_names_of_their_own_in_a_generated_client(
    document: dict[str, Any],
) -> None:
    for values in values_of_enums(document):
        assert len({value.upper() for value in values}) == len(values)


def test_scoring_comes_first(document: dict[str, Any]) -> None:
    tags = list(dict.fromkeys(operation["tags"][0] for _, operation in operations(document)))
    assert tags[:3] == ["score", "jobs", "service"]


def test_every_status_has_an_example_that_its_schema_allows(document: dict[str, Any]) -> None:
    resolver = {"$defs": {}, "components": document["components"]}
    for place, operation in operations(document):
        for status, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                if kind != "application/json" and "examples" not in content:
                    continue  # another format of the same file
                assert content.get("examples"), f"{place} {status}"
                for example in content["examples"].values():
                    schema = {**resolver, **content.get("schema", {})}
                    jsonschema.validate(example["value"], schema)


def test_replies_have_no_field_that_the_document_lacks(document: dict[str, Any]) -> None:
    """Its objects are open, for clients of today that meet a later server."""
    text = json.dumps(document["components"])
    assert '"additionalProperties": true' in text
    closed = json.loads(
        text.replace('"additionalProperties": true', '"additionalProperties": false')
    )
    for place, operation in operations(document):
        for status, response in operation["responses"].items():
            for content in response.get("content", {}).values():
                for example in content.get("examples", {}).values():
                    schema = {"components": closed, **content.get("schema", {})}
                    try:
                        jsonschema.validate(example["value"], schema)
                    except jsonschema.ValidationError as error:
                        raise AssertionError(f"{place} {status}: {error.message}") from None


def shape(value: Any, name: str = "") -> Any:
    """Return what must stay the same from run to run: all but times, ids and last digits."""
    if isinstance(value, dict):
        return {key: shape(each, key) for key, each in value.items() if key not in PASSING}
    if isinstance(value, list):
        return [shape(each) for each in value]
    if isinstance(value, float):
        return round(value, 2) + 0.0
    if name == "id" and len(str(value)) > 20:
        return "of a job"
    if isinstance(value, str) and ("\n" in value or "rootUrl" in name or "http://" in value):
        return "several lines, or an address"
    return value


@pytest.mark.slow
def test_the_examples_are_what_a_server_replies() -> None:
    recorded = json.loads(FILE.read_text(encoding="utf-8"))
    assert shape(recorded) == shape(json.loads(json.dumps(record())))
