"""The memories of a run while they live: each is served, saved, and found again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from wasmsr.elements.folder.element import Element
from wasmsr.mem.durl import Durl
from wasmsr.mem.serving.memory_images import MemoryImages
from wasmsr.mem.serving.memory_region import MemoryRegion
from wasmsr.mem.serving.memory_server import MemoryServer
from wasmsr.mem.serving.place import own_place


@dataclass
class _Living:
    """One copy of a memory that is served."""

    server: MemoryServer
    images: MemoryImages
    places: ExitStack


class ServedMemories:
    """All memories of a run; each lives from `start` to `end`.

    Attributes:
        epoch: Older epochs are refused.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        """Make it.

        Args:
            folder: Where images of memories are.
            epoch: Older epochs are refused.
        """
        self._folder, self.epoch = folder, epoch
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
        """Serve all copies of a memory, with the bytes of their images.

        Raises:
            TransportError: There is no room for it.
            MemoryImageError: An image is damaged.
        """
        made: list[_Living] = []
        self._living[memory.name] = made
        for index in range(memory.copies):
            with ExitStack() as stack:
                buffer = stack.enter_context(own_place(memory.limits.mem_bytes))
                region = MemoryRegion(buffer)
                stack.callback(region.buffer.release)
                name = f"{memory.name}@{index}"
                images = MemoryImages(self._folder / name, self._counts.get(name))
                images.load(region)
                region.fence(self.epoch)
                server = MemoryServer(region)
                server.start()
                stack.callback(server.stop)
                made.append(_Living(server, images, stack.pop_all()))

    def durls(self, memory: Element, name: str, index: int) -> list[Durl]:
        """Return the transports by which a copy of an element reaches a memory.

        Args:
            memory: The memory.
            name: The name by which the element asks for it. Each copy of the memory has it with
                `@` and its number; without that it is the copy whose number is that of the element.
            index: The number of the copy of the element.
        """
        urls = [f"tcp://127.0.0.1:{one.server.port}" for one in self._living[memory.name]]
        own = Durl(name, "tcp", {"url": urls[index % len(urls)]})
        if len(urls) == 1:
            return [own]
        return [own, *(Durl(f"{name}@{at}", "tcp", {"url": url}) for at, url in enumerate(urls))]

    def prepare(self, names: Iterable[str]) -> dict[str, int]:
        """Save memories of these names that live; it counts when `publish` was called.

        Returns:
            The number of each image, by its name. With these `settle` says later that they count.

        Raises:
            MemoryImageError: One cannot be saved; then none of them counts.
        """
        return {
            f"{name}@{index}": one.images.prepare(one.server.region)
            for name in names
            for index, one in enumerate(self._living.get(name, ()))
        }

    def publish(self, names: Iterable[str]) -> None:
        """Have what was prepared count from now on.

        Raises:
            MemoryImageError: It cannot be written.
        """
        for name in names:
            for one in self._living.get(name, ()):
                one.images.publish()

    def end(self, name: str) -> None:
        """End a memory; its image stays."""
        for one in self._living.pop(name, []):
            one.places.close()

    def end_all(self) -> None:
        """End all memories."""
        for name in list(self._living):
            self.end(name)
