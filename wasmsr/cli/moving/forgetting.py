"""`wasmsr remote --forget`: removes what the state folder keeps of programs that were lost."""

from __future__ import annotations

import json

import click

from wasmsr.cli.moving.addresses import state_folder
from wasmsr.cli.options.remote_options import RemoteOptions
from wasmsr.cli.words.messages import say

LOST = "lost"
"""The value of --forget that means all lost programs."""


def forget_programs(options: RemoteOptions) -> int:
    """Remove them, say what they were, and return the exit code."""
    from wasmsr.migrate.events import size
    from wasmsr.migrate.journal.forget import forget

    program = "" if options.forget in (None, LOST) else str(options.forget).lower()
    if program.strip("0123456789abcdef") or 0 < len(program) < 4:
        raise click.BadParameter(
            "a program's id, or at least its first four digits.", param_hint="--forget"
        )
    removed = forget(
        state_folder(options.state_dir), options.port, program, lambda text: say(text, "warning")
    )
    for kept in removed:
        what = "which no record names" if kept.standing == "nothing" else f"was {kept.standing}"
        say(f"forgot program {kept.program[:8]} at port {kept.port} ({what}): {size(kept.size)}")
    if options.json:
        for kept in removed:
            print(json.dumps({"event": "forgotten", **vars(kept)}))
    if not removed:
        say("there is nothing to forget")
    elif len(removed) > 1:
        say(f"{size(sum(kept.size for kept in removed))} in all")
    return 0
