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


HELP = """Has what concerns sandboxes: interpreters for somebody's code.

\b
  wasmsr sandbox warm                       prepare all sets of packages
  wasmsr sandbox warm base

The library makes sandboxes: wasmsr.Sandbox. It needs the extra wasmsr[python]."""


@click.group(
    help=HELP, context_settings=WIDE, short_help="prepare Python sandboxes, so that they start fast"
)
def sandbox() -> None:
    """Carry out the command; HELP is its help text."""


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
    from wasmsr.sandbox.warm import WarmRecipe, write_warm
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
