"""The subcommands by name, and the answers to typos and to the options of other runtimes.

This file needs no click: `entry` asks for the command before it is clear whether click is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

COMMANDS = {
    "run": (
        "wasmsr.cli.commands.run",
        "run a program; save it while it runs, or go on from that",
    ),
    "inspect": ("wasmsr.cli.commands.inspect", "show what is in a snapshot or a module"),
    "snapshot": (
        "wasmsr.cli.commands.snapshot",
        "check, merge, convert or compare snapshots",
    ),
    "store": ("wasmsr.cli.commands.store", "keep many snapshots in one place, equal pages once"),
    "cache": ("wasmsr.cli.commands.cache", "show or clear what is noted of modules"),
    "ownership": ("wasmsr.cli.commands.ownership", "show who may run the programs under a lease"),
    "keys": ("wasmsr.cli.commands.keys", "make and revoke the certificates of nodes"),
    "remote": ("wasmsr.cli.commands.remote", "move a running program to and fro between two hosts"),
    "node": ("wasmsr.cli.commands.node", "run a node, which keeps programs of many people"),
    "submit": ("wasmsr.cli.commands.node_verbs", "have a node run a program"),
    "health": ("wasmsr.cli.commands.node_verbs", "say whether a node works"),
    "ps": ("wasmsr.cli.commands.node_verbs", "list the programs of a node"),
    "logs": ("wasmsr.cli.commands.node_verbs", "print the output of a program on a node"),
    "pause": ("wasmsr.cli.commands.node_verbs", "pause a program on a node"),
    "resume": ("wasmsr.cli.commands.node_verbs", "let a program on a node run on"),
    "checkpoint": ("wasmsr.cli.commands.node_verbs", "save a program on a node"),
    "migrate": ("wasmsr.cli.moving.node_moves", "move a program from a node to another"),
    "drain": ("wasmsr.cli.moving.node_moves", "move all programs of a node to others"),
    "adopt": ("wasmsr.cli.moving.node_moves", "resume a program whose node is gone"),
    "kill": ("wasmsr.cli.commands.node_verbs", "end a program on a node"),
    "job": ("wasmsr.cli.commands.job", "run jobs, and check job files"),
    "fleet": ("wasmsr.cli.fleet.fleet", "have a fleet of devices run modules, and look at it"),
    "dag": ("wasmsr.cli.elements.dag", "run programs that are graphs of elements"),
    "memory": ("wasmsr.cli.elements.memory", "serve a memory that others read and write"),
    "sandbox": (
        "wasmsr.cli.sandboxes.sandbox",
        "a Python prompt that can be rewound, forked and saved",
    ),
    "mcp": ("wasmsr.cli.sandboxes.mcp", "serve Python sandboxes to language models"),
    "kernel": (
        "wasmsr.cli.sandboxes.kernel",
        "give Jupyter a kernel that can be saved and rewound",
    ),
    "worker": ("wasmsr.cli.fleet.worker", "run modules for a manager of the Silverline tools"),
    "orchestrator": ("wasmsr.cli.fleet.orchestrator", "say what runs where in a fleet of devices"),
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
"""Commands of other runtimes, each with what to use here instead."""

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
    "--wasm-features": "--features -NAME,+NAME is that.",
    "--net": "--tcp-listen ADDR:PORT lets a program accept connections.",
    "--volume": "Folders are given by --dir HOST::GUEST.",
}
"""Options of other runtimes, each with what to use here instead. The value of a one-letter option
of wasmtime may follow without a space."""


def instead_of(word: str) -> str | None:
    """Return the sentence for an option of another runtime, or None."""
    name = word.partition("=")[0]
    if name in SWITCHES:
        return SWITCHES[name]
    return SWITCHES.get(word[:2]) if word[:1] == "-" and not word.startswith("--") else None


def resembling(words: Sequence[str], options: Collection[str]) -> list[tuple[str, str]]:
    """Return words of the program that look like an option of ours: (word, option).

    The user may mean our option and have mistyped it, or written it too late. Words after a `--`
    belong to the program for certain.
    """
    found = []
    names = {name.lstrip("-"): name for name in options}
    for word in words:
        if word == "--":
            break
        bare = word.partition("=")[0].lstrip("-").lower().replace("_", "-")
        if not word.startswith("-") or len(bare) < 3 or not bare[0].isalpha():
            continue
        if bare in names:
            found.append((word, names[bare]))
            continue
        from difflib import get_close_matches  # only here: few programs have such arguments

        swapped = [name for name in names if sorted(name) == sorted(bare)]
        close = swapped or get_close_matches(bare, names, 1, 0.8)
        if close:
            found.append((word, names[close[0]]))
    return found


GROUP_VALUED = "--log-level"
"""The option of `wasmsr` itself that has a value."""


def with_command(
    words: Sequence[str],
    commands: Collection[str],
    options: Collection[str],
    is_program: Callable[[str], bool],
) -> list[str]:
    """Return a command line with its command: `app.wasm` is `run app.wasm`, `help run` is `run
    --help`.

    Args:
        words: The words of the line.
        commands: The names of the subcommands.
        options: The options of `run`. A line that begins with one of them means `run`, and so does
            a line that begins with an option of wasmtime, which `run` refuses with a sentence.
        is_program: Returns whether a word is a program's name.
    """
    words = list(words)
    at = 0
    while at < len(words):
        word = words[at]
        is_flag = word in ("--verbose", "--quiet") or (len(word) > 1 and word.strip("vq") == "-")
        if not is_flag and word.partition("=")[0] != GROUP_VALUED:
            break
        at += 2 if word == GROUP_VALUED else 1
    if at >= len(words) or words[at] in commands:
        return words
    word = words[at]
    if word == "help":
        return [*words[:at], *words[at + 1 : at + 2], "--help"]
    ours = word.partition("=")[0] in options or word[:2] in ("-S", "-W", "-C", "-O", "-D")
    if ours or is_program(word):
        words.insert(at, "run")
    return words
