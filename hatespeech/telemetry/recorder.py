"""What every front tells: the replies it gives, and the requests and jobs that end.

The counts go into the metrics, into the log line of the request or job, and into one line a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hatespeech.contract import TextScore, Timing
from hatespeech.errors import SettingsError
from hatespeech.extras import how_to_install
from hatespeech.logs import FIELDS
from hatespeech.memory import MIB, resident_bytes
from hatespeech.settings import EngineSettings
from hatespeech.telemetry.tally import Counts, Tally, Totals, add_counts

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from hatespeech.telemetry.families import LoadedModel
    from hatespeech.telemetry.tracing import RequestSpan, Tracing

log = logging.getLogger(__name__)

COUNTERS_SECONDS: Final = 60.0
HTTP: Final = "http"  # the protocol of requests that name no other
EXPORT_SETTING: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass
class Account:
    """One request or job while it is answered: what its replies held so far."""

    protocol: str = HTTP  # by which its texts came
    tally: Tally = field(default_factory=Tally)
    job_id: str | None = None  # of the job that a request submitted
    span: RequestSpan | None = None
    began: float = field(default_factory=time.perf_counter)

    @property
    def milliseconds(self) -> float:
        """Milliseconds since it began."""
        return (time.perf_counter() - self.began) * 1e3


# What this task works for. A task that it starts works for the same request.
_current: ContextVar[Account | None] = ContextVar("account", default=None)


class Recorder:
    """Counts what one process answers. Use it from one event loop only."""

    def __init__(self, settings: EngineSettings, registry: CollectorRegistry | None = None) -> None:
        """Prepare; ``registry`` is where a front has metrics of its own, if it has any.

        Raises :class:`SettingsError` if a collector is set and the extra ``otel`` is missing.
        """
        self.totals = Totals()
        self._registry = registry
        self._minute = _Minute() if settings.log_counters else None
        self._tracing: Tracing | None = None
        if settings.otel_exporter_otlp_endpoint is not None:
            try:
                from prometheus_client import CollectorRegistry

                from hatespeech.telemetry.tracing import Tracing
            except ModuleNotFoundError:
                raise SettingsError(
                    f"{EXPORT_SETTING} needs opentelemetry: {how_to_install('otel')}"
                ) from None
            self._registry = registry or CollectorRegistry()
            self._tracing = Tracing(settings.otel_exporter_otlp_endpoint, self._registry)

    def watch(self, model: Callable[[], LoadedModel | None]) -> None:
        """Have the metrics, if anything reads them, hold the totals and what the model tells.

        ``model`` returns ``None`` until it is loaded.
        """
        if self._registry is not None:
            from prometheus_client import ProcessCollector

            from hatespeech.telemetry.families import TextFamilies

            self._registry.register(TextFamilies(self.totals, model))
            ProcessCollector(registry=self._registry)  # memory, CPU time and open files

    @contextlib.contextmanager
    def account(
        self,
        protocol: str = HTTP,
        headers: Mapping[str, str] | None = None,
        job_id: str | None = None,
    ) -> Iterator[Account]:
        """Open the account of a request or job; what the block scores is counted in it.

        The trace that it belongs to is named by ``headers``, whose names are in lower case, or is
        that of the request which submitted the job.
        """
        account = Account(protocol)
        if self._tracing is not None:
            account.span = self._tracing.begin(headers or {}, job_id)
        token = _current.set(account)
        try:
            yield account
        finally:
            _current.reset(token)

    def count(self, items: Sequence[TextScore], timing: Timing) -> None:
        """Count a reply, or a part of one, for the request or job that it belongs to."""
        account = _current.get()
        tally = self.totals.count(items, timing, HTTP if account is None else account.protocol)
        if account is not None:
            account.tally.add(tally)
            if account.span is not None:
                account.span.scored(tally)

    def submitted(self, job_id: str) -> None:
        """Note that the request of this task made a job, so that both can be seen as one."""
        account = _current.get()
        if account is not None:
            account.job_id = job_id
            if self._tracing is not None and account.span is not None:
                self._tracing.submitted(account.span, job_id)

    def request_ended(
        self,
        account: Account,
        name: str,
        *,
        quiet: bool,
        attributes: Mapping[str, str | int],
        error_type: str | None,
    ) -> None:
        """Count a request for the minute, and end its span; a ``quiet`` one is a probe."""
        if quiet:
            return  # a span that does not end is not sent
        if self._minute is not None:
            self._minute.add(str(attributes["http.response.status_code"]), account.tally)
        if account.span is not None:
            account.span.end(name, attributes, error_type)

    def job_ended(
        self, job_id: str, outcome: str, error_type: str | None = None, **fields: Any
    ) -> None:
        """Log one line about the job of this task, and count it.

        ``fields`` are more of a JSON line.
        """
        account = _current.get() or Account()
        milliseconds = account.milliseconds
        texts = str(account.tally)
        log.info(
            "job %s %s in %.1f ms%s%s",
            job_id,
            outcome,
            milliseconds,
            f": {error_type}" if error_type else "",
            f": {texts}" if texts else "",
            extra={
                FIELDS: {
                    "job_id": job_id,
                    "outcome": outcome,
                    "milliseconds": round(milliseconds, 1),
                    "error_type": error_type,
                    **account.tally.fields(),
                    **fields,
                }
            },
        )
        add_counts(self.totals.jobs, {outcome: 1})
        if error_type is not None:
            add_counts(self.totals.errors, {error_type: 1})
        if self._minute is not None:
            self._minute.add(outcome, account.tally)
        if account.span is not None:
            attributes = {"hatespeech.job_id": job_id, "hatespeech.outcome": outcome}
            account.span.end("job", attributes, error_type)

    def start(self) -> None:
        """Start to send to the collector, if one is set; again does nothing.

        Not earlier: the Runpod SDK forks a process that must not send, too.
        """
        if self._tracing is not None:
            self._tracing.start()

    def close(self) -> None:
        """Write the last counters; hand the collector what is left, unless it is out of reach."""
        if self._minute is not None:
            self._minute.write()
        if self._tracing is not None:
            self._tracing.close()


class _Minute:
    """What happened since the last line of counters; a quiet minute has none."""

    def __init__(self) -> None:
        self._began = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._outcomes: Counts = {}
        self._tally = Tally()

    def add(self, outcome: str, tally: Tally) -> None:
        """Count what ended; the first one starts the minute."""
        add_counts(self._outcomes, {outcome: 1})
        self._tally.add(tally)
        if self._timer is None:
            self._began = time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(COUNTERS_SECONDS, self.write)

    def write(self) -> None:
        """Log the counters, if there are any, and begin anew."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        seconds, memory = time.monotonic() - self._began, resident_bytes()
        log.info(
            "counters of %d s: %s%s; memory %d MiB",
            max(1, round(seconds)),
            ", ".join(f"{outcome}: {count}" for outcome, count in self._outcomes.items()),
            f"; {self._tally}" if self._tally.texts else "",
            memory // MIB,
            extra={
                FIELDS: {
                    "seconds": round(seconds, 1),
                    "outcomes": dict(self._outcomes),
                    **self._tally.fields(),
                    "memory_bytes": memory,
                }
            },
        )
        self._outcomes, self._tally = {}, Tally()
