"""The programs that a node finds in its folder when it starts: what has become of each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from wasmsr.errors import WasmsrError
from wasmsr.executor.old_workers import kill, living
from wasmsr.executor.process import ProcessExecutor, old_executors
from wasmsr.migrate.protocol import OwnershipState
from wasmsr.node.failures import NodeError
from wasmsr.node.moving.node_moves import NodeMoves
from wasmsr.node.supervision.node_folder import NodeFolder, ProgramFolder
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.noted_program import ProgramRules
from wasmsr.node.supervision.program_record import MovedTo, ProgramRecord, ProgramStanding
from wasmsr.node.supervision.submissions import noted_modules, placed_again
from wasmsr.runspec.run_spec import SpecError

ADOPT_SECONDS = 10.0
"""How long an old worker may take to say hello; it pauses its program first."""


class FoundPrograms:
    """Reads the records of a folder, and recovers the programs.

    Attributes:
        programs: The programs, by id.
        unreadable: The ids of those whose records cannot be read.
    """

    def __init__(
        self,
        folder: NodeFolder,
        moves: NodeMoves,
        rules: ProgramRules,
        worker: Callable[[ProgramRecord, ProgramFolder], ProcessExecutor],
    ) -> None:
        """Read the records.

        Args:
            folder: The node's folder.
            moves: The node's moves, whose journal says who owns a program.
            rules: What holds for all programs.
            worker: Makes a worker.
        """
        self._folder, self._moves, self._rules, self._worker = folder, moves, rules, worker
        self.programs: dict[str, NodeProgram] = {}
        self.unreadable: set[str] = set()
        self._read()

    def _read(self) -> None:
        stays: dict[str, list[tuple[ProgramRecord, ProgramFolder]]] = {}
        for place in self._folder.programs():
            if not place.record.exists():
                place.remove()  # nobody was told of it
                continue
            try:
                record = ProgramRecord.read(place.record)
                record.spec = placed_again(record.spec, self._folder.module)
            except (NodeError, OSError, SpecError) as error:
                self._show_unreadable(place, str(error))
                continue
            stays.setdefault(record.program, []).append((record, place))
        for program, all_stays in stays.items():
            chosen = self._choose_stay(bytes.fromhex(program), all_stays)
            if chosen is not None:
                self.programs[program] = NodeProgram(*chosen, self._rules, self._worker)
                self.programs[program].limit_visit()

    def recover(self) -> None:
        """Say of each program what has become of it, and remove modules that no program has."""
        found = [one for one in self.programs.values() if one.standing.is_alive]
        # Each worker is adopted within its waiting time, however many there are.
        with ThreadPoolExecutor(8, thread_name_prefix="wasmsr-recover") as pool:
            list(pool.map(self._recover_one, found))
        if not self.unreadable:  # their modules are not known
            records = [one.record for one in self.programs.values()]
            modules = [noted_modules(one.digest, one.spec) for one in records]
            self._folder.remove_modules(
                {digest for found in modules for digest in found}
                | {one.snapshot for one in records}
                | self._moves.waiting_modules()
            )

    def _show_unreadable(self, place: ProgramFolder, error: str) -> None:
        """Show a program whose record cannot be read as lost, and leave its folder alone."""
        name = place.program
        self._rules.note("unreadable", program=name[:8], error=error)
        changed = place.record.stat().st_mtime
        record = ProgramRecord(
            name, "", "", {}, changed, standing=ProgramStanding.LOST, reason=error, changed=changed
        )
        self.unreadable.add(name)
        self.programs[name] = NodeProgram(record, place, self._rules, self._worker)

    def _choose_stay(
        self, program: bytes, stays: list[tuple[ProgramRecord, ProgramFolder]]
    ) -> tuple[ProgramRecord, ProgramFolder] | None:
        """Return the stay of a program that counts: the last in which the journal has it here.

        A stay whose state has come, and which is not decided, waits for the hand-over. The others
        are removed.
        """
        noted = self._moves.record_of(program)
        kept: list[tuple[ProgramRecord, ProgramFolder]] = []
        for record, place in stays:
            here = noted is not None and noted.epoch >= record.epoch
            if not record.attempt or record.standing.is_final or here:
                kept.append((record, place))
                continue
            for name, process in living(place.workers) if place.workers.is_dir() else ():
                kill(place.workers, name, process)  # it has the state, and may not run it
            incoming = noted.incoming if noted else None
            if incoming is None or incoming.attempt.hex() != record.attempt:
                place.remove()
        kept.sort(key=lambda stay: stay[0].epoch)
        for _, place in kept[:-1]:
            place.remove()
        return kept[-1] if kept else None

    def _recover_one(self, program: NodeProgram) -> None:
        try:
            workers = program.folder.workers
            old = old_executors(workers, ADOPT_SECONDS) if workers.is_dir() else []
            noted = self._moves.record_of(program.id)
            if noted is None or noted.standing in (OwnershipState.OWNED, OwnershipState.UNKNOWN):
                program.recover(old)
            elif noted.standing is OwnershipState.OFFERED:
                program.wait_for_owner(noted.peer, old)
            elif noted.standing is OwnershipState.HANDED:
                for one in old:
                    one.kill()
                went = MovedTo(noted.peer, noted.node.hex(), noted.epoch, noted.confirmed)
                program.moved(went)
            else:
                program.recover(old)
        except (WasmsrError, OSError) as error:
            self._rules.note("trouble", program=program.record.program[:8], error=str(error))
            raise


__all__ = ["FoundPrograms"]
