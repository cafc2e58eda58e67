"""A gang of two counters in WebAssembly, which notices when it is set back alone, and its runs.

    python -m tests.elements.gangs RUN EVERY FILE

goes on with a run; the counters end when FILE is there.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.elements.folders import written
from wasmsr.elements.engine.run_folder import RunFolder
from wasmsr.elements.engine.scheduling import ElementRun, RunStopped
from wasmsr.elements.folder.reading import read_folder
from wasmsr.interp.modules.module import assemble

SECONDS = 60.0
"""How long anything may take on a busy machine."""

GATE = 64
"""Address of the number at which the counters end."""

COUNTER = """(module
  (import "env" "mem_open" (func $mem_open (param i32 i32) (result i32)))
  (import "env" "mem_read" (func $mem_read (param i32 i64 i32 i32) (result i32)))
  (import "env" "mem_write" (func $mem_write (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "m") (data (i32.const 200) "begun\\0a") (data (i32.const 300) "[1, 2]")
  (func $say (param $fd i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 400) (local.get $at))
    (i32.store (i32.const 404) (local.get $size))
    (drop (call $fd_write (local.get $fd) (i32.const 400) (i32.const 1) (i32.const 408))))
  (func $get (param $addr i32) (result i32)
    (if (i32.ne (call $mem_read (i32.const 0) (i64.extend_i32_u (local.get $addr))
                                (i32.const 64) (i32.const 4)) (i32.const 4)) (then unreachable))
    (i32.load (i32.const 64)))
  (func $put (param $addr i32) (param $value i32)
    (i32.store (i32.const 64) (local.get $value))
    (if (i32.ne (call $mem_write (i32.const 0) (i64.extend_i32_u (local.get $addr))
                                 (i32.const 64) (i32.const 4)) (i32.const 4)) (then unreachable)))
  (func (export "_start") (local $n i32) (local $seen i32) (local $other i32)
    (if (call $mem_open (i32.const 0) (i32.const 1)) (then unreachable))
    (call $say (i32.const 2) (i32.const 200) (i32.const 6))
    (call $say (i32.const 1) (i32.const 300) (i32.const 3))
    (loop $again
      (if (i32.ne (call $get (i32.const MINE)) (local.get $n)) (then unreachable))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (call $put (i32.const MINE) (local.get $n))
      (local.set $other (call $get (i32.const OTHER)))
      (if (i32.lt_u (local.get $other) (local.get $seen)) (then unreachable))
      (local.set $seen (local.get $other))
      (br_if $again (i32.eqz (call $get (i32.const GATE)))))
    (call $put (i32.add (i32.const MINE) (i32.const 4)) (local.get $n))
    (call $say (i32.const 1) (i32.const 303) (i32.const 3))))"""
"""Counts in the memory and for itself, and traps when the two differ or the other's goes back."""

CHECK = """type: compute
parents: [a, b]
corunning: [m]
---
def main(params, action):
    m = action.get_transport("m", "rdma")
    m.reg(16)
    m.read(16, addr=0)
    numbers = [int.from_bytes(m.buf[at : at + 4], "little") for at in range(0, 16, 4)]
    return {"numbers": numbers, "said": [params["a"], params["b"]]}
"""


def counter(mine: int, other: int) -> bytes:
    """A counter whose number is at one address, and which looks at another one."""
    text = COUNTER.replace("MINE", str(mine)).replace("OTHER", str(other))
    return assemble(text.replace("GATE", str(GATE)).encode())


def gang(folder: Path, *, retries: int = 0, together: bool = True, **more: str) -> Path:
    """A folder with two counters, and a step after them that returns what they counted."""
    with_a, with_b = ("[b, m]", "[a, m]") if together else ("[m]", "[m]")
    said = f"type: compute\ndependents: [check]\nretries: {retries}\ncorunning: "
    users = ", ".join(["a", "b", "check", *more])
    written(
        folder, a=said + with_a, b=said + with_b, check=CHECK,
        m=f"type: memory\ncorunning: [{users}]\nlimits: {{mem: 256 KB}}", **more,
    )  # fmt: skip
    (folder / "a.o.wasm").write_bytes(counter(0, 8))
    (folder / "b.o.wasm").write_bytes(counter(8, 0))
    return folder


class Going:
    """A run on a thread of this process."""

    def __init__(self, run: RunFolder, every: float | None = 0.05) -> None:
        self.run = run
        self.warnings: list[str] = []
        self.notes: list[tuple[str, str, int]] = []
        self.result: Any = None
        self.error: BaseException | None = None
        self.going = ElementRun(
            run, cpus=64, every=every, warn=self.warnings.append,
            note=lambda *note: self.notes.append(note),
        )  # fmt: skip
        self.thread = threading.Thread(target=self._go, daemon=True)
        self.thread.start()

    @classmethod
    def begin(cls, folder: Path, every: float | None = 0.05) -> Going:
        graph, faults = read_folder(folder)
        assert not faults
        return cls(RunFolder.create(folder.parent / "runs", graph, {}), every)

    def again(self, every: float | None = 0.05) -> Going:
        """Resume the run, which has ended."""
        run = RunFolder(self.run.path)
        run.take()
        return Going(run, every)

    def _go(self) -> None:
        try:
            self.result = self.going.go()
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            self.error = error

    def until(self, condition: Any) -> None:
        ends = time.monotonic() + SECONDS
        while not condition():
            assert self.error is None and time.monotonic() < ends, (self.error, self.warnings)
            time.sleep(0.01)

    def end(self) -> Any:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result

    def stop(self) -> None:
        self.going.stop()
        self.thread.join(SECONDS)
        assert isinstance(self.error, RunStopped)

    @property
    def region(self) -> Any:
        return self.going._memories._living["m"][0].server.region

    def is_anew(self, region: Any) -> bool:
        """Whether the memory is served as another one than before, and a counter has counted."""
        try:
            return self.region is not region and self.number(0) > 0
        except (AttributeError, LookupError):  # just now it is not served at all
            return False

    def number(self, addr: int) -> int:
        """A number of the memory, 0 while it is not served."""
        try:
            return int.from_bytes(self.region.buffer[addr : addr + 4], "little")
        except (AttributeError, LookupError, ValueError):
            return 0

    def try_gate(self) -> bool:
        """Let the counters end, if their memory is served now."""
        try:
            self.region.buffer[GATE] = 1
            self.region.still_dirty([0])
        except (AttributeError, LookupError, ValueError):
            return False
        return True

    def open_gate(self) -> None:
        """Let the counters end."""
        self.until(self.try_gate)

    def cuts(self) -> list[dict[str, Any]]:
        """The entries of the journal that have cuts."""
        return [entry for entry in journal(self.run.path) if "cuts" in entry]

    def logs(self) -> list[str]:
        return [self.run.log(name, 0).read_text() for name in ("a", "b")]


def journal(run: Path) -> list[dict[str, Any]]:
    lines = (run / "journal.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def right(result: Any) -> None:
    """Check what the last step has found."""
    at_a, counted_a, at_b, counted_b = result["numbers"]
    assert at_a == counted_a > 0 and at_b == counted_b > 0
    assert result["said"] == [[[1, 2]], [[1, 2]]]


def main() -> None:
    """Go on with a run, and open the gate when a file is there."""
    run = RunFolder(Path(sys.argv[1]))
    run.take()
    going = Going(run, float(sys.argv[2]))
    while going.thread.is_alive():
        if Path(sys.argv[3]).exists():
            going.try_gate()  # again and again: a gang that fails is set back to before it
        time.sleep(0.01)
    print(json.dumps(going.end()))


if __name__ == "__main__":
    main()
