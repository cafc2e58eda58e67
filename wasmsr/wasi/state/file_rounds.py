"""The carried files of a program that leaves: scanned while it runs, exactly when it is paused."""

from __future__ import annotations

import os

from wasmsr.wasi.filesystem.mounts import CARRYING
from wasmsr.wasi.filesystem.open_files import RegularFile
from wasmsr.wasi.process import Process
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.manifest import scan
from wasmsr.wasi.state.written import WrittenFiles


class FileRounds:
    """The carried files of a program that leaves, scanned while it runs.

    Args:
        process: The process.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._watches: dict[bytes, WrittenFiles] = {}
        self._trees: dict[int, bytes] = {}
        for name, tree in process.trees.items():
            if tree.mode in CARRYING:
                self._trees.setdefault(id(tree), name)

    def watch(self) -> None:
        """Have every write noted from now on. The program must not run meanwhile."""
        for name in self._trees.values():
            tree = self._process.trees[name]
            tree.watch = self._watches[name] = WrittenFiles(tree.known)
        self._set()

    def _set(self) -> None:
        for descriptor in self._process.descriptors.values():
            if isinstance(descriptor, RegularFile):
                descriptor.watch = self._process.tree_of(descriptor).watch

    def scan(self) -> Contents:
        """Return the chunks of all files as they are about now; the program may be running.

        Raises:
            UnportableState, OSError: Something cannot be read, or not at the moment.
        """
        contents = Contents()
        for name in self._trees.values():
            tree = self._process.trees[name]
            limit = self._process.carry_limit
            scan(
                tree.root,
                os.fsdecode(name),
                contents,
                limit,
                watch=self._watches[name],
                exact=False,
            )
        return contents

    @property
    def pending(self) -> int:
        """About how many bytes of chunks were written since the last scan."""
        return sum(one.pending for one in self._watches.values())

    def close(self) -> None:
        """Note writes no more. The program must not run meanwhile, or must have ended."""
        for name in self._trees.values():
            if name in self._process.trees:
                self._process.trees[name].watch = None
        self._set()


__all__ = ["FileRounds"]
