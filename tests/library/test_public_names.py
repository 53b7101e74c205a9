"""What ``import hatespeech`` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hatespeech
from hatespeech import errors
from hatespeech.labels import LABELS
from tests.paths import PACKAGE, ROOT


def test_the_public_names_are_these() -> None:
    assert sorted(hatespeech.__all__) == [
        "CheckpointError",
        "Classifier",
        "InternalError",
        "LABELS",
        "OverloadedError",
        "ServiceError",
        "SettingsError",
        "TextScore",
        "TooLargeError",
        "UnhealthyError",
        "UnreadError",
        "ValidationError",
        "WordInfluence",
        "__version__",
    ]
    for name in set(hatespeech.__all__) - {"LABELS", "__version__"}:
        assert getattr(hatespeech, name).__module__.startswith("hatespeech.")
    assert hatespeech.LABELS == LABELS
    assert set(hatespeech.__all__) <= set(dir(hatespeech))
    assert not hasattr(hatespeech, "Batcher")


def test_every_error_of_the_engine_is_public() -> None:
    found = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert found <= set(hatespeech.__all__)


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").read_bytes() == b""


@pytest.mark.slow
def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; import hatespeech; from hatespeech import LABELS, TextScore, ValidationError\n"
        "heavy = {'torch', 'tokenizers', 'fastapi', 'runpod', 'pyarrow', 'narwhals', 'pandas'}\n"
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
