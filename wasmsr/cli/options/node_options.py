"""Options of the commands that ask a node, and the connection that they mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from wasmsr.cli.options.tool_options import option

if TYPE_CHECKING:
    from wasmsr.rpc.control.control_client import Node

LOCAL = Path("node") / "control"
"""The socket of a node in its state folder. Only the node's user can open it, and nobody else can
listen there in the node's place."""
LONGEST_SOCKET = 100
"""Bytes that the name of a socket can have; Linux takes 107, macOS 103."""
DESCRIPTORS = Path("/proc/self/fd")
"""Where an open folder has a short name (Linux)."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

PARTS = (
    option("--node", "node", metavar="[HOST:]PORT",
           help="The node that is asked. Default: local, the one of this user on this machine."),
    option("--token-file", "token_file", metavar="FILE", type=click.Path(dir_okay=False),
           help="The node's token. On this machine the key of this user does."),
    option("--tls-authority", "tls_authority", metavar="FILE", type=click.Path(dir_okay=False),
           help="Ask with TLS; the node's certificate must be of these authorities."),
    option("--tls-certificate", "tls_certificate", metavar="FILE",
           type=click.Path(dir_okay=False), help="Our own certificate."),
    option("--tls-key", "tls_key", metavar="FILE", type=click.Path(dir_okay=False),
           help="Its private key."),
    option("--node-id", "node_id", metavar="ID",
           help="The node must be this one by its certificate, whatever its host's name is."),
    option("--state-dir", "state_dir", metavar="FOLDER", type=click.Path(file_okay=False),
           help="The folder of this user's node and key, if it is another one than usual."),
)  # fmt: skip

NAMES = (
    *("node", "token_file", "tls_authority", "tls_certificate", "tls_key", "node_id"),
    "state_dir",
)
"""The names of their values; all but the first and the last prove something."""


def node_options(command: Decorated) -> Decorated:
    """Give a click command the options of a connection."""
    command = proof_options(command)
    return cast("Decorated", PARTS[0](command))


def proof_options(command: Decorated) -> Decorated:
    """Give a click command the options of a connection without the address."""
    for part in reversed(PARTS[1:]):
        command = part(command)
    return command


def taken(values: dict[str, Any]) -> dict[str, Any]:
    """Take the options of a connection out of the values of a command."""
    return {name: values.pop(name) for name in NAMES}


def open_node(values: Mapping[str, Any]) -> Node:
    """Return the node that the options name.

    Raises:
        click.UsageError: They contradict each other.
        WasmsrError: A file cannot be used.
    """
    from wasmsr.cli.moving.addresses import state_folder
    from wasmsr.rpc import keys
    from wasmsr.rpc.control.control_client import Node
    from wasmsr.runspec.address import Address

    if values["node"] in (None, "local"):
        if any(values[name] for name in NAMES[1:-1]):
            raise click.UsageError("Certificates and tokens are for --node HOST:PORT.")
        return _local(state_folder(values["state_dir"]) / LOCAL)
    try:
        address = Address.parse(values["node"])
        node_id = bytes.fromhex(values["node_id"] or "")
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--node") from None
    certificate, key, authority = (
        values[name] for name in ("tls_certificate", "tls_key", "tls_authority")
    )
    if (certificate or key) and not (certificate and key and authority):
        raise click.UsageError("--tls-certificate, --tls-key and --tls-authority belong together.")
    token = b""
    if values["token_file"] is not None:
        token, _ = keys.token(Path(values["token_file"]))
    elif authority is None and address.is_loopback:
        token = keys.own(state_folder(values["state_dir"]), state_folder(None))
    if authority is None:
        return Node(str(address), token=token)
    from wasmsr.node.security.pem_files import read_file
    from wasmsr.node.security.tls_identity import TlsFiles, load

    content = None
    if certificate:
        content = load(TlsFiles(Path(certificate), Path(key), Path(authority)))
    trusted = read_file(Path(authority), "the authority")
    return Node(str(address), token=token, tls=content, authority=trusted, node_id=node_id)


def _local(socket: Path) -> Node:
    """Return the node of this user on this machine. Raises NodeAway."""
    from wasmsr.node.failures import NodeAway
    from wasmsr.rpc.control.control_client import Node

    try:
        own = socket.lstat().st_uid == os.geteuid()
    except OSError:
        own = False
    if not own:
        raise NodeAway(
            f"no node of this user has the folder {socket.parent}",
            hint="`wasmsr node` starts one; --node HOST:PORT asks another one, and --state-dir "
            "FOLDER one with another folder",
        )
    name = socket_name(socket)
    if name is None:
        raise NodeAway(
            f"the name {socket} is too long for a socket", hint="--node HOST:PORT asks the node"
        )
    return Node(f"unix:{name}")


def socket_name(socket: Path) -> str | None:
    """Return a name of a socket that the system takes, for this process; None if there is none."""
    if len(os.fsencode(socket)) <= LONGEST_SOCKET:
        return str(socket)
    if not DESCRIPTORS.is_dir():
        return None
    # It stays open: gRPC may connect at any time.
    folder = os.open(socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return str(DESCRIPTORS / str(folder) / socket.name)
