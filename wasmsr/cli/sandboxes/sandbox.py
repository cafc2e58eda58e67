"""`wasmsr sandbox`: sandboxes in a terminal, and what is prepared for them."""

from __future__ import annotations

import click

from wasmsr.cli.options.tool_options import WIDE, as_object, option

WARM_HELP = """Prepares Python sandboxes, so that they start at once in every process.

\b
  wasmsr sandbox warm                       base, numpy+pandas and scientific
  wasmsr sandbox warm numpy+pandas
  wasmsr sandbox warm base --dir .::/data::ro

A SET is what is imported: base, numpy, numpy+pandas, scientific (with scipy, scikit-learn and
matplotlib). Each is a file in the user's folder of caches, made once. It is made again when wasmsr,
the guest or the file itself has changed. It takes 2 to 60 s and 30 to 150 MB.

A file is for one user: it has nothing of the host, but all sandboxes of a set have the same `hash`
of strings. --renew makes another one."""


HELP = """A Python prompt in a sandbox. It sees no file and no variable of yours. Its state can be
kept, rewound, forked and saved.

\b
  wasmsr sandbox                            a prompt; :help lists its commands
  wasmsr sandbox --packages numpy+pandas --dir .::/data::ro
  wasmsr sandbox --load FILE                go on with what :save has written
  wasmsr sandbox < program.py               a pipe: code, and lines of commands
  wasmsr sandbox warm                       prepare all sets of packages

Ctrl-C ends the statement that runs. A pipe ends at the first error, with exit code 1. It needs the
extra wasmsr[python]; the library makes such sandboxes too: wasmsr.Sandbox."""


@click.group(
    help=HELP,
    context_settings=WIDE,
    short_help="a Python prompt that can be rewound, forked and saved",
    invoke_without_command=True,
)
@click.option(
    "--packages", default="base", show_default=True, metavar="SET", help="What is imported before."
)
@click.option(
    "--dir",
    "folders",
    metavar="HOST[::GUEST[::MODE]]",
    multiple=True,
    help="A folder that code sees, as for wasmsr run. May be given several times.",
)
@click.option("--load", "file", metavar="FILE", help="Go on with a sandbox that was saved.")
@click.option("--seconds", type=float, help="How long a call may run.")
@click.pass_context
def sandbox(
    context: click.Context,
    packages: str,
    folders: tuple[str, ...],
    file: str | None,
    seconds: float | None,
) -> None:
    """Carry out the command; HELP is its help text."""
    if context.invoked_subcommand is not None:
        return
    import sys
    from dataclasses import replace

    from wasmsr.cli.sandboxes.prompt import SandboxPrompt, pipe_reader, terminal_reader
    from wasmsr.sandbox.results import SandboxLimits
    from wasmsr.sandbox.sandbox import Sandbox

    try:
        limits = SandboxLimits(seconds=seconds)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    if file is None:
        made = Sandbox.python(packages, mounts=folders, limits=limits)
    else:
        made = Sandbox.load(file, mounts=folders)
        if seconds is not None:
            made.limits = replace(made.limits, seconds=seconds)
    typed = sys.stdin.isatty()
    prompts: list[SandboxPrompt] = []
    read = terminal_reader(lambda: prompts[0]) if typed else pipe_reader
    prompts.append(SandboxPrompt(made, read, interactive=typed))
    if typed:
        click.echo(f"Python in a sandbox ({packages if file is None else file}). :help has more.")
        if made.status != "idle":
            click.echo(f"its call is {made.status}: :resume goes on, :cancel ends it")
    try:
        code = prompts[0].loop()
    finally:
        prompts[0].close()
    context.exit(code)


@sandbox.command("warm", help=WARM_HELP, context_settings=WIDE)
@click.argument("sets", metavar="[SET]...", nargs=-1)
@click.option(
    "--dir",
    "folders",
    metavar="HOST::GUEST::MODE",
    multiple=True,
    help="For sandboxes with this mount. Only GUEST and MODE count. May be given several times.",
)
@option("--deterministic", is_flag=True, help="For sandboxes whose clocks and random bytes are.")
@click.option("--renew", is_flag=True, help="Make the files again that can be used as they are.")
@as_object
def warm(
    sets: tuple[str, ...],
    folders: tuple[str, ...],
    deterministic: bool,
    renew: bool,
    as_json: bool,
) -> None:
    """Carry out the command; WARM_HELP is its help text."""
    import json
    import time

    from wasmsr.errors import printable
    from wasmsr.sandbox.guests import python_guest
    from wasmsr.sandbox.states.warm import WarmRecipe, write_warm
    from wasmsr.wasi.filesystem.mounts import Mount

    given = [Mount.parse(one) for one in folders]
    named = tuple((one.guest, one.mode) for one in given)
    found = []
    guests = [python_guest(one) for one in sets or ("base", "numpy+pandas", "scientific")]
    for guest in guests:
        began = time.perf_counter()
        path, made = write_warm(WarmRecipe(guest, named, deterministic), renew=renew)
        seconds = time.perf_counter() - began
        found.append({"set": guest.packages, "file": str(path), "made": made, "seconds": seconds})
        if not as_json:
            said = f"prepared in {seconds:.1f} s" if made else "is prepared"
            click.echo(f"{guest.packages}: {said}: {printable(str(path))}")
    if as_json:
        click.echo(json.dumps({"sets": found}))
