"""The stand-in for the SingularityNET daemon keeps the daemon's rules, one by one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from scripts.snetd_config import duration
from tests.singularitynet.conftest import Service
from tests.support.stand_ins.snet_daemon import (
    DaemonConfig,
    DaemonConfigError,
    SnetDaemon,
    compile_proto,
    new_message,
)

PROTO = """
syntax = "proto3";
package zoo;
message Inner { string name = 1; }
message Question {
  string text = 1; bool flag = 2; int32 small = 3; int64 large = 4; float ratio = 5;
  optional string set_text = 6; optional float set_ratio = 7;
  Inner inner = 8; repeated string many = 9;
}
message Reply {
  string text = 1; float ratio = 2; repeated Inner items = 3; int32 queue_ms = 4;
}
message Other { string other = 1; }
service First { rpc ask(Question) returns (Reply); rpc both(Question) returns (Reply); }
service Second { rpc both(Other) returns (Other); rpc late(Other) returns (Other); }
"""


@pytest.fixture(scope="module")
def proto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("proto") / "zoo.proto"
    path.write_text(PROTO)
    return path


@dataclass
class Call:
    """Starts a daemon with a configuration, and calls it."""

    proto: Path
    folder: Path
    url: str

    def config(self, **settings: Any) -> Path:
        path = self.folder / "snetd.config.json"
        given = {"service_endpoint": self.url, "token_secret_key": "t" * 32} | settings
        path.write_text(json.dumps(given))
        return path

    def raw(
        self,
        request: bytes,
        method: str = "/zoo.First/ask",
        deadline: float | None = None,
        **settings: Any,
    ) -> bytes:
        metadata = self.folder / "service_metadata.json"
        metadata.write_text('{"service_type": "http"}')
        with (
            SnetDaemon(self.config(**settings), metadata, self.proto) as daemon,
            grpc.insecure_channel(daemon.address) as channel,
        ):
            unary = channel.unary_unary(
                method, request_serializer=bytes, response_deserializer=bytes
            )
            reply: bytes = unary(request, timeout=deadline)
            return reply

    def __call__(self, question: dict[str, Any], **options: Any) -> dict[str, Any]:
        ask = compile_proto(self.proto)[0]
        message: Message = json_format.ParseDict(question, new_message(ask, "input"))
        reply = new_message(ask, "output")
        reply.ParseFromString(self.raw(message.SerializeToString(), **options))
        return json_format.MessageToDict(reply, preserving_proto_field_name=True)


@pytest.fixture
def call(proto: Path, tmp_path: Path, service: Service) -> Call:
    return Call(proto, tmp_path, service.url)


def failure(call: Call, question: dict[str, Any], **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(question, **options)
    error = caught.value
    assert isinstance(error, grpc.Call)
    return error.code(), str(error.details())


def test_method_is_found_by_name_whatever_the_service(call: Call, service: Service) -> None:
    assert call({"text": "a"}, method="/what.Ever/ask") == {"text": "ok"}
    assert service.paths == ["/ask"]


def test_first_of_two_methods_of_one_name_wins(call: Call, service: Service) -> None:
    call({"text": "a"}, method="/zoo.Second/both")
    assert service.bodies == [{"text": "a"}]


def test_unknown_method_fails(call: Call, service: Service) -> None:
    code, details = failure(call, {}, method="/zoo.First/missing")
    assert code == grpc.StatusCode.INTERNAL
    assert details.startswith("protoToJson error")
    assert service.paths == []


def test_method_with_extra_segments_fails(call: Call) -> None:
    code, details = failure(call, {}, method="/zoo.First/ask/again")
    assert (code, "unexpected grpc method format" in details) == (grpc.StatusCode.INTERNAL, True)


def test_request_that_is_no_message_fails(call: Call) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call.raw(b"\xff\xff\xff")
    assert "protoToJson error" in str(caught.value)


def test_fields_at_zero_are_left_out_unless_optional_and_set(call: Call, service: Service) -> None:
    zeros = {"text": "", "flag": False, "small": 0, "ratio": 0, "many": [], "inner": {}}
    call({**zeros, "set_text": "", "set_ratio": 0})
    assert service.bodies == [{"inner": {}, "set_text": "", "set_ratio": 0.0}]


def test_names_are_the_protos_and_long_integers_strings(call: Call, service: Service) -> None:
    call({"set_text": "a", "large": 7, "small": 7, "many": ["", "b"], "ratio": 0.7})
    assert service.bodies == [
        {"set_text": "a", "large": "7", "small": 7, "many": ["", "b"], "ratio": 0.7}
    ]


@pytest.mark.parametrize("tail", ["/v2/id", "/v2/id/", "/v2/id/?wait=5"])
def test_path_is_joined_and_its_query_dropped(call: Call, service: Service, tail: str) -> None:
    call.url += tail
    call({"text": "a"})
    assert service.paths == ["/v2/id/ask"]
    assert service.headers[0]["content-type"] == "application/json"


def test_credentials_go_where_they_are_said_to(call: Call, service: Service) -> None:
    credentials = [
        {"key": "Authorization", "value": "Bearer k", "location": "header"},
        {"key": "X-Number", "value": 5, "location": "header"},
        {"key": "wait", "value": "300000", "location": "query"},
        {"key": "number", "value": 5, "location": "query"},
        {"key": "extra", "value": {"deep": [1, None]}, "location": "body"},
        {"key": "text", "value": "over", "location": "body"},
    ]
    call({"text": "a", "small": 1}, service_credentials=credentials)
    assert service.paths == ["/ask?wait=300000"]
    assert service.headers[0]["authorization"] == "Bearer k"
    assert "x-number" not in service.headers[0]
    assert service.bodies == [{"text": "over", "small": 1, "extra": {"deep": [1, None]}}]


def test_service_timeout_ends_a_call_without_deadline(call: Call, service: Service) -> None:
    service.wait_seconds = 60
    code, details = failure(call, {"text": "a"}, service_timeout="200ms")
    assert code == grpc.StatusCode.INTERNAL
    assert details.startswith("error executing HTTP service")


def test_clients_deadline_outlasts_service_timeout(call: Call, service: Service) -> None:
    service.wait_seconds = 0.5
    # 300 ms alone are too short; the client's deadline counts, up to a second more.
    assert failure(call, {"text": "a"}, service_timeout="300ms")[0] == grpc.StatusCode.INTERNAL
    assert call({"text": "a"}, service_timeout="300ms", deadline=60) == {"text": "ok"}


def test_deadline_is_capped_a_second_above_service_timeout(call: Call, service: Service) -> None:
    service.wait_seconds = 60
    code, _ = failure(call, {"text": "a"}, service_timeout="100ms", deadline=60)
    assert code == grpc.StatusCode.INTERNAL


def test_clients_shorter_deadline_ends_the_call(call: Call, service: Service) -> None:
    service.wait_seconds = 60
    code, _ = failure(call, {"text": "a"}, service_timeout="60s", deadline=0.3)
    # Who notices first decides: the client itself, or the daemon for it.
    assert code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL)


def test_refused_connection_is_internal(call: Call) -> None:
    call.url = "http://127.0.0.1:1"
    code, details = failure(call, {"text": "a"})
    assert code == grpc.StatusCode.INTERNAL
    assert details.startswith("error executing HTTP service")


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
def test_status_outside_2xx_is_unavailable_with_the_body(
    call: Call, service: Service, status: int
) -> None:
    service.status, service.body = status, '{"error": "no"}'
    code, details = failure(call, {"text": "a"})
    assert code == grpc.StatusCode.UNAVAILABLE
    first, last = details.splitlines()
    assert first == f'upstream http status {status}: {{"error": "no"}}'
    assert last.startswith("About error & possible fixes: https://")


def test_unknown_fields_are_dropped_and_missing_ones_zero(call: Call, service: Service) -> None:
    service.status = 201
    service.body = '{"nothing": {"a": [1]}, "ratio": 0.5, "text": null, "items": [{"name": "n"}]}'
    assert call({"text": "a"}) == {"ratio": 0.5, "items": [{"name": "n"}]}


@pytest.mark.parametrize(
    "body",
    [
        '{"text": 5}',
        '{"text": {"code": 1}}',
        '{"ratio": "a"}',
        '{"items": "a"}',
        '{"items": [null]}',
        '{"queue_ms": 1.5}',
        "[]",
        "not JSON",
        "",
    ],
)
def test_type_mismatch_fails_the_whole_call(call: Call, service: Service, body: str) -> None:
    service.body = body
    code, details = failure(call, {"text": "a"})
    assert code == grpc.StatusCode.INTERNAL
    assert details.startswith("jsonToProto error")


def test_names_in_a_reply_may_be_the_protos_or_camel_case(call: Call, service: Service) -> None:
    for name in ("queue_ms", "queueMs"):
        service.body = f'{{"{name}": 3}}'
        assert call({"text": "a"}) == {"queue_ms": 3}


def test_request_over_the_message_size_is_refused(call: Call, service: Service) -> None:
    text = "a" * (1024 * 1024)
    code, details = failure(call, {"text": text}, max_message_size_in_mb=1)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details == "grpc: received message larger than max (1048580 vs. 1048576)"
    assert service.paths == []
    assert call({"text": text}, max_message_size_in_mb=2) == {"text": "ok"}


def test_without_passthrough_the_request_is_echoed(call: Call, service: Service) -> None:
    assert call.raw(b"\x0a\x01a", passthrough_enabled=False) == b"\x0a\x01a"
    assert service.paths == []


@pytest.mark.parametrize(
    "settings",
    [
        {"service_credentials": [{"key": "a", "value": "b", "location": "cookie"}]},
        {"service_credentials": [{"key": "", "value": "b", "location": "query"}]},
        {"service_endpoint": "http://127.0.0.1:8088", "daemon_endpoint": "0.0.0.0:8088"},
        {"service_endpoint": "http://"},
        {"service_timeout": "soon"},
        {"max_message_size_in_mb": 0},
        {"max_message_size_in_mb": 4096},
        {"blockchain_enabled": False},
    ],
)
def test_configuration_the_daemon_would_not_start_with_is_refused(
    call: Call, settings: dict[str, Any]
) -> None:
    with pytest.raises(DaemonConfigError):
        DaemonConfig.read(call.config(**settings))


@pytest.mark.parametrize("key", [f"0x{'ab' * 32}", "ab" * 31, "invalid"])
def test_key_that_the_daemon_cannot_read_stops_it(call: Call, key: str) -> None:
    with pytest.raises(DaemonConfigError, match="private_key_for_free_calls: must be 64 hex"):
        DaemonConfig.read(call.config(private_key_for_free_calls=key))
    DaemonConfig.read(call.config(private_key_for_free_calls="ab" * 32))


def test_secret_of_tokens_has_32_bytes(call: Call) -> None:
    with pytest.raises(DaemonConfigError, match="token_secret_key: must be 32 bytes or more"):
        DaemonConfig.read(call.config(token_secret_key="t" * 31))


def test_variables_win_over_the_file_whatever_the_key(call: Call) -> None:
    path = call.config(service_timeout="1s", max_message_size_in_mb=1, passthrough_enabled=False)
    config = DaemonConfig.read(
        path,
        {
            "SNET_SERVICE_TIMEOUT": "7s",
            "SNET_MAX_MESSAGE_SIZE_IN_MB": "3",
            "SNET_PASSTHROUGH_ENABLED": "true",
            "SNET_ORGANIZATION_ID": "from-a-variable",
            "SNET_SERVICE_ID": "",  # as if unset
            "SERVICE_TIMEOUT": "9s",
        },
    )
    assert config.service_timeout == 7
    assert (config.max_message_size_in_mb, config.passthrough_enabled) == (3, True)
    assert (config.organization_id, config.service_id) == ("from-a-variable", "")
    with pytest.raises(DaemonConfigError, match="private_key_for_free_calls"):
        DaemonConfig.read(path, {"SNET_PRIVATE_KEY_FOR_FREE_CALLS": f"0x{'ab' * 32}"})


def test_unknown_keys_are_ignored_and_case_does_not_matter(call: Call) -> None:
    config = DaemonConfig.read(call.config(nonsense=1, SERVICE_TIMEOUT="1m30s"))
    assert config.service_timeout == 90


def test_deprecated_name_of_the_endpoint_works_with_a_warning(call: Call) -> None:
    path = call.config(passthrough_endpoint="http://127.0.0.1:9/old")
    with pytest.warns(UserWarning, match="passthrough_endpoint"):
        config = DaemonConfig.read(path)
    assert config.service_endpoint == "http://127.0.0.1:9/old"


def test_service_type_other_than_http_is_refused(call: Call, tmp_path: Path) -> None:
    metadata = tmp_path / "metadata.json"
    metadata.write_text('{"service_type": "grpc"}')
    with pytest.raises(DaemonConfigError, match="grpc"):
        SnetDaemon(call.config(), metadata, call.proto)


def test_durations_are_gos() -> None:
    assert [duration(text) for text in ("100s", "1m40s", "1.5h", "200ms")] == [100, 100, 5400, 0.2]
