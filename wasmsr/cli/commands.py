"""The subcommands by name, and what is said to habits that other runtimes have taught.

Without click: `entry` asks which command is meant before it is known whether click is needed.
"""

from __future__ import annotations

COMMANDS = {
    "run": (
        "wasmsr.cli.run_command",
        "run a program; save it while it runs, or go on from that",
    ),
    "inspect": ("wasmsr.cli.inspect", "show what is in a snapshot or a module"),
    "cache": ("wasmsr.cli.cache", "show or clear what is noted of modules"),
    "remote": ("wasmsr.cli.remote", "move a running program to and fro between two hosts"),
}
"""Name: (module whose attribute of that name is the command, summary). Nothing is imported for
`wasmsr --help`."""

ELSEWHERE = {
    "compile": "Nothing is compiled ahead of time: wasmsr run app.wasm starts at once, and wasmsr "
    "cache shows what makes large modules start sooner.",
    "explore": "wasmsr inspect app.wasm shows what is in a module, and wasmsr run --trace what it "
    "does.",
    "objdump": "wasmsr inspect app.wasm shows what is in a module, and wasmsr run --trace what it "
    "does.",
    "validate": "wasmsr inspect app.wasm validates a module and says whether it runs here.",
    "serve": "There is no HTTP server here: wasmsr run --tcp-listen ADDR:PORT gives a program a "
    "socket on which it accepts connections.",
    "config": "There is no file of settings: each option is also a variable, as WASMSR_FUEL.",
    "settings": "There is no file of settings: each option is also a variable, as WASMSR_FUEL.",
    "wast": "Test scripts are run in the source tree: make test.",
}
"""Commands of other runtimes: what is used here instead."""

SWITCHES = {
    "-S": "What a program gets is said by --dir, --env, --inherit-env, --stdin and --tcp-listen.",
    "-W": "What a program may use is said by --features, --max-memory, --fuel and --timeout.",
    "-C": "Nothing is compiled to machine code, so there is nothing to set.",
    "-O": "Nothing is compiled to machine code, so there is nothing to optimize.",
    "-D": "What happens is shown by --trace, --trace-state and --timings.",
    "-mount": "Folders are given by --dir HOST::GUEST.",
    "-env": "Variables are given by --env NAME=VALUE.",
    "-env-inherit": "--inherit-env gives the program our environment.",
    "-timeout": "--timeout SECONDS ends the program.",
    "-cachedir": "--module-cache FOLDER is that.",
    "--preload": "A program is one module here; Store.instantiate of the library links several.",
    "--wasm-features": "--features -NAME,+NAME is that.",
    "--net": "--tcp-listen ADDR:PORT lets a program accept connections.",
    "--volume": "Folders are given by --dir HOST::GUEST.",
}
"""Options of other runtimes: what is used here instead. Those of wasmtime with one letter may have
their value attached."""


def instead_of(word: str) -> str | None:
    """The sentence for an option of another runtime, or None."""
    name = word.partition("=")[0]
    if name in SWITCHES:
        return SWITCHES[name]
    return SWITCHES.get(word[:2]) if word[:1] == "-" and not word.startswith("--") else None
