"""Carries out `wasmsr run` for a program under a lease: this process is its supervisor."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr.cli.options.usage import UsageError
from wasmsr.cli.running.registers import find_program, open_register, ownership_folder
from wasmsr.cli.running.terminal import END_CODES, Events
from wasmsr.cli.words import report
from wasmsr.cli.words.messages import say
from wasmsr.errors import printable
from wasmsr.executor.port import HELD, ProgramStatus
from wasmsr.ownership.failures import SwapRefused
from wasmsr.ownership.fencing import check_fenced
from wasmsr.ownership.lease import LEASE_SECONDS
from wasmsr.ownership.owner_record import FailoverPolicy, OwnerRecord, Standing
from wasmsr.ownership.supervision.leased_run import KEPT, LeasedRun
from wasmsr.ownership.supervision.node_state import NodeState
from wasmsr.ownership.supervision.stored import PREFIX, is_stored
from wasmsr.ownership.supervision.supervisor import Supervisor
from wasmsr.record import replaced

if TYPE_CHECKING:
    from wasmsr.cli.options.run_options import RunOptions
    from wasmsr.cli.programs import NamedProgram
    from wasmsr.ownership.register import Register
    from wasmsr.runspec.run_spec import RunSpec

OURS = {"stdout": 1, "stderr": 2}
"""Our descriptors that show the program's streams."""

GIVE_BACK_SECONDS = 3.0
"""How long a signal waits for the register, before the program is left to its lease."""


class LeasedCommand:
    """One `wasmsr run` under a lease."""

    def __init__(self, options: RunOptions, spec: RunSpec, named: NamedProgram | None) -> None:
        self._options = options
        self._spec = spec
        self._named = named
        self._shown: dict[str, int] = {}
        self._opened: dict[str, int] = {}
        self._found: dict[str, Any] = {}
        self._save_now: Callable[[], None] = lambda: None

    def run(self, events: Events) -> int:
        """Run or take over the program, and return the exit code.

        Raises:
            UsageError: The options contradict the record.
            OwnershipError: This node may not run the program, or has lost it.
        """
        options = self._options
        if self._named is not None and self._named.invoke != "_start":
            raise UsageError(f"{options.program} is no command, so it cannot have a lease.")
        folder = ownership_folder(options.state_dir)
        state = NodeState(folder)
        register = open_register(options.register, options.state_dir)
        try:
            record = None
            if options.take_over is not None:
                record = self._to_take_over(find_program(register, options.take_over), state.node)
            program = record.program if record is not None else secrets.token_bytes(16)
            with state.locked(program):
                return self._supervise(events, state, register, program, record)
        finally:
            register.close()
            for descriptor in self._opened.values():
                os.close(descriptor)

    def _to_take_over(self, record: OwnerRecord, node: bytes) -> OwnerRecord:
        """Return a record that this node may take over, now or later. Raises if it never may."""
        if record.standing is Standing.ENDED:
            raise SwapRefused(
                "nobody may run it again",
                program=record.program,
                record=record,
                hint=f"wasmsr ownership show {record.program.hex()[:8]} says how it ended",
            )
        if node != record.owner and node not in record.failover:
            raise SwapRefused(
                f"node {node.hex()[:8]}, which is this one, may not take it over",
                program=record.program,
                record=record,
                hint="a program is started with --failover for each node that may; "
                "wasmsr ownership node prints a host's id",
            )
        restores = record.policy is FailoverPolicy.RESTORE and record.checkpoint is not None
        name = record.program.hex()[:8]
        if not restores and self._options.program is None:
            raise UsageError(f"Program {name} would begin again: give PROGRAM and its options.")
        if restores and (self._options.args or self._options.arg):
            raise UsageError("A saved program has its arguments already.")
        return record

    # ---- what runs -------------------------------------------------------------------------------

    def _run_of(self, state: NodeState, program: bytes, record: OwnerRecord | None) -> LeasedRun:
        options, spec = self._options, self._spec
        if self._named is not None:
            spec = replaced(
                spec,
                program=self._named.location,
                args=tuple(self._named.words(options.args)),
                mounts=tuple(self._named.mounts(options.dirs)),
            )
        check_fenced(spec, options.unfenced)
        if spec.program is not None:
            os.stat(spec.program)  # a missing file is an error here, and not one of the worker
        last = record.checkpoint if record is not None else None
        store = options.checkpoint_store
        if store is None and last is not None and is_stored(last):
            store = last.store.removeprefix(PREFIX)  # what the owner before has used
        elif store is not None and "://" not in store:
            store = os.path.abspath(store)
        if options.checkpoint_dir is not None:
            folder = Path(os.path.abspath(options.checkpoint_dir)) / program.hex()
        elif last is not None and not is_stored(last):
            folder = Path(last.store)
        else:
            raise UsageError(f"Program {program.hex()[:8]} has no folder: give --checkpoint-dir.")
        stdin = -1
        if options.stdin is not None:
            self._opened["stdin"] = stdin = os.open(options.stdin, os.O_RDONLY | os.O_CLOEXEC)
        given = spec.as_dict()
        for name in ("streams", "from_snapshot") if record is not None else ("streams",):
            given.pop(name, None)
        kept = ("merge_after", "sign_with", "encrypt_with")
        given["snapshots"] = {
            name: value for name, value in given.get("snapshots", {}).items() if name in kept
        }
        return LeasedRun(
            given,
            folder,
            state.workers(program),
            streams=(stdin, self._output(options.stdout), self._output(options.stderr)),
            store=store,
            every=options.every or 0.0,
            keep=max(KEPT, options.keep),
            commit=options.output == "commit",
            shown={name: partial(self._show, name) for name in OURS},
            begun=self._begun,
        )

    def _output(self, path: str | None) -> int:
        """Return a descriptor of the file that --unfenced streams allows, or `HELD`."""
        if path is None:
            return HELD
        file = os.path.realpath(path)
        if file not in self._opened:
            how = os.O_TRUNC if self._options.take_over is None else 0
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | how
            self._opened[file] = os.open(path, flags, 0o666)
        return self._opened[file]

    # ---- meanwhile -------------------------------------------------------------------------------

    def _supervise(
        self,
        events: Events,
        state: NodeState,
        register: Register,
        program: bytes,
        record: OwnerRecord | None,
    ) -> int:
        options = self._options
        run = self._run_of(state, program, record)
        stored = LEASE_SECONDS if record is None else record.lease / 1000
        supervisor = Supervisor(
            state.node, program, register, run, seconds=options.lease or stored, say=self._say
        )
        self._save_now = supervisor.save_soon
        name = program.hex()[:8]
        self._found = {"program": program.hex(), "node": state.node.hex()}
        try:
            if record is None:
                nodes = tuple(bytes.fromhex(one) for one in options.failover)
                supervisor.begin(FailoverPolicy(options.policy or "restore"), nodes)
                say(f"program {name} is under a lease; after a loss: {self._again(name)}")
            else:
                said = record.sentence().removeprefix("by the register ")
                say(f"waiting for program {name}: {said}")
                supervisor.take_over()
            arrived: set[int] = set()
            status = supervisor.run(lambda: self._ended(events, arrived))
            self._found["epoch"] = supervisor.epoch
            if status is not None:
                return self._tell(status)
            return self._give_back(supervisor, min(arrived), name)
        finally:
            supervisor.close()

    def _say(self, sentence: str) -> None:
        say(sentence, "warning")

    def _ended(self, events: Events, arrived: set[int]) -> bool:
        """Obey signals; return whether one of them ends this process's part."""
        signals, _ = events.wait(0)
        if signal.SIGUSR1 in signals:
            self._save_now()
        arrived |= signals & END_CODES.keys()
        return bool(arrived)

    def _show(self, stream: str, data: bytes | memoryview) -> None:
        """Show output as it is let out: a copy for people; the log is what counts."""
        view = memoryview(data)
        self._shown[stream] = self._shown.get(stream, 0) + len(view)
        while view:
            view = view[os.write(OURS[stream], view) :]

    def _begun(self, stream: str, start: int) -> None:
        """Say that what was shown beyond an offset is produced again, perhaps differently."""
        before = self._shown.get(stream)
        if before is not None and start < before:
            say(f"{stream} is rewound to {start}", "warning")
        elif before is None and start:
            say(f"{stream} goes on at byte {start}", "info")
        self._shown[stream] = start

    # ---- after -----------------------------------------------------------------------------------

    def _tell(self, status: ProgramStatus) -> int:
        outcome = {"fuel": "out-of-fuel", "failed": "error"}.get(status.ending, status.ending)
        if status.sentence:
            say(printable(status.sentence), "error")
        self._found |= {"outcome": outcome, "exit_code": status.code}
        if status.ending == "exited":
            self._found["guest_exit_code"] = status.code
        return status.code

    def _give_back(self, supervisor: Supervisor, number: int, name: str) -> int:
        """Give the program back after a signal: another node continues it at once."""
        code = END_CODES[number]
        self._found |= {
            "outcome": "interrupted", "exit_code": code, "signal": signal.Signals(number).name
        }  # fmt: skip
        if supervisor.give_back(GIVE_BACK_SECONDS):
            say(f"program {name} is given back; it continues by: {self._again(name)}")
        else:
            say(
                f"program {name} was not given back; it continues after its lease by: "
                f"{self._again(name)}",
                "warning",
            )
        return code

    def _again(self, name: str) -> str:
        """Return the command that continues the program."""
        register = self._options.register
        return f"wasmsr run --take-over {name}" + (f" --register {register}" if register else "")

    def as_json(self) -> str:
        """Return the object of --json; it has the program's id, the node and the epoch too."""
        return report.dumps(report.FIELDS | self._found)
