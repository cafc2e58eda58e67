"""Checkpoints of a run: the folder, what is said of each, and the keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wasmsr import reserve
from wasmsr.cli.options.usage import UsageError
from wasmsr.cli.words.failures import describe
from wasmsr.cli.words.messages import say
from wasmsr.cli.words.units import human_size
from wasmsr.errors import printable
from wasmsr.snapshot.checkpoints.checkpointer import Checkpointer, Done
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.trust.policy import READ_ANY, WRITE_PLAIN, ReadTrust, WriteTrust

if TYPE_CHECKING:
    from wasmsr.cli.running.session import Plan
    from wasmsr.program.program import Program
    from wasmsr.runspec.run_spec import SnapshotPolicy

_SLOW = "the one before was still being written"


@contextmanager
def checkpoints(
    policy: SnapshotPolicy,
    program: Program,
    plan: Plan,
    *,
    embed: bool,
    reads: ReadTrust | None,
    writes: WriteTrust | None,
) -> Iterator[None]:
    """Let a plan take checkpoints into the folder of a policy.

    Args:
        policy: The policy, which names a folder.
        program: The program.
        plan: The plan.
        embed: Put the modules into the checkpoints.
        reads: Keys that decrypt what is in the folder.
        writes: Keys that sign and encrypt.

    Raises:
        SnapshotError: The folder cannot be used.
        UsageError: It has the checkpoints of another program.
    """
    assert policy.checkpoints is not None
    reported: set[str] = set()

    def done(one: Done) -> None:
        kind = "whole" if one.full else f"{one.pages} changed pages"
        say(f"checkpoint {one.number}: {kind}, {human_size(one.size)}", "info")

    def failed(error: BaseException) -> None:
        sentence, _, _ = describe(error)
        if sentence not in reported:  # one warning each: a full disk stays full
            reported.add(sentence)
            say(f"a checkpoint could not be written: {sentence}", "warning")

    # No signature is asked for here: a merge keeps the signatures that are there.
    keys = READ_ANY if reads is None else ReadTrust(reads.keys)
    folder = CheckpointFolder(policy.checkpoints, keys)
    with folder.locked():
        if not policy.force and folder.is_of_another(program.module.digest):
            raise UsageError(
                f"--checkpoint-dir {printable(folder.path)} has the checkpoints of "
                "another program; --force goes on there and removes them in time."
            )
        checkpointer = Checkpointer(
            folder,
            keep=policy.keep,
            merge_after=policy.merge_after,
            done=done,
            failed=failed,
            trust=writes or WRITE_PLAIN,
        )
        plan.checkpoint = lambda: checkpointer.take(
            program.store, lambda: program.snapshot(embed=embed)
        )
        # For each memory, what finds dirty pages and a file under it; once, the page table.
        reserve.begin_checkpoints(2 * program.store.state.counts.memories + 1)
        try:
            yield
        finally:
            reserve.end_checkpoints()
            checkpointer.close(keep=not program.is_stopped)
            if checkpointer.skipped:
                say(f"{checkpointer.skipped} checkpoints were skipped: {_SLOW}", "info")
