"""What ``score.py`` can be told about a Runpod endpoint, and the engine that comes of it."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, Final, Protocol

from hatespeech.bulk.engines.base import EngineError
from hatespeech.cli import whole_number
from hatespeech.settings import EngineSettings

if TYPE_CHECKING:
    from hatespeech.bulk.engines.runpod_client import Endpoint
    from hatespeech.bulk.engines.runpod_engine import RunpodEngine

_MOST_IN_FLIGHT: Final = 200  # the platform's own limit on concurrent submissions


class ArgumentGroup(Protocol):
    """What :mod:`argparse` calls a group of arguments."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """See :meth:`argparse.ArgumentParser.add_argument`."""
        ...


def add_arguments(group: ArgumentGroup) -> None:
    """Add what the engine can be told on the command line."""
    group.add_argument("--endpoint", metavar="ID", help="id of the queue endpoint")
    group.add_argument(
        "--in-flight",
        type=whole_number(1, _MOST_IN_FLIGHT),
        default=8,
        metavar="N",
        help="jobs submitted and not finished at once; two or more for each worker (%(default)s)",
    )
    group.add_argument(
        "--job-texts",
        type=whole_number(1, 100_000),
        metavar="N",
        help="texts in one job at most (MAX_TEXTS_PER_REQUEST, the workers' own limit)",
    )
    group.add_argument(
        "--job-timeout",
        type=whole_number(10, 259_200),
        default=600,
        metavar="SECONDS",
        help="how long a worker may be at work on a job (%(default)s)",
    )
    group.add_argument(
        "--queue-timeout",
        type=whole_number(10, 259_200),
        default=1800,
        metavar="SECONDS",
        help="give up when no worker takes a job for so long (%(default)s)",
    )


def check(options: argparse.Namespace, _settings: EngineSettings) -> None:
    """Raise as :func:`make_engine`; nothing is sent."""
    _endpoint(options).close()


def _endpoint(options: argparse.Namespace) -> Endpoint:
    # Imported late: a command line that chooses another engine has no use for an HTTP client.
    from hatespeech.bulk.engines.runpod_client import BASE_URL, BASE_URL_VARIABLE, Endpoint, Pace

    if not options.endpoint:
        raise EngineError("--endpoint is missing: the id of the Runpod endpoint")
    return Endpoint(
        os.environ.get(BASE_URL_VARIABLE, "").strip() or BASE_URL,
        options.endpoint,
        os.environ.get("RUNPOD_API_KEY", "").strip(),
        Pace.for_jobs(options.in_flight),
    )


def make_engine(options: argparse.Namespace, settings: EngineSettings) -> RunpodEngine:
    """Return the engine that the command line asks for; the key is the environment's.

    Raises :class:`EngineError` for a missing key or endpoint, or an address that is not safe.
    """
    from hatespeech.bulk.engines.runpod_engine import RunpodEngine
    from hatespeech.bulk.engines.runpod_jobs import EndpointJobs, Limits

    endpoint = _endpoint(options)
    return RunpodEngine(
        endpoint,
        EndpointJobs(endpoint, Limits(job=options.job_timeout, queue=options.queue_timeout)),
        settings,
        in_flight=options.in_flight,
        job_texts=options.job_texts or settings.max_texts_per_request,
    )
