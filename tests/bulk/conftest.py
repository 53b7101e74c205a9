"""What every test of bulk scoring starts from."""

from __future__ import annotations

import pytest
from fsspec.implementations.memory import MemoryFileSystem


@pytest.fixture(autouse=True)
def empty_object_store() -> None:
    """Empty the object store in memory, which belongs to the process, of other tests' files."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
