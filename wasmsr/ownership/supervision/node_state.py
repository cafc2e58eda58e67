"""What a node keeps on its disk: its id, the locks of its programs, and the folders of workers.

    FOLDER/NODE.node             the id of this host's node; NODE is made of the host's machine id
    FOLDER/ID/PROGRAM.lock       held by the supervisor that has the program
    FOLDER/ID/PROGRAM/           the program's workers (`executor/old_workers.py`), and `epoch`

A folder that several hosts share gives each of them an id of its own.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wasmsr import small_files
from wasmsr.executor.old_workers import HeldLock
from wasmsr.executor.port import ExecutorError
from wasmsr.ownership.failures import OwnershipError
from wasmsr.ownership.record_bytes import NODE_BYTES

MACHINE = Path("/etc/machine-id")
"""What tells this host from others that share its disk."""


class NodeState:
    """A node's folder.

    Attributes:
        node: The node id.
        folder: The folder of this node.
    """

    def __init__(self, folder: Path, node: bytes = b"") -> None:
        """Open the folder; the first call of a host makes its id.

        Args:
            folder: The folder.
            node: The id that it must have, by a certificate; b"" for any.

        Raises:
            OwnershipError: The folder cannot be used, its file is damaged, or it is of another
                node.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.node = _node(folder / f"{_host()}.node", node)
            if node not in (b"", self.node):
                raise OwnershipError(
                    f"{folder} is the folder of node {self.node.hex()}, and the certificate names "
                    f"node {node.hex()}",
                    hint=f"`wasmsr keys issue node:{self.node.hex()}` makes one for this folder; "
                    "or name another --state-dir FOLDER",
                )
            self.folder = folder / self.node.hex()
            self.folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise OwnershipError(
                f"{folder} cannot keep the node's id: {error.strerror}",
                hint="name a folder that this user can write: --state-dir FOLDER",
            ) from error

    def workers(self, program: bytes) -> Path:
        """Return the folder of a program's workers, which is made if it is not there."""
        place = self.folder / program.hex()
        place.mkdir(exist_ok=True, mode=0o700)
        return place

    @contextmanager
    def locked(self, program: bytes) -> Iterator[None]:
        """Hold the lock of a program's supervisor.

        Raises:
            OwnershipError: Another process of this node has the program.
        """
        try:
            lock = HeldLock(self.folder / f"{program.hex()}.lock", "it")
        except ExecutorError as error:
            raise OwnershipError(
                error.message,
                program=program,
                hint="this node has it already: end that process, and ask again",
            ) from error
        try:
            yield
        finally:
            lock.close()


def _host() -> str:
    try:
        machine = MACHINE.read_bytes().strip()
    except OSError:
        machine = b""
    return hashlib.sha256(b"wasmsr node" + machine).hexdigest()[:16]


def _node(path: Path, wanted: bytes) -> bytes:
    """Return the id in a file; two processes that make it at once get the same one.

    Args:
        path: The file.
        wanted: The id that a new file gets; b"" for a random one.
    """
    if not path.exists():
        with suppress(FileExistsError):
            small_files.create(
                path, (wanted.hex() or secrets.token_hex(NODE_BYTES)).encode() + b"\n"
            )
    try:
        node = bytes.fromhex(path.read_text(encoding="ascii")[:100].strip())
    except ValueError:
        node = b""
    if len(node) != NODE_BYTES:
        raise OwnershipError(
            f"{path} has no node id",
            hint="remove it: the node gets a new id, and others take its programs over",
        )
    return node
