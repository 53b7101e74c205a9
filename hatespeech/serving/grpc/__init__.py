"""The gRPC front: ``service.proto`` answered in the HTTP server's process, on its event loop.

    grpc_server.py  port, TLS, limits of a connection, health, reflection, start and stop
    calls.py        one call: who asks, for what, and the reply or its status code
    room.py         how many calls that do not score may run, and how many messages may arrive
    messages.py     the proto's messages, to and from the contract; service.binpb: it, compiled

It needs the extra ``grpc``: import it only if the setting ``GRPC`` asks for it.
"""

from hatespeech.errors import SettingsError
from hatespeech.extras import how_to_install

try:
    from hatespeech.serving.grpc.grpc_server import GrpcServer as GrpcServer
except ModuleNotFoundError as exc:
    raise SettingsError(f"GRPC needs {exc.name}: {how_to_install('grpc')}") from None
