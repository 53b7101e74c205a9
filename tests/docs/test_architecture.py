"""docs/architecture.md: what it says about the code is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tests.paths import PACKAGE, ROOT
from tests.support.imports import imported_names

PAGE: Final = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def floors() -> dict[str, int]:
    """Return the floor of every folder of the package, as the page's table has it."""
    return {
        room: int(floor)
        for floor, rooms in re.findall(r"^\| ([1-9]) \| (`.+?) \|", PAGE, re.MULTILINE)
        for room in re.findall(r"`(\w+)/`", rooms)
    }


def imports() -> Iterator[tuple[str, str]]:
    """Yield which room imports which; a module beside the folders is a room called ""."""
    folders = {folder.name for folder in PACKAGE.iterdir() if folder.is_dir()}
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE).parts
        if place[0].startswith("__"):  # the package's own front door shows every floor
            continue
        for name in imported_names(file):
            package, *parts = name.split(".")
            if package == PACKAGE.name and parts:
                room = place[0] if len(place) > 1 else ""
                yield room, parts[0] if parts[0] in folders else ""


def test_every_room_has_a_floor() -> None:
    rooms = {file.relative_to(PACKAGE).parts[0] for file in PACKAGE.rglob("*/*.py")}
    assert floors().keys() == rooms


def test_the_floors_of_the_page_are_those_of_the_imports() -> None:
    floor = {"": 0, **floors()}
    found = {(room, other) for room, other in imports() if room != other}
    assert ("engine", "model") in found
    assert {pair for pair in found if floor[pair[1]] > floor[pair[0]]} == set()
    assert {pair for pair in found if floor[pair[1]] == floor[pair[0]] > 0} == set()


def test_every_folder_of_the_package_is_named() -> None:
    folders = {
        str(folder.relative_to(ROOT))
        for folder in PACKAGE.rglob("*")
        if folder.is_dir() and folder.name != "__pycache__"
    }
    named = set(re.findall(r"`(hatespeech/[\w./-]+)", PAGE))
    named |= {f"hatespeech/{room}" for room in floors()}
    inside = {str(parent) for name in named for parent in (ROOT / name).relative_to(ROOT).parents}
    assert folders <= named | inside


def rows() -> list[tuple[str, str, str]]:
    """Return the rows of the table "Where do I change"."""
    table = PAGE.partition("| I want to change … |")[2].partition("\n\n")[0]
    return re.findall(r"^\| (.+?) \| (.+?) \| (.*?) ?\|$", table, re.MULTILINE)[1:]


def test_the_table_says_where_to_change_what() -> None:
    found = rows()
    assert len(found) >= 24
    for wish, place, also in found:
        named = re.findall(r"`([^`]+)`", place)
        assert named, wish
        for name in [*named, *re.findall(r"`([^`]+)`", also)]:
            if re.fullmatch(r"\w*", name):  # a name in the file before it
                files = [
                    path for path in re.findall(r"`([^`]+)`", f"{place} {also}") if "/" in path
                ]
                assert any(holds(path, name) for path in files), f"{wish}: {name}"
            else:
                assert (ROOT / name).exists(), f"{wish}: {name}"


def holds(path: str, name: str) -> bool:
    """Say whether a file of the repository has a word in it."""
    file = ROOT / path
    if not file.is_file():
        return False
    return re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) is not None
