"""The Runpod worker.

On the platform (or wherever ``RUNPOD_WEBHOOK_GET_JOB`` is set) it works the endpoint's queue. Run
alone it scores ``test_input.json``, prints the reply as one JSON document and exits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatespeech.errors import CheckpointError, ServiceError, SettingsError, ValidationError
from hatespeech.libraries import set_library_defaults
from hatespeech.paths import ROOT
from hatespeech.settings import EngineSettings

if TYPE_CHECKING:
    from hatespeech.engine.classifier import Classifier

# How long a worker whose device broke waits for its last replies to be posted.
LAST_REPLIES_SECONDS = 30.0

DESCRIPTION = """\
Score tweets: hate, abusing, neutral, spam.

Without arguments, and off the platform, scores test_input.json (of the current folder, else the one
beside app.py) and prints the reply. With Runpod's environment, works the endpoint's queue.
EngineSettings come from environment variables; the README lists them."""

EXAMPLES = """\
examples:
  python app.py
  python app.py --test_input '{"input": {"prompts": ["good morning", "you are scum"]}}'
  python app.py --test_input '{"input": {"prompt": "good morning", "explain": true}}'
  python app.py --rp_serve_api --rp_api_port 8080
      then: curl localhost:8080/runsync -H 'content-type: application/json' \\
                 -d '{"input": {"prompt": "good morning"}}'
"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; the names are the Runpod SDK's."""
    parser = argparse.ArgumentParser(
        prog="app.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--test_input", metavar="JSON", help="score this job and exit")
    parser.add_argument(
        "--rp_serve_api", action="store_true", help="serve the SDK's development API (no auth)"
    )
    parser.add_argument("--rp_api_host", default="localhost", help="its host (%(default)s)")
    parser.add_argument("--rp_api_port", type=int, default=8000, help="its port (%(default)s)")
    parser.add_argument(
        "--rp_log_level",
        choices=["DEBUG", "INFO", "WARN", "ERROR"],
        help="the SDK's own log level; DEBUG is held at INFO, since it would log every text",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker; return the exit code."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    set_library_defaults(os.environ)
    local = options.test_input is not None or not (
        options.rp_serve_api or os.environ.get("RUNPOD_WEBHOOK_GET_JOB")
    )
    try:
        settings = EngineSettings.from_environment(os.environ)
        job = read_job(options.test_input) if local else {}

        from hatespeech import logs
        from hatespeech.engine.classifier import Classifier

        logs.configure(settings)
        classifier = Classifier.from_settings(settings)
    except (SettingsError, CheckpointError, ValidationError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    if local:
        return run_once(classifier, settings, job)
    return serve(classifier, settings, options)


def read_job(test_input: str | None) -> dict[str, Any]:
    """Return the job to score locally; raise :class:`ValidationError` if it is no job."""
    source = "--test_input"
    if test_input is None:
        source = "test_input.json"
        path = Path(source) if Path(source).exists() else ROOT / source
        try:
            test_input = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ValidationError(f"cannot be read ({type(exc).__name__})", field=source) from None
    try:
        job = json.loads(test_input)
    except ValueError as exc:  # also: nested too deeply, numbers too long
        place = f" at line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise ValidationError(f"is not valid JSON{place}", field=source) from None
    except RecursionError:
        raise ValidationError("is nested too deeply", field=source) from None
    if not isinstance(job, dict) or "input" not in job:
        raise ValidationError('must be an object with "input"', field=source)
    return job


def run_once(classifier: Classifier, settings: EngineSettings, job: dict[str, Any]) -> int:
    """Score one job and print its reply on standard output, whatever the log level.

    The SDK has a local run of its own; it prints a Python repr, cut at 4,096 characters, and logs
    the text. This one goes through the same handler.
    """
    from hatespeech.engine.scorer import Scorer
    from hatespeech.worker.handler import JobHandler

    scorer = Scorer(classifier, settings)
    reply = asyncio.run(JobHandler(scorer)(job))
    scorer.close()
    reply.pop("refresh_worker", None)  # for the platform alone
    document = json.dumps(reply, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.buffer.write(f"{document}\n".encode())
    sys.stdout.flush()
    return 1 if "error" in reply else 0


def serve(classifier: Classifier, settings: EngineSettings, options: argparse.Namespace) -> int:
    """Work the platform's queue, or serve the SDK's development API, until told to stop.

    Returns the exit code: 1 if the device broke, whoever notices first that all is answered.
    """
    # The SDK reads its level at import. At DEBUG, its default, it logs every reply, texts and all.
    level = options.rp_log_level or os.environ.get("RUNPOD_LOG_LEVEL", "").upper()
    os.environ["RUNPOD_LOG_LEVEL"] = level if level in ("INFO", "WARN", "ERROR") else "INFO"
    sys.argv[1:] = []  # the SDK reads it again
    if options.rp_serve_api:
        host, port = options.rp_api_host, options.rp_api_port
        sys.argv[1:] = ["--rp_serve_api", f"--rp_api_host={host}", f"--rp_api_port={port}"]

    import runpod

    from hatespeech.engine.scorer import Scorer
    from hatespeech.worker.handler import JobHandler

    config: dict[str, Any] = {}

    def on_broken() -> None:
        config["refresh_worker"] = True  # the SDK takes no further job
        threading.Thread(target=exit_when_answered, daemon=True).start()

    scorer = Scorer(classifier, settings, on_broken)
    handler = JobHandler(scorer)

    async def handle(job: dict[str, Any]) -> dict[str, Any]:
        return await handler(job)

    def fitness() -> None:
        check_fitness(classifier, settings)

    runpod.serverless.register_fitness_check(fitness)
    config["handler"] = handle
    # Constant: a changed value would stop fetching until every job in flight has ended.
    config["concurrency_modifier"] = lambda _current: settings.max_concurrency
    runpod.serverless.start(config)
    scorer.close()
    return 1 if "refresh_worker" in config else 0


def check_fitness(classifier: Classifier, settings: EngineSettings) -> None:
    """Raise :class:`RuntimeError` unless this worker can do what it is paid for.

    Called by the SDK before the first job, on the platform only.
    """
    import torch

    if settings.device != "cpu" and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device; set DEVICE=cpu to serve on a CPU on purpose")
    try:
        classifier.warm_up(settings.max_batch_tokens)
    except ServiceError as exc:
        raise RuntimeError(f"the model does not score: {exc}") from None


def exit_when_answered() -> None:
    """End the process, once the jobs in flight have been told, for the platform to replace it.

    The SDK alone would stay for as long as its long polls last, a broken worker on the bill.
    """
    from runpod.serverless.modules.worker_state import JobsProgress

    deadline = time.monotonic() + LAST_REPLIES_SECONDS
    time.sleep(0.5)  # for a reply of the development API, which keeps no such count
    while JobsProgress().get_job_count() and time.monotonic() < deadline:
        time.sleep(0.05)
    os._exit(1)
