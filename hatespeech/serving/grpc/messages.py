"""The messages of ``service.proto``, to and from the contract.

The compiled proto is package data, 1.3 kB: generated code would be tied to the protobuf version
that generated it, and to compile at start takes a compiler of 30 MB. After a change of the proto,
``protoc -I. service.proto --descriptor_set_out=hatespeech/serving/grpc/service.binpb`` renews it.
"""

from importlib import resources
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from hatespeech.contract import Reply
from hatespeech.errors import ValidationError

COMPILED: Final = resources.files(__package__).joinpath("service.binpb").read_bytes()
POOL: Final = (
    descriptor_pool.DescriptorPool()
)  # not the process's own: `service` is a name others may use
POOL.Add(descriptor_pb2.FileDescriptorSet.FromString(COMPILED).file[0])
SERVICE: Final = POOL.FindServiceByName("service.runsync")
METHOD: Final = SERVICE.methods_by_name["runsync"]
_Request: Final = message_factory.GetMessageClass(METHOD.input_type)
_Reply: Final = message_factory.GetMessageClass(METHOD.output_type)


def read_input(raw: bytes) -> object:
    """Return the contract's ``input`` in a request; ``None`` if it has none.

    As in the daemon's JSON, a field at its zero value is left out unless it is optional and set.
    Raises :class:`ValidationError` for bytes that are not the proto's message.
    """
    try:
        return _plain(_Request.FromString(raw)).get("input")
    except message.DecodeError:
        raise ValidationError(f"is not {METHOD.input_type.full_name}", field="message") from None


def write_reply(reply: Reply, request_id: str) -> bytes:
    """Return the proto's reply, whose fields have the contract's names."""
    return _Reply(status="COMPLETED", output=reply.to_dict(), id=request_id).SerializeToString()


def _plain(filled: message.Message) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field, value in filled.ListFields():  # those that are set
        plain = list(value) if field.is_repeated else value
        values[field.name] = plain if field.message_type is None else _plain(value)
    return values
