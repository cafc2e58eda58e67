"""gRPC, and nothing else: the wire between two ends of `wasmsr.migrate`.

`address` is HOST:PORT, `messages` has classes from the committed descriptors, and `convert` checks
messages and turns them into values. Only `client`, `server` and `channel`, their common settings,
import grpc.
"""
