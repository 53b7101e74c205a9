"""The Runpod Hub listing: what the Hub documents, and what the settings and the worker say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Field

from hatespeech.settings import EngineSettings
from tests.paths import ROOT
from tests.support.processes.worker import clean_environment

HUB = ROOT / ".runpod"

# The image has one model and one place for it, and the form can't bring a file; the listing is a
# queue worker's.
FILES = ("model_dir", "model_id", "hf_hub_cache", "hf_home", "thresholds_file", "audit_log")
# What the image has no packages for.
EXTRAS = ("otel_exporter_otlp_endpoint",)
LEFT_OUT = (*FILES, *EXTRAS)
FORM = [name for name in EngineSettings.model_fields if name not in LEFT_OUT]

# https://docs.runpod.io/hub/publishing-guide and https://docs.runpod.io/references/gpu-types.
GpuPool = Literal[
    "AMPERE_16", "AMPERE_24", "ADA_24", "AMPERE_48", "ADA_48_PRO", "AMPERE_80", "ADA_80_PRO"
]
CudaVersion = Annotated[str, Field(pattern=r"^\d\d\.\d$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Option(Strict):
    label: str
    value: str


class Input(Strict):
    name: Annotated[str, Field(min_length=1)]
    type: Literal["string", "number", "boolean", "huggingface"]
    description: Annotated[str, Field(min_length=1)]
    default: str | int | bool
    required: bool = False
    advanced: bool = False
    options: list[Option] | None = None
    min: int | None = None
    max: int | None = None


class Variable(Strict):
    key: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
    input: Input


class FixedVariable(Strict):
    key: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
    value: str


class HubConfig(Strict):
    runsOn: Literal["GPU"]
    containerDiskInGb: Annotated[int, Field(ge=1)]
    gpuCount: Annotated[int, Field(ge=1)]
    gpuIds: str
    allowedCudaVersions: list[CudaVersion]
    env: list[Variable]

    @pydantic.field_validator("gpuIds")
    @classmethod
    def names_pools(cls, value: str) -> str:
        assert set(value.split(",")) <= set(get_args(GpuPool)), value
        return value


class HubListing(Strict):
    title: Annotated[str, Field(min_length=1, max_length=60)]
    description: Annotated[str, Field(min_length=1)]
    type: Literal["serverless"]
    category: Literal["audio", "embedding", "language", "video", "image"]
    config: HubConfig


class HubTest(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z_]+$")]
    input: dict[str, Any]
    timeout: Annotated[int, Field(ge=1000)]  # milliseconds


class HubTestConfig(Strict):
    gpuTypeId: str
    gpuCount: Annotated[int, Field(ge=1)]
    env: list[FixedVariable]
    allowedCudaVersions: list[CudaVersion]


class HubTests(Strict):
    tests: Annotated[list[HubTest], Field(min_length=1)]
    config: HubTestConfig


def read(name: str) -> Any:
    return json.loads((HUB / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def listing() -> HubListing:
    return HubListing.model_validate(read("hub.json"))


@pytest.fixture(scope="module")
def hub_tests() -> HubTests:
    return HubTests.model_validate(read("tests.json"))


def expected_input(name: str) -> dict[str, Any]:
    """What a setting is to look like in the Hub's form."""
    field = EngineSettings.model_fields[name]
    form = {"description": field.description, "default": field.default}
    if get_origin(field.annotation) is Literal:
        values = get_args(field.annotation)
        return form | {"type": "string", "options": [{"label": v, "value": v} for v in values]}
    if field.annotation is bool:
        return form | {"type": "boolean"}
    if field.annotation is int:
        bounds = {type(bound).__name__: bound for bound in field.metadata}
        return form | {"type": "number", "min": bounds["Ge"].ge, "max": bounds["Le"].le}
    return form | {"type": "string"}


def test_listing_is_in_the_language_category(listing: HubListing) -> None:
    assert listing.category == "language"


def test_form_asks_for_every_setting_once(listing: HubListing) -> None:
    keys = [variable.key for variable in listing.config.env]
    assert keys == [name.upper() for name in FORM]


@pytest.mark.parametrize("name", FORM)
def test_form_offers_what_the_setting_allows(listing: HubListing, name: str) -> None:
    (variable,) = (v for v in listing.config.env if v.key == name.upper())
    form = variable.input.model_dump(exclude_unset=True, exclude={"name", "advanced"})
    assert form == expected_input(name)


def test_form_filled_in_as_offered_starts_the_worker(listing: HubListing) -> None:
    environment = {v.key: str(v.input.default) for v in listing.config.env}
    assert EngineSettings.from_environment(environment) == EngineSettings()


def test_hub_tests_set_only_variables_that_exist(hub_tests: HubTests) -> None:
    environment = {variable.key: variable.value for variable in hub_tests.config.env}
    assert {name.lower() for name in environment} <= EngineSettings.model_fields.keys()
    EngineSettings.from_environment(environment)  # raises for a bad value


def test_hosts_are_no_older_than_the_cuda_of_the_image(
    listing: HubListing, hub_tests: HubTests
) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    match = re.search(r"^ARG BASE_IMAGE=\S+-cuda(\d+)\.(\d+)-", dockerfile, re.MULTILINE)
    assert match
    image = tuple(map(int, match.groups()))
    for versions in (listing.config.allowedCudaVersions, hub_tests.config.allowedCudaVersions):
        hosts = [tuple(map(int, version.split("."))) for version in versions]
        assert min(hosts) == image


def run_handler(
    arguments: list[str], environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HUB / "handler.py"), *arguments],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", [case["name"] for case in read("tests.json")["tests"]])
def test_hub_test_is_answered_by_the_hub_handler(
    case: str, hub_tests: HubTests, small_checkpoint: Path, tmp_path: Path
) -> None:
    (job,) = (test.input for test in hub_tests.tests if test.name == case)
    environment = clean_environment(tmp_path, small_checkpoint)
    environment |= {variable.key: variable.value for variable in hub_tests.config.env}
    run = run_handler(["--test_input", json.dumps({"input": job})], environment, tmp_path)
    assert run.returncode == 0, run.stderr
    reply = json.loads(run.stdout)
    scored = reply.get("items", [reply])
    assert len(scored) == len(job.get("prompts", [job]))
    assert all(("label" in item) == bool(item["text"]) for item in scored)
    assert ("flagged" in reply, "words" in reply) == ("thresholds" in job, "explain" in job)


@pytest.mark.slow
def test_hub_handler_ends_with_the_workers_exit_code(tmp_path: Path) -> None:
    environment = {**clean_environment(tmp_path, tmp_path / "nowhere"), "PATH": os.environ["PATH"]}
    run = run_handler([], environment, tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith("error: MODEL_DIR=")
