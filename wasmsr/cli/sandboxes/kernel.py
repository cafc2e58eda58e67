"""`wasmsr kernel`: a Jupyter kernel whose Python can be saved and rewound."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from wasmsr.cli.options.tool_options import WIDE, option
from wasmsr.errors import EXIT_USAGE

HELP = """A Jupyter kernel: notebooks whose Python is a sandbox.

\b
  wasmsr kernel install --user                  Jupyter of this user finds it from now on
  wasmsr kernel install --sys-prefix            ... Jupyter of this virtual environment
  wasmsr kernel install --packages scientific --name science --display-name Science

It needs the extra packages of wasmsr[jupyter] and wasmsr[python]."""

INSTALL = """Writes a kernel spec, by which Jupyter finds the kernel.

Without --user, --sys-prefix and --prefix it is written for all users of the machine. What a
notebook may see of the host is said here: without --dir it is nothing."""

RUN = """Serves the clients of a connection file. Jupyter starts this command by the kernel spec."""


@click.group(help=HELP, invoke_without_command=True, context_settings=WIDE)
@click.pass_context
def kernel(ctx: click.Context) -> None:
    """Hold the commands; HELP is its help text, which is printed if no command is named."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


def _sandbox_options(command: Any) -> Any:
    """Add the options of the sandbox to a command."""
    for one in reversed(
        (
            option(
                "--packages",
                metavar="SET",
                default="base",
                show_default=True,
                help="What is imported before: base, numpy, numpy+pandas or scientific.",
            ),
            option(
                "--dir",
                "mounts",
                metavar="HOST::GUEST[::MODE]",
                multiple=True,
                help="A folder of the host that notebooks see.",
            ),
            option(
                "--max-memory",
                metavar="BYTES",
                default="2G",
                show_default=True,
                help="Memory of the sandbox.",
            ),
            option(
                "--checkpoint-every",
                metavar="SECONDS",
                default=5.0,
                show_default=True,
                type=click.FloatRange(0),
                help="Keep states of a cell that runs so often. 0: only after each cell.",
            ),
        )
    ):
        command = one(command)
    return command


@kernel.command(help=INSTALL, short_help="write a kernel spec", context_settings=WIDE)
@click.option("--user", is_flag=True, help="Only for this user.")
@click.option("--sys-prefix", is_flag=True, help="For the environment of this Python.")
@click.option("--prefix", metavar="FOLDER", help="For the Jupyter that is installed there.")
@click.option("--name", default="wasmsr", show_default=True, help="Its name for clients.")
@click.option("--display-name", metavar="TEXT", help="Its name for people.")
@click.option(
    "--keep-alive",
    is_flag=True,
    help="Have Jupyter start the kernel again if its own process is killed. wasmsr must be "
    "installed beside Jupyter.",
)
@click.option("--env", "env", metavar="NAME VALUE", nargs=2, multiple=True, help="A variable.")
@_sandbox_options
def install(
    user: bool,
    sys_prefix: bool,
    prefix: str | None,
    name: str,
    display_name: str | None,
    keep_alive: bool,
    env: tuple[tuple[str, str], ...],
    packages: str,
    mounts: tuple[str, ...],
    max_memory: str,
    checkpoint_every: float,
) -> None:
    """Carry out the command; INSTALL is its help text."""
    if user + sys_prefix + (prefix is not None) > 1:
        raise click.UsageError("--user, --sys-prefix and --prefix exclude each other.")
    _need()
    from wasmsr.kernel.spec import spec_folder, spec_of, write_spec

    parts = [mount.partition("::") for mount in mounts]
    mounts = tuple(f"{Path(host).resolve()}{more}{rest}" for host, more, rest in parts)
    options = _settings(packages, mounts, max_memory, checkpoint_every).options()
    if display_name is None:
        display_name = "Python (wasmsr)" if packages == "base" else f"Python (wasmsr, {packages})"
    folder = spec_folder(name, sys.prefix if sys_prefix else prefix, user)
    write_spec(folder, spec_of(options, display_name, dict(env), keep_alive=keep_alive))
    click.echo(f"the kernel {name} is in {folder}")


@kernel.command(help=RUN, short_help="serve a notebook", context_settings=WIDE)
@click.option(
    "-f",
    "--connection-file",
    "file",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False),
    help="The connection file that the client has written.",
)
@click.option("--goes-on", is_flag=True, help="Go on with the states that are kept for the file.")
@_sandbox_options
def run(
    file: str,
    goes_on: bool,
    packages: str,
    mounts: tuple[str, ...],
    max_memory: str,
    checkpoint_every: float,
) -> None:
    """Carry out the command; RUN is its help text."""
    _need()
    import signal

    from wasmsr.kernel.checkpoints import KernelFolder, remove_old
    from wasmsr.kernel.ports import ClientPorts
    from wasmsr.kernel.relay import KernelRelay
    from wasmsr.kernel.settings import ConnectionFile

    settings = _settings(packages, mounts, max_memory, checkpoint_every)
    connection = ConnectionFile.read(Path(file))
    folder = KernelFolder(connection.folder)
    ports = ClientPorts(connection)
    if not goes_on:
        folder.empty()  # not before the ports are ours: the states may be those of a live kernel
    remove_old(folder.path.parent)
    relay = KernelRelay(ports, settings, folder.path, goes_on=goes_on, note=_note(folder, goes_on))
    if not goes_on:
        relay.open_worker()
    signal.signal(signal.SIGINT, lambda *_: relay.interrupt())
    relay.serve()
    folder.remove()


def _note(folder: Any, goes_on: bool) -> str:
    """Return what a notebook has to know of an earlier kernel of it; empty for nothing."""
    from wasmsr.kernel.checkpoints import kept_sessions

    session = folder.describe()
    if goes_on or not session:
        return ""
    found = [one for one in kept_sessions(folder.path) if one.session == session]
    if not found:
        return ""
    said = "wasmsr: An earlier kernel was killed. %restore goes on from its state of"
    return f"{said} {found[0].said}."


def _settings(packages: str, mounts: tuple[str, ...], max_memory: str, every: float) -> Any:
    """Return the settings that options mean. Raises UsageError: They cannot be used."""
    from wasmsr.kernel.settings import KernelSettings
    from wasmsr.sandbox.guests import PACKAGE_SETS

    if packages not in PACKAGE_SETS:
        raise click.UsageError(f"--packages is one of {', '.join(PACKAGE_SETS)}.")
    from wasmsr.runspec.kinds import Size

    try:
        return KernelSettings(packages, mounts, Size().read(max_memory), every=every)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _need() -> None:
    """Raise MissingPackageError if a package of the extra is not there."""
    from wasmsr.errors import MissingPackageError

    try:
        import jupyter_client  # noqa: F401
        import zmq  # noqa: F401
    except ImportError as error:
        name = (error.name or "jupyter_client").split(".")[0]
        raise MissingPackageError(name, "this command", extra="jupyter") from error
