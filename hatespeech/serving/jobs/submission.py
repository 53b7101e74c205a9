"""What a caller submits: a job's input, and what Runpod's API lets a caller say beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hatespeech.errors import ValidationError
from hatespeech.serving.jobs.webhook_urls import MAX_URL_CHARS, check_url
from hatespeech.serving.openapi import score_input
from hatespeech.serving.settings import ServerSettings

MAX_MS: Final = 604_800_000  # a week, which is Runpod's limit, too

# The document describes valid inputs, and says that others are accepted, too.
_REFUSED_INPUT: Final = {"description": "Any other value makes a job that fails, with an `error`."}
_MILLISECONDS: Final = {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_MS}


@dataclass(frozen=True)
class Submission:
    """A job's input, which may break the contract, its limits in seconds, and whom to tell."""

    input: Any
    ttl: float | None = None  # from when it is accepted until it must be answered
    run_limit: float | None = None  # for which it may run
    webhook: str | None = None  # the URL to tell when it has ended


def read_submission(body: Any, settings: ServerSettings) -> Submission:
    """Read the body of ``/run`` and ``/runsync``.

    A key whose value is null counts as left out. Raises :class:`ValidationError` if the body is
    not a job, or asks for what the service would not do.
    """
    if not isinstance(body, dict) or "input" not in body:
        raise ValidationError('must be an object with "input"', field="body")
    if body.get("s3Config") is not None:
        raise ValidationError("is not supported: texts and scores need no bucket", field="s3Config")
    if not body.keys() <= {"input", "policy", "webhook", "s3Config"}:
        raise ValidationError('must hold only "input", "policy" and "webhook"', field="body")
    policy = body.get("policy")
    if policy is None:
        policy = {}
    if not isinstance(policy, dict):
        raise ValidationError("must be an object", field="policy")
    if not policy.keys() <= {"ttl", "executionTimeout", "lowPriority"}:
        raise ValidationError(
            'must hold only "ttl", "executionTimeout" and "lowPriority"', field="policy"
        )
    if not isinstance(policy.get("lowPriority", False), bool | None):
        raise ValidationError("must be true or false", field="policy.lowPriority")
    webhook = body.get("webhook")
    if webhook is not None:
        if settings.webhook_secret is None:
            raise ValidationError(
                "is off on this server; its operator can set WEBHOOK_SECRET", field="webhook"
            )
        webhook = check_url(webhook, settings.webhook_targets)
    return Submission(
        body["input"],
        _read_seconds(policy, "ttl"),
        _read_seconds(policy, "executionTimeout"),
        webhook,
    )


def _read_seconds(policy: Mapping[str, Any], name: str) -> float | None:
    value = policy.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # to JSON they are one number
    if type(value) is not int or not 1 <= value <= MAX_MS:
        raise ValidationError(
            f"must be a whole number of milliseconds from 1 to {MAX_MS}", field=f"policy.{name}"
        )
    return value / 1000


def submission_schema(settings: ServerSettings) -> dict[str, Any]:
    """Return the JSON schema of what :func:`read_submission` reads."""
    policy = {
        "type": ["object", "null"],
        "description": "Limits of this job, as Runpod's API has them.",
        "additionalProperties": False,
        "properties": {
            "ttl": {
                **_MILLISECONDS,
                "description": "Milliseconds after which a job that is not answered has the status "
                "`TIMED_OUT`.",
            },
            "executionTimeout": {
                **_MILLISECONDS,
                "description": "Milliseconds for which the job may run; then it has the status "
                "`TIMED_OUT`.",
            },
            "lowPriority": {
                "type": ["boolean", "null"],
                "description": "Accepted and ignored: this server starts no workers.",
            },
        },
    }
    webhook: dict[str, Any] = {"type": "null", "description": "Off on this server."}
    if settings.webhook_secret is not None:
        webhook = {
            "type": ["string", "null"],
            "pattern": f"^[!-~]{{1,{MAX_URL_CHARS}}}$",
            "description": "A URL with a public address that gets what `/status` returns, by a "
            "signed POST, once the job has ended.",
        }
    return {
        "type": "object",
        "required": ["input"],
        "additionalProperties": False,
        "properties": {
            "input": {
                "anyOf": [score_input(settings), _REFUSED_INPUT],
                "description": "What `/score` takes.",
            },
            "policy": policy,
            "webhook": webhook,
            "s3Config": {"type": "null", "description": "Not supported."},
        },
    }
