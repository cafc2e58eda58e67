"""gRPC, and nothing else: carries what `wasmsr.migrate` says between two ends.

`address` (HOST:PORT), `messages` (classes from the committed descriptors), `convert` (messages to
values, checked, and back), `server`, `client`. Only the last two and `channel`, their common
settings, import grpc.
"""
