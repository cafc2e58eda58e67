"""`wasmsr keys`: a small certificate authority for nodes and their clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.options.tool_options import WIDE, as_object, option, print_blocks, print_object
from wasmsr.errors import EXIT_USAGE, printable

if TYPE_CHECKING:
    from wasmsr.node.security.authority import Authority

HELP = """Makes, lists and revokes the certificates by which nodes and their clients know each
other. Certificates of any other authority do as well.

\b
  wasmsr keys init ca                               a new authority in the folder ca
  wasmsr keys issue node HOST --authority ca -o a   a node that is reached as HOST
  wasmsr keys issue client:ann --authority ca -o b  a person or a script
  wasmsr keys revoke client:ann --authority ca      ... is refused from now on

A node needs the files ID.crt and ID.key of `issue`, and authority.crt and revoked.crl of the
authority. Keep authority.key away from the nodes."""

INIT = """Makes a new authority in FOLDER: authority.crt, authority.key and an empty
revoked.crl."""

ISSUE = """Makes a key and a certificate for WHO, which is `node` (a new node id), `node:ID` or
`client:NAME`.

HOST is a name or an IP address under which the node is reached; more than one can be given. To
renew a certificate, issue it again into the same folder: a node reads its files again while it
runs."""

REVOKE = """Revokes the certificates of WHICH: a serial number, a node id, or client:NAME. Copy
revoked.crl to the nodes; each reads it again within a second."""

LIST = """Shows what the authority has issued, and what was revoked."""


@click.group(help=HELP, invoke_without_command=True, context_settings=WIDE)
@click.pass_context
def keys(ctx: click.Context) -> None:
    """Hold the commands; HELP is its help text, which is printed if no command is named."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


authority_option = option(
    "--authority",
    "authority",
    metavar="FOLDER",
    default="authority",
    show_default=True,
    type=click.Path(file_okay=False),
    help="The authority's folder.",
)


def _open(folder: str) -> Authority:
    from wasmsr.node.security.authority import Authority

    return Authority(Path(folder))


@keys.command(help=INIT, short_help="make a new authority", context_settings=WIDE)
@click.argument("folder", default="authority", type=click.Path(file_okay=False))
@click.option("--name", default="wasmsr", show_default=True, help="Its name, for people.")
@as_object
def init(folder: str, name: str, as_json: bool) -> None:
    """Carry out the command; INIT is its help text."""
    from wasmsr.node.security.authority import Authority

    made = Authority.create(Path(folder), name)
    if as_json:
        print_object({"authority": str(made.folder / "authority.crt")})
        return
    click.echo(f"{printable(made.folder)}: a new authority; keep authority.key away from nodes")


@keys.command(help=ISSUE, short_help="make a certificate", context_settings=WIDE)
@click.argument("who", metavar="WHO")
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@authority_option
@click.option(
    "-o",
    "--output-dir",
    "into",
    default=".",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Where both files go. Default: here.",
)
@option("--days", type=float, default=90.0, show_default=True, help="How long it is valid.")
@as_object
def issue(
    who: str, hosts: tuple[str, ...], authority: str, into: str, days: float, as_json: bool
) -> None:
    """Carry out the command; ISSUE is its help text."""
    made, certificate, key = _open(authority).issue(who, hosts, Path(into), days=days)
    if as_json:
        print_object(
            {
                "node": made.node.hex(),
                "client": made.client,
                "serial": f"{made.serial:x}",
                "expires": made.not_after.isoformat(),
                "certificate": str(certificate),
                "key": str(key),
            }
        )
        return
    until = made.not_after.strftime("%Y-%m-%d")
    click.echo(f"{made}, valid until {until}: {printable(certificate)}, {printable(key)}")


@keys.command(help=REVOKE, short_help="revoke certificates", context_settings=WIDE)
@click.argument("which", metavar="WHICH")
@authority_option
@as_object
def revoke(which: str, authority: str, as_json: bool) -> None:
    """Carry out the command; REVOKE is its help text."""
    opened = _open(authority)
    gone = opened.revoke(which)
    path = opened.folder / "revoked.crl"
    if as_json:
        found = [{"serial": f"{one.serial:x}", "name": one.name} for one in gone]
        print_object({"revoked": found, "list": str(path)})
        return
    for one in gone:
        click.echo(f"revoked {one.name}, serial {one.serial:x}")
    click.echo(f"copy {printable(path)} to the nodes")


@keys.command("list", help=LIST, short_help="show what was issued", context_settings=WIDE)
@authority_option
@as_object
def list_issued(authority: str, as_json: bool) -> None:
    """Carry out the command; LIST is its help text."""
    found = _open(authority).issued()
    if as_json:
        for one in found:
            click.echo(json.dumps(_as_data(one)))
        return
    rows = [
        (one.name, f"{one.serial:x}"[:16], one.expires[:10], one.revoked[:10] or "-")
        for one in found
    ]
    print_blocks([("Certificates", ("name", "serial", "expires", "revoked"), rows)])


def _as_data(one: Any) -> dict[str, Any]:
    return {
        "name": one.name,
        "serial": f"{one.serial:x}",
        "expires": one.expires,
        "revoked": one.revoked or None,
    }
