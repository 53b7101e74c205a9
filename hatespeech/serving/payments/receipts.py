"""What was paid, in the log, the metrics and a file; never a text."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from hatespeech.journal import Journal
from hatespeech.logs import FIELDS
from hatespeech.serving.payments.facilitator import FacilitatorError
from hatespeech.serving.payments.rail import PaidWork, Payment, Receipt

PREFIX: Final = "hate_speech_"

# The outcome of a request to a priced route: its terms were told, its payment was refused, payments
# could not be taken, nothing was charged because there was no result, it was paid, it was served
# without knowing, or a reply that was paid before was sent once more.
Outcome = Literal["asked", "refused", "unavailable", "uncharged", "paid", "unknown", "repeated"]

log = logging.getLogger(__name__)


class Receipts:
    """Counts the outcomes of priced requests, and writes down what was paid."""

    def __init__(self, registry: CollectorRegistry, path: Path | None) -> None:
        """Open the file, if there is one; raise :class:`SettingsError` if that fails."""
        self._journal = None if path is None else Journal(path, "RECEIPTS_FILE", "receipts")
        self._payments = Counter(
            f"{PREFIX}payments",
            "Requests of buyers, by rail, outcome and reason.",
            ("rail", "outcome", "reason"),
            registry=registry,
        )
        self._amount = Counter(
            f"{PREFIX}paid_amount",
            "What was paid, in the smallest unit of the rail's token or in credits.",
            ("rail",),
            registry=registry,
        )
        self._texts = Counter(
            f"{PREFIX}paid_texts", "Texts that were paid for.", ("rail",), registry=registry
        )
        unwritten = Gauge(
            f"{PREFIX}receipts_unwritten",
            "Receipts that RECEIPTS_FILE has no line for.",
            registry=registry,
        )
        unwritten.set_function(lambda: 0 if self._journal is None else self._journal.unwritten)

    def count(self, rail: str, outcome: Outcome, reason: str = "") -> None:
        """Count the outcome of one request."""
        self._payments.labels(rail, outcome, reason).inc()

    def note_paid(self, payment: Payment, receipt: Receipt, route: str, work: PaidWork) -> None:
        """Write down a payment that was taken."""
        self.count(payment.rail, "paid")
        self._amount.labels(payment.rail).inc(int(payment.amount))
        self._texts.labels(payment.rail).inc(work.texts)
        self._write("paid", payment, receipt.transaction, receipt.payer, route, work)

    def note_unknown(
        self, payment: Payment, error: FacilitatorError, route: str, work: PaidWork
    ) -> None:
        """Write down a payment that may have been taken, and whose request is served."""
        self.count(payment.rail, "unknown")
        self._write("unknown", payment, error.transaction, payment.payer, route, work)

    def _write(
        self,
        outcome: Outcome,
        payment: Payment,
        transaction: str,
        payer: str,
        route: str,
        work: PaidWork,
    ) -> None:
        line: dict[str, Any] = {
            "outcome": outcome,
            "rail": payment.rail,
            "transaction": transaction,
            "payer": payer,
            "amount": payment.amount,
            "route": route,
            "texts": work.texts,
        }
        if outcome == "unknown":
            line["payment"] = payment.key  # to look it up on the chain
        level = logging.INFO if outcome == "paid" else logging.ERROR
        log.log(
            level,
            "receipt %s %s of %s from %s for %s with %d texts, transaction %s",
            *(outcome, payment.rail, payment.amount, payer or "?", route, work.texts),
            transaction or "?",
            extra={FIELDS: line},
        )
        if self._journal is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._journal.write([{"time": now, **line}])

    def close(self) -> None:
        """Close the file."""
        if self._journal is not None:
            self._journal.close()
