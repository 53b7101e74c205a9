"""The gRPC server itself: settings, TLS, health, reflection, limits of connections, and its end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from hatespeech.errors import SettingsError
from hatespeech.serving.grpc import grpc_server, room
from hatespeech.serving.settings import ServerSettings
from tests.paths import ROOT
from tests.serving.grpc.conftest import Both
from tests.support.bad_inputs import MARKER
from tests.support.certificates import write_certificate
from tests.support.faulty_device import Switches, faulty_device
from tests.support.grpc_client import BEARER, Ended, GrpcClient, unfinished
from tests.support.http_client import TOKEN, together
from tests.support.local_server import local_server, refusal
from tests.support.ports import connections, free_port, listens
from tests.support.processes.server import (
    FAULTY_SERVER,
    SERVER,
    http_server,
    server_environment,
)
from tests.support.processes.worker import clean_environment, wait_until

SERVICE: Final = "service.runsync"
REFLECT: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
State = health_pb2.HealthCheckResponse

# Settings.


@pytest.mark.parametrize("address", ["127.0.0.1:50051", "[::1]:1", "localhost:65535", "a-b.c:80"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert ServerSettings.from_environment({"GRPC": address}).grpc == address


@pytest.mark.parametrize(
    "address",
    ["50051", ":50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:50051",
     "unix:/tmp/x:1", "http://127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2", "127.0.0.1:+1"],
)  # fmt: skip
def test_what_is_no_address_is_refused_by_name(address: str) -> None:
    with pytest.raises(SettingsError, match=r"^GRPC='.*HOST:PORT, such as 127\.0\.0\.1:50051"):
        ServerSettings.from_environment({"GRPC": address})


def environment_of(folder: Path, **settings: str) -> Mapping[str, str]:
    return server_environment(folder, folder / "nowhere", settings)


def test_a_missing_extra_is_one_line_that_names_it(tmp_path: Path) -> None:
    ours = [name for name in sys.modules if name.startswith("hatespeech.serving.grpc")]
    with patch.dict(sys.modules, {"grpc": None}):
        for name in ours:
            del sys.modules[name]
        said = refusal(environment_of(tmp_path, GRPC=f"127.0.0.1:{free_port()}"))
    assert said == "error: GRPC needs grpc: pip install -r requirements-grpc.txt\n"


@pytest.mark.slow
def test_nothing_of_grpc_is_imported_unless_it_is_asked_for(tmp_path: Path) -> None:
    script = """
import sys
from hatespeech.serving.app import create_app
from hatespeech.serving.settings import ServerSettings
create_app(ServerSettings(allow_anonymous=True))
print([name for name in ("grpc", "google.protobuf", "grpc_health") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**clean_environment(tmp_path, None), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_port_that_is_taken_is_one_line_that_names_it(both: Both, tmp_path: Path) -> None:
    address = f"127.0.0.1:{both.port}"
    said = refusal(environment_of(tmp_path, GRPC=address))
    assert address in said
    assert "GRPC" in said
    assert "address already in use" in said


# TLS.


def trusting(certificate: Path) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(certificate.read_bytes())


def test_tls_lets_in_who_trusts_the_certificate_and_nobody_in_plain_text(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    (certificate, key), (other, _) = (write_certificate(tmp_path, name) for name in ("a", "b"))
    port = free_port()
    environment = {
        "GRPC": f"127.0.0.1:{port}",
        "GRPC_TLS_CERT": str(certificate),
        "GRPC_TLS_KEY": str(key),
    }
    with local_server(tmp_path, small_checkpoint, environment) as http:
        http.ready()
        with GrpcClient(port, credentials=trusting(certificate)) as client:
            assert client.score({"prompt": "good"}).name == "OK"
            assert client.score({"prompt": "good"}, []).name == "UNAUTHENTICATED"
        for stranger in (GrpcClient(port), GrpcClient(port, credentials=trusting(other))):
            with stranger:
                assert stranger.score({"prompt": "good"}).name == "UNAVAILABLE"
        assert http.stderr.count("POST grpc") == 2


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("a.pem", None, "GRPC_TLS_KEY=unset"),
        (None, "a.key", "GRPC_TLS_CERT=unset"),
        ("a.pem", "b.key", "values mismatch"),
        ("a.pem", "missing.key", "No such file"),
        ("a.key", "a.key", ""),
        ("a.pem", "locked.key", ""),
    ],
)
def test_files_that_are_no_certificate_and_its_key_are_refused_in_one_line(
    tmp_path: Path, certificate: str | None, key: str | None, reason: str
) -> None:
    for name in ("a", "b"):
        write_certificate(tmp_path, name)
    kept = serialization.load_pem_private_key((tmp_path / "a.key").read_bytes(), None)
    (tmp_path / "locked.key").write_bytes(
        kept.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    given = {"GRPC_TLS_CERT": certificate, "GRPC_TLS_KEY": key}
    files = {name: str(tmp_path / file) for name, file in given.items() if file}
    said = refusal(environment_of(tmp_path, GRPC=f"127.0.0.1:{free_port()}", **files))
    assert said.startswith("error: GRPC_TLS_CERT=")
    assert " are not a certificate and its key: " in said
    assert reason in said


# Health and reflection.


@pytest.fixture
def switches(tmp_path: Path) -> Iterator[Switches]:
    switches = Switches(tmp_path)
    with faulty_device(switches):
        yield switches
        switches.replace_device()


class Watcher:
    """Follows the health of one server, in a thread."""

    def __init__(self, client: GrpcClient) -> None:
        self.states: list[int] = []
        self.ended: grpc.StatusCode | None = None
        self._stream = health_pb2_grpc.HealthStub(client.channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE), timeout=120
        )
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        try:
            for state in self._stream:
                self.states.append(state.status)
        except grpc.RpcError:
            self.ended = self._stream.code()

    def wait(self, *states: int) -> None:
        wait_until(lambda: self.states == list(states), f"states {states}, not {self.states}")


def test_health_is_serving_only_while_texts_are_scored(
    small_checkpoint: Path, tmp_path: Path, switches: Switches
) -> None:
    port = free_port()
    switches.hold()  # loading ends with a first text
    environment = {"GRPC": f"127.0.0.1:{port}"}
    with local_server(tmp_path, small_checkpoint, environment) as http, GrpcClient(port) as client:
        wait_until(lambda: switches.held, "the model to load", watch=http.require_running)
        stub = health_pb2_grpc.HealthStub(client.channel)
        watcher = Watcher(client)
        watcher.wait(State.NOT_SERVING)
        loading = client.score({"prompt": MARKER})
        assert (loading.name, loading.line) == (
            "UNAVAILABLE",
            "unhealthy: the model is being loaded; try again",
        )
        switches.release()
        watcher.wait(State.NOT_SERVING, State.SERVING)
        for name in ("", SERVICE):  # without a token
            question = health_pb2.HealthCheckRequest(service=name)
            assert stub.Check(question, timeout=60).status == State.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="none"), timeout=60)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert client.score({"prompt": "good"}).name == "OK"
        switches.break_device()
        assert client.score({"prompt": MARKER}).name == "UNAVAILABLE"
        watcher.wait(State.NOT_SERVING, State.SERVING, State.NOT_SERVING)


def test_reflection_tells_what_a_client_needs_to_call(both: Both) -> None:
    database = ProtoReflectionDescriptorDatabase(both.grpc.channel)
    services = set(database.get_services())
    assert services == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(database)
    for name in services:
        assert pool.FindServiceByName(name).methods
    method = pool.FindServiceByName(SERVICE).methods_by_name["runsync"]
    assert not method.client_streaming
    assert not method.server_streaming
    question = GetMessageClass(method.input_type)(input={"prompt": "good morning"})
    call = both.grpc.channel.unary_unary(
        f"/{SERVICE}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    reply: Any = call(question, metadata=BEARER, timeout=60)
    assert reply.output.text == "good morning"


# Limits of connections.


@contextlib.contextmanager
def limited(folder: Path, model_dir: Path, **limits: Any) -> Iterator[int]:
    """Start a server with other limits; yield the port of gRPC."""
    port = free_port()
    with (
        patch.multiple(grpc_server, **limits),
        local_server(folder, model_dir, {"GRPC": f"127.0.0.1:{port}"}) as http,
    ):
        http.ready()
        yield port


def options(**changed: int) -> list[tuple[str, int]]:
    """Return the options of gRPC, some of them with another value."""
    every = dict(grpc_server.OPTIONS)
    for name, value in changed.items():
        assert f"grpc.{name}" in every
        every[f"grpc.{name}"] = value
    return [*every.items()]


def test_a_connection_too_many_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    few = options(max_allowed_incoming_connections=2)
    with (
        limited(tmp_path, small_checkpoint, OPTIONS=few) as port,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(GrpcClient(port)) for _ in range(3)]
        codes = [client.score({"prompt": "good"}).name for client in clients]
        assert codes == ["OK", "OK", "UNAVAILABLE"]


def test_connections_that_never_call_give_their_places_up(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    few = options(max_allowed_incoming_connections=4, max_connection_age_ms=1000)
    with (
        limited(tmp_path, small_checkpoint, OPTIONS=few) as port,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(4):
            silent = stack.enter_context(GrpcClient(port))
            grpc.channel_ready_future(silent.channel).result(60)

        def let_in() -> bool:
            with GrpcClient(port) as client:
                return client.score({"prompt": "good"}).name == "OK"

        wait_until(let_in, "room for a client")


def test_a_client_calls_again_over_a_new_connection_and_sees_no_error(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    short = options(max_connection_age_ms=700)
    with (
        limited(tmp_path, small_checkpoint, OPTIONS=short) as port,
        GrpcClient(port) as client,
    ):
        for _ in range(3):
            assert client.score({"prompt": "good"}).name == "OK"
            wait_until(lambda: connections(port) == 0, "the connection to be closed")


def test_a_client_that_calls_all_the_time_sees_no_error_when_its_connections_end(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    short = options(max_connection_age_ms=200)
    with (
        limited(tmp_path, small_checkpoint, OPTIONS=short) as port,
        GrpcClient(port) as client,
    ):
        ended = together(8, lambda _: {client.score({"prompt": "good"}).name for _ in range(100)})
        assert set().union(*ended) == {"OK"}


def test_a_stream_of_health_ends_with_its_connections_grace(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    short = options(max_connection_age_ms=300, max_connection_age_grace_ms=300)
    with (
        limited(tmp_path, small_checkpoint, OPTIONS=short) as port,
        GrpcClient(port) as client,
    ):
        watcher = Watcher(client)
        wait_until(lambda: watcher.ended is not None, "the stream to end", seconds=60)
        assert watcher.ended == grpc.StatusCode.UNAVAILABLE


def test_a_call_too_many_that_does_not_score_is_refused_and_takes_no_room_from_others(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with (
        patch.object(room, "MAX_OTHER_CALLS", 2),
        limited(tmp_path, small_checkpoint, OPTIONS=options()) as port,
        GrpcClient(port) as strangers,
        GrpcClient(port) as client,
    ):

        def check() -> None:
            question = health_pb2.HealthCheckRequest(service=SERVICE)
            health_pb2_grpc.HealthStub(client.channel).Check(question, timeout=60)

        def reflect() -> None:
            ProtoReflectionDescriptorDatabase(client.channel).get_services()

        for watcher in (Watcher(strangers), Watcher(strangers)):
            watcher.wait(State.SERVING)
        one_more = Watcher(client)
        wait_until(lambda: one_more.ended is not None, "a stream too many to be refused")
        assert one_more.ended == grpc.StatusCode.RESOURCE_EXHAUSTED
        check()
        with (
            unfinished(strangers, "/grpc.health.v1.Health/Check", 2),
            unfinished(strangers, REFLECT, 2),
        ):
            wait_until(lambda: refused(check), "the strangers' calls of Check")
            wait_until(lambda: refused(reflect), "the strangers' calls of reflection")
            assert client.score({"prompt": "good"}).name == "OK"
        wait_until(lambda: not (refused(check) or refused(reflect)), "the room to be free")


def refused(ask: Callable[[], None]) -> bool:
    """Ask; return whether that is one call too many."""
    try:
        ask()
    except grpc.RpcError as caught:
        error = caught
    else:
        return False
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (
        error.details() == "overloaded: too many calls of this method at the same time; try again"
    )
    metadata: Any = error.trailing_metadata()
    assert ("grpc-retry-pushback-ms", "1000") in metadata
    return True


def test_calls_that_do_not_score_leave_most_of_the_room() -> None:
    methods = [
        method
        for service in (health_pb2, reflection_pb2)
        for each in service.DESCRIPTOR.services_by_name.values()
        for method in each.methods
    ]
    assert len(methods) * room.MAX_OTHER_CALLS <= grpc_server.MAX_CALLS // 2


def test_a_call_too_many_at_once_is_refused_and_health_streams_count(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with (
        limited(tmp_path, small_checkpoint, MAX_CALLS=1) as port,
        GrpcClient(port) as client,
        GrpcClient(port) as other,
    ):
        Watcher(client).wait(State.SERVING)
        assert other.score({"prompt": "good"}).name == "RESOURCE_EXHAUSTED"


def test_a_client_that_pings_without_end_is_cut_off(
    small_checkpoint: Path, tmp_path: Path, switches: Switches
) -> None:
    port = free_port()
    pinging = [("grpc.keepalive_time_ms", 100), ("grpc.http2.max_pings_without_data", 0)]
    environment = {"GRPC": f"127.0.0.1:{port}"}
    with (
        local_server(tmp_path, small_checkpoint, environment) as http,
        GrpcClient(port, options=pinging) as client,
    ):
        http.ready()
        switches.hold()
        ended = client.score({"prompt": "good"}, timeout=30)
        switches.release()
        assert (ended.name, "too_many_pings" in ended.line.lower().replace(" ", "_")) == (
            "UNAVAILABLE",
            True,
        ), ended.line


# The end.


@pytest.mark.slow
def test_a_signal_has_calls_in_flight_answered_and_new_ones_refused(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    switches, port = Switches(tmp_path), free_port()
    command = (*FAULTY_SERVER, "--switches", str(tmp_path))
    environment = {"GRPC": f"127.0.0.1:{port}"}
    with (
        http_server(tmp_path, small_checkpoint, environment, command) as server,
        GrpcClient(port) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        server.ready()
        watcher = Watcher(client)
        watcher.wait(State.SERVING)
        switches.hold()
        flying = [client.begin({"prompt": f"good morning {index}"}) for index in range(3)]
        request = pool.submit(server.get, "/score?text=good")  # uvicorn waits for it
        wait_until(lambda: server.metrics()["queue_texts"] == 4, "the texts to be queued")
        server.terminate()
        watcher.wait(State.SERVING, State.NOT_SERVING)
        refused = client.score({"prompt": MARKER})
        assert (refused.name, refused.line) == (
            "UNAVAILABLE",
            "unhealthy: this worker is being stopped; try again",
        )
        switches.release()
        assert [client.result(call).name for call in flying] == ["OK"] * 3
        assert request.result().status_code == 200
        assert server.wait() == 0
        wait_until(lambda: watcher.ended is not None, "the stream to end")
        assert watcher.ended == grpc.StatusCode.UNAVAILABLE
        assert not listens(port)
        assert server.counters()["requests"] == 4
        assert server.stderr.count("POST grpc 200") == 3
        assert "Traceback" not in server.stderr


@pytest.mark.slow
def test_a_stop_under_load_loses_no_reply(small_checkpoint: Path, tmp_path: Path) -> None:
    """--grpc is where it answers, whatever the variable says."""
    port = free_port()
    command = (SERVER, "--grpc", f"127.0.0.1:{port}")
    environment = {"GRPC": f"127.0.0.1:{free_port()}"}
    with (
        http_server(tmp_path, small_checkpoint, environment, command) as server,
        contextlib.ExitStack() as stack,
    ):
        server.ready()
        clients = [stack.enter_context(GrpcClient(port)) for _ in range(16)]
        seen: Counter[str] = Counter()

        def call_until_refused(client: GrpcClient) -> Ended:
            while (ended := client.score({"prompts": ["good morning"] * 8})).name == "OK":
                seen["OK"] += 1
            return ended

        with ThreadPoolExecutor(16) as pool:
            last = [pool.submit(call_until_refused, client) for client in clients]
            wait_until(lambda: seen["OK"] >= 100, "a hundred replies", watch=server.require_running)
            server.terminate()
            names = {ended.result().name for ended in last}
        assert names == {"UNAVAILABLE"}
        assert server.wait() == 0
        assert server.counters()["requests"] == seen["OK"]
        assert "POST grpc 499" not in server.stderr


@pytest.mark.parametrize(("grace", "code"), [(0.2, "UNAVAILABLE"), (60, "OK")])
def test_a_call_in_flight_is_answered_within_the_grace_and_no_later(
    small_checkpoint: Path, tmp_path: Path, switches: Switches, grace: float, code: str
) -> None:
    port = free_port()
    with patch.object(grpc_server, "SHUTDOWN_SECONDS", grace), ThreadPoolExecutor(1) as pool:
        server = local_server(tmp_path, small_checkpoint, {"GRPC": f"127.0.0.1:{port}"})
        http = server.__enter__().ready()
        with GrpcClient(port) as client:
            switches.hold()
            call = client.begin({"prompt": "good morning"})
            wait_until(lambda: switches.held, "the device", watch=http.require_running)
            stopped = pool.submit(server.__exit__, None, None, None)
            time.sleep(1)  # longer than calls are only refused, and than the short grace
            switches.release()
            assert client.result(call).name == code
            stopped.result()


@pytest.mark.slow
def test_uvicorns_own_command_answers_grpc_as_well(small_checkpoint: Path, tmp_path: Path) -> None:
    port = free_port()
    http_port = str(free_port())
    command = ("-m", "uvicorn", "server:app", "--port", http_port)
    environment = {"PORT": http_port, "GRPC": f"127.0.0.1:{port}"}
    with (
        http_server(tmp_path, small_checkpoint, environment, command) as server,
        GrpcClient(port) as client,
    ):
        server.ready()
        assert client.score({"prompt": MARKER}).name == "OK"
        server.terminate()
        server.wait()
        assert MARKER not in server.stderr + server.stdout
        assert TOKEN not in server.stderr
        assert "Traceback" not in server.stderr
