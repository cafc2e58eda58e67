"""`wasmsr cache`: what the module cache holds, and an end to it."""

from __future__ import annotations

import json

import click

from wasmsr import realtime
from wasmsr.cli.options import human_time
from wasmsr.cli.run import variable

HELP = """Shows what is noted of modules, or removes it.

The module cache holds notes, not modules: which digest a file had, and which modules this build of
wasmsr has validated, so that large ones start sooner. It is bounded, and safe to remove at any
time. `wasmsr run --module-cache off` does without."""


@click.command(help=HELP, context_settings={"max_content_width": 100})
@click.argument("action", type=click.Choice(["list", "clear"]), default="list")
@click.option(
    "--module-cache",
    metavar="FOLDER",
    envvar=variable("--module-cache"),
    help="The folder. Default: the user's cache folder.",
)
@click.option("--json", "as_json", is_flag=True, envvar=variable("--json"), help="Print an object.")
def cache(action: str, module_cache: str | None, as_json: bool) -> int:
    """The command; HELP is its help."""
    from wasmsr.interp.cache import KEPT, ModuleCache, default_folder

    found = ModuleCache(default_folder() if module_cache in (None, "off") else str(module_cache))
    if action == "clear":
        removed = found.clear()
        said = {"folder": found.folder, "removed": removed}
        print(json.dumps(said) if as_json else f"{found.folder}: {removed} notes removed")
        return 0
    notes = list(found.notes())
    if as_json:
        print(json.dumps({"folder": found.folder, "most": KEPT, "notes": [vars(n) for n in notes]}))
        return 0
    print(f"{found.folder}: {len(notes)} notes, {KEPT} at most")
    for note in notes:
        meaning = "is valid" if note.kind == "valid" else f"file {note.name.partition('-')[2]}"
        ago = human_time(max(0.0, realtime.now() / 1e9 - note.used))
        print(f"  {(note.digest or 'damaged')[:16]:<16}  {meaning}, used {ago} ago")
    return 0
