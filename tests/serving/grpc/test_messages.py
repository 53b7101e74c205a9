"""service.proto's messages: the compiled copy, requests as the daemon reads them, replies whole."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from google.protobuf import descriptor_pb2, json_format
from hypothesis import given
from hypothesis import strategies as st

from hatespeech.contract import (
    FIELDS,
    Prediction,
    Reply,
    TextScore,
    Timing,
    Versions,
    WordInfluence,
)
from hatespeech.errors import ValidationError
from hatespeech.labels import FLAGS, LABELS, THRESHOLD_NAMES
from hatespeech.named_thresholds import NamedThresholds
from hatespeech.serving.grpc.messages import COMPILED, read_input, write_reply
from tests.paths import ROOT
from tests.support.bad_inputs import MARKER
from tests.support.grpc_client import answer, question
from tests.support.stand_ins.snet_daemon import compile_proto

RENEW: Final = (
    "service.proto has changed: python -m grpc_tools.protoc -I. service.proto "
    "--descriptor_set_out=hatespeech/serving/grpc/service.binpb"
)

TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS: Final = st.floats(0, 1, width=32)
GIVEN_THRESHOLDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    **dict.fromkeys(FLAGS, NUMBERS),
    "name": st.sampled_from(THRESHOLD_NAMES),
}
INPUTS: Final = st.fixed_dictionaries(
    {},
    optional={
        "prompt": TEXTS,
        "prompts": st.lists(TEXTS, max_size=5),
        "explain": st.booleans(),
        "robust": st.booleans(),
        "thresholds": st.fixed_dictionaries({}, optional=GIVEN_THRESHOLDS),
        "id": TEXTS,
        "ids": st.lists(TEXTS, max_size=5),
    },
)


def test_the_compiled_copy_is_service_proto() -> None:
    (method,) = compile_proto(ROOT / "service.proto")
    current = descriptor_pb2.FileDescriptorProto()
    method.containing_service.file.CopyToProto(current)
    (copy,) = descriptor_pb2.FileDescriptorSet.FromString(COMPILED).file
    assert copy == current, RENEW


@given(INPUTS)
def test_a_request_is_read_as_the_daemon_hands_it_over(job_input: dict[str, Any]) -> None:
    message = question(job_input)
    body = json_format.MessageToDict(message, preserving_proto_field_name=True)
    read = read_input(message.SerializeToString())
    # In float32 both: the contract compares so.
    as_json = json.loads(json.dumps(read), parse_float=lambda digits: float32(float(digits)))
    assert as_json == json.loads(
        json.dumps(body["input"]), parse_float=lambda digits: float32(float(digits))
    )


def float32(value: float) -> float:
    kept = question({"thresholds": {"hate": value}})
    hate: float = kept.input.thresholds.hate  # type: ignore[attr-defined]
    return hate


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({}, {}),
        ({"prompt": ""}, {"prompt": ""}),
        ({"prompts": []}, {}),
        ({"prompts": ["", "a"]}, {"prompts": ["", "a"]}),
        ({"explain": False, "prompt": "a"}, {"prompt": "a"}),
        ({"explain": True}, {"explain": True}),
        ({"thresholds": {}}, {"thresholds": {}}),
        ({"thresholds": {"hate": 0.0}}, {"thresholds": {"hate": 0.0}}),
        ({"thresholds": {"name": "strict"}}, {"thresholds": {"name": "strict"}}),
        ({"id": ""}, {}),
        ({"ids": ["", "b"]}, {"ids": ["", "b"]}),
    ],
)
def test_zero_is_left_out_unless_it_was_set(sent: dict[str, Any], read: dict[str, Any]) -> None:
    assert read_input(question(sent).SerializeToString()) == read


def test_a_request_without_input_or_of_a_later_proto_is_read() -> None:
    assert read_input(b"") is None
    newer = b"\x92\x3f\x03abc"  # a field that this proto does not have
    assert read_input(question({"prompt": "a"}).SerializeToString() + newer) == {"prompt": "a"}


@pytest.mark.parametrize(
    "raw",
    [
        MARKER.encode(),
        json.dumps({"input": {"prompt": MARKER}}).encode(),
        question({"prompt": MARKER}).SerializeToString()[:-1],
        question({"prompt": MARKER}).SerializeToString().replace(b"zz", b"\xff\xff"),
    ],
    ids=["text", "json", "cut off", "not utf8"],
)
def test_bytes_that_are_not_the_message_are_refused_without_a_word_of_theirs(raw: bytes) -> None:
    with pytest.raises(ValidationError, match=r"^validation: message: is not service\.data$"):
        read_input(raw)


def without_zeros(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (0, "")}


VERSIONS: Final = Versions("1.2.3", "0123456789ab", "2")
NAMED: Final = NamedThresholds("ours", "0f0f0f0f", {"hate": 0.1, "toxic": 0.7})


def test_a_reply_loses_no_field_on_its_way_into_the_message() -> None:
    words = [
        WordInfluence("good", 0, 4, dict(zip(LABELS, (0.5, -0.25, 0.125, -0.375), strict=True)))
    ]
    prediction = Prediction(
        [0.125, 0.25, 0.5, 0.125],
        windows=2,
        window=(0, 7),
        words=words,
        warnings=("unread", "language"),
        read_as="folded",
    )
    scored = TextScore.of("good 👋", prediction, {"neutral": 0.5, "spam": 0.5}, "a/1")
    failed = TextScore.of("", ValidationError("must not be empty", field="prompts[1]"), None)
    seen: set[str] = set()
    for items, many in (([scored], False), ([scored, failed], True)):
        reply = Reply(items, many, "mini@0123456789ab", Timing(1.5, 0.25), VERSIONS, NAMED)
        message = answer(write_reply(reply, "an-id"))
        read = json_format.MessageToDict(message, preserving_proto_field_name=True)
        # The numbers above are whole in float32. A message has no zero or "" where JSON has one.
        expected = json.loads(json.dumps(reply.to_dict()), object_hook=without_zeros)
        assert read == {"output": expected, "status": "COMPLETED", "id": "an-id"}
        seen |= expected.keys() | {name for item in expected.get("items", []) for name in item}
    assert seen == {field.name for field in FIELDS}
