"""The header ``Scores-Or-Error``: a reply of status 2xx has scores, and all else is an error.

Without it, ``/runsync`` answers 200 for every job it accepts, as Runpod does. SingularityNET's
daemon takes the caller's payment for every 2xx, so it would be paid for a job that failed. Its
configuration can hold the header. The value is the largest reply that the daemon's callers read, in
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers

from hatespeech.collector import without_garbage_collection
from hatespeech.contract import FIELDS
from hatespeech.errors import (
    InternalError,
    ServiceError,
    TooLargeError,
    read_error,
)
from hatespeech.serving.http_errors import UnfinishedError
from hatespeech.serving.jobs.store import StoredJob
from hatespeech.serving.reading import read_whole_number

HEADER: Final = "Scores-Or-Error"
REPLY: Final = "reply"  # the field that an error names if it is too large
MAX_BYTES: Final = 2_147_483_647  # gRPC's messages cannot be larger

SCALAR_BYTES: Final = 4  # a score; protobuf's float
DOUBLE_BYTES: Final = 8
DOUBLES: Final = ("timing", "thresholds")  # the messages whose numbers are doubles
RESULTS: Final = ("output", "items")  # where the message ``results`` stands
# Its fields whose numbers take two bytes; every other number takes one.
LATE: Final = frozenset(field.name for field in FIELDS if field.proto > 15)


def read_limit(headers: Headers) -> int | None:
    """Return the header's value, ``None`` without it.

    Raises :class:`ValidationError` if it is not a size.
    """
    value = headers.get(HEADER)
    if value is None:
        return None
    return read_whole_number(value, HEADER, 1, MAX_BYTES)


def refusal(job: StoredJob, reply: bytes, limit: int) -> ServiceError | None:
    """Return why a job's ``reply`` must not be paid for, ``None`` if it may be.

    Reads megabytes for a large batch: call it in a thread. If no text of a batch has scores, the
    error of its first text speaks for all.
    """
    if job.status == "FAILED":
        return _read(str(job.error))
    if job.status != "COMPLETED":
        cause = "was cancelled" if job.status == "CANCELLED" else f"is {job.status}"
        return UnfinishedError(f"the job {cause}")
    with without_garbage_collection():
        output: dict[str, Any] = json.loads(str(job.output))
    items = output.get("items")
    if items is not None and all("error" in item for item in items):
        return _read(items[0]["error"])
    # The message never has more bytes than the JSON, and often has a quarter.
    if len(reply) <= limit:
        return None
    size = message_bytes({"output": output, "status": job.status, "id": job.id})
    if size <= limit:
        return None
    return TooLargeError(f"has {size} bytes, at most {limit} are read; send less", field=REPLY)


def _read(written: str) -> ServiceError:
    return read_error(written) or InternalError("the job could not be scored")


def message_bytes(fields: Mapping[str, Any], of: str = "") -> int:
    """Return how many bytes these fields of a reply have as a message of ``service.proto``.

    ``of`` is the field that holds the message; "" for the whole reply.

    Protobuf leaves out a number that is zero and a string that is empty. A float counts here even
    if it is zero, so the result may be a few bytes too many.
    """
    return sum(
        (2 if of in RESULTS and name in LATE else 1) + _value_bytes(each, name, of)
        for name, value in fields.items()
        if value or isinstance(value, float)
        for each in (value if isinstance(value, list) else (value,))
    )


def _value_bytes(value: Any, name: str, of: str) -> int:
    if isinstance(value, float):
        return DOUBLE_BYTES if of in DOUBLES else SCALAR_BYTES
    if isinstance(value, int):
        return _varint_bytes(value)
    size = message_bytes(value, name) if isinstance(value, dict) else len(value.encode())
    return _varint_bytes(size) + size


def _varint_bytes(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
