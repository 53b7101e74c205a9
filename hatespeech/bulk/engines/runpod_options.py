"""The Runpod engine's command-line options and its factory."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, Final

from hatespeech.bulk.engines.base import EngineError
from hatespeech.cli import whole_number
from hatespeech.settings import EngineSettings

if TYPE_CHECKING:
    from hatespeech.bulk.engines.runpod_client import Endpoint
    from hatespeech.bulk.engines.runpod_engine import RunpodEngine

_MOST_IN_FLIGHT: Final = 200  # the platform's own limit on concurrent submissions


def add_arguments(group: Any) -> None:
    """Add the engine's options to a group of an argument parser."""
    group.add_argument("--endpoint", metavar="ID", help="id of the queue endpoint")
    group.add_argument(
        "--in-flight",
        type=whole_number(1, _MOST_IN_FLIGHT),
        default=8,
        metavar="N",
        help="jobs submitted and not finished; two or three for each worker (default: %(default)s)",
    )
    group.add_argument(
        "--job-texts",
        type=whole_number(1, 100_000),
        metavar="N",
        help="maximum number of texts in one job (default: MAX_TEXTS_PER_REQUEST, the workers' own "
        "limit)",
    )
    group.add_argument(
        "--job-timeout",
        type=whole_number(10, 259_200),
        default=600,
        metavar="SECONDS",
        help="how long a worker may work on a job (default: %(default)s)",
    )
    group.add_argument(
        "--queue-timeout",
        type=whole_number(10, 259_200),
        default=1800,
        metavar="SECONDS",
        help="stop if no worker takes a job in this time (default: %(default)s)",
    )


def check(options: argparse.Namespace, _settings: EngineSettings) -> None:
    """Raise the errors of :func:`make_engine`; sends nothing."""
    _endpoint(options).close()


def _endpoint(options: argparse.Namespace) -> Endpoint:
    # Imported here, because the other engines need no HTTP client.
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
    """Return the engine that the command line asks for, with the key from the environment.

    Raises :class:`EngineError` for a missing key or endpoint, or an address that is not safe.
    """
    from hatespeech.bulk.engines.runpod_engine import RunpodEngine
    from hatespeech.bulk.engines.runpod_jobs import EndpointJobs, Limits

    endpoint = _endpoint(options)
    return RunpodEngine(
        endpoint,
        EndpointJobs(
            endpoint,
            Limits(job=options.job_timeout, queue=options.queue_timeout),
            settings.robust,
        ),
        settings,
        in_flight=options.in_flight,
        job_texts=options.job_texts or settings.max_texts_per_request,
    )
