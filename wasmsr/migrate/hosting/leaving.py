"""A program of this host that leaves (`ports.Leaving`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from wasmsr.errors import MigrationError
from wasmsr.interp.modules.ahead import CalledFunctions, called_functions
from wasmsr.migrate.hosting.outgoing_files import OutgoingFiles
from wasmsr.migrate.ports import Buffer, FileBatch, Stays
from wasmsr.migrate.protocol import KeptOutput
from wasmsr.snapshot.live.outgoing import OutgoingPages, PageBatch
from wasmsr.snapshot.live.rest import EncodedRest, encode_rest
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.spaces.space_tree import SpaceTree

if TYPE_CHECKING:
    from wasmsr.program.program import Program
    from wasmsr.snapshot.state import SnapshotState

PAUSE_SECONDS = 10.0
"""How long a program may take to pause before its first round."""

PERIOD = 0.02
"""Seconds in which a program that is held back runs once and stands once."""


TRIAL_SCAN = 0.02
"""Seconds of a scan of the files beyond which a running program is not captured on trial."""

COLD = 0.005
"""Seconds of a first capture that show nothing of the next one."""


class LeavingProgram:
    """The memories of a program in rounds, then the rest of its state.

    Attributes:
        rest_size: About how many bytes the rest has.
        rest_seconds: About how many seconds it takes to capture and encode it.
        files_size: About how many bytes of pieces of files are to be sent before the rest.
        early: The rest as it is before the first round, or b"".
        sizes: Pages of each memory in the present round.
        digest: The root digest of the whole state, after `rest`.
        trees: The digests of the memories, as they were sent.
        method: How dirty pages are found.
        parts: Seconds of what was done while the program was paused.
    """

    def __init__(
        self,
        program: Program,
        capture: Callable[[Collection[bytes]], SnapshotState],
        held: Collection[bytes],
        *,
        trial: bool = True,
        known: Mapping[SpaceName, SpaceTree] | None = None,
        files: OutgoingFiles | None = None,
    ) -> None:
        """Begin; the program stands for a moment if it runs.

        Args:
            program: The program.
            capture: Returns its state when it is paused, without the pieces of files that are
                `held`.
            held: Digests of the pieces of files that the destination has.
            trial: Whether the rest of the state may be captured now, to see how large it is.
            known: The digests of the image that the destination keeps.
            files: Its carried files, if the destination takes them in the rounds.

        Raises:
            MigrationError: The program did not pause in time.
            SnapshotError: It cannot be saved.
        """
        self.rest_size = 0
        self.rest_seconds = 0.0
        self.early: Buffer = b""
        self._early: EncodedRest | None = None
        self.sizes: Sequence[int] = ()
        self.digest = b""
        self.method = ""
        self.parts: dict[str, float] = {}
        self._program = program
        self._capture = capture
        self._held = held
        self._known = known
        self.trees: Mapping[SpaceName, SpaceTree] = {}
        self._pages: OutgoingPages | None = None
        self._pacer: Pacer | None = None
        self._files: OutgoingFiles | None = None
        self._state: SnapshotState | None = None
        self._stands = False
        self.files_size = 0
        try:
            if files is not None:
                trial = self._scan_files(files)
            self._visit(lambda: self._begin(trial), PAUSE_SECONDS)
        except BaseException:
            self.close()
            raise

    def _scan_files(self, files: OutgoingFiles) -> bool:
        """Scan the files while the program runs; return whether a capture scans them fast."""

        def watch() -> bool:
            files.watch()
            return False

        self._visit(watch, PAUSE_SECONDS)
        self._files = files
        files.scan()
        self.files_size = files.size
        return files.scan() is not None and files.scan_seconds < TRIAL_SCAN

    def _begin(self, trial: bool) -> bool:
        self._pages = OutgoingPages(self._program.store, known=self._known)
        self.trees = self._pages.trees
        self.method = self._pages.method
        if trial:
            began = time.monotonic()
            state = self._program.snapshot()
            if time.monotonic() - began > COLD:
                # Code was compiled for it, which is done only once.
                began = time.monotonic()
                state = self._program.snapshot()
            captured = time.monotonic() - began
            # The trees of the last rest grow with the rounds; to make these is no part of it.
            trees = {
                SpaceName(MEMORY_SPACE, number): SpaceTree(len(memory.data) >> 12)
                for number, memory in enumerate(state.memories)
            }
            if self._files is not None:
                state = replace(state, files=None)  # they come in the rounds
            began = time.monotonic()
            early = self._early = encode_rest(state, trees)
            self.early = early.data
            self.rest_size = len(early.data)
            self.rest_seconds = captured + time.monotonic() - began
        return False

    def _visit(self, action: Callable[[], bool], timeout: float) -> None:
        if not self._program.visit(action, timeout):
            raise MigrationError(
                f"the program did not pause within {timeout:.0f} s", phase="stop", owner="source"
            )

    def called(self) -> Iterator[CalledFunctions]:
        """Return the functions that have code; see `ports.Leaving`."""
        program = self._program
        return called_functions(program.modules, deterministic=program.store.deterministic)

    def round(self, stays: Stays, timeout: float) -> bool:
        """Begin a round; see `ports.Leaving`."""
        assert self._pages is not None
        pages = self._pages
        asked = time.monotonic()

        last = False

        def scan() -> bool:
            stood = time.monotonic()

            def decide(count: int) -> bool:
                nonlocal last
                self.parts = {"pause": stood - asked, "scan": time.monotonic() - stood}
                last = stays(count, 0 if self._files is None else self._files.left)
                return last

            pages.scan(decide)
            return last

        self._visit(scan, timeout)
        self.sizes = pages.sizes
        stands = self._stands = self._program.is_stopped
        if stands and self._pacer is not None:
            self._pacer.close()
        return stands

    def sample(self, count: int) -> tuple[bytes, int]:
        """Return some pages of the round, and of how many; see `ports.Leaving`."""
        assert self._pages is not None
        return self._pages.sample(count)

    def batches(self) -> Iterator[PageBatch]:
        """Return the pages of the round."""
        assert self._pages is not None
        return self._pages.batches()

    def files(self) -> Iterator[FileBatch]:
        """Return pieces of carried files; see `ports.Leaving`."""
        files = self._files
        if files is None:
            return
        if self._stands:
            state = self._state = self._capture(())
            if state.files is not None:
                yield from files.batches(state.files, exact=True)
        elif (contents := files.scan()) is not None:
            yield from files.batches(contents, exact=False)

    def output(self) -> Iterator[KeptOutput]:
        """Return nothing: the streams are relayed, or stay here."""
        return iter(())

    def rest(self, *, since: bool = False) -> Iterator[Buffer | tuple[int, int]]:
        """Return the rest of the state; see `ports.Leaving`."""
        assert self._pages is not None
        since_early = self._early if since else None
        state = self._state
        if state is None or self._files is None:
            state = self._capture(self._held)
        elif state.files is not None:
            state = replace(state, files=state.files.without(self._files.sent))
        rest = encode_rest(state, self._pages.trees, since=since_early)
        self.digest = rest.root
        if since and self._early is not None:
            yield from rest.since(self._early)
        else:
            yield rest.data

    def slow(self, share: float) -> None:
        """Let the program stand for this share of the time."""
        if self._pacer is None and share:
            self._pacer = Pacer(self._program)
        if self._pacer is not None:
            self._pacer.share = share

    def close(self) -> None:
        """Release what is kept."""
        if self._pacer is not None:
            self._pacer.close()
        pages, self._pages = self._pages, None
        files, self._files = self._files, None
        if pages is None and files is None:
            return

        def forget() -> bool:
            # The service that finds dirty pages is no thread's own; a checkpoint may ask it.
            if pages is not None:
                pages.close()
            if files is not None:
                files.close()
            return False

        self._program.visit(forget, PAUSE_SECONDS)


class Pacer:
    """Holds a program back: it stands for a share of each period, between two instructions.

    Attributes:
        share: Which share, 0.0 to 0.9.
    """

    def __init__(self, program: Program) -> None:
        self.share = 0.0
        self._program = program
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="wasmsr-pacer", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._over.is_set():
            off = PERIOD * self.share
            if off and not self._program.is_stopped:
                self._program.visit(partial(self._stand, off), 1.0)
            self._over.wait(PERIOD - off)

    def _stand(self, span: float) -> bool:
        self._over.wait(span)
        return False

    def close(self) -> None:
        """Let the program run freely."""
        self._over.set()
        self._thread.join()


__all__ = ["LeavingProgram", "Pacer"]
