"""The rooms of the package: which may import which, one name for one thing, maps that are true."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

from tests.paths import ROOT
from tests.support.imports import imported_names, transitive_imports

PACKAGE: Final = ROOT / "hatespeech"

# From the ground up. A room imports only rooms on lower floors.
FLOORS: Final = [
    {
        "bars",
        "cli",
        "collector",
        "errors",
        "labels",
        "libraries",
        "locks",
        "memory",
        "paths",
        "retry",
        "urls",
        "version",
    },
    {"extras", "journal", "named_thresholds", "settings"},
    {"contract", "door", "logs"},
    {"pages", "text"},
    {"model"},
    {"engine", "formats", "telemetry"},
    {"bulk", "fetching", "library", "serving", "worker"},
    {"evaluation"},
    {"training"},
    {"console"},
    {"__init__", "__main__"},  # the package's face
]

WEB: Final = {"fastapi", "starlette", "uvicorn", "runpod"}

# Not train.py: its default device and nearly all of its modules need torch.
LOADED_BEFORE_TORCH: Final = [
    "hatespeech/__init__.py",
    "hatespeech/bulk/command.py",
    "hatespeech/console/commands.py",
    "hatespeech/evaluation/command.py",
    "hatespeech/fetching/command.py",
    "hatespeech/serving/command.py",
    "hatespeech/worker/command.py",
    "hatespeech/serving/app.py",  # before the port is bound
]

MODULES_WITHOUT_A_MAP: Final = 8


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    """Return the folder or module right below the package that a file belongs to."""
    return Path(file.relative_to(PACKAGE).parts[0]).stem


ROOMS: Final = {room_of(file) for file in files()}


def rooms_imported_by(file: Path) -> set[str]:
    """Return the rooms that a file imports, for types too; ``__init__`` for the face's names."""
    names = (name.split(".") for name in imported_names(file, for_types=True))
    found = {name[1] for name in names if name[0] == "hatespeech" and len(name) > 1}
    return {room if room in ROOMS else "__init__" for room in found}


def test_every_room_has_its_floor() -> None:
    assert {room for floor in FLOORS for room in floor} == ROOMS


def test_a_room_imports_only_rooms_on_lower_floors() -> None:
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    found = {
        f"{file.relative_to(PACKAGE)} imports {imported}"
        for file in files()
        for imported in rooms_imported_by(file) - {room_of(file)}
        if floor_of[imported] >= floor_of[room_of(file)]
    }
    assert not found


@pytest.mark.parametrize("room", ["text", "model"])
def test_text_and_model_know_neither_settings_nor_requests(room: str) -> None:
    for file in (PACKAGE / room).rglob("*.py"):
        assert rooms_imported_by(file) <= FLOORS[0] | {"text", "model"}, file


@pytest.mark.parametrize("room", ["text", "model", "engine"])
def test_the_engine_and_what_is_below_it_know_no_http(room: str) -> None:
    for file in (PACKAGE / room).rglob("*.py"):
        packages = {name.partition(".")[0] for name in imported_names(file, for_types=True)}
        assert not packages & WEB, file


@pytest.mark.parametrize("start", LOADED_BEFORE_TORCH)
def test_torch_is_not_loaded_before_it_must(start: str) -> None:
    assert "torch" not in transitive_imports(ROOT, start, at_load=True).packages


def test_no_two_modules_define_a_class_of_one_name() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for file in files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(str(file.relative_to(PACKAGE)))
    assert not {name: places for name, places in homes.items() if len(places) > 1}


def names_on_the_map(folder: Path) -> set[str]:
    """Return the names in the first column of the table in a folder's docstring."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    columns = re.findall(r"^ *([\w./]+(?:, [\w./]+)*) {2,}\S", text, re.MULTILINE)
    return {name.strip("/") for column in columns for name in column.split(", ")}


def contents(folder: Path) -> tuple[set[str], set[str]]:
    """Return a folder's modules, and its folders that hold modules."""
    modules = {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}
    return modules, {path.parent.name for path in folder.glob("*/__init__.py")}


FOLDERS: Final = [path.parent for path in sorted(PACKAGE.rglob("__init__.py"))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_map_names_every_module_and_nothing_else(folder: Path) -> None:
    named = names_on_the_map(folder)
    modules, folders = contents(folder)
    if not named:
        assert len(modules) <= MODULES_WITHOUT_A_MAP, "so many modules need a map"
        return
    if folder == PACKAGE:  # it leaves out ".py"
        modules = {Path(module).stem for module in modules}
        named = {name.partition("/")[0] for name in named}
        folders |= {"checkpoints"}
    assert modules | folders <= named
    there = {path.stem if folder == PACKAGE else path.name for path in folder.iterdir()}
    assert named <= there
