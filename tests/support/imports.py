"""What a script of the project imports, directly and through the project's own modules."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Imports:
    """Transitive imports of one script."""

    files: frozenset[str]  # of the project, relative to its root, the script included
    packages: frozenset[str]  # of others, by the name they are imported under


def transitive_imports(root: Path, script: str, *, at_load: bool = False) -> Imports:
    """Follow every import statement that can run; with ``at_load``, those outside functions."""
    waiting, files, packages = [root / script], set[Path](), set[str]()
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files.add(file)
        for name in imported_names(file, at_load=at_load):
            found = modules(root, name)
            waiting += found
            package = name.partition(".")[0]
            if not found and package not in sys.stdlib_module_names:
                packages.add(package)
    return Imports(frozenset(str(f.relative_to(root)) for f in files), frozenset(packages))


def imported_names(file: Path, *, at_load: bool = False, for_types: bool = False) -> list[str]:
    """Return the dotted names after ``import``, and after ``from`` with and without the rest.

    ``at_load`` leaves out imports inside functions. ``for_types`` includes imports that only type
    checkers see, below ``if TYPE_CHECKING``.
    """
    names = []
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        types_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if types_only and not for_types:
            assert isinstance(node, ast.If)
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{file}: a relative import"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def modules(root: Path, name: str) -> list[Path]:
    """Return the project's files that importing a dotted name runs, packages first."""
    found = []
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:length])
        candidates = (place / "__init__.py", place.with_name(f"{place.name}.py"))
        found += [candidate for candidate in candidates if candidate.is_file()]
    return found
