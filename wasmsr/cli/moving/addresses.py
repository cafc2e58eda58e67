"""Where one end listens, whom it asks, and the key of both ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wasmsr.cli.options.remote_options import RemoteOptions
from wasmsr.cli.words.messages import say

if TYPE_CHECKING:
    from wasmsr.rpc.tls_end import TlsEnd
    from wasmsr.runspec.address import Address


def state_folder(given: str | None) -> Path:
    """Return the folder for decisions and states: the user's, if --state-dir gives none."""
    if given is not None:
        return Path(given)
    from platformdirs import user_state_path

    return user_state_path("wasmsr", appauthor=False)


def addresses(options: RemoteOptions) -> tuple[Address, Address]:
    """Return where this end listens, and where its peer does.

    Raises:
        click.UsageError: The addresses cannot be, or leave this machine without a key.
    """
    from wasmsr.runspec.address import LOOPBACK, Address

    assert options.peer is not None and options.port is not None
    try:
        peer = Address.parse(options.peer)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--peer") from None
    listen = Address(options.listen or LOOPBACK, options.port)
    if peer.port == listen.port and {peer.host, listen.host} <= {LOOPBACK, "localhost"}:
        raise click.UsageError(
            f"--peer {options.peer} is this very end: --port and --peer of two ends on one "
            "machine differ."
        )
    if options.insecure or options.token_file is not None or options.tls_certificate is not None:
        return listen, peer
    for name, address in (("--listen", listen), ("--peer", peer)):
        if not address.is_loopback:
            raise click.UsageError(
                f"{name} {address.host} leaves this machine, and the key of this user's ends "
                "does not. Give each end a certificate (--tls-certificate), or both the same "
                "--token-file FILE (programs then travel in plain text), or --insecure, with "
                "which anybody can send a program or end one."
            )
    return listen, peer


def check_tls(options: RemoteOptions) -> None:
    """Raise click.UsageError if options of TLS are there without the others."""
    needed = {
        "--tls-certificate": options.tls_certificate,
        "--tls-key": options.tls_key,
        "--tls-authority": options.tls_authority,
    }
    given = {name for name, value in needed.items() if value is not None}
    if (given or options.tls_revoked is not None) and given != needed.keys():
        missing = " and ".join(name for name in needed if name not in given)
        raise click.UsageError(f"TLS needs {missing} too.")
    if given and options.insecure:
        raise click.UsageError("--insecure and --tls-certificate exclude each other.")


def tls_end(options: RemoteOptions) -> TlsEnd | None:
    """Return the certificate of this end, or None for plain text. Raises CredentialsError."""
    if options.tls_certificate is None or options.tls_key is None or options.tls_authority is None:
        return None
    from wasmsr.node.security.tls_identity import TlsFiles
    from wasmsr.rpc.tls_end import TlsEnd

    revoked = None if options.tls_revoked is None else Path(options.tls_revoked)
    certificate, own = Path(options.tls_certificate), Path(options.tls_key)
    return TlsEnd(TlsFiles(certificate, own, Path(options.tls_authority), revoked))


def key(options: RemoteOptions, listen: Address, peer: Address) -> bytes:
    """Return the key that the peer must have, and warn of what it does not protect.

    Raises:
        MigrationError: The key cannot be read, or is too short.
    """
    from wasmsr.rpc import keys

    leaves = not (listen.is_loopback and peer.is_loopback)
    if options.token_file is not None:
        found, readable = keys.token(Path(options.token_file))
        if readable:
            say(
                f"other users of this machine can read the key {options.token_file}; "
                "chmod 600 keeps it to yourself",
                "warning",
            )
        if leaves and options.tls_certificate is None:
            say(
                "programs travel in plain text: anybody who can listen on the way reads all that "
                "they hold; only an end with the key can send or alter one",
                "warning",
            )
        return found
    if options.tls_certificate is not None:
        return b""  # the certificates say who is who
    if options.insecure:
        say(
            f"--insecure: nobody is asked for a key. Anybody who can reach {listen} can run any "
            "program here, with the folders that are given here, read what moves, alter it, "
            "and end it. --token-file FILE at both ends keeps them out.",
            "warning",
        )
        return b""
    return keys.own(state_folder(options.state_dir), state_folder(None))
