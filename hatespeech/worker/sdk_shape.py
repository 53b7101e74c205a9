"""Whether the installed Runpod SDK has the shape that the job loop relies on.

The job loop replaces parts of a class that is no public interface and may change in any release. On
an SDK of another shape it would lose jobs without a word. The worker does not start then: the
mistake shows at the first start after it was made, and not months later in jobs without an answer.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import CodeType
from typing import Any, Final

TESTED_VERSION: Final = "1.12.0"


@dataclass(frozen=True)
class SdkPart:
    """A function of the SDK: the names of its parameters, and names that its code looks up."""

    module: str  # below ``runpod``
    name: str
    parameters: tuple[str, ...]
    uses: tuple[str, ...] = ()


_SCALE: Final = "serverless.modules.rp_scale"
_STATE: Final = "serverless.modules.worker_state"
_SELF: Final = ("self",)
_SESSION: Final = ("self", "session")

PARTS: Final = (
    # Makes the loop from whichever class stands under this name.
    SdkPart("serverless.worker", "run_worker", ("config",), ("rp_scale", "JobScaler", "start")),
    # What the job loop overrides, and what calls it.
    SdkPart(_SCALE, "JobScaler.__init__", ("self", "config"), ("jobs_queue", "jobs_handler")),
    SdkPart(_SCALE, "JobScaler.start", _SELF, ("handle_shutdown", "run")),
    SdkPart(_SCALE, "JobScaler.run", _SELF, ("get_jobs", "monitor_stop_signals")),
    SdkPart(_SCALE, "JobScaler.handle_shutdown", ("self", "signum", "frame"), ("kill_worker",)),
    SdkPart(_SCALE, "JobScaler.kill_worker", _SELF),
    SdkPart(_SCALE, "JobScaler.is_alive", _SELF),
    SdkPart(_SCALE, "JobScaler.get_jobs", _SESSION, ("set_scale", "job_progress", "jobs_queue")),
    # What it leaves as it is.
    SdkPart(_SCALE, "JobScaler.set_scale", _SELF),
    SdkPart(_SCALE, "JobScaler.current_occupancy", _SELF, ("jobs_queue", "job_progress")),
    SdkPart(_SCALE, "JobScaler.monitor_stop_signals", _SESSION, ("is_alive", "stop_job")),
    SdkPart(_SCALE, "JobScaler.stop_job", ("self", "job_id"), ("jobs_tasks", "cancel")),
    SdkPart(
        _SCALE,
        "JobScaler.handle_job",
        (*_SESSION, "job"),
        ("jobs_handler", "kill_worker", "jobs_queue", "task_done", "job_progress", "jobs_tasks"),
    ),
    # Which jobs run, for the process that pings.
    SdkPart(_STATE, "JobsProgress.set_mirror", ("self", "mirror"), ("_mirror",)),
    SdkPart(_STATE, "JobsProgress._notify_mirror", _SELF, ("_mirror", "set", "get_job_list")),
    SdkPart("serverless.modules.rp_job", "get_job", ("session", "num_jobs"), ("TooManyRequests",)),
    SdkPart("serverless.modules.rp_job", "run_job", ("handler", "job")),
    # What the SDK logs goes to our log.
    SdkPart(
        "serverless.modules.rp_logger",
        "RunPodLogger.log",
        ("self", "message", "message_level", "job_id"),
        ("print",),
    ),
    # Where a reply goes, and how a session is made.
    SdkPart(
        "serverless.modules.rp_http",
        "send_result",
        ("session", "job_data", "job", "is_stream"),
        ("JOB_DONE_URL",),
    ),
    SdkPart("http_client", "AsyncClientSession", ("args", "kwargs")),
)


def difference(parts: Sequence[SdkPart] = PARTS) -> str | None:
    """Return in one line how the SDK differs from what the job loop needs, if it does."""
    for part in parts:
        found = _difference(part)
        if found:
            return (
                f"the Runpod SDK {version('runpod')} does not fit this worker: "
                f"{part.module}.{part.name} {found}; install runpod=={TESTED_VERSION}"
            )
    return None


def _difference(part: SdkPart) -> str | None:
    try:
        function: Any = importlib.import_module(f"runpod.{part.module}")
        for name in part.name.split("."):
            function = getattr(function, name)
        parameters = tuple(inspect.signature(function).parameters)
        code: CodeType = function.__code__
    except (ImportError, AttributeError, TypeError, ValueError):
        return "is missing"
    if parameters != part.parameters:
        return f"takes ({', '.join(parameters)}) instead of ({', '.join(part.parameters)})"
    missing = [name for name in part.uses if name not in code.co_names]
    return f"no longer uses {missing[0]}" if missing else None
