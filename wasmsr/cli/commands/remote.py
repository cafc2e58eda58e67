"""`wasmsr remote`: its options and its help. `wasmsr.cli.moving` carries the command out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from wasmsr.cli.moving.addresses import check_tls
from wasmsr.cli.moving.forgetting import LOST, forget_programs
from wasmsr.cli.options.click_types import ClickType
from wasmsr.cli.options.remote_options import RemoteOptions
from wasmsr.cli.options.run_options import LONGEST_LEASE, SHORTEST_LEASE
from wasmsr.cli.running.terminal import END_CODES, Ended, Events, end_now
from wasmsr.runspec.kinds import Seconds
from wasmsr.runspec.run_spec import option_kind

HELP = """Moves a running program to and fro between two hosts, or two processes on one.

Both ends run this command. The end with --send starts PROGRAM and sends it after --every seconds.
The other end resumes it and sends it back after its own --every seconds, until the program ends.

\b
  wasmsr remote --port 50051 --peer 50052 --send      # in one terminal
  wasmsr remote --port 50052 --peer 50051             # in another, in any folder

The files of the packaged transcoding travel with it: at the end, transcoding.avi is in the folder
where the program ended. Your own program gets the folders that you give at both ends, by the same
names: one folder that both ends have, or a folder whose files travel.

\b
  wasmsr remote --port 7000 --peer 7001 --send --program app.wasm --dir data -- --its arguments
  wasmsr remote --port 7001 --peer 7000 --dir data    # in the same folder

\b
  wasmsr remote --port 7000 --peer 7001 --send --program app.wasm --dir data::data::carry
  wasmsr remote --port 7001 --peer 7000 --dir data::data::carry

Two ends of one user on one machine find their common key by themselves. Between hosts, give each
end a certificate of one authority (--tls-certificate, --tls-key and --tls-authority); `wasmsr keys`
makes them. Then what travels is encrypted.

Or give both the same key file, which nobody else can read. Programs then travel in plain text.

\b
  head -c 32 /dev/urandom | base64 >key; chmod 600 key      # then copy it to the other host
  wasmsr remote --listen 10.0.0.1 --port 7000 --peer 10.0.0.2:7000 --token-file key --send
  wasmsr remote --listen 10.0.0.2 --port 7000 --peer 10.0.0.1:7000 --token-file key

With --lease, a register decides who owns the program, so that it never runs twice even if an end is
lost for good. Both ends need the same register: on one machine they find it by themselves. The
program must not write to folders of a host, unless both ends allow it.

\b
  wasmsr remote --port 7000 --peer 7001 --send --lease 10 --unfenced host
  wasmsr remote --port 7001 --peer 7000 --unfenced host
  wasmsr ownership ls

Ctrl-C ends the program at any time. If a move was decided and not yet confirmed, the exit code is
125 and a message names the last state; the same command again settles who has the program."""


def _option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return a click option that is also a variable, WASMSR_EVERY for --every."""
    variable = "WASMSR_" + names[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **attributes)


@click.command(help=HELP, context_settings={"max_content_width": 100})
@_option("--port", type=click.IntRange(1, 65535), help="Listen on this port.")
@_option("--peer", metavar="[HOST:]PORT", help="Where the other end listens.")
@_option("--send", is_flag=True, help="Start the program here; the other end waits for it.")
@_option(
    "--program",
    metavar="PROGRAM",
    help="What to start: a .wasm or .wat file that is a command (it exports _start), or cat or "
    "transcoding, the default. At the end that waits: which of these two gets folders.",
)
@_option("--every", type=ClickType(Seconds()), default="2", show_default=True, metavar="SECONDS",
         help="How long a program runs here before this end sends it on.")  # fmt: skip
@_option("--max-downtime", type=click.FloatRange(0, min_open=True), default=50.0,
         show_default=True, metavar="MS",
         help="Stop the program for its move when it would then stand for this many milliseconds "
         "and two round trips at most. It runs while its memory is sent, in rounds.")  # fmt: skip
@_option("--max-rounds", type=click.IntRange(1, 1000), default=30, show_default=True, metavar="N",
         help="Stop the program after this many rounds in any case.")  # fmt: skip
@_option("--stop-and-copy", is_flag=True,
         help="Stop the program before anything of it is sent.")  # fmt: skip
@_option("--auto-converge", is_flag=True,
         help="Hold back a program that writes to its memory faster than the line sends."
         )  # fmt: skip
@_option("--durable", type=click.Choice(["ready", "none"]), default="ready", show_default=True,
         metavar="WHEN",
         help="Whether the other end has the whole state on its disk before the program is handed "
         "over (ready), or in its memory (none), so that the program stands for less time. With "
         "none, the program is lost if both ends are killed in the same move.")  # fmt: skip
@_option("--dir", "dirs", type=ClickType(option_kind("--dir")), multiple=True,
         metavar="HOST[::GUEST[::MODE]]",
         help="Let programs use the folder HOST, by the name GUEST (default: HOST). Repeatable."
         )  # fmt: skip
@_option("--carry-limit", type=ClickType(option_kind("--carry-limit")), metavar="SIZE",
         help="Largest size of the files that a program brings along. Default: 1GiB."
         )  # fmt: skip
@_option("--on-changed", type=click.Choice(["error", "keep", "truncate"]), metavar="WHAT",
         help="What to do with files that others have written since the program left: refuse the "
         "program (error, the default), leave them (keep), or undo it (truncate).")  # fmt: skip
@_option("--env", type=ClickType(option_kind("--env")), multiple=True, metavar="K=V",
         help="Set an environment variable of the program. Repeatable.")  # fmt: skip
@_option("--stdin", type=click.Path(dir_okay=False, exists=True, allow_dash=True), metavar="FILE",
         help="Standard input of the program; - is that of this command. Default: empty."
         )  # fmt: skip
@_option("--stdin-after-move", type=click.Choice(["relay", "eof"]), default="relay",
         show_default=True, metavar="WHAT",
         help="What the program reads after it has left: the rest of its input (relay: a file goes "
         "along, input of a terminal or pipe is sent to it), or the end of it (eof).")  # fmt: skip
@_option("--stdout-after-move", type=click.Choice(["here", "relay"]), default="here",
         show_default=True, metavar="WHERE",
         help="Where the output of a program that starts at this end appears: wherever it runs "
         "(here), or always at this end (relay).")  # fmt: skip
@_option("--tcp-listen", type=ClickType(option_kind("--tcp-listen")), multiple=True,
         metavar="ADDR:PORT",
         help="Let the program accept connections there while it is here. Repeatable."
         )  # fmt: skip
@_option(
    "--max-memory",
    type=ClickType(option_kind("--max-memory")),
    metavar="SIZE",
    help="Limit of each memory while it is here.",
)
@_option("--features", type=ClickType(option_kind("--features")), metavar="-NAME,+NAME",
         help="Refuse programs that need these features of WebAssembly, or take them.")  # fmt: skip
@_option("--state-dir", type=click.Path(file_okay=False), metavar="FOLDER",
         help="Where decisions and states survive this process. Default: the user's state folder."
         )  # fmt: skip
@_option("--listen", metavar="ADDR",
         help="Listen on this address, not on loopback; needs --tls-certificate or --token-file."
         )  # fmt: skip
@_option("--token-file", type=click.Path(dir_okay=False), metavar="FILE",
         help="The key that both ends must have: 16 bytes or more that nobody guesses. Default: a "
         "key that only this user's ends on this machine have.")  # fmt: skip
@_option("--tls-certificate", type=click.Path(dir_okay=False), metavar="FILE",
         help="The certificate of this end: what travels is then encrypted, and the other end must "
         "have one of the same authority. `wasmsr keys issue node HOST` makes one.")  # fmt: skip
@_option("--tls-key", type=click.Path(dir_okay=False), metavar="FILE", help="Its private key.")
@_option("--tls-authority", type=click.Path(dir_okay=False), metavar="FILE",
         help="Certificates of the authorities that the other end may have.")  # fmt: skip
@_option("--tls-revoked", type=click.Path(dir_okay=False), metavar="FILE",
         help="The list of revoked certificates.")  # fmt: skip
@_option("--insecure", is_flag=True,
         help="Use no key: anybody who reaches the port can run programs here, and end yours."
         )  # fmt: skip
@_option("--lease", type=click.FloatRange(SHORTEST_LEASE, LONGEST_LEASE), metavar="SECONDS",
         help="With --send: run PROGRAM under a lease of so many seconds. Then a register says who "
         "owns it, and a move is a change of its record; `wasmsr ownership show` shows it."
         )  # fmt: skip
@_option("--register", metavar="FILE|URL",
         help="The register of leased programs that start or come here, the same at both ends: a "
         "FILE for one host, http://HOST:PORT for an etcd. Default: a file of the user's own."
         )  # fmt: skip
@_option("--unfenced", type=click.Choice(["host", "listen"]), multiple=True, metavar="WHAT",
         help="Allow leased programs an effect that a lost owner could still have: files below a "
         "mount of mode host, or connections (listen). Repeatable.")  # fmt: skip
@_option("--forget", is_flag=False, flag_value=LOST, metavar="[PROGRAM]",
         help="Remove what is kept here of lost programs, or of PROGRAM (its id, or how the id "
         "begins), and end. With --port only that end's.")  # fmt: skip
@_option("--json", is_flag=True, help="Print one object for each event, each on a line.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def remote(**values: Any) -> int:
    """Carry out the command; HELP is its help text."""
    options = RemoteOptions(**values)
    if options.forget is not None:
        return forget_programs(options)
    for name, value in (("--port", options.port), ("--peer", options.peer)):
        if value is None:
            raise click.UsageError(f"Missing option '{name}'.")
    if options.lease is not None and not options.send:
        raise click.UsageError("--lease belongs to the end with --send, which starts the program.")
    check_tls(options)
    if options.args and not options.send:
        raise click.UsageError("ARGS belong to the end with --send, which starts the program.")
    from wasmsr.cli.moving.remote_end import RemoteEnd

    try:
        with Events() as events:
            return RemoteEnd(options).run(events)
    except Ended as signal:
        end_now(END_CODES[signal.number])
        raise
