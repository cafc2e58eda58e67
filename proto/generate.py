#!/usr/bin/env python3
"""Makes wasmsr/rpc/migration.binpb, a serialised FileDescriptorSet, of wasmsr/v3/migration.proto.

    python proto/generate.py            writes the file
    python proto/generate.py --check    exits with 1 if the committed file is not what it would be

Needs grpcio-tools (in the `dev` extra); what it writes needs only protobuf. The file is committed
because generated stubs demand the protobuf that is at least as new as their generator, whereas a
descriptor set is read by every version (see `wasmsr.rpc.messages`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "wasmsr/v3/migration.proto"
TARGET = ROOT / "wasmsr" / "rpc" / "migration.binpb"


def compile_descriptors() -> bytes:
    """Return the serialised FileDescriptorSet of `SOURCE`, without JSON names.

    protoc versions differ in whether they write JSON names; we do not use them.
    """
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "set"
        code = protoc.main(
            ["protoc", f"--proto_path={ROOT / 'proto'}", f"--descriptor_set_out={made}", SOURCE]
        )
        if code:
            sys.exit(code)
        descriptors = FileDescriptorSet.FromString(made.read_bytes())
    for file in descriptors.file:
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    return bytes(descriptors.SerializeToString(deterministic=True))


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Makes wasmsr/rpc/migration.binpb.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    made = compile_descriptors()
    if options.check:
        if not TARGET.exists() or TARGET.read_bytes() != made:
            print(f"{TARGET.relative_to(ROOT)} is out of date: run python proto/generate.py")
            return 1
        return 0
    TARGET.write_bytes(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
