"""`History`: the moments of one program, and the way back to each of them, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wasmsr.errors import SnapshotError, UnportableState, WasmsrError
from wasmsr.snapshot.memory.dirty_pages import DirtyMethod, DirtyTracker
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE, Runs, runs_of
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.moments.images import MemoryImage, WrittenPages, either
from wasmsr.snapshot.moments.moment import Moment, SavedWasi

if TYPE_CHECKING:
    from wasmsr.interp.store.store import Store
    from wasmsr.snapshot.memory.dirty_pages import DirtyChanges
    from wasmsr.wasi.state.contents import Contents

FOLD = 4
"""A chain whose pages are more than this part of the memory (1/4) gets a new base."""
LEAST = 256
"""Pages that a chain may always have."""
LONGEST = 64
"""Images of a chain."""


class History:
    """Moments of one program, to which it goes back in place.

    The store, its memories and the compiled code stay. A moment costs what was written since the
    one before it, and so does the way back. Moments form a tree: after a way back, the next one
    follows the moment to which the program went.

    Output that was written and input that was read from a pipe are not undone; files are treated as
    by a restore with `on_changed` "truncate".

    Args:
        store: The program's store. Nobody else replaces its memories.
        method: How written pages are found; None takes this host's best.
        begun: The moment of which the store is a fork that has not run yet. Then the first moment
            of the history costs no copy of all memory.
        over: In place of `begun`, the images that were laid under the memories of the store, each
            with what differs from the image before it.

    Raises:
        SnapshotError: The host cannot find written pages, or has no room.
    """

    def __init__(
        self,
        store: Store,
        *,
        method: type[DirtyMethod] | None = None,
        begun: Moment | None = None,
        over: Sequence[MemoryImage] = (),
    ) -> None:
        if store.wasi is not None:  # the imports take 30 ms, which the first moment need not
            from wasmsr.wasi.state import capture, checked_state, restore

            assert capture and checked_state and restore
        self._store = store
        self._tracker = DirtyTracker.of(store, method)
        self._consumer = self._tracker.consumer()
        self._files: Contents | None = None
        """What the program's files consisted of in the moment taken last."""
        self._images = list(over) if begun is None else list(begun.images)
        """The images from which the store's memories differ by what was written since."""
        self._since: list[bytearray] | None = None
        """Flags of the pages that may differ from where the history began: those of `_images`."""
        if begun is not None:
            self._since = [
                bytearray(flags) for flags in begun.since or [bytearray()] * len(begun.images)
            ]
        elif over:
            self._since = [
                bytearray(b"\1" * one.pages) if one.before is None else one.written.flags(one.pages)
                for one in over
            ]

    def take(self) -> Moment:
        """Return the present moment of the program, which is paused or between two calls.

        Raises:
            UnportableState: The program runs, or holds something that no snapshot can carry.
            SnapshotError: The host has no room.
        """
        store = self._store
        if store.running or store.nested:
            raise UnportableState("the program is running", hint="pause it first")
        if store.owners:
            raise UnportableState(
                "a program with channels or remote memory has no moments: what it sent stays"
            )
        wasi = None if store.wasi is None else SavedWasi.of(store.wasi, self._files)
        self._files = None if wasi is None else wasi.files
        try:
            with self._tracker.changes(self._consumer) as changes:
                images = [
                    self._image(address, changes) for address in range(store.state.counts.memories)
                ]
                held = store.copied(memories=False)
                since = self._marked(changes)
        except (OSError, AttributeError, MemoryError) as error:
            raise SnapshotError(f"there is no room for the moment: {error}") from error
        self._images, self._since = images, since
        moment = Moment(held, images, wasi)
        if since is not None:
            moment.since = [bytearray(flags) for flags in since]
        return moment

    def changed(self) -> list[Runs] | None:
        """Return the pages of each memory that may differ from where the history began.

        That is the moment of which the store is a fork; where that was one of another history with
        such a beginning, the beginning of that. With `over`, it is the image before each image.

        Returns:
            Runs for each memory; of a memory that was not there then, all pages. None if the
            history began with nothing.

        Raises:
            SnapshotError: The host does not find the pages.
        """
        if self._since is None:
            return None
        found = self._marked(self._tracker.written(self._consumer))
        return None if found is None else [runs_of(flags) for flags in found]

    def _marked(self, written: Mapping[SpaceName, Runs]) -> list[bytearray] | None:
        """Return the flags with what was written now, as long as the memories are."""
        if self._since is None:
            return None
        state = self._store.state
        made = []
        for address in range(state.counts.memories):
            pages = state.memory_place(address).size // PAGE_SIZE
            if address >= len(self._since):
                made.append(bytearray(b"\1" * pages))
                continue
            flags = self._since[address][:pages]
            flags += bytes(pages - len(flags))
            runs = written[SpaceName(MEMORY_SPACE, address)]
            for first, count in zip(runs[::2], runs[1::2], strict=True):
                flags[first : first + count] = b"\1" * count
            made.append(flags)
        return made

    def go_to(self, moment: Moment) -> None:
        """Put the program into the state of one of its moments, in place.

        Args:
            moment: A moment that this history has taken, of this or of another branch; or that of
                a snapshot of the program (`Snapshot.moment`), for which all memory is written.

        Raises:
            SnapshotError: The moment is closed, or is one of another program; or a file is gone.
                The program is as before.
            MemoryError: The host has no room; the store is closed then.
            WasmsrError: The program runs.
        """
        store, state = self._store, self._store.state
        if store.running or store.nested:
            raise WasmsrError("the store is running", hint="pause it first")
        if not moment.is_of(store):
            raise SnapshotError("the moment is closed, or of another program")
        if moment.wasi is not None and store.wasi is not None:
            moment.wasi.put_back(store.wasi)
        found = self._tracker.written(self._consumer)
        written = {space.number: runs for space, runs in found.items()}
        before = [state.memory_place(n) for n in range(state.counts.memories)]
        store.assign(moment.held, linked=not moment.foreign)
        self._tracker.resized(before)
        for address, image in enumerate(moment.images):
            place = state.memory_place(address)
            wanted = None
            if address < min(len(before), len(self._images)):
                same = place.start == before[address].start
                wanted = image.differences(self._images[address]) if same else None
            if wanted is None:
                wanted = bytearray(b"\1" * image.pages)
            elif address in written:
                wanted = either(wanted, WrittenPages(written[address], b"").flags(image.pages))
            if address < len(before):  # what it has grown by is zero, and may not be in the image
                short = before[address].size // PAGE_SIZE
                wanted[short : image.pages] = b"\1" * max(0, image.pages - short)
            image.write(store.memory_view(address), wanted[: image.pages])
        with self._tracker.changes(self._consumer):
            pass  # what was written back is no change for this consumer
        self._images = list(moment.images)
        if self._since is not None:  # of another history, nobody knows where it began
            known = moment.since or [bytearray(b"\1" * one.pages) for one in moment.images]
            self._since = [bytearray(flags) for flags in known]

    def drop(self, moment: Moment) -> None:
        """Forget a moment, and close it. Its pages go to the one moment after it, if there is one.

        Args:
            moment: A moment that this history has taken.
        """
        for image in moment.images:
            if image not in self._images:
                image.drop()
        moment.close()

    def close(self) -> None:
        """Stop looking for written pages. Moments stay."""
        self._tracker.leave(self._consumer)
        self._images.clear()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _image(self, address: int, changes: DirtyChanges) -> MemoryImage:
        """Return the image of a memory: what was written, or all of it, over a new base."""
        space = SpaceName(MEMORY_SPACE, address)
        view = self._store.memory_view(address)
        if address >= len(self._images):
            return MemoryImage.of_bytes(view)
        before, runs = self._images[address], changes[space]
        pages = before.written_pages + sum(runs[1::2])
        chain = len(before.chain)
        if pages > max(LEAST, len(view) // PAGE_SIZE // FOLD) or chain > LONGEST:
            return MemoryImage.of_bytes(view)
        written = WrittenPages(runs, changes.now(space))
        return MemoryImage(len(view), before=before, written=written)


__all__ = ["History"]
