"""One `wasmsr remote`: builds an end from options, runs it, and returns an exit code.

The end (`migrate.ends.endpoint`) has a thread of its own. The main thread waits for signals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wasmsr import errors
from wasmsr.cli.moving.addresses import addresses, key, state_folder, tls_end
from wasmsr.cli.moving.event_lines import EventLines
from wasmsr.cli.moving.guests import GuestGrants, packaged
from wasmsr.cli.options.remote_options import DEFAULT, RemoteOptions
from wasmsr.cli.running.terminal import END_CODES, Events, end_now
from wasmsr.executor.server_process import become_server

if TYPE_CHECKING:
    from wasmsr.migrate.decisions.register_decision import RegisterDecisions
    from wasmsr.migrate.ends.endpoint import Finish
    from wasmsr.migrate.hosting.host import Hosting
    from wasmsr.migrate.hosting.hosted_program import HostedProgram
    from wasmsr.migrate.journal.journal import Journal
    from wasmsr.migrate.ports import MovableProgram
    from wasmsr.migrate.protocol import Ending
    from wasmsr.rpc.end import ServedEndpoint

LONG = {"transcoding": ("--frames", "800", "--scale", "4")}
"""Arguments of packaged programs if the user gives none: long enough to watch the moves."""


class RemoteEnd:
    """One end of a pair."""

    def __init__(self, options: RemoteOptions) -> None:
        self._options = options
        self._spec = options.spec()
        self._guests = GuestGrants(options, self._spec)
        self._lines = EventLines(json=options.json)

    def run(self, events: Events) -> int:
        """Run the end until a program has ended or the user interrupts; return the exit code."""
        become_server()
        try:
            return self._run(events)
        except errors.WasmsrError as error:
            kind = type(error).__name__
            values: dict[str, object] = {"error": kind, "message": str(error)}
            self._lines.print_json("error", values, error.exit_code)
            raise
        finally:
            self._lines.close()

    def _run(self, events: Events) -> int:
        end, launch = events.call(self._assemble)
        results: list[Finish | BaseException] = []

        def work() -> None:
            try:
                results.append(end.endpoint.run(launch if self._options.send else None))
            except BaseException as error:  # noqa: BLE001 (raised again in the main thread)
                results.append(error)
            finally:
                events.wake()

        threading.Thread(target=work, name="wasmsr-end", daemon=True).start()
        while not results:
            signals, _ = events.wait()
            for number in signals & END_CODES.keys():
                end.endpoint.interrupt(_interrupted(number))
        end.close()
        result = results[0]
        if isinstance(result, BaseException):
            raise result
        code = result.ending.code if result.here else 0
        if result.abandoned:
            end_now(code)
        return code

    def _decisions(self, journal: Journal) -> RegisterDecisions:
        """Return who decides the moves; the register is opened for the first leased program."""
        from wasmsr.cli.running.registers import open_register
        from wasmsr.migrate.decisions.register_decision import RegisterDecisions

        options = self._options
        return RegisterDecisions(
            journal,
            lambda: open_register(options.register, options.state_dir),
            self._lines,
            unfenced=options.unfenced,
        )

    def _leased(self, end: ServedEndpoint, program: HostedProgram) -> MovableProgram:
        """Return a program that begins here, under a lease if the user wants one."""
        lease, decisions = self._options.lease, end.endpoint.source.decisions
        if lease is None:
            return program
        try:
            return decisions.leased(program, lease)
        except BaseException:
            program.close()
            raise

    def _assemble(self) -> tuple[ServedEndpoint, Callable[[], MovableProgram]]:
        """Return the end, which serves, and what makes the program that begins here."""
        from wasmsr import __version__
        from wasmsr.migrate.events import Event, size
        from wasmsr.migrate.hosting.host import Hosting
        from wasmsr.migrate.journal.forget import lost
        from wasmsr.migrate.rounds.convergence import MovePolicy
        from wasmsr.rpc.end import ServedEndpoint

        options = self._options
        if options.lease is not None:
            from wasmsr.ownership.fencing import check_fenced

            check_fenced(self._guests.spec(), options.unfenced)
        listen, peer = addresses(options)
        tls, token = tls_end(options), key(options, listen, peer)
        state = state_folder(options.state_dir)
        hosting = Hosting(
            self._guests.grants,
            known=packaged(),
            files=state / "remote" / str(listen.port) / "files",
            max_pages=self._spec.max_pages,
            features=self._spec.features,
            stdin=self._guests.stdin,
            after=options.stdin_after_move,
            shows=options.stdout_after_move == "relay",
            results=self._guests.results,
        )
        hosting.granted_mounts()  # fails now, not in a move, if a folder is not there
        end = ServedEndpoint(
            listen=listen,
            peer=peer,
            state=state,
            host=hosting,
            announce=self._lines,
            every=options.every,
            policy=MovePolicy(
                options.max_downtime / 1000,
                options.max_rounds,
                options.stop_and_copy,
                options.auto_converge,
                options.durable,
            ),
            software=__version__,
            key=token,
            decisions=self._decisions,
            tls=tls,
        )
        journal = end.endpoint.journal
        hosting.node = journal.node
        count, held = lost(journal)
        if count:
            whose = "a program that was" if count == 1 else f"{count} programs that were"
            text = f"the state folder has {size(held)} of {whose} lost"
            text += "; `wasmsr remote --forget` removes them"
            self._lines(Event("kept", text, {"programs": count, "bytes": held}))
        if not options.send:
            text = f"listening on {listen}, waiting for a program from {peer}"
            self._lines(Event("listening", text))
        return end, lambda: self._leased(end, self._launch(hosting))

    def _launch(self, hosting: Hosting) -> HostedProgram:
        """Return the program that begins here, before its first instruction."""
        from wasmsr.interp.modules.module import Module
        from wasmsr.program.program import Program

        options, named = self._options, self._options.named
        path = named.path if named is not None else Path(options.program or DEFAULT)
        module = Module.from_file(
            path, name=named.name if named is not None else None, features=self._spec.features
        )
        words: Sequence[str] = options.args
        if named is not None:
            words = named.words(options.args or LONG.get(named.name, ()))
        return hosting.launch(
            lambda grants: Program.launch(
                module,
                argv=[named.name if named is not None else path.name, *words],
                env=self._spec.env,
                grants=grants,
                limits=self._spec.machine_limits,
            )
        )


def _interrupted(number: int) -> Ending:
    from wasmsr.migrate.protocol import Ending

    name = "interrupted" if number == 2 else "terminated"
    return Ending("interrupted", END_CODES[number], name)
