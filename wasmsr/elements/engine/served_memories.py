"""The memories of a run while they live: each is served, saved, and found again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from wasmsr.elements.folder.element import Element
from wasmsr.mem.durl import Durl
from wasmsr.mem.serving.memory_images import BegunCut, MemoryImages
from wasmsr.mem.serving.memory_region import MemoryRegion
from wasmsr.mem.serving.memory_server import MemoryServer
from wasmsr.mem.serving.place import own_place


@dataclass
class _Living:
    """One copy of a memory that is served."""

    server: MemoryServer
    images: MemoryImages
    places: ExitStack


@dataclass(frozen=True)
class BegunImages:
    """Cuts of memories at one time, whose pages are not written yet."""

    cuts: Sequence[tuple[str, MemoryImages, BegunCut]]

    def drop(self) -> None:
        """Give them up: the next cuts have their pages."""
        for _, _, cut in self.cuts:
            cut.drop()


class ServedMemories:
    """All memories of a run; each lives from `start` to `end`."""

    def __init__(self, folder: Path, begun: int) -> None:
        """Make it.

        Args:
            folder: Where images of memories are.
            begun: How often the run was begun, with this time.
        """
        self._folder = folder
        # Each start of a memory has an epoch that no start before it had, in no beginning.
        self._first = begun << 32
        self._epochs: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._living: dict[str, list[_Living]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._living

    def settle(self, numbers: Mapping[str, int]) -> None:
        """Say which prepared images count, by their names, before the memories start.

        Args:
            numbers: What `prepare` has returned for the last results that were kept.
        """
        self._counts.update(numbers)

    def start(self, memory: Element) -> None:
        """Serve all copies of a memory, with the bytes of their images, in a new epoch.

        Raises:
            TransportError: There is no room for it.
            MemoryImageError: An image is damaged.
        """
        made: list[_Living] = []
        self._living[memory.name] = made
        epoch = self._epochs[memory.name] = self._epochs.get(memory.name, self._first) + 1
        for index in range(memory.copies):
            with ExitStack() as stack:
                buffer = stack.enter_context(own_place(memory.limits.mem_bytes))
                region = MemoryRegion(buffer)
                stack.callback(region.buffer.release)
                name = f"{memory.name}@{index}"
                images = MemoryImages(self._folder / name, self._counts.get(name))
                images.load(region)
                region.fence(epoch)
                region.move.decide = None  # the run saves what is here
                server = MemoryServer(region)
                server.start()
                stack.callback(server.stop)
                made.append(_Living(server, images, stack.pop_all()))

    def durls(self, memory: Element, name: str, index: int) -> list[Durl]:
        """Return the transports by which a copy of an element reaches a memory, with its epoch.

        Args:
            memory: The memory.
            name: The name by which the element asks for it. Each copy of the memory has it with
                `@` and its number; without that it is the copy whose number is that of the element.
            index: The number of the copy of the element.
        """
        epoch = str(self._epochs[memory.name])
        values = [
            {"url": f"tcp://127.0.0.1:{one.server.port}", "epoch": epoch}
            for one in self._living[memory.name]
        ]
        own = Durl(name, "tcp", values[index % len(values)])
        if len(values) == 1:
            return [own]
        return [own, *(Durl(f"{name}@{at}", "tcp", one) for at, one in enumerate(values))]

    def prepare(self, names: Iterable[str]) -> dict[str, int]:
        """Save memories of these names that live; it counts when `publish` was called.

        Returns:
            The number of each image, by its name. With these `settle` says later that they count.

        Raises:
            MemoryImageError: One cannot be saved; then none of them counts.
        """
        return self.finish(self.begin(names))

    def begin(self, names: Iterable[str]) -> BegunImages:
        """Take cuts of memories of these names that live; `finish` prepares them.

        The memories go on meanwhile. Nobody may end them before `finish` or `drop`.
        """
        begun: list[tuple[str, MemoryImages, BegunCut]] = []
        try:
            for name in sorted(names):
                for index, one in enumerate(self._living.get(name, ())):
                    cut = one.images.begin(one.server.region)
                    begun.append((f"{name}@{index}", one.images, cut))
        except BaseException:
            BegunImages(begun).drop()
            raise
        return BegunImages(begun)

    def finish(self, begun: BegunImages) -> dict[str, int]:
        """Write cuts that were begun; they count when `publish` was called, or not after `forget`.

        Returns:
            As `prepare`.

        Raises:
            MemoryImageError: One cannot be saved; then none of them counts.
        """
        found: dict[str, int] = {}
        left = list(begun.cuts)
        try:
            while left:
                name, images, cut = left.pop(0)
                images.finish(cut)
                found[name] = images.prepared
        except BaseException:
            BegunImages(left).drop()
            self.forget({name.rpartition("@")[0] for name in found})
            raise
        return found

    def publish(self, numbers: Mapping[str, int]) -> None:
        """Have what was prepared count from now on.

        Args:
            numbers: What `prepare` or `finish` has returned.

        Raises:
            MemoryImageError: It cannot be written.
        """
        self._counts.update(numbers)
        for name in {name.rpartition("@")[0] for name in numbers}:
            for one in self._living.get(name, ()):
                one.images.publish()

    def forget(self, names: Iterable[str]) -> None:
        """Have what was prepared not count: the next cuts have its pages."""
        for name in names:
            for one in self._living.get(name, ()):
                one.images.forget()

    def end(self, name: str) -> None:
        """End a memory; its image stays."""
        for one in self._living.pop(name, []):
            one.places.close()

    def end_all(self) -> None:
        """End all memories."""
        for name in list(self._living):
            self.end(name)
