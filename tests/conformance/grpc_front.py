"""gRPC: through the stand-in of SingularityNET's daemon, and from the server itself."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from tests.conformance.fronts import SECONDS, Answer, Front, read_error, read_job
from tests.conformance.suite import SCORES, Case
from tests.support.grpc_client import Ended, GrpcClient
from tests.support.stand_ins.snet_client import write_config
from tests.support.stand_ins.snet_daemon import PROTO, SnetDaemon, compile_proto, new_message

CODES: Final = {
    "validation": "INVALID_ARGUMENT",
    "unread": "INVALID_ARGUMENT",
    "too_large": "RESOURCE_EXHAUSTED",
}


@contextlib.contextmanager
def grpc_front(
    folder: Path, service: str, token: str, statuses: Mapping[str, int] | None = None
) -> Iterator[Front]:
    """The proto's method, by a daemon whose ``service_endpoint`` is ``service``.

    With ``statuses``, by code of error, the service answers what has no scores with one of them.
    """
    config = write_config(folder, "--self-hosted", service, BEARER_TOKEN=token)
    (method,) = compile_proto(PROTO)
    with SnetDaemon(config) as daemon, grpc.insecure_channel(daemon.address) as channel:
        call: Callable[..., Any] = channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=type(new_message(method, "output")).FromString,
        )

        def exchange(cases: Sequence[Case]) -> list[Any]:
            return [attempt(question(case.input)) for case in cases]

        def attempt(message: Message) -> Any:
            try:
                return call(message, timeout=SECONDS)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise  # the next one would be waited for as long
                return error

        def translate(raw: Message | grpc.RpcError, case: Case) -> Answer:
            if statuses is None or not isinstance(raw, grpc.RpcError):
                return translate_grpc(raw, case)
            return translate_unpaid(raw, case, statuses)

        yield Front("grpc", exchange, translate)


def grpc_direct(client: GrpcClient) -> Front:
    """The proto's method, answered by the server."""

    def exchange(cases: Sequence[Case]) -> list[Ended]:
        return [client.send(question(case.input).SerializeToString()) for case in cases]

    def translate(raw: Ended, case: Case) -> Answer:
        if raw.message is not None:
            assert raw.message.status == "COMPLETED", "OK without an output"
            return translate_grpc(raw.message, case)
        answer = read_error(raw.line)
        assert raw.name == CODES[answer["error"]["code"]], f"{raw.line} with code {raw.name}"
        return answer

    return Front("grpc", exchange, translate)


def question(job_input: Any) -> Message:
    """Return the proto's message; raise :class:`json_format.ParseError` if it has no such field."""
    (method,) = compile_proto(PROTO)
    return json_format.ParseDict({"input": job_input}, new_message(method, "input"))


def over_grpc(job_input: Any) -> bool:
    """Say whether the service is sent this very input if it is put into the proto's message."""
    try:
        message = question(job_input)
    except (json_format.ParseError, UnicodeEncodeError):
        return False
    sent = json_format.MessageToDict(message, preserving_proto_field_name=True)
    # As text: to Python, True is 1.
    as_text = [json.dumps(value, sort_keys=True) for value in (sent, {"input": job_input})]
    return as_text[0] == as_text[1]


def translate_grpc(raw: Message | grpc.RpcError, case: Case) -> Answer:
    """Read the proto's message, in which what is not there reads as empty or zero."""
    assert isinstance(raw, Message), f"an error of the call: {raw}"
    fields = json_format.MessageToDict(
        raw, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if fields["status"] == "FAILED":
        assert not raw.HasField("output"), "a failed job has output"
        return read_job({name: fields[name] for name in ("id", "status", "error")})
    assert fields.pop("error") == "", "a completed job has an error"
    result = fields["output"]
    head = {name: result.pop(name) for name in ("model", "timing", "versions")}
    if "thresholds" in result:
        head["thresholds"] = result.pop("thresholds")
    items = [read_result(item, case.input) for item in result.pop("items")]
    if {"prompts", "texts"} & case.input.keys():
        beside = {name: value for name, value in result.items() if value}
        assert not beside, f"beside the items: {sorted(beside)}"
        return {"reply": {"items": items, **head}}
    return {"reply": {**read_result(result, case.input), **head}}


def translate_unpaid(error: grpc.RpcError, case: Case, statuses: Mapping[str, int]) -> Answer:
    """Read the error of a call for which nobody pays."""
    found = re.match(r"upstream http status (\d+): (\{.*\})\n", str(error.details()))
    assert found, f"not the service's own error: {error}"
    body = json.loads(found[2])
    assert body.keys() == {"error", "error_type", "id"}, f"an error with {sorted(body)}"
    code, message = body["error_type"], body["error"]
    assert int(found[1]) == statuses[code], f"{code} with status {found[1]}"
    if case.reply is not None:  # a batch without any scores has the error of its first text
        errors = [item.get("error") for item in case.reply["items"]]
        assert None not in errors, "a text has scores"
        assert errors[0] == f"{code}: {message}", f"{code}: {message}"
        return {"reply": case.reply}
    return {"error": {"code": code, "message": message}}


def read_result(result: Mapping[str, Any], job_input: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a proto's reader takes for not there, but for lists that were asked for."""
    kept = {"text"}
    if not result["error"]:
        kept |= {"flagged"} if job_input.get("thresholds") is not None else set()
        kept |= {"words"} if job_input.get("explain") else set()
    return {
        name: value for name, value in result.items() if value or name in kept or name in SCORES
    }
