"""pyproject.toml says what each extra needs; the requirement files pin the same packages."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import packages_distributions
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hatespeech.console.command_table import COMMANDS
from hatespeech.extras import DISTRIBUTION
from tests.paths import ROOT
from tests.support.environments import with_requirements
from tests.support.imports import transitive_imports

PROJECT: Final[Mapping[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: Final[Mapping[str, list[str]]] = PROJECT["optional-dependencies"]

SEPARATE: Final = (
    "train",
    "ray",
    "grpc",
    "postgres",
    "redis",
    "otel",
    "excel",
)  # extras with a file of their own

# Pinned for the tests alone: transformers trains too, and so is in an extra.
TESTS_ONLY: Final = {"emoji", "nltk"}


def pins(*files: str) -> dict[str, str]:
    """Return the version of each package that these files pin; each line must pin one."""
    found: dict[str, str] = {}
    for file in files:
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                requirement = Requirement(line)
                (pin,) = requirement.specifier
                assert pin.operator == "==", line
                name = canonicalize_name(requirement.name)
                assert found.get(name, pin.version) == pin.version, f"{name} is pinned twice"
                found[name] = pin.version
    return found


def names(texts: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in texts}


def test_no_package_is_pinned_twice_in_disagreement() -> None:
    files = sorted(path.name for path in ROOT.glob("requirements*.txt"))
    assert len(files) >= 5
    everywhere: dict[str, str] = {}
    for file in files:
        for name, version in pins(file).items():
            assert everywhere.setdefault(name, version) == version, f"{file}: {name}"


def test_the_lock_holds_what_the_requirements_pin() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9][\w.-]*)==([^ ]+)", text, re.MULTILINE))
    wanted = pins("requirements.txt")
    del wanted["torch"]  # whose builds differ by device
    assert {name: locked.get(name) for name in wanted} == wanted


def test_every_floor_is_the_version_that_the_tests_run_with() -> None:
    # requirements-train.txt pins what requirements-evaluate.txt does.
    files = ("requirements.txt", *(f"requirements-{name}.txt" for name in SEPARATE))
    pinned = pins(*files)
    stated = [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    for text in stated:
        requirement = Requirement(text)
        if requirement.name == DISTRIBUTION:
            continue
        (specifier,) = requirement.specifier
        assert specifier.operator in (">=", "=="), text
        assert specifier.version == pinned[canonicalize_name(requirement.name)], text


def test_requirement_files_hold_the_same_packages_as_the_extras() -> None:
    base = names([*PROJECT["dependencies"], *EXTRAS["server"], *EXTRAS["worker"]])
    with_transformers = base | {"transformers"}
    assert pins("requirements.txt").keys() == with_transformers | TESTS_ONLY
    assert pins("requirements-evaluate.txt").keys() == names(EXTRAS["evaluate"])
    assert pins("requirements-train.txt").keys() == names(EXTRAS["train"]) - {"transformers"}
    for extra in set(SEPARATE) - {"train"}:
        assert pins(f"requirements-{extra}.txt").keys() == names(EXTRAS[extra])


def test_all_is_every_other_extra() -> None:
    (nested,) = EXTRAS["all"]
    assert nested == f"{DISTRIBUTION}[{','.join(name for name in EXTRAS if name != 'all')}]"
    assert PROJECT["name"] == DISTRIBUTION


def modules_by_extra() -> Iterator[tuple[str, str | None]]:
    """The module of each command, and those of the engines, which are imported by name."""
    for command in COMMANDS.values():
        yield command.main.partition(":")[0].replace(".", "/") + ".py", command.extra
    for path in sorted((ROOT / "hatespeech/bulk/engines").glob("*.py")):
        yield str(path.relative_to(ROOT)), "ray" if path.name.startswith("ray_") else None


@pytest.mark.parametrize(("module", "extra"), list(modules_by_extra()))
def test_a_module_imports_only_what_the_package_and_its_extra_require(
    module: str, extra: str | None
) -> None:
    # They import what these need only if they are asked for: tests/serving/grpc, …/jobs. So
    # does what reads files, if it meets a workbook: tests/formats.
    extras = {
        "server": ("server", "grpc", "postgres", "redis", "otel"),
        "worker": ("worker", "otel"),
    }.get(extra or "", (extra,) if extra else ())
    extras = (*extras, "excel")
    texts = [text for name in extras for text in EXTRAS[name]]
    required = with_requirements([*PROJECT["dependencies"], *texts])
    by_package = packages_distributions()
    imported = transitive_imports(ROOT, module).packages
    assert [
        each for each in imported if not required & set(map(canonicalize_name, by_package[each]))
    ] == []
