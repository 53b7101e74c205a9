"""A Runpod worker whose handler returns a constant: the most that the SDK alone can do."""

from __future__ import annotations

import os
from typing import Any

os.environ["RUNPOD_LOG_LEVEL"] = "INFO"  # as app.py has it; the SDK reads it at import

import runpod

REPLY = {
    "text": "good morning",
    **{"hate": 0.01, "abusing": 0.01, "neutral": 0.97, "spam": 0.01},
    **{"toxic": 0.02, "label": "neutral", "windows": 1, "model": "none"},
    "timing": {"queue_ms": 0.0, "compute_ms": 0.0},
}


async def handle(_job: dict[str, Any]) -> dict[str, Any]:
    """Answer at once."""
    return REPLY


if __name__ == "__main__":
    concurrency = int(os.environ["MAX_CONCURRENCY"])
    runpod.serverless.start(
        {"handler": handle, "concurrency_modifier": lambda _current: concurrency}
    )
