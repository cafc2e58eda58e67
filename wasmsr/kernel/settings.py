"""What a kernel is told when it starts: by its options, and by the client's connection file."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.kernel.wire import KernelError

_MOST = 1 << 20
_PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


@dataclass(frozen=True)
class KernelSettings:
    """The options of a kernel.

    Attributes:
        packages: What is imported before, as for `Sandbox.python`.
        mounts: Folders of the host, as "HOST::GUEST::MODE".
        memory: Bytes of memory.
        output: Bytes of output of one cell.
        every: Seconds between two states that are kept of a cell that runs; 0 is none.
    """

    packages: str = "base"
    mounts: tuple[str, ...] = ()
    memory: int = 2 << 30
    output: int = 64 << 20
    every: float = 5.0

    def options(self) -> list[str]:
        """Return them as options of `wasmsr kernel run`."""
        found = ["--packages", self.packages, "--max-memory", str(self.memory)]
        found += ["--checkpoint-every", str(self.every)]
        for one in self.mounts:
            found += ["--dir", one]
        return found

    def text(self) -> str:
        """Return them as one word of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> KernelSettings:
        """Return the settings of `text`."""
        given = json.loads(text)
        return cls(**{**given, "mounts": tuple(given["mounts"])})


@dataclass(frozen=True)
class ConnectionFile:
    """A connection file: where the client expects the kernel.

    Attributes:
        addresses: By the names "shell", "iopub", "stdin", "control" and "hb".
        key: The key of the messages' signatures.
        scheme: How they are made.
    """

    addresses: dict[str, str]
    key: bytes
    scheme: str

    @classmethod
    def read(cls, path: Path) -> ConnectionFile:
        """Return what a file says.

        Raises:
            KernelError: It cannot be read, lacks something, or has no key.
        """
        try:
            given = json.loads(small_files.read(path, _MOST)[0])
            if type(given) is not dict:
                raise TypeError("it is no object")
            return cls._of(given)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise KernelError(
                f"the connection file {path} cannot be used: {error}",
                hint="a Jupyter client writes it, and starts the kernel with its name",
            ) from error

    @classmethod
    def _of(cls, given: dict[str, Any]) -> ConnectionFile:
        transport, ip = given.get("transport", "tcp"), given["ip"]
        if transport not in ("tcp", "ipc"):
            raise ValueError(f"the transport {transport!r} is not known")
        if not isinstance(ip, str) or not isinstance(given["key"], str):
            raise TypeError("ip and key must be strings")
        if not given["key"]:
            raise ValueError("it has no key, so anybody could send code")
        joint = ":" if transport == "tcp" else "-"
        addresses = {}
        for name in _PORTS:
            port = given[name]
            if type(port) is not int or not 0 < port < 65536:
                raise ValueError(f"{name} is no port: {port!r:.40}")
            addresses[name.removesuffix("_port")] = f"{transport}://{ip}{joint}{port}"
        scheme = given.get("signature_scheme", "hmac-sha256")
        if not isinstance(scheme, str):
            raise TypeError("signature_scheme must be a string")
        return cls(addresses, given["key"].encode(), scheme)

    @property
    def folder(self) -> Path:
        """Where the states of the kernel with this file are: the same as long as it lives."""
        base = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(base):
            base = os.path.expanduser("~/.local/state")
        text = repr((sorted(self.addresses.items()), self.key))
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return Path(base) / "wasmsr" / "kernels" / name
