"""`wasmsr cache`: shows what the module cache holds, and removes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from wasmsr import realtime
from wasmsr.cli.options.run_options import variable

if TYPE_CHECKING:
    from wasmsr.interp.modules.module_cache import Note

HELP = """Shows what is noted of modules (which they are, how large, when they were last used), or
removes it.

\b
  wasmsr cache
  wasmsr cache clear

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
    """Carry out the command; HELP is its help text."""
    from wasmsr.errors import printable
    from wasmsr.interp.modules.module_cache import KEPT, ModuleCache, default_folder
    from wasmsr.snapshot.inspect.text_tables import lines

    found = ModuleCache(default_folder() if module_cache in (None, "off") else str(module_cache))
    if action == "clear":
        removed = found.clear()
        said = {"folder": found.folder, "removed": removed}
        folder = printable(found.folder)
        print(json.dumps(said) if as_json else f"{folder}: {removed} notes removed")
        return 0
    notes = list(found.notes())
    if as_json:
        print(json.dumps({"folder": found.folder, "most": KEPT, "notes": [vars(n) for n in notes]}))
        return 0
    print(f"{printable(found.folder)}: {len(notes)} notes, {KEPT} at most")
    for line in lines([("Modules", ("module", "size", "last used", "SHA-256", ""), rows(notes))]):
        print(line)
    return 0


def rows(notes: Sequence[Note]) -> list[tuple[str, ...]]:
    """Return one row for each module, those used last first."""
    from wasmsr.snapshot.inspect.text_tables import size

    by_digest: dict[str | None, list[Note]] = {}
    for note in notes:
        by_digest.setdefault(note.digest, []).append(note)
    found: list[tuple[str, ...]] = []
    for digest, mine in by_digest.items():
        files = sum(note.kind == "file" for note in mine)
        said = ["is valid"] * any(note.kind == "valid" for note in mine)
        said += [f"{files} file{'s' * (files > 1)}"] * (files > 0)
        found.append(
            (
                mine[0].path or "?",
                "?" if mine[0].size is None else size(mine[0].size),
                f"{ago(realtime.now() / 1e9 - max(note.used for note in mine))} ago",
                (digest or "damaged")[:16],
                ", ".join(said),
            )
        )
    return found


def ago(seconds: float) -> str:
    """Return a span of time in the unit that suits it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
