"""Message classes of `proto/wasmsr/v2/migration.proto`, made at import from `migration.binpb`.

Below `convert`, `server` and `client`. There are no generated stubs: those demand a protobuf at
least as new as their generator, and the machines that we run on have protobuf from 3.21 (Debian 12)
on. `proto/generate.py` makes the file.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "wasmsr.v3"
SERVICE = f"{PACKAGE}.Migration"


def _load() -> descriptor_pool.DescriptorPool:
    data = resources.files("wasmsr.rpc").joinpath("migration.binpb").read_bytes()
    # A pool of our own: other packages in this process may have messages of the same names.
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _load()


def _message(name: str) -> Any:
    descriptor = _POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    # Before protobuf 4.22.
    return message_factory.MessageFactory(_POOL).GetPrototype(descriptor)  # type: ignore[attr-defined]


Move = _message("Move")
ModuleName = _message("ModuleName")
MountName = _message("MountName")
Limits = _message("Limits")
Refusal = _message("Refusal")
HelloRequest = _message("HelloRequest")
HelloReply = _message("HelloReply")
PrepareRequest = _message("PrepareRequest")
PrepareReply = _message("PrepareReply")
UploadRequest = _message("UploadRequest")
UploadReply = _message("UploadReply")
TransferRequest = _message("TransferRequest")
TransferBegin = _message("TransferBegin")
Early = _message("Early")
Called = _message("Called")
Span = _message("Span")
Kept = _message("Kept")
RoundBegin = _message("RoundBegin")
Pages = _message("Pages")
Files = _message("Files")
TransferEnd = _message("TransferEnd")
TransferReply = _message("TransferReply")
RoundDone = _message("RoundDone")
Ready = _message("Ready")
CommitRequest = _message("CommitRequest")
CommitReply = _message("CommitReply")
StatusRequest = _message("StatusRequest")
StatusReply = _message("StatusReply")
AbortRequest = _message("AbortRequest")
AbortReply = _message("AbortReply")
Ending = _message("Ending")
OutputRequest = _message("OutputRequest")
OutputReply = _message("OutputReply")
InputRequest = _message("InputRequest")
InputReply = _message("InputReply")
EndedRequest = _message("EndedRequest")
EndedReply = _message("EndedReply")


def methods() -> dict[str, tuple[Any, Any, bool, bool]]:
    """Return the service's methods: request and reply class, and whether each of them is a
    stream."""
    service = _POOL.FindServiceByName(SERVICE)
    # Method descriptors tell of streams only in newer versions of protobuf; their protos always.
    file = descriptor_pb2.FileDescriptorProto()
    service.file.CopyToProto(file)
    streams = {m.name: (m.client_streaming, m.server_streaming) for m in file.service[0].method}
    return {
        method.name: (
            _message(method.input_type.name),
            _message(method.output_type.name),
            *streams[method.name],
        )
        for method in service.methods
    }
