"""Running score.py on a file that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from hatespeech.bulk import command as score

SECRET: Final = "nobody-may-read-this"


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run, and return the one line of an error, which must not quote :data:`SECRET`."""

    def run(*arguments: str) -> str:
        assert score.main([*arguments]) == 1
        said = capsys.readouterr().err
        assert SECRET not in said
        (line,) = (line for line in said.splitlines() if line.startswith("error: "))
        return line.removeprefix("error: ").replace(f"{tmp_path}/", "")

    return run
