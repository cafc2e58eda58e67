"""Checkpoints of a program that an executor has: writes them to a folder, and reads them back."""

from __future__ import annotations

from contextlib import ExitStack

from wasmsr import reserve
from wasmsr.errors import SnapshotError, printable
from wasmsr.program.program import Program
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.snapshot.checkpoints.checkpointer import Checkpointer, Done
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.encoding.read_limits import FILES_LIMIT
from wasmsr.snapshot.sections.host.files import without_unused
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.policy import ReadTrust


class ProgramSaver:
    """Writes the checkpoints of one program to one folder, one at a time.

    Attributes:
        path: The folder.
    """

    def __init__(self, program: Program, run: RunSpec, path: str, keep: int) -> None:
        """Lock the folder, which is made if it is not there.

        Raises:
            SnapshotError: Another program writes there, or the folder cannot be written.
            KeySourceError: A key of the run cannot be read.
        """
        self.path = path
        self._program = program
        self._done: Done | None = None
        self._error: BaseException | None = None
        self._leave = ExitStack()
        # No signature is asked for here: a merge keeps the signatures that are there.
        folder = CheckpointFolder(path, ReadTrust(run.read_trust.keys))
        self._leave.enter_context(folder.locked())
        self._checkpointer = Checkpointer(
            folder,
            keep=keep,
            merge_after=run.snapshots.merge_after,
            done=self._note,
            failed=self._fail,
            trust=run.write_trust,
        )
        reserve.begin_checkpoints(2 * program.store.state.counts.memories + 1)
        self._leave.callback(reserve.end_checkpoints)

    @property
    def keep(self) -> int:
        """How many of the last checkpoints stay."""
        return self._checkpointer.keep

    @keep.setter
    def keep(self, count: int) -> None:
        self._checkpointer.keep = count

    def _note(self, done: Done) -> None:
        self._done = done

    def _fail(self, error: BaseException) -> None:
        self._error = error

    def take(self) -> None:
        """Copy what has changed. The program does not run, and may run again afterwards.

        Raises:
            SnapshotError: The program cannot be saved.
        """
        self._checkpointer.wait()
        self._done = self._error = None
        self._checkpointer.take(self._program.store, lambda: self._program.snapshot(embed=True))

    def wait(self) -> Done:
        """Return the checkpoint when it is complete.

        Raises:
            SnapshotError: It could not be written.
        """
        self._checkpointer.wait()
        if self._done is not None:
            return self._done  # an error after that is one of tidying up
        if isinstance(self._error, SnapshotError):
            raise self._error
        raise SnapshotError(
            f"a checkpoint could not be written to {printable(self.path)}: {self._error}"
        ) from self._error

    def close(self) -> None:
        """Wait for the checkpoint that is being written, and unlock the folder."""
        self._checkpointer.close(keep=not self._program.is_stopped)
        self._leave.close()


def read_checkpoint(path: str, root: bytes, run: RunSpec) -> SnapshotState:
    """Return the state of the checkpoint with this root digest.

    Raises:
        SnapshotError: The folder has no such checkpoint, or it is not complete.
        TrustError: It is not trusted, or no key decrypts it.
    """
    folder = CheckpointFolder(path, run.read_trust)
    heads = folder.heads()
    for number in sorted(heads, reverse=True):
        if heads[number].root == root:
            most = run.limits.carried
            state = folder.read(
                number,
                heads,
                limits=run.machine_limits,
                files=FILES_LIMIT if most is None else most,
            )
            return without_unused(state)
    raise SnapshotError(
        f"{printable(path)} has no checkpoint with the root digest {root.hex()[:16]}",
        hint="the folder must be the one to which the owner wrote its checkpoints",
    )
