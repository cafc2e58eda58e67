"""An S3 server on this machine, for tests (moto)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 and give the address; skip the test where packages are missing.

    File systems of s3fs are kept by their arguments, though the address can come from a variable:
    those of another server go first, and those of this one in the end.
    """
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto's server is not installed")
    s3fs.S3FileSystem.clear_instance_cache()
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        address = f"http://{host}:{port}"
        # All servers of a process have the same buckets.
        urlopen(Request(f"{address}/moto-api/reset", method="POST"), timeout=20).close()
        yield address
    finally:
        running.stop()
        s3fs.S3FileSystem.clear_instance_cache()
