"""A small storm of calls; ``python -m tests.serving.payments.storm`` raises a large one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.payments.market import Market, selling
from tests.serving.payments.storm import impatient, storm

CALLS = 120


@pytest.mark.slow
def test_the_chain_agrees_with_the_receipts_and_every_payer_has_the_reply(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    receipts = tmp_path / "receipts.jsonl"
    settings = market.settings(RECEIPTS_FILE=str(receipts))
    with impatient(), selling(tmp_path, small_checkpoint, settings) as server:
        outcome = storm(market, server, receipts, CALLS, seed=3)
    assert outcome.wrongs == []
    assert outcome.calls == CALLS
    assert outcome.earned > 0
    assert {200, 402} <= outcome.statuses.keys()
