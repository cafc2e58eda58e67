"""`wasmsr mcp`: sandboxes for language models, by the Model Context Protocol."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wasmsr.cli.options.tool_options import WIDE, option

if TYPE_CHECKING:
    from wasmsr.mcp.policy import McpPolicy

HELP = """Serves Python sandboxes to language models, by the Model Context Protocol.

\b
  wasmsr mcp                                a client starts it, and speaks by pipes
  wasmsr mcp --listen 8765                  for many, at http://127.0.0.1:8765/mcp
  wasmsr mcp --new-token alice              a token, and its line for the policy

The tools open, list, fork, rewind, park and close sandboxes, run code in them, and put and get
files. A sandbox keeps its variables between calls. A call that takes too long is paused, and goes
on when the client asks for it.

A policy file limits all of that; what it leaves out has a default:

\b
  [sandbox]                                 # what each sandbox gets
  packages = ["base", "numpy+pandas"]       # the first is the default
  instructions = "20G"
  seconds = 60
  memory = "1G"
  output = "1M"
  files = "64M"
  deterministic = false
  mounts = ["data::/data::ro"]              # as --dir of wasmsr run
  [service]                                 # what clients may have
  sandboxes = 50                            # of one client
  open = 200                                # of all, in memory; beyond it idle ones are parked
  calls = 8                                 # of one client at the same time
  running = 16                              # of all clients
  idle = 600                                # seconds, then a sandbox is parked
  message = "8M"
  stall = 10                                # seconds for the rest of a message
  file = "4M"
  [clients]                                 # without them: this machine only
  alice = "SHA-256 of the client's token"

A client sends its token as `Authorization: Bearer TOKEN`. It needs the extra packages of
wasmsr[mcp] and wasmsr[python]."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TRIES = 5  # to remove a folder


@click.command(help=HELP, short_help="serve sandboxes to language models", context_settings=WIDE)
@option(
    "--policy",
    "policy_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Limits, mounts and clients, in TOML.",
)
@option(
    "--listen",
    "listen",
    metavar="[HOST:]PORT",
    help="Serve many clients over HTTP there. Without it, one on standard input and output.",
)
@option(
    "--state-dir",
    "state_dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Keep parked sandboxes there, as long as the server lives. Default: a temporary folder.",
)
@click.option(
    "--new-token", "new_token", metavar="NAME", help="Make a token for a client, and end."
)
def mcp(
    policy_file: str | None, listen: str | None, state_dir: str | None, new_token: str | None
) -> None:
    """Carry out the command; HELP is its help text."""
    from wasmsr.mcp.policy import CLIENT_NAME, McpPolicy, read_policy

    if new_token is not None:
        if not CLIENT_NAME.fullmatch(new_token):
            raise click.UsageError(f"{new_token!r} is no name of a client.")
        token = secrets.token_urlsafe(24)
        click.echo(f"token:  {token}")
        click.echo(f'policy: {new_token} = "{hashlib.sha256(token.encode()).hexdigest()}"')
        return
    policy = McpPolicy() if policy_file is None else read_policy(Path(policy_file))
    import tempfile

    if state_dir is not None:
        Path(state_dir).mkdir(parents=True, exist_ok=True)
    # A signal that comes before the handlers know the folder waits, or the folder would stay.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    with tempfile.TemporaryDirectory(prefix="wasmsr-mcp-", dir=state_dir) as folder:
        _forget_at_signals(folder)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _serve(policy, listen, Path(folder))


def _forget_at_signals(folder: str) -> None:
    """Let signals end the process, and parked sandboxes with it: they hold what clients had.

    The process ends at once, because a thread may wait for standard input. The HTTP server takes
    the signal first, ends what it answers, and raises it again.
    """

    def end(number: int, frame: object) -> None:
        for _ in range(TRIES):  # another thread may write there meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.lexists(folder):
                break
        os._exit(128 + number)

    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def _serve(policy: McpPolicy, listen: str | None, folder: Path) -> None:
    """Serve until the client or a signal ends it."""
    from wasmsr.cli.words.messages import say
    from wasmsr.errors import MissingPackageError
    from wasmsr.runspec.address import Address

    try:
        import anyio

        from wasmsr.mcp.serving import serve_http, serve_stdio
        from wasmsr.mcp.tools import make_server
    except ImportError as error:
        name = (error.name or "mcp").split(".")[0]
        raise MissingPackageError(name, "this command", extra="mcp") from error
    from wasmsr.mcp.shelf import SandboxShelf
    from wasmsr.mcp.source import PythonSource

    address = None
    if listen is not None:
        try:
            address = Address.parse(listen)
        except ValueError as error:
            raise click.UsageError(f"{error}.") from None
    shelf = SandboxShelf(policy, PythonSource(policy.sandbox, folder))
    server = make_server(shelf, policy)
    try:
        if address is None:
            anyio.run(serve_stdio, server, shelf, policy)
        else:
            ready = f"clients find the sandboxes at http://{address}/mcp"
            anyio.run(serve_http, server, shelf, policy, address, lambda: say(ready))
    finally:
        shelf.close_all()
