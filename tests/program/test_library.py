"""The library's surface: what `import wasmsr` offers and costs, and what the wrappers promise."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

import wasmsr
from wasmsr import errors

LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))'
WASI = "wasi_snapshot_preview1"


def text(source: str) -> wasmsr.Module:
    return wasmsr.Module.from_text(source)


def test_import_is_cheap() -> None:
    code = (
        "import sys; before = set(sys.modules); import wasmsr; wasmsr.__version__\n"
        "print(*sorted(m for m in set(sys.modules) - before if m.startswith('wasmsr.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_name_is_there() -> None:
    assert wasmsr.__all__ == sorted(wasmsr.__all__)
    assert len(set(wasmsr.__all__)) == len(wasmsr.__all__)
    for name in wasmsr.__all__:
        assert getattr(wasmsr, name) is not None
    assert set(wasmsr.__all__) <= set(dir(wasmsr))
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        wasmsr.missing  # noqa: B018


def test_every_error_is_public() -> None:
    kinds = {k for k, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert kinds <= set(wasmsr.__all__)


def test_names_are_typed(tmp_path: Path) -> None:
    """A user's type checker sees the lazy names as what they are."""
    api = pytest.importorskip("mypy.api", reason="mypy belongs to the development tools")
    user = tmp_path / "user.py"
    user.write_text(
        "import wasmsr\n"
        "store = wasmsr.Store(limits=wasmsr.Limits(memory_pages=1))\n"
        "found = wasmsr.Snapshot.of(store, embed=True)\n"
        "reveal_type(found)\n"
        "reveal_type(found.restore())\n"
        "reveal_type(wasmsr.pause(store, 1.0))\n"
        "reveal_type(wasmsr.run('x'))\n"
        "wasmsr.run(1)\n"
    )
    out, _, code = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(user)])
    assert 'user.py:4: note: Revealed type is "wasmsr.snapshot.snapshot.Snapshot"' in out, out
    assert 'user.py:5: note: Revealed type is "wasmsr.interp.store.store.Store"' in out, out
    assert 'user.py:6: note: Revealed type is "bool"' in out or "builtins.bool" in out, out
    assert "wasmsr.interp.outcomes.Finished" in out, out
    assert "user.py:8: error: Argument 1" in out, out
    assert code == 1 and "Found 1 error" in out


# ---- run ----


def test_run_gives_the_exit_code() -> None:
    module = text(
        f'(module (import "{WASI}" "proc_exit" (func $exit (param i32)))'
        ' (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 7))))'
    )
    assert wasmsr.run(module) == wasmsr.Exited(7)


def test_run_takes_bytes_text_and_paths(tmp_path: Path) -> None:
    source = '(module (memory (export "memory") 1) (func (export "_start")))'
    (tmp_path / "a.wat").write_text(source)
    assert wasmsr.run(source.encode()) == wasmsr.Finished()
    assert wasmsr.run(text(source).binary) == wasmsr.Finished()
    assert wasmsr.run(tmp_path / "a.wat") == wasmsr.Finished()
    with pytest.raises(wasmsr.LinkError, match="exports no function '_start'"):
        wasmsr.run(b"(module)")
    with pytest.raises(FileNotFoundError):
        wasmsr.run(tmp_path / "missing.wasm")


def test_run_stops_at_its_fuel_and_at_a_trap() -> None:
    assert wasmsr.run(LOOP.encode(), fuel=1000) == wasmsr.Paused("fuel")
    outcome = wasmsr.run(b'(module (func (export "_start") unreachable))')
    assert isinstance(outcome, wasmsr.Trapped) and outcome.trap.code == "unreachable"


def test_run_passes_errors_of_host_functions_on() -> None:
    source = b'(module (import "e" "f" (func $f)) (func (export "_start") call $f))'
    with pytest.raises(wasmsr.HostError, match="ZeroDivisionError") as caught:
        wasmsr.run(source, imports={"e": {"f": lambda: 1 // 0}})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_run_ends_with_ctrl_c() -> None:
    code = f"import wasmsr\nprint('go', flush=True)\nwasmsr.run({LOOP.encode()!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"go\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in complaint
    assert process.returncode in (-signal.SIGINT, 130)


# ---- host functions as plain callables ----


def called(call: object, params: str = "(param i32)") -> object:
    source = (
        f'(module (import "e" "f" (func $f {params} (result i32))) (memory 1)'
        f' (func (export "g") {params} (result i32) (call $f (local.get 0))))'
    )
    instance = wasmsr.Store().instantiate(text(source), {"e": {"f": call}})  # type: ignore[dict-item]
    return instance.function("g")(5)


def test_callables_get_a_caller_if_they_say_so() -> None:
    def with_caller(caller: wasmsr.Caller, n: int) -> int:
        assert isinstance(caller, wasmsr.Caller)
        caller.memory[0] = n
        return caller.memory[0] + 1

    class Object:
        def method(self, caller: wasmsr.Caller, n: int) -> int:
            return n * 2 + (caller.instance or 0)

        def __call__(self, n: int) -> int:
            return n * 3

    def quoted(caller: "Caller", n: int) -> int:  # type: ignore[name-defined] # noqa: F821, UP037
        return n if isinstance(caller, wasmsr.Caller) else -1

    assert called(with_caller) == 6
    assert called(Object().method) == 10
    assert called(Object()) == 15
    assert called(quoted) == 5
    assert called(lambda n: n + 4) == 9
    assert called(lambda *all_of_them: len(all_of_them)) == 1
    assert called(abs) == 5


def test_callables_of_another_arity_do_not_link() -> None:
    with pytest.raises(wasmsr.LinkError, match=r"e\.f is of type func\(i32\)->\(i32\).*\(a, b\)"):
        called(lambda a, b: a)


# ---- stores ----


def test_closing_a_store() -> None:
    module = text('(module (memory (export "memory") 1))')
    with wasmsr.Store() as store:
        view = store.instantiate(module).memory().data
        view[3] = 9
    assert view[3] == 9  # the view keeps the memory
    for use in (store.run, store.frames, lambda: store.instantiate(module), store.pause):
        with pytest.raises(wasmsr.WasmsrError, match="the store is closed"):
            use()
    store.close()  # again: nothing happens


def test_a_store_that_runs_is_not_closed() -> None:
    store = wasmsr.Store()
    source = '(module (import "e" "f" (func $f)) (func (export "g") call $f))'
    instance = store.instantiate(text(source), {"e": {"f": store.close}})
    with pytest.raises(wasmsr.WasmsrError, match="the store is running"):
        instance.function("g")()


@pytest.mark.full
def test_memory_is_kept_by_views_and_modules_by_stores() -> None:
    """Whatever order the collector takes: nothing is used after it was given back."""
    views = []
    for number in range(5):
        store = wasmsr.Store()
        module = text(
            f'(module (memory (export "memory") 1) (elem func $f) (func $f) (data "{number}"))'
        )
        instance = store.instantiate(module)
        view = instance.memory().data
        view[0] = number
        views.append(view)
        gone = weakref.ref(module)
        del store, module, instance, view
        gc.collect()
        assert gone() is None
    assert [view[0] for view in views] == list(range(5))
    views.clear()  # only now the stores go, after their modules
    gc.collect()


def test_exports_by_kind() -> None:
    instance = wasmsr.Store().instantiate(
        text('(module (memory (export "m") 1) (global (export "g") i32 (i32.const 3)))')
    )
    assert instance.memory("m").pages == 1
    assert instance.global_("g").value == 3
    with pytest.raises(wasmsr.LinkError, match="exports no memory 'memory'") as caught:
        instance.memory()
    assert caught.value.hint == "it exports m"
    with pytest.raises(wasmsr.LinkError, match="exports no table 'g'"):
        instance.table("g")


def test_memory_read_and_write() -> None:
    memory = wasmsr.Memory.new(wasmsr.Store(), wasmsr.MemoryType(wasmsr.Bounds(1)))
    memory.write(65530, b"abcdef")
    assert memory.read(65530, 6) == b"abcdef"
    for attempt in (
        lambda: memory.read(65530, 7),
        lambda: memory.read(-1, 1),
        lambda: memory.write(65531, b"abcdef"),
    ):
        with pytest.raises(IndexError, match="not within the memory of 65536 bytes"):
            attempt()


# ---- pausing ----


def test_pause_waits_for_host_functions() -> None:
    inside, leave = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        leave.wait()

    store = wasmsr.Store()
    source = '(module (import "e" "f" (func $f)) (func (export "g") call $f call $f))'
    store.enqueue(store.instantiate(text(source), {"e": {"f": wait}}).function("g"))
    outcomes: list[wasmsr.Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(store.run()))
    thread.start()
    inside.wait()
    assert not wasmsr.pause(store, timeout=0.05)
    with pytest.raises(wasmsr.UnportableState, match="the program is running"):
        wasmsr.Snapshot.of(store)
    with pytest.raises(wasmsr.WasmsrError, match="running"):
        store.run()
    with pytest.raises(wasmsr.WasmsrError, match="running"):
        store.instances[0].function("g")()
    leave.set()
    assert store.wait(30)  # the request stood
    thread.join()
    assert outcomes == [wasmsr.Paused("requested")]
    assert store.run() == wasmsr.Finished()


def test_a_pause_before_the_run_is_not_lost() -> None:
    store = wasmsr.Store()
    instance = store.instantiate(
        text(
            '(module (global (export "g") (mut i32) (i32.const 0))'
            ' (func (export "f") (global.set 0 (i32.const 1))))'
        )
    )
    assert wasmsr.pause(store)
    with pytest.raises(wasmsr.Interrupted):
        instance.function("f")()
    assert instance.global_("g").value == 0
    restored = wasmsr.Snapshot.of(store, embed=True).restore()
    for each in (store, restored):
        assert each.run() == wasmsr.Finished()
        assert each.instances[0].global_("g").value == 1


def test_waiting_host_functions_retry() -> None:
    read, write = os.pipe()

    def get(caller: wasmsr.Caller) -> int:
        return os.read(read, 1)[0] if caller.wait(read) else 0

    source = (
        '(module (import "e" "f" (func $f (result i32))) (func (export "g") (result i32) call $f))'
    )
    module = text(source)
    store = wasmsr.Store()
    store.enqueue(store.instantiate(module, {"e": {"f": get}}).function("g"))
    outcomes: list[wasmsr.Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(store.run()))
    thread.start()
    while not store.running:
        time.sleep(0.001)
    time.sleep(0.05)
    assert wasmsr.pause(store, timeout=30)
    thread.join()
    assert outcomes == [wasmsr.Paused("requested")]
    snapshot = wasmsr.Snapshot.of(store)
    os.write(write, b"AB")
    assert store.run().results == (65,)  # type: ignore[union-attr]
    restored = snapshot.restore(modules=[module], imports={"e": {"f": get}})
    assert restored.run().results == (66,)  # type: ignore[union-attr]
    os.close(read)
    os.close(write)


# ---- snapshots ----


def test_a_snapshot_is_a_value() -> None:
    store = wasmsr.Store()
    memory = store.instantiate(text('(module (memory (export "memory") 1))')).memory()
    memory.write(0, b"then")
    snapshot = wasmsr.Snapshot.of(store, embed=True)
    memory.write(0, b"now!")
    store.close()
    assert snapshot.restore().instances[0].memory().read(0, 4) == b"then"


def test_wasi_is_not_forgotten() -> None:
    module = text(
        f'(module (import "{WASI}" "sched_yield" (func $y (result i32)))'
        ' (memory (export "memory") 1) (func (export "_start") (drop (call $y))))'
    )
    store = wasmsr.Store()
    wasi = wasmsr.Wasi(stdout=io.BytesIO())
    instance = store.instantiate(module, wasi.imports)
    store.enqueue(instance.function("_start"))
    with pytest.raises(wasmsr.UnportableState, match="its Wasi is not given"):
        wasmsr.Snapshot.of(store)
    snapshot = wasmsr.Snapshot.of(store, wasi=wasi)
    assert snapshot.state.wasi is not None
    with snapshot.restore(modules=[module]) as restored:
        assert isinstance(restored.wasi, wasmsr.Wasi)
        assert restored.run() == wasmsr.Finished()
        parent = snapshot.state.lineage.id
        assert wasmsr.Snapshot.of(restored, parent=snapshot).state.lineage.parent == parent


def test_limits_given_anew() -> None:
    store = wasmsr.Store(limits=wasmsr.Limits(memory_pages=1))
    module = text('(module (memory (export "memory") 1))')
    store.instantiate(module)
    snapshot = wasmsr.Snapshot.of(store)
    again = snapshot.restore(modules=[module], limits=wasmsr.Limits(memory_pages=2))
    assert again.instances[0].memory().grow(1) == 1
    assert snapshot.restore(modules=[module]).instances[0].memory().grow(1) == -1
    with pytest.raises(wasmsr.SnapshotError, match="limit"):
        snapshot.restore(modules=[module], limits=wasmsr.Limits(memory_pages=0))
