#!/usr/bin/env python3
"""Makes the serialised FileDescriptorSets of wasmsr.rpc of the .proto files beside this one.

    python proto/generate.py            writes the files
    python proto/generate.py --check    exits with 1 if a committed file is not what it would be

Needs grpcio-tools (in the `dev` extra); what it writes needs only protobuf. The files are committed
because generated stubs demand the protobuf that is at least as new as their generator, whereas a
descriptor set is read by every version (see `wasmsr.rpc.messages`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETS = {
    ROOT / "wasmsr" / "rpc" / "migration.binpb": ("wasmsr/v3/migration.proto",),
    ROOT / "wasmsr" / "rpc" / "control" / "control.binpb": (
        "wasmsr/control/v1/control.proto",
        "grpc/health/v1/health.proto",
        "grpc/reflection/v1/reflection.proto",
    ),
}
"""What is written, and the sources of each."""


def compile_descriptors(sources: Sequence[str]) -> bytes:
    """Return the serialised FileDescriptorSet of files, without JSON names.

    protoc versions differ in whether they write JSON names; we do not use them.
    """
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "set"
        code = protoc.main(
            [
                "protoc",
                f"--proto_path={ROOT / 'proto'}",
                f"--proto_path={ROOT / 'proto' / 'standard'}",
                f"--descriptor_set_out={made}",
                *sources,
            ]
        )
        if code:
            sys.exit(code)
        descriptors = FileDescriptorSet.FromString(made.read_bytes())
    for file in descriptors.file:
        for message in file.message_type:
            for part in (message, *message.nested_type):
                for field in part.field:
                    field.ClearField("json_name")
    return bytes(descriptors.SerializeToString(deterministic=True))


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Makes the descriptors of wasmsr.rpc.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    for target, sources in SETS.items():
        made = compile_descriptors(sources)
        if not options.check:
            target.write_bytes(made)
        elif not target.exists() or target.read_bytes() != made:
            print(f"{target.relative_to(ROOT)} is out of date: run python proto/generate.py")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
