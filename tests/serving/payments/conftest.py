"""A market of this machine: a chain, a facilitator, a server that sells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.payments.market import Market, open_market


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A chain and a facilitator, which all tests share. Each looks at the balances before and
    after, and so has the chain to itself: the tests of one process run one after another."""
    with open_market(tmp_path_factory.mktemp("market")) as market:
        yield market
