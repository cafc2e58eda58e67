"""Moves executions away from servers that are to be shut down."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from wasmsr.errors import WasmsrError
from wasmsr.jobs.servers.server_execution import ServerExecution
from wasmsr.jobs.servers.server_port import ServerPlacement

LOOK_SECONDS: Final = 1.0
"""How often the placement is asked which servers will go."""

AGAIN_SECONDS: Final = 5.0
"""How long an execution stays that could not be moved, before it is tried again."""

AT_ONCE: Final = 4
"""Executions that move at the same time."""


class LeavingExecutor(Protocol):
    """What has the executions; `ServerExecutor` does."""

    def ours(self) -> list[ServerExecution]:
        """Return the executions."""

    def migrate(self, id: str, peer: str) -> None:
        """Move one to another server, or to any for "". Raises WasmsrError."""

    def tell(self, event: str, id: str, **values: Any) -> None:
        """Tell whoever listens what has happened."""


class ServerMover:
    """One thread, which runs as long as an executor has a placement."""

    def __init__(self, executor: LeavingExecutor, placement: ServerPlacement | None) -> None:
        self._executor, self._placement = executor, placement
        self._asked: frozenset[str] = frozenset()
        self._tried: dict[str, float] = {}
        self._news = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        if placement is not None:
            self._thread = threading.Thread(target=self._run, name="wasmsr-mover", daemon=True)
            self._thread.start()

    def leave(self, servers: frozenset[str]) -> None:
        """Move what runs on these servers from now on."""
        if servers != self._asked:
            self._asked = servers
            self._news.set()

    def close(self) -> None:
        """End the thread; a move that has begun is made."""
        self._closed = True
        self._news.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        assert self._placement is not None
        with ThreadPoolExecutor(AT_ONCE, "wasmsr-moves") as pool:
            while not self._closed:
                self._news.wait(LOOK_SECONDS)
                self._news.clear()
                ours = [one for one in self._executor.ours() if not one.is_over]
                going = self._asked | self._placement.leaving() if ours else frozenset()
                now = time.monotonic()
                self._tried = {id: at for id, at in self._tried.items() if at > now - AGAIN_SECONDS}
                there = [one.id for one in ours if one.server in going]
                list(pool.map(self._move, [id for id in there if id not in self._tried]))

    def _move(self, id: str) -> None:
        if self._closed:
            return
        try:
            self._executor.migrate(id, "")
        except (WasmsrError, OSError) as error:
            self._tried[id] = time.monotonic()
            if not any(one.id == id and one.is_over for one in self._executor.ours()):
                said = error.message if isinstance(error, WasmsrError) else str(error)
                self._executor.tell("not-moved", id, error=said)


__all__ = ["ServerMover"]
