"""The Runpod worker.

On the platform (or wherever ``RUNPOD_WEBHOOK_GET_JOB`` is set) it works the endpoint's queue. Run
alone it scores ``test_input.json``, prints the reply as one JSON document and exits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatespeech.cli import heed_interrupts, make_parser, whole_number
from hatespeech.collector import starting
from hatespeech.contract import parse_request
from hatespeech.errors import CheckpointError, ServiceError, SettingsError, ValidationError
from hatespeech.libraries import set_library_defaults
from hatespeech.paths import ROOT
from hatespeech.settings import EngineSettings

if TYPE_CHECKING:
    from hatespeech.engine.predictor import Predictor
    from hatespeech.telemetry.recorder import Recorder

# How long the development API of a broken device has for the reply in progress.
LAST_REPLY_SECONDS = 0.5

DESCRIPTION = """\
Score tweets: hate, abusing, neutral, spam.

On Runpod, works the endpoint's queue. Elsewhere, without arguments, scores test_input.json (the one
in the current folder, else the one beside app.py) and prints the reply.
All settings are environment variables; docs/settings.md lists them."""

EPILOG = """\
examples:
  COMMAND
  COMMAND --test_input '{"input": {"prompts": ["good morning", "you are scum"]}}'
  COMMAND --test_input '{"input": {"prompt": "good morning", "explain": true}}'
  COMMAND --test_input job.json
  COMMAND --rp_serve_api --rp_api_port 8080
      then: curl localhost:8080/runsync -H 'content-type: application/json' \\
                 -d '{"input": {"prompt": "good morning"}}'
"""


def worker_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line; the names of its options are the Runpod SDK's."""
    parser = make_parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument(
        "--test_input",
        metavar="FILE|JSON",
        help="score this job, a file or JSON, print the reply and exit",
    )
    parser.add_argument(
        "--rp_serve_api", action="store_true", help="serve the SDK's development API (no token)"
    )
    parser.add_argument("--rp_api_host", default="localhost", help="its host (%(default)s)")
    parser.add_argument(
        "--rp_api_port", type=whole_number(1, 65_535), default=8000, help="its port (%(default)s)"
    )
    parser.add_argument(
        "--rp_log_level",
        choices=["DEBUG", "INFO", "WARN", "ERROR"],
        help="the SDK's own log level; DEBUG is held at INFO, since it would log every text",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "app.py") -> int:
    """Run the worker; return the exit code."""
    options = worker_parser(prog).parse_args(arguments)
    set_library_defaults(os.environ)
    local = options.test_input is not None or not (
        options.rp_serve_api or os.environ.get("RUNPOD_WEBHOOK_GET_JOB")
    )
    if not local:
        # A container's first process ignores a signal without a handler: it would take jobs later,
        # and be killed with them. The job loop has a handler of its own.
        signal.signal(signal.SIGTERM, lambda _signal, _frame: os._exit(128 + signal.SIGTERM))
    try:
        settings = EngineSettings.from_environment(os.environ)
        job = read_job(options.test_input) if local else {}
        refusal = refuse(job, settings) if local else None
        if refusal is not None:
            print_reply(refusal)
            return 1

        with starting():
            from hatespeech import logs
            from hatespeech.engine.predictor import Predictor
            from hatespeech.telemetry.recorder import Recorder

            logs.configure(settings, "asyncio")
            logs.warn_of_mistyped(os.environ)
            # A run of one job says in the job's line what counters would repeat.
            counted = {"log_counters": settings.log_counters and not local}
            recorder = Recorder(settings.model_copy(update=counted))
            classifier = Predictor.from_settings(settings)
        if local:
            return run_once(classifier, settings, recorder, job)
        return serve(classifier, settings, recorder, options)
    except (SettingsError, CheckpointError, ValidationError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1


def read_job(test_input: str | None) -> dict[str, Any]:
    """Return the job to score locally.

    ``test_input`` is a file, or else JSON; ``None`` stands for ``test_input.json``. Raises
    :class:`ValidationError` if there is no job in it.
    """
    source = "--test_input"
    if test_input is None:
        source = "test_input.json"
        path = Path(source) if Path(source).exists() else ROOT / source
        content = read_text(path, source)
    elif os.path.exists(test_input):  # noqa: PTH110 - a Path raises for a name that is too long
        content = read_text(Path(test_input), source)
    elif test_input.endswith(".json"):
        raise ValidationError("there is no such file", field=source)
    else:
        content = test_input.removeprefix("\ufeff")
    try:
        job = json.loads(content)
    except ValueError as exc:  # also: nested too deeply, numbers too long
        place = f" at line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise ValidationError(f"is not valid JSON{place}", field=source) from None
    except RecursionError:
        raise ValidationError("is nested too deeply", field=source) from None
    if not isinstance(job, dict) or "input" not in job:
        raise ValidationError('must be an object with "input"', field=source)
    return job


def read_text(path: Path, source: str) -> str:
    """Return what a JSON file holds, in UTF-8, or in UTF-16 as PowerShell writes it.

    Raises :class:`ValidationError` that names ``source`` if the file cannot be read.
    """
    try:
        data = path.read_bytes()
        return data.decode(json.detect_encoding(data))
    except (OSError, UnicodeDecodeError) as exc:
        raise ValidationError(f"cannot be read ({type(exc).__name__})", field=source) from None


def refuse(job: Mapping[str, Any], settings: EngineSettings) -> dict[str, Any] | None:
    """Return the reply to an input that the contract refuses, before a model is loaded for it."""
    try:
        parse_request(job["input"], settings)
    except ServiceError as error:
        return {"error": str(error)}
    return None


def run_once(
    classifier: Predictor, settings: EngineSettings, recorder: Recorder, job: dict[str, Any]
) -> int:
    """Score one job and print its reply on standard output, whatever the log level.

    The SDK has a local run of its own; it prints a Python repr, cut at 4,096 characters, and logs
    the text. This one goes through the same handler.
    """
    from hatespeech.engine.scorer import Scorer
    from hatespeech.worker.handler import JobHandler

    scorer = Scorer(classifier, settings)
    recorder.watch(lambda: scorer)
    reply = asyncio.run(JobHandler(scorer, recorder)(job))
    scorer.close()
    recorder.close()
    reply.pop("refresh_worker", None)  # for the platform alone
    print_reply(reply)
    return 1 if "error" in reply else 0


def print_reply(reply: Mapping[str, Any]) -> None:
    """Write a reply to standard output as one JSON document, in UTF-8 whatever the locale."""
    document = json.dumps(reply, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.buffer.write(f"{document}\n".encode())
    sys.stdout.flush()


def serve(
    classifier: Predictor,
    settings: EngineSettings,
    recorder: Recorder,
    options: argparse.Namespace,
) -> int:
    """Work the platform's queue, or serve the SDK's development API, until told to stop.

    Returns the exit code: 1 if the device broke, or if the SDK is not the one that it needs.
    """
    # The SDK reads its level at import. At DEBUG, its default, it logs every reply, texts and all.
    level = options.rp_log_level or os.environ.get("RUNPOD_LOG_LEVEL", "").upper()
    os.environ["RUNPOD_LOG_LEVEL"] = level if level in ("INFO", "WARN", "ERROR") else "INFO"
    sys.argv[1:] = []  # the SDK reads it again
    if options.rp_serve_api:
        host, port = options.rp_api_host, options.rp_api_port
        sys.argv[1:] = ["--rp_serve_api", f"--rp_api_host={host}", f"--rp_api_port={port}"]

    with starting(), no_processor_info():
        import runpod

        from hatespeech import logs
        from hatespeech.engine.scorer import Scorer
        from hatespeech.worker import job_loop, sdk_log, sdk_shape
        from hatespeech.worker.handler import JobHandler

    if not options.rp_serve_api:
        difference = sdk_shape.difference()
        if difference is not None:
            sys.stderr.write(f"error: {difference}\n")
            return 1

        job_loop.install(settings.stop_seconds)
    else:
        sdk_log.keep_handlers_of_uvicorn()
        logs.configure(settings, "asyncio", "uvicorn.error")
    logs.log_the_rest()
    sdk_log.install()

    config: dict[str, Any] = {}

    def on_broken() -> None:
        config["refresh_worker"] = True  # the job loop stops when it has answered a job
        if options.rp_serve_api:  # which does not stop by itself
            threading.Timer(LAST_REPLY_SECONDS, os._exit, [1]).start()

    scorer = Scorer(classifier, settings, on_broken)
    recorder.watch(lambda: scorer)
    handler = JobHandler(scorer, recorder)

    async def handle(job: dict[str, Any]) -> dict[str, Any]:
        return await handler(job)

    def fitness() -> None:
        check_fitness(classifier, settings)

    runpod.serverless.register_fitness_check(fitness)
    config["handler"] = handle
    # Constant: a changed value would stop fetching until every job in flight has ended.
    config["concurrency_modifier"] = lambda _current: settings.max_concurrency
    heed_interrupts()  # as the SDK's loop and its development API expect it
    try:
        with contextlib.redirect_stdout(sdk_log.LoggedLines()):
            runpod.serverless.start(config)
    finally:
        recorder.close()
    if "refresh_worker" in config:
        return 1
    scorer.close()
    return 0


@contextlib.contextmanager
def no_processor_info() -> Iterator[None]:
    """Keep the SDK, while it is imported, from looking for the processor's name.

    For a field of its debugger, which nothing here uses, it starts a Python process that takes
    longer than all else of its import.
    """
    try:
        import cpuinfo  # type: ignore[import-untyped]  # the SDK's
    except ImportError:  # an SDK that does not look
        yield
        return
    ask = cpuinfo.get_cpu_info
    cpuinfo.get_cpu_info = dict  # the SDK expects that the name may be missing
    try:
        yield
    finally:
        cpuinfo.get_cpu_info = ask


def check_fitness(classifier: Predictor, settings: EngineSettings) -> None:
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
