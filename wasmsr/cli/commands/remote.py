"""`wasmsr remote`: options to one end of a pair, its events to lines, its end to an exit code.

The end (`migrate.handover.endpoint`) has a thread of its own. The main thread waits for signals.
Everything heavy is imported when the command is called.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr import errors
from wasmsr.cli import programs
from wasmsr.cli.options.click_types import ClickType
from wasmsr.cli.running.terminal import END_CODES, Ended, Events, end_now
from wasmsr.cli.words.messages import say
from wasmsr.cli.words.progress import Advance, shown
from wasmsr.record import replaced
from wasmsr.runspec.kinds import Seconds
from wasmsr.runspec.run_spec import RunSpec, option_kind

if TYPE_CHECKING:
    from wasmsr.migrate.events import Event
    from wasmsr.migrate.handover.endpoint import Finish
    from wasmsr.migrate.hosting.host import Hosting
    from wasmsr.migrate.hosting.hosted_program import HostedProgram
    from wasmsr.migrate.streams.relays import StdinAfterMove
    from wasmsr.rpc.address import Address
    from wasmsr.runspec.grants import HostGrants
    from wasmsr.wasi.state.tree_restore import OnChanged

DEFAULT = "transcoding"
"""The program that is moved where none is named."""
CARRIED = "::{}::carry"
"""Its files travel with it."""
SEPARATOR = programs.SEPARATOR

LOST = "lost"

LONG = {"transcoding": ("--frames", "800", "--scale", "4")}
"""Arguments of packaged programs where none are given: long enough to watch them move."""

HELP = """Moves a running program to and fro between two hosts, or two processes on one.

Both ends run this command. The one with --send starts PROGRAM and sends it after --every seconds;
the other resumes it and after its own --every seconds sends it back, until it ends.

\b
  wasmsr remote --port 50051 --peer 50052 --send      # in one terminal
  wasmsr remote --port 50052 --peer 50051             # in another, in any folder

The files of the packaged transcoding travel with it: transcoding.avi is at last in the folder of
the end where the program ends. Your own program gets the folders that are given here, by the names
that it knows: the same folder at both ends, or one whose files travel.

\b
  wasmsr remote --port 7000 --peer 7001 --send --program app.wasm --dir data -- --its arguments
  wasmsr remote --port 7001 --peer 7000 --dir data    # in the same folder

\b
  wasmsr remote --port 7000 --peer 7001 --send --program app.wasm --dir data::data::carry
  wasmsr remote --port 7001 --peer 7000 --dir data::data::carry

Two ends of one user on one machine know each other by a key that they find by themselves. Between
hosts both get the same file, which nobody else can read.

\b
  head -c 32 /dev/urandom | base64 >key; chmod 600 key      # then copy it to the other host
  wasmsr remote --listen 10.0.0.1 --port 7000 --peer 10.0.0.2:7000 --token-file key --send
  wasmsr remote --listen 10.0.0.2 --port 7000 --peer 10.0.0.1:7000 --token-file key

Ctrl-C ends the program, wherever it is in a move; if the move was decided and not yet confirmed the
exit code is 125 and the last state is named: the same command again settles who has the program."""


@dataclass
class RemoteOptions:
    """The values of the command's options."""

    port: int | None
    peer: str | None
    send: bool
    program: str | None
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
    token_file: str | None
    insecure: bool
    forget: str | None
    json: bool

    def spec(self) -> RunSpec:
        """Return the description of the programs that run at this end."""
        return RunSpec.from_options(
            {
                "dir": self.dirs,
                "carry-limit": self.carry_limit,
                "on-changed": self.on_changed,
                "env": self.env,
                "tcp-listen": self.tcp_listen,
                "max-memory": self.max_memory,
                "features": self.features,
            }
        )


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
    "transcoding, the default; at the receiving end, for which of these two to give folders.",
)
@_option("--every", type=ClickType(Seconds()), default="2", show_default=True, metavar="SECONDS",
         help="How long it runs here before it is sent on.")  # fmt: skip
@_option("--dir", "dirs", type=ClickType(option_kind("--dir")), multiple=True,
         metavar="HOST[::GUEST[::MODE]]",
         help="Let programs use the folder HOST, by the name GUEST (default: HOST). Repeatable."
         )  # fmt: skip
@_option("--carry-limit", type=ClickType(option_kind("--carry-limit")), metavar="SIZE",
         help="Most that a program's own files may hold that it brings along. Default: 1GiB."
         )  # fmt: skip
@_option("--on-changed", type=click.Choice(["error", "keep", "truncate"]), metavar="WHAT",
         help="What to do with files that others have written since the program left them: refuse "
         "the program (error, the default), leave them (keep), or undo it (truncate).")  # fmt: skip
@_option("--env", type=ClickType(option_kind("--env")), multiple=True, metavar="K=V",
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
         help="Listen on this address, not on loopback; needs --token-file.")  # fmt: skip
@_option("--token-file", type=click.Path(dir_okay=False), metavar="FILE",
         help="The key that both ends must have: 16 bytes or more that nobody guesses. Default: "
         "one that only this user's ends on this machine have.")  # fmt: skip
@_option("--insecure", is_flag=True,
         help="Have no key: whoever reaches the port can run programs here, and end yours."
         )  # fmt: skip
@_option("--forget", is_flag=False, flag_value=LOST, metavar="[PROGRAM]",
         help="Remove what is kept here of programs that were lost, or of this one (its id, or how "
         "that begins), and end. With --port only that end's.")  # fmt: skip
@_option("--json", is_flag=True, help="Print one object for each event, one a line.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def remote(**values: Any) -> int:
    """Carry out the command; HELP is its help text."""
    options = RemoteOptions(**values)
    if options.forget is not None:
        return _forget(options)
    for name, value in (("--port", options.port), ("--peer", options.peer)):
        if value is None:
            raise click.UsageError(f"Missing option '{name}'.")
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

    def __init__(self, options: RemoteOptions) -> None:
        self.options = options
        self.spec = options.spec()
        self.program = options.program or DEFAULT
        self.named = programs.find(self.program)
        self.show = _Show(json=options.json)

    def run(self, events: Events) -> int:
        """Do all of it and return the exit code."""
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
        """Return the end, serving, and what makes the program that begins here."""
        from wasmsr import __version__
        from wasmsr.migrate.events import Event, size
        from wasmsr.migrate.hosting.host import Hosting
        from wasmsr.migrate.journal.forget import lost
        from wasmsr.rpc.end import ServedEndpoint

        options = self.options
        assert options.port is not None
        listen, peer = self._addresses()
        key = self._key(listen, peer)
        state = _state_folder(options.state_dir)
        hosting = Hosting(
            self._grants,
            known=_packaged(),
            files=state / "remote" / str(listen.port) / "files",
            max_pages=self.spec.max_pages,
            features=self.spec.features,
            stdin=self._stdin,
            after=options.stdin_after_move,
            shows=options.stdout_after_move == "relay",
            results=self._results,
        )
        hosting.granted_mounts()  # a folder that is not there is to be known now
        end = ServedEndpoint(
            listen=listen,
            peer=peer,
            state=state,
            host=hosting,
            announce=self.show,
            every=options.every,
            software=__version__,
            key=key,
        )
        hosting.node = end.node.journal.node
        count, held = lost(end.node.journal)
        if count:
            whose = "a program that is" if count == 1 else f"{count} programs that are"
            text = f"{size(held)} are kept here of {whose} gone"
            text += ": `wasmsr remote --forget` removes them"
            self.show(Event("kept", text, {"programs": count, "bytes": held}))
        if not options.send:
            self.show.say("listening", f"listening on {listen}, waiting for {peer}")
        return end, lambda: self._launch(hosting)

    def _addresses(self) -> tuple[Address, Address]:
        """Return where to listen and whom to ask; plain text leaves this machine only by
        --insecure."""
        from wasmsr.rpc.address import LOOPBACK, Address

        options = self.options
        assert options.peer is not None and options.port is not None
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
        if options.insecure or options.token_file is not None:
            return listen, peer
        for name, address in (("--listen", listen), ("--peer", peer)):
            if not address.is_loopback:
                raise click.UsageError(
                    f"{name} {address.host} leaves this machine, and the key of this user's ends "
                    "does not. Give both ends the same --token-file FILE (programs still travel in "
                    "plain text), or --insecure, with which anybody can send a program or end one."
                )
        return listen, peer

    def _key(self, listen: Address, peer: Address) -> bytes:
        """Return what the other end must have; and what is given up is said aloud. Raises
        MigrationError."""
        from wasmsr.rpc import keys

        options = self.options
        leaves = not (listen.is_loopback and peer.is_loopback)
        if options.token_file is not None:
            key, readable = keys.token(Path(options.token_file))
            if readable:
                say(
                    f"other users of this machine can read the key {options.token_file}; "
                    "chmod 600 keeps it to yourself",
                    "warning",
                )
            if leaves:
                say(
                    "programs travel in plain text: who can listen on the way reads all that they "
                    "hold; only who has the key can send or alter one",
                    "warning",
                )
            return key
        if options.insecure:
            say(
                f"--insecure: nobody is asked for a key. Whoever can reach {listen} can run any "
                "program here, with the folders that are given here, read what moves, alter it, "
                "and end it. --token-file FILE at both ends keeps them out.",
                "warning",
            )
            return b""
        return keys.own(_state_folder(options.state_dir), _state_folder(None))

    def _grants(self) -> HostGrants:
        """Return folders and streams for a program, as given here."""
        from wasmsr.runspec.grants import HostGrants

        return HostGrants.of(replaced(self.spec, mounts=tuple(self._dirs())), stdin=None)

    def _dirs(self) -> list[str]:
        """Return the folders that programs get here, as --dir takes them.

        A packaged program that writes has its files in a folder of its own, which travels with it,
        unless the user gives one. An end that takes whatever comes has what is given by the names
        given, and for packaged programs besides.
        """
        given = self.options.dirs
        if self.options.send:
            return list(given) if self.named is None else self.named.mounts(given, CARRIED)
        if self.options.program is not None:
            return list(given) if self.named is None else self.named.mounts(given, "")
        taken = {text.split(SEPARATOR)[1] if SEPARATOR in text else text for text in given}
        more = programs.PROGRAMS[DEFAULT].mounts(given, "")
        return [*given, *(text for text in more if text.split(SEPARATOR)[1] not in taken)]

    def _results(self, digest: bytes) -> Mapping[str, tuple[Path, str]]:
        """Return where the files of a packaged program go that has ended here; see
        `Hosting.results`."""
        for program in (programs.find(DEFAULT), programs.PROGRAMS[DEFAULT]):
            if program is not None and program.here is not None and _digest(program) == digest:
                return {program.here: (Path.cwd(), program.files[-1])}
        return {}

    def _stdin(self) -> int | None:
        """Return the input that is given here, opened anew, or None. A FIFO is open before
        anybody writes to it: waiting is the program's. Raises WasiConfigError."""
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

    def _launch(self, hosting: Hosting) -> HostedProgram:
        """Return the program at its beginning."""
        from wasmsr.interp.modules.module import Module
        from wasmsr.program.program import Program

        options, named = self.options, self.named
        path = named.path if named is not None else Path(self.program)
        module = Module.from_file(
            path, name=named.name if named is not None else None, features=self.spec.features
        )
        words: Sequence[str] = options.args
        if named is not None:
            words = named.words(options.args or LONG.get(named.name, ()))
        return hosting.launch(
            lambda grants: Program.launch(
                module,
                argv=[named.name if named is not None else path.name, *words],
                env=self.spec.env,
                grants=grants,
                limits=self.spec.machine_limits,
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
        """Show an event of this room."""
        if self.json:
            self.print_json(kind, {})
        else:
            say(text)

    def print_json(self, kind: str, values: dict[str, object], code: int | None = None) -> None:
        """Print one object on standard output, if those are wanted."""
        if self.json:
            fields = {"event": kind, **values}
            if code is not None:
                fields["code"] = code
            # In one piece, also where Python does not buffer: the program writes there too.
            sys.stdout.write(json.dumps(fields) + "\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Take the bar away."""
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


WARNINGS = frozenset(
    {"asking", "input-cut", "silent", "trouble", "lost", "refused", "not-moved", "parked"}
    | {"output-waits", "output-gap", "output-cut"}
)
"""Events that -q does not silence."""


def _packaged() -> dict[bytes, Path]:
    """Return the packaged modules by digest: they need not be sent."""
    found = {_digest(program): program.path for program in programs.PROGRAMS.values()}
    return {digest: path for digest, path in found.items() if digest is not None}


def _digest(program: programs.NamedProgram) -> bytes | None:
    """Return SHA-256 of a packaged module, or None if it is not there."""
    try:
        return hashlib.sha256(program.path.read_bytes()).digest()
    except OSError:
        return None


def _interrupted(number: int) -> Any:
    from wasmsr.migrate.protocol import Ending

    name = "interrupted" if number == 2 else "terminated"
    return Ending("interrupted", END_CODES[number], name)


def _state_folder(given: str | None) -> Path:
    if given is not None:
        return Path(given)
    from platformdirs import user_state_path

    return user_state_path("wasmsr", appauthor=False)


def _forget(options: RemoteOptions) -> int:
    """`--forget`: removes what is kept of programs that are gone, and says what that was."""
    from wasmsr.migrate.events import size
    from wasmsr.migrate.journal.forget import forget

    program = "" if options.forget in (None, LOST) else str(options.forget).lower()
    if program.strip("0123456789abcdef") or 0 < len(program) < 4:
        raise click.BadParameter(
            "a program's id, or at least its first four digits.", param_hint="--forget"
        )
    removed = forget(
        _state_folder(options.state_dir), options.port, program, lambda text: say(text, "warning")
    )
    for one in removed:
        what = "which no record names" if one.standing == "nothing" else f"was {one.standing}"
        say(f"forgot program {one.program[:8]} at port {one.port} ({what}): {size(one.size)}")
    if options.json:
        for one in removed:
            print(json.dumps({"event": "forgotten", **vars(one)}))
    if not removed:
        say("there is nothing to forget")
    elif len(removed) > 1:
        say(f"{size(sum(one.size for one in removed))} in all")
    return 0
