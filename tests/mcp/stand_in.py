"""A sandbox in memory with the calls of `wasmsr.Sandbox`: tests of the server need no guest."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import threading
import traceback
from types import SimpleNamespace
from typing import Any


class StandIn:
    """Runs code in this process. `spin` in the code runs until it is interrupted."""

    def __init__(self, names: dict[str, Any] | None = None) -> None:
        self.names = {} if names is None else names
        self.kept: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.status = "idle"
        self.running = threading.Event()
        self._stop = threading.Event()

    def run(self, code: str) -> Any:
        if code == "spin":
            return self.resume()
        out = io.StringIO()
        value = error = None
        try:
            tree = ast.parse(code)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            with contextlib.redirect_stdout(out):
                exec(compile(tree, "<code>", "exec"), self.names)
                if last is not None:
                    found = eval(compile(ast.Expression(last.value), "<code>", "eval"), self.names)
                    if found is not None:
                        value = SimpleNamespace(text=repr(found), data={})
        except Exception as raised:  # noqa: BLE001
            error = SimpleNamespace(
                type=type(raised).__name__, message=str(raised), traceback=traceback.format_exc()
            )
        return self._result("finished", out.getvalue(), value, error)

    def resume(self) -> Any:
        self._stop.clear()
        self.status = "running"
        self.running.set()
        assert self._stop.wait(60)
        self.running.clear()
        self.status = "interrupted"
        return self._result("interrupted", "", None, None)

    def _result(self, status: str, out: str, value: Any, error: Any) -> Any:
        return SimpleNamespace(
            status=status, stdout=out, stderr="", value=value, error=error, artifacts=(),
            instructions=1, seconds=0.0,
        )  # fmt: skip

    def interrupt(self) -> None:
        self._stop.set()

    def _plain(self) -> dict[str, Any]:
        return copy.deepcopy({k: v for k, v in self.names.items() if k != "__builtins__"})

    def snapshot(self, name: str | None = None) -> str:
        name = name or f"s{len(self.kept) + 1}"
        self.kept[name] = self._plain()
        return name

    def rewind(self, name: str) -> None:
        self.names = copy.deepcopy(self.kept[name])
        self.status = "idle"

    def fork(self, count: int = 1) -> list[StandIn]:
        return [StandIn(self._plain()) for _ in range(count)]

    def close(self) -> None:
        self.status = "closed"

    def put(self, path: str, data: bytes) -> None:
        self.contents[path] = data

    def get(self, path: str) -> bytes:
        return self.contents[path]

    @property
    def snapshots(self) -> tuple[str, ...]:
        return tuple(self.kept)

    def files(self, path: str = "/work") -> list[str]:
        return sorted(self.contents)


class StandInSource:
    """Makes them; keeps parked ones in a dictionary."""

    def __init__(self) -> None:
        self.made: list[StandIn] = []
        self.parked: dict[str, StandIn] = {}

    def make(self, packages: str) -> StandIn:
        self.made.append(StandIn())
        return self.made[-1]

    def park(self, sandbox: Any, name: str) -> None:
        self.parked[name] = sandbox

    def wake(self, name: str, label: str | None = None) -> StandIn:
        one = self.parked[name]
        woken = StandIn(one._plain() if label is None else copy.deepcopy(one.kept[label]))
        return woken

    def forget(self, name: str) -> None:
        self.parked.pop(name, None)
