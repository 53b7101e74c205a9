"""The suite, which both files of tests read."""

from __future__ import annotations

import pytest

from hatespeech.model import checkpoint
from tests.conformance.suite import CASES, RECORD, Suite, load_suite, read_document
from tests.paths import EMBEDDED


@pytest.fixture(scope="package")
def suite() -> Suite:
    suite = load_suite(read_document())
    model = checkpoint.describe(EMBEDDED).model_id
    if suite.model != model:
        pytest.fail(
            f"{CASES.name} was recorded with {suite.model}, the embedded checkpoint is {model}; "
            f"run: {RECORD}"
        )
    return suite
