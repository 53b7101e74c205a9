"""Scores texts on a Runpod endpoint with the Runpod SDK: in one call, later, or in jobs of many."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

SCORES: Final = ("hate", "abusing", "neutral", "spam", "toxic")
FINAL: Final = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
SHOWN_CHARS: Final = 40
REQUEST_SECONDS: Final = 60

DESCRIPTION = """\
Score texts on a Runpod endpoint with the Runpod SDK.

  sync    sends one request that waits for its result (/runsync); for a few texts
  async   submits a job (/run), then asks for its result every second
  batch   reads a file with one text a line and submits a job for every --job-size lines, so that
          several workers share them

The key comes from RUNPOD_API_KEY. RUNPOD_ENDPOINT_BASE_URL replaces https://api.runpod.ai/v2."""

EXAMPLES = """\
examples:
  RUNPOD_API_KEY=… python examples/runpod_client.py sync  --endpoint-id ID "good morning"
  RUNPOD_API_KEY=… python examples/runpod_client.py async --endpoint-id ID "hello" "you are scum"
  RUNPOD_API_KEY=… python examples/runpod_client.py batch --endpoint-id ID tweets.txt
"""


class JobError(Exception):
    """A job has no result; the message says why."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mode", choices=["sync", "async", "batch"])
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="texts; for batch, one file name")
    parser.add_argument("--endpoint-id", required=True, metavar="ID")
    parser.add_argument(
        "--wait",
        type=int,
        default=300,
        metavar="SECONDS",
        help="how long to wait for a result; sync: 1 to 300 (%(default)s)",
    )
    parser.add_argument(
        "--job-size", type=int, default=256, metavar="N", help="texts per batch job (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.wait < 1 or (options.mode == "sync" and options.wait > 300):
        parser.error("--wait: must be from 1 to 300")
    if options.job_size < 1:
        parser.error("--job-size: must be at least 1")
    if options.mode == "batch" and len(options.texts) != 1:
        parser.error("batch takes one file name")
    return options


def question(texts: Sequence[str]) -> dict[str, Any]:
    """Return the body of a job that scores ``texts``."""
    return {"input": {"prompt": texts[0]} if len(texts) == 1 else {"prompts": list(texts)}}


def run_sync(endpoint: Any, texts: Sequence[str], wait: int) -> dict[str, Any]:
    """Submit and wait in one call.

    ``endpoint.run_sync`` would return None for a failed job and drop the reason.
    """
    path = f"{endpoint.endpoint_id}/runsync?wait={wait * 1000}"
    reply = endpoint.rp_client.post(path, question(texts), timeout=wait + REQUEST_SECONDS)
    return output_of(reply)


def run_async(endpoint: Any, texts: Sequence[str], wait: int) -> dict[str, Any]:
    """Submit, then ask every second."""
    return collect(endpoint, endpoint.run(question(texts)), time.monotonic() + wait)


def run_batch(endpoint: Any, path: Path, job_size: int, wait: int) -> list[dict[str, Any]]:
    """Submit all jobs before waiting for the first, so that workers share them."""
    # Not splitlines, which also splits at characters inside a text, such as U+2028.
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    texts = [line.removesuffix("\r") for line in lines if line.strip()]
    chunks = [texts[start : start + job_size] for start in range(0, len(texts), job_size)]
    jobs = [endpoint.run(question(chunk)) for chunk in chunks]
    deadline = time.monotonic() + wait
    items: list[dict[str, Any]] = []
    for number, job in enumerate(jobs, start=1):
        output = collect(endpoint, job, deadline)
        items += output.get("items", [output])
        print(f"job {number} of {len(jobs)}: {len(items)} texts scored", file=sys.stderr)
    return items


def collect(endpoint: Any, job: Any, deadline: float) -> dict[str, Any]:
    """Wait for a job's result; cancel the job at the deadline, so that it costs nothing more."""
    while True:
        reply = endpoint.rp_client.get(f"{endpoint.endpoint_id}/status/{job.job_id}")
        if reply["status"] in FINAL:
            return output_of(reply)
        if time.monotonic() >= deadline:
            job.cancel()
            raise JobError(f"{reply['status']}: no result in time, job {job.job_id} cancelled")
        time.sleep(1)


def output_of(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a finished job's output; raise :class:`JobError` for any other."""
    if reply["status"] != "COMPLETED":
        reason = reply.get("error", "no result yet")
        raise JobError(f"{reply['status']}: {reason} (job {reply['id']})")
    output: dict[str, Any] = reply["output"]
    return output


def show(items: Sequence[dict[str, Any]]) -> None:
    """Print a table of scores."""
    print(*(f"{name:>8}" for name in SCORES), f"{'label':<8}", "text", sep="  ")
    for item in items:
        text = " ".join(item["text"].split())
        text = text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"
        if "error" in item:
            dashes = (f"{'-':>8}" for _ in SCORES)
            print(*dashes, f"{'-':<8}", f"{text}  [{item['error']}]", sep="  ")
            continue
        scores = (f"{item[name]:8.4f}" for name in SCORES)
        print(*scores, f"{item['label']:<8}", text, sep="  ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one mode; return the exit code."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    key = os.environ.get("RUNPOD_API_KEY")
    if not key:
        print("error: RUNPOD_API_KEY is not set", file=sys.stderr)
        return 1
    # The SDK's default is DEBUG, which prints every reply. It reads the level at import.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "WARN")
    import runpod

    endpoint = runpod.Endpoint(options.endpoint_id, api_key=key)
    try:
        if options.mode == "batch":
            path = Path(options.texts[0])
            show(run_batch(endpoint, path, options.job_size, options.wait))
        else:
            run = run_sync if options.mode == "sync" else run_async
            output = run(endpoint, options.texts, options.wait)
            show(output.get("items", [output]))
    except (JobError, OSError, UnicodeDecodeError, RuntimeError) as exc:
        # The errors of requests are OSErrors. The SDK raises RuntimeError for a wrong key.
        print(f"error: {str(exc).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
