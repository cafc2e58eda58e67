"""Message classes of `proto/wasmsr/control/v1`, and of gRPC's health and reflection services.

They are made at import from `control.binpb`; see `wasmsr.rpc.messages` for the reason.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

CONTROL = "wasmsr.control.v1.Control"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1.ServerReflection"
OLD_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
"""The name by which older tools ask for the same."""

HINT, EXIT_CODE, KIND = "wasmsr-hint-bin", "wasmsr-exit", "wasmsr-kind"
"""The metadata of a refusal: what to do next, the exit code of the command, the kind of error."""

_SET = descriptor_pb2.FileDescriptorSet.FromString(
    resources.files("wasmsr.rpc.control").joinpath("control.binpb").read_bytes()
)
_POOL = descriptor_pool.DescriptorPool()
FILES: dict[str, bytes] = {}
"""The serialised description of each .proto file, by its name."""
for _file in _SET.file:
    FILES[_file.name] = _file.SerializeToString()
    _POOL.AddSerializedFile(FILES[_file.name])


def message(name: str) -> Any:
    """Return the class of a message by its full name."""
    descriptor = _POOL.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    # Before protobuf 4.22.
    return message_factory.MessageFactory(_POOL).GetPrototype(descriptor)  # type: ignore[attr-defined]


def _control(name: str) -> Any:
    return message(f"wasmsr.control.v1.{name}")


InfoRequest, InfoReply = _control("InfoRequest"), _control("InfoReply")
SubmitBegin, SubmitRequest = _control("SubmitBegin"), _control("SubmitRequest")
ModulePiece = _control("ModulePiece")
SubmitReply, ProgramMessage = _control("SubmitReply"), _control("Program")
SavePointMessage = _control("SavePoint")
ListRequest, ListReply = _control("ListRequest"), _control("ListReply")
LogsRequest, LogsReply = _control("LogsRequest"), _control("LogsReply")
ProgramRequest, ProgramReply = _control("ProgramRequest"), _control("ProgramReply")
SnapshotReply = _control("SnapshotReply")
CarriedRequest, CarriedReply = _control("CarriedRequest"), _control("CarriedReply")
MovedToMessage, MovePolicyMessage = _control("MovedTo"), _control("MovePolicy")
MoveEventMessage = _control("MoveEvent")
MigrateRequest, MigrateReply = _control("MigrateRequest"), _control("MigrateReply")
DrainRequest, DrainReply = _control("DrainRequest"), _control("DrainReply")
DrainResult = _control("DrainResult")
HealthResponse = message("grpc.health.v1.HealthCheckResponse")
ReflectionResponse = message("grpc.reflection.v1.ServerReflectionResponse")


class ServiceMethod(NamedTuple):
    """A method: the classes of its messages, and whether each side sends several."""

    request: Any
    reply: Any
    many_requests: bool
    many_replies: bool


def methods(service: str) -> dict[str, ServiceMethod]:
    """Return the methods of a service by name."""
    package, _, name = service.rpartition(".")
    for file in _SET.file:
        for one in file.service:
            if (file.package, one.name) == (package, name):
                return {
                    method.name: ServiceMethod(
                        message(method.input_type.lstrip(".")),
                        message(method.output_type.lstrip(".")),
                        method.client_streaming,
                        method.server_streaming,
                    )
                    for method in one.method
                }
    raise KeyError(service)


def file_of(symbol: str) -> str | None:
    """Return the name of the .proto file that has a service, a method or a message, or None."""
    for file in _SET.file:
        names = [f"{file.package}.{one.name}" for one in file.service]
        names += [f"{file.package}.{one.name}" for one in file.message_type]
        if any(symbol == name or symbol.startswith(f"{name}.") for name in names):
            return str(file.name)
    return None
