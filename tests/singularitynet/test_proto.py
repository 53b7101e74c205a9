"""service.proto: compatible with the original, complete for the contract, fit to be published."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from hatespeech.contract import parse_request
from hatespeech.engine.predictor import Predictor
from hatespeech.engine.scorer import Scorer
from hatespeech.labels import FLAGS
from hatespeech.settings import EngineSettings
from hatespeech.worker.handler import JobHandler
from tests.paths import DATA, ROOT
from tests.support.stand_ins.snet_daemon import compile_proto, new_message, run_protoc

PROTO: Final = ROOT / "service.proto"
ORIGINAL: Final = DATA / "original_service.proto"
ORIGINAL_NAMES: Final = {"data", "Input", "output", "results", "runsync"}

FileProto = descriptor_pb2.FileDescriptorProto


def describe(path: Path, folder: Path) -> FileProto:
    compiled = folder / "descriptors"
    options = ["--fatal_warnings", "--include_source_info", f"--descriptor_set_out={compiled}"]
    run_protoc(path, *options)
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file
    return file


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> FileProto:
    return describe(PROTO, tmp_path_factory.mktemp("current"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> FileProto:
    return describe(ORIGINAL, tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def input_type() -> Descriptor:
    return compile_proto(PROTO)[0].input_type


def output_message() -> Message:
    return new_message(compile_proto(PROTO)[0], "output")


def test_original_fields_keep_number_type_and_name(current: FileProto, original: FileProto) -> None:
    now = {message.name: {f.name: f for f in message.field} for message in current.message_type}
    for message in original.message_type:
        for old in message.field:
            new = now[message.name][old.name]
            assert (new.number, new.type, new.type_name, new.label, new.json_name) == (
                (old.number, old.type, old.type_name, old.label, old.json_name)
            ), f"{message.name}.{old.name}"


def test_original_method_keeps_its_path_and_types(current: FileProto, original: FileProto) -> None:
    def shape(file: FileProto) -> list[Any]:
        return [
            (file.package, service.name, m.name, m.input_type, m.output_type, m.client_streaming)
            for service in file.service
            for m in service.method
        ]

    assert shape(current) == shape(original)
    assert shape(current)[0][:3] == ("service", "runsync", "runsync")


def test_everything_is_commented(current: FileProto) -> None:
    commented = {
        tuple(loc.path) for loc in current.source_code_info.location if loc.leading_comments
    }
    # 4: messages, of which 2: fields. 6: services, of which 2: methods.
    missing = [
        message.name for i, message in enumerate(current.message_type) if (4, i) not in commented
    ]
    missing += [
        f"{message.name}.{one.name}"
        for i, message in enumerate(current.message_type)
        for j, one in enumerate(message.field)
        if (4, i, 2, j) not in commented
    ]
    missing += [
        service.name for i, service in enumerate(current.service) if (6, i) not in commented
    ]
    missing += [
        f"{service.name}.{method.name}"
        for i, service in enumerate(current.service)
        for j, method in enumerate(service.method)
        if (6, i, 2, j) not in commented
    ]
    assert missing == []


def test_new_names_follow_the_conventions(current: FileProto) -> None:
    for message in current.message_type:
        if message.name not in ORIGINAL_NAMES:
            assert re.fullmatch(r"([A-Z][a-z0-9]+)+", message.name), message.name
        for one in message.field:
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", one.name), one.name
            assert one.json_name == one.name, "strict proto3 JSON must have the contract's names"


def test_no_field_is_a_long_integer(current: FileProto) -> None:
    # Those would become strings in JSON.
    long = {
        descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
        descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
        descriptor_pb2.FieldDescriptorProto.TYPE_SINT64,
        descriptor_pb2.FieldDescriptorProto.TYPE_FIXED64,
        descriptor_pb2.FieldDescriptorProto.TYPE_SFIXED64,
    }
    assert not [f.name for m in current.message_type for f in m.field if f.type in long]


def fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    return dict(descriptor.fields_by_name)


def test_every_field_of_a_request_is_one_the_service_takes(input_type: Descriptor) -> None:
    question = fields(input_type)["input"].message_type
    assert question is not None
    names = {"prompt", "prompts", "explain", "thresholds", "robust", "id", "ids"}
    assert set(fields(question)) == names
    thresholds = fields(question)["thresholds"].message_type
    assert thresholds is not None
    assert set(fields(thresholds)) == {*FLAGS, "name"}
    common = {"explain": True, "robust": False, "thresholds": dict.fromkeys(FLAGS, 0.0)}
    for texts in (
        {"prompt": "a", "id": "1"},
        {"prompts": ["a", ""], "ids": ["1", ""]},
    ):
        message = json_format.ParseDict(
            {"input": {**texts, **common}}, new_message(compile_proto(PROTO)[0], "input")
        )
        sent = json_format.MessageToDict(message, preserving_proto_field_name=True)
        assert sent == {"input": {**texts, **common}}  # a threshold of zero and an empty text stay
        assert parse_request(sent["input"], EngineSettings()).thresholds == common["thresholds"]


REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "one": {"prompt": "good morning"},
    "explained": {"prompt": "you are scum 🙂", "explain": True},
    "flagged": {"prompt": "good morning", "thresholds": {"hate": 0.0, "spam": 1.0}},
    # One of them folds to what the small model finds less neutral.
    "robust": {"prompts": ["you 1d10t", "ѕtuрid", "s.c.u.m", "ｇｏ ａｗａｙ"], "robust": True},
    "unread": {"prompt": "صباح الخير"},
    "windowed": {"prompt": "good morning everyone " * 300},
    "many": {"prompts": ["good morning", "", "you are scum"], "explain": True},
    "named": {"prompts": ["good morning"], "ids": ["1"], "thresholds": {"name": "balanced"}},
    "identified": {"prompt": "good morning", "id": "1"},
}


@pytest.fixture(scope="module")
def replies(small_classifier: Predictor) -> dict[str, dict[str, Any]]:
    """What the worker answers to each of ``REQUESTS``."""

    async def answer() -> list[dict[str, Any]]:
        scorer = Scorer(small_classifier, EngineSettings())
        handler = JobHandler(scorer)
        found = [await handler({"id": name, "input": body}) for name, body in REQUESTS.items()]
        scorer.close()
        return found

    return dict(zip(REQUESTS, asyncio.run(answer()), strict=True))


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Flatten a JSON value to its leaves, numbers as float32 knows them."""
    if isinstance(value, dict | list) and value:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            key: leaf
            for name, part in parts
            for key, leaf in leaves(part, f"{path}.{name}").items()
        }
    return {path: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value}


@pytest.mark.parametrize("case", REQUESTS)
@pytest.mark.parametrize("own_names", [True, False], ids=["daemon", "strict"])
def test_every_field_of_a_reply_arrives(
    replies: dict[str, dict[str, Any]], case: str, own_names: bool
) -> None:
    reply = {"id": "sync-1", "status": "COMPLETED", "output": replies[case]}
    message = output_message()
    # Fails for a field that the proto lacks, which the daemon would drop.
    json_format.ParseDict(reply, message)
    back = json_format.MessageToDict(message, preserving_proto_field_name=own_names)
    given, found = leaves(reply), leaves(back)
    # Zeros are left out, except where the proto says optional, and so are empty lists.
    absent = {path for path in given.keys() - found.keys() if given[path] not in (0, [], "")}
    assert absent == set()
    assert {path: given[path] for path in found} == found


def test_replies_hold_every_field_of_the_proto(replies: dict[str, dict[str, Any]]) -> None:
    seen = {re.sub(r"\.\d+", "", path) for reply in replies.values() for path in leaves(reply)}
    reply = fields(compile_proto(PROTO)[0].output_type)
    assert set(reply) == {"output", "status", "error", "id"}  # Runpod's names
    result = reply["output"].message_type
    assert result is not None
    seen.add(".thresholds.neutral")  # no checkpoint recommends one; an operator may choose it
    for name, one in fields(result).items():
        inner = one.message_type
        names = (
            [name] if inner is None or inner is result else [f"{name}.{f}" for f in fields(inner)]
        )
        for path in names:
            assert {f".{path}", f".items.{path}"} & seen or name == "items", path


def test_largest_request_of_the_defaults_fits_the_daemons_message_size() -> None:
    settings = EngineSettings()
    each, rest = divmod(settings.max_request_chars, settings.max_texts_per_request)
    texts = ["🚆" * (each + (n < rest)) for n in range(settings.max_texts_per_request)]
    assert sum(map(len, texts)) == settings.max_request_chars
    message = json_format.ParseDict(
        {"input": {"prompts": texts, "explain": True}},
        new_message(compile_proto(PROTO)[0], "input"),
    )
    config = json.loads((PROTO.parent / "daemon_config.json").read_text())
    assert message.ByteSize() < config["max_message_size_in_mb"] * 1024 * 1024


def test_failed_item_does_not_read_as_four_zeros(replies: dict[str, dict[str, Any]]) -> None:
    message: Any = output_message()
    json_format.ParseDict({"output": replies["many"]}, message)
    sound, failed, _ = message.output.items
    assert [sound.HasField(name) for name in FLAGS] == [True] * 5
    assert [failed.HasField(name) for name in FLAGS] == [False] * 5
    assert failed.error == "validation: prompts[1]: must not be empty"


def test_score_of_zero_is_told_from_a_missing_one() -> None:
    message: Any = output_message()
    json_format.ParseDict({"output": dict.fromkeys(FLAGS, 0.0)}, message)
    again: Any = output_message()
    again.ParseFromString(message.SerializeToString())
    assert [again.output.HasField(name) for name in FLAGS] == [True] * 5


@pytest.mark.parametrize(
    "reply",
    [
        {"id": "sync-1", "status": "FAILED", "error": "validation: prompt: must not be empty"},
        {"id": "sync-1", "status": "IN_QUEUE"},
    ],
)
def test_reply_without_output_says_why(reply: dict[str, str]) -> None:
    message: Any = output_message()
    json_format.ParseDict(reply, message)
    assert not message.HasField("output")
    assert json_format.MessageToDict(message) == reply
