"""`wasmsr remote`: options to one end of a pair, its events to lines, its end to an exit code.

The end runs on a thread of its own (`wasmsr.migrate.node`); the main thread waits for signals.
Everything heavy is imported when the command is called.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr import errors
from wasmsr.cli import programs
from wasmsr.cli.messages import say
from wasmsr.cli.options import Features, Lines, Seconds, Size, Variable, listening
from wasmsr.cli.progress import Advance, shown
from wasmsr.cli.terminal import END_CODES, Ended, Events, end_now
from wasmsr.cli.typed import Typed

if TYPE_CHECKING:
    from wasmsr.migrate.events import Event
    from wasmsr.migrate.hosting import HostedProgram, Hosting
    from wasmsr.migrate.node import Finish
    from wasmsr.migrate.streams import StdinAfterMove
    from wasmsr.program import Surroundings
    from wasmsr.rpc.address import Address
    from wasmsr.wasi.unpack import OnChanged

PAGE = 65536

LONG = {"transcoding": ("--frames", "800", "--scale", "4")}
"""Arguments of packaged programs where none are given: long enough to watch them move."""

HELP = """Moves a running program to and fro between two hosts, or two processes on one.

Both ends run this command. The one with --send starts PROGRAM and sends it after --every seconds;
the other resumes it and after its own --every seconds sends it back, until it ends.

\b
  wasmsr remote --port 50051 --peer 50052 --send      in one terminal
  wasmsr remote --port 50052 --peer 50051             in another

\b
  wasmsr remote --port 7000 --peer 7001 --send --program app.wasm --dir data -- --its arguments
  wasmsr remote --port 7001 --peer 7000 --dir data

A program that comes gets the folders that are given here, by the names that it knows. Ctrl-C ends
the program, wherever it is in a move; if the move was decided and not yet confirmed the exit code
is 125 and the last state is named: the same command again settles who has the program."""


@dataclass
class Options:
    """The values of the command's options."""

    port: int
    peer: str
    send: bool
    program: str
    args: tuple[str, ...]
    every: float
    dirs: tuple[str, ...]
    carry_limit: int | None
    on_changed: OnChanged | None
    env: tuple[str, ...]
    stdin: str | None
    stdin_after_move: StdinAfterMove
    stdout_after_move: str
    tcp_listen: tuple[str, ...]
    max_memory: int | None
    features: str | None
    state_dir: str | None
    listen: str | None
    insecure: bool
    json: bool


def _option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """A click option that is also a variable, WASMSR_EVERY for --every."""
    variable = "WASMSR_" + names[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **attributes)


@click.command(help=HELP, context_settings={"max_content_width": 100})
@_option("--port", type=click.IntRange(1, 65535), required=True, help="Listen on this port.")
@_option("--peer", metavar="[HOST:]PORT", required=True, help="Where the other end listens.")
@_option("--send", is_flag=True, help="Start the program here; the other end waits for it.")
@_option(
    "--program",
    metavar="PROGRAM",
    default="transcoding",
    show_default=True,
    help="What to start: a .wasm or .wat file that is a command (it exports _start), or cat or "
    "transcoding; at the receiving end, whose folders to give.",
)
@_option("--every", type=Typed(Seconds()), default="2", show_default=True, metavar="SECONDS",
         help="How long it runs here before it is sent on.")  # fmt: skip
@_option("--dir", "dirs", type=Typed(Lines()), multiple=True, metavar="HOST[::GUEST[::MODE]]",
         help="Let programs use the folder HOST, by the name GUEST (default: HOST). Repeatable."
         )  # fmt: skip
@_option("--carry-limit", type=Typed(Size()), metavar="SIZE",
         help="Most that a program's own files may hold that it brings along. Default: 1GiB."
         )  # fmt: skip
@_option("--on-changed", type=click.Choice(["error", "keep", "truncate"]), metavar="WHAT",
         help="What to do with files that others have written since the program left them: refuse "
         "the program (error, the default), leave them (keep), or undo it (truncate).")  # fmt: skip
@_option("--env", type=Typed(Variable()), multiple=True, metavar="K=V",
         help="Set an environment variable of the program. Repeatable.")  # fmt: skip
@_option("--stdin", type=click.Path(dir_okay=False, exists=True, allow_dash=True), metavar="FILE",
         help="Standard input of the program; - is the one of this command. Default: empty."
         )  # fmt: skip
@_option("--stdin-after-move", type=click.Choice(["relay", "eof"]), default="relay",
         show_default=True, metavar="WHAT",
         help="What the program reads after it has left: the rest of its input (relay: a file goes "
         "along, what a terminal or pipe gives is sent after it), or its end (eof).")  # fmt: skip
@_option("--stdout-after-move", type=click.Choice(["here", "relay"]), default="here",
         show_default=True, metavar="WHERE",
         help="Where the output of a program that starts at this end appears: wherever it runs "
         "(here), or always at this end (relay).")  # fmt: skip
@_option("--tcp-listen", type=Typed(Lines()), multiple=True, metavar="ADDR:PORT",
         help="Let the program accept connections there while it is here. Repeatable."
         )  # fmt: skip
@_option(
    "--max-memory",
    type=Typed(Size()),
    metavar="SIZE",
    help="Limit of each memory while it is here.",
)
@_option("--features", type=Typed(Features()), metavar="-NAME,+NAME",
         help="Refuse programs that need these features of WebAssembly, or take them.")  # fmt: skip
@_option("--state-dir", type=click.Path(file_okay=False), metavar="FOLDER",
         help="Where decisions and states survive this process. Default: the user's state folder."
         )  # fmt: skip
@_option("--listen", metavar="ADDR",
         help="Listen on this address, not on loopback; needs --insecure.")  # fmt: skip
@_option("--insecure", is_flag=True,
         help="Let programs travel in plain text, from and to whoever can reach the port."
         )  # fmt: skip
@_option("--json", is_flag=True, help="Print one object for each event, one a line.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def remote(**values: Any) -> int:
    """The command; HELP is its help."""
    options = Options(**values)
    if options.args and not options.send:
        raise click.UsageError("ARGS belong to the end with --send, which starts the program.")
    try:
        with Events() as events:
            return _Remote(options).run(events)
    except Ended as signal:
        end_now(END_CODES[signal.number])
        raise


class _Remote:
    """One `wasmsr remote`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.named = programs.find(options.program)
        self.show = _Show(json=options.json)

    def run(self, events: Events) -> int:
        """Does it all and returns the exit code."""
        try:
            return self._run(events)
        except errors.WasmsrError as error:
            kind = type(error).__name__
            self.show.print_json("error", {"error": kind, "message": str(error)}, error.exit_code)
            raise
        finally:
            self.show.close()

    def _run(self, events: Events) -> int:
        end, launch = events.call(self._assemble)
        results: list[Finish | BaseException] = []

        def work() -> None:
            try:
                results.append(end.node.run(launch if self.options.send else None))
            except BaseException as error:  # noqa: BLE001 (raised again in the main thread)
                results.append(error)
            finally:
                events.wake()

        threading.Thread(target=work, name="wasmsr-node", daemon=True).start()
        number = 0
        while not results:
            signals, _ = events.wait()
            for number in signals & END_CODES.keys():
                end.node.interrupt(_interrupted(number))
        end.close()
        result = results[0]
        if isinstance(result, BaseException):
            raise result
        code = result.ending.code if result.here else 0
        if result.abandoned:
            end_now(code)
        return code

    def _assemble(self) -> tuple[Any, Callable[[], HostedProgram]]:
        """The end, serving, and what makes the program that begins here."""
        from wasmsr import __version__
        from wasmsr.migrate.hosting import Hosting
        from wasmsr.rpc.end import End

        options = self.options
        listen, peer = self._addresses()
        most = options.max_memory
        max_pages = None if most is None else min(most // PAGE, PAGE)
        state = _state_folder(options.state_dir)
        hosting = Hosting(
            self._around,
            known=_packaged(),
            files=state / "remote" / str(listen.port) / "files",
            max_pages=max_pages,
            features=options.features,
            stdin=self._stdin,
        )
        hosting.after = options.stdin_after_move
        hosting.shows = options.stdout_after_move == "relay"
        hosting.around_mounts()  # a folder that is not there is to be known now
        end = End(
            listen=listen,
            peer=peer,
            state=state,
            host=hosting,
            announce=self.show,
            every=options.every,
            software=__version__,
        )
        hosting.node = end.node.journal.node
        if not options.send:
            self.show.say("listening", f"listening on {listen}, waiting for {peer}")
        return end, lambda: self._launch(hosting, max_pages)

    def _addresses(self) -> tuple[Address, Address]:
        """Where to listen and whom to ask; plain text leaves this machine only by --insecure."""
        from wasmsr.rpc.address import LOOPBACK, Address

        options = self.options
        try:
            peer = Address.parse(options.peer)
        except ValueError as error:
            raise click.BadParameter(f"{error}.", param_hint="--peer") from None
        listen = Address(options.listen or LOOPBACK, options.port)
        if peer.port == listen.port and {peer.host, listen.host} <= {LOOPBACK, "localhost"}:
            raise click.UsageError(
                f"--peer {options.peer} is this very end: --port and --peer of two ends on one "
                "machine differ."
            )
        if options.insecure:
            return listen, peer
        for name, address in (("--listen", listen), ("--peer", peer)):
            if not address.is_loopback:
                raise click.UsageError(
                    f"{name} {address.host} leaves this machine: programs would travel in plain "
                    "text and anybody could send one, since this version has no TLS yet. In a "
                    "network that you trust add --insecure."
                )
        return listen, peer

    def _around(self) -> Surroundings:
        """Folders and streams for a program, as given here."""
        from wasmsr.program import Surroundings
        from wasmsr.wasi.mounts import Mount

        texts = self.options.dirs if self.named is None else self.named.mounts(self.options.dirs)
        return Surroundings(
            mounts=[Mount.parse(text) for text in texts],
            listen=listening(self.options.tcp_listen),
            stdin=None,
            carry_limit=self.options.carry_limit,
            on_changed=self.options.on_changed,
        )

    def _stdin(self) -> int | None:
        """The input that is given here, opened anew, or None. A FIFO is open before anybody writes
        to it: waiting is the program's. Raises WasiConfigError."""
        name = self.options.stdin
        if name is None:
            return None
        try:
            if name == "-":
                return os.dup(0)
            return os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.WasiConfigError(
                f"standard input cannot be read from {name}: {error.strerror}"
            ) from error

    def _launch(self, hosting: Hosting, max_pages: int | None) -> HostedProgram:
        """The program at its beginning."""
        from wasmsr.interp.machine import Limits
        from wasmsr.interp.module import Module
        from wasmsr.program import Program

        options, named = self.options, self.named
        path = named.path if named is not None else Path(options.program)
        module = Module.from_file(
            path, name=named.name if named is not None else None, features=options.features
        )
        words: Sequence[str] = options.args
        if named is not None:
            words = named.words(options.args or LONG.get(named.name, ()))
        return hosting.launch(
            lambda around: Program.launch(
                module,
                argv=[named.name if named is not None else path.name, *words],
                env=options.env,
                around=around,
                limits=None if max_pages is None else Limits(memory_pages=max_pages),
            )
        )


class _Show:
    """Events as lines on standard error, or as JSON on standard output."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self._lock = threading.Lock()
        self._line = contextlib.ExitStack()
        self._advance: Advance | None = None

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.kind == "progress":
                if not self.json:
                    self._moving(event.values["bytes"])
                return
            self._rest()
            if self.json:
                self.print_json(event.kind, event.values)
            elif event.text:
                say(event.text, "warning" if event.kind in WARNINGS else "notice")

    def say(self, kind: str, text: str) -> None:
        """An event of this room."""
        if self.json:
            self.print_json(kind, {})
        else:
            say(text)

    def print_json(self, kind: str, values: dict[str, object], code: int | None = None) -> None:
        """One object on standard output, if those are wanted."""
        if self.json:
            fields = {"event": kind, **values}
            if code is not None:
                fields["code"] = code
            # In one piece, also where Python does not buffer: the program writes there too.
            sys.stdout.write(json.dumps(fields) + "\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Takes the bar away."""
        with self._lock:
            self._rest()

    def _moving(self, count: object) -> None:
        assert isinstance(count, int)
        if self._advance is None:
            self._advance = self._line.enter_context(shown("moving"))
        self._advance(count, None)

    def _rest(self) -> None:
        self._line.close()
        self._advance = None


WARNINGS = frozenset({"asking", "input-cut", "silent", "trouble", "lost", "refused", "not-moved"})
"""Events that -q does not silence."""


def _packaged() -> dict[bytes, Path]:
    """The packaged modules by digest: they need not be sent."""
    found = {}
    for program in programs.PROGRAMS.values():
        with contextlib.suppress(OSError):
            found[hashlib.sha256(program.path.read_bytes()).digest()] = program.path
    return found


def _interrupted(number: int) -> Any:
    from wasmsr.migrate.terms import Ending

    name = "interrupted" if number == 2 else "terminated"
    return Ending("interrupted", END_CODES[number], name)


def _state_folder(given: str | None) -> Path:
    if given is not None:
        return Path(given)
    from platformdirs import user_state_path

    return user_state_path("wasmsr", appauthor=False)
