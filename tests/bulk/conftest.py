"""Where a run in this process happens: an empty folder, and the embedded model on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paths import MINI


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"MODEL_DIR": str(MINI), "DEVICE": "cpu", "DTYPE": "float32"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
