"""The module cache: what it spares, and that nothing in its folder can do harm.

A note may be missing, damaged, forged or of another file; then a start is slower, or an error comes
later, in the call of the function that is wrong. It is never another error, and never a crash.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wasmsr import InvalidError, MalformedError, Module, ModuleMismatch, Store
from wasmsr.interp.modules import module_cache as cache_module
from wasmsr.interp.modules.module_cache import KEPT, ModuleCache, default_folder

GOOD = """(module (func (export "good") (result i32) (i32.const 7))
                  (func (export "bad") (result i32) (i32.const 1234567)))"""


@pytest.fixture(autouse=True)
def small_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small modules and files of this moment are cached too."""
    monkeypatch.setattr(cache_module, "SMALLEST", 8)
    monkeypatch.setattr(cache_module, "RACY", -(10**12))


@pytest.fixture
def cache(tmp_path: Path) -> ModuleCache:
    return ModuleCache(str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A valid module's file."""
    file = tmp_path / "module.wasm"
    file.write_bytes(Module.from_text(GOOD).binary)
    return file


def spoiled(binary: bytes) -> bytes:
    """The same module with a body that does not validate: `f32.const` in place of `i32.const`."""
    at = binary.index(b"\x41\x87\xad\xcb\x00")
    assert b"\x41\x87\xad\xcb\x00\x0b" in binary
    return binary[:at] + b"\x43" + binary[at + 1 :]


def notes(cache: ModuleCache, kind: str) -> list[Path]:
    return sorted(Path(cache.folder).glob(f"*.{kind}"))


def call(module: Module, name: str) -> Any:
    return Store().instantiate(module).function(name)()


def keep_times(path: Path, data: bytes) -> None:
    """Change a file so that nothing but its bytes tells."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def same_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if files had no time of change of their inodes, which programs cannot set."""
    of_status = cache_module._identity
    monkeypatch.setattr(
        cache_module, "_identity", lambda status: of_status(status).rpartition("-")[0]
    )


def test_a_known_file_is_neither_hashed_nor_validated(cache: ModuleCache, path: Path) -> None:
    first = cache.load(path)
    assert cache.found == "validated" and first.validated
    second = cache.load(path)
    assert cache.found == "known file" and not second.validated
    assert "digest" not in vars(second)
    assert second.name == "module"
    assert call(second, "bad") == 1234567
    assert second.digest == first.digest
    assert cache.trouble is None or isinstance(cache.trouble, FileNotFoundError)


def test_a_copy_is_hashed_and_not_validated(
    cache: ModuleCache, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.load(path)
    monkeypatch.setattr(cache_module, "STEP", 1)
    copy = tmp_path / "copy.wasm"
    # Enough bodies that the digest is there before all are validated.
    many = "(module" + "(func (result i32) (i32.const 7))" * 20_000 + ")"
    copy.write_bytes(Module.from_text(many).binary)
    cache.load(copy)
    assert cache.found == "validated"
    other = tmp_path / "other.wasm"
    other.write_bytes(copy.read_bytes())
    module = cache.load(other)
    assert cache.found == "known module"
    assert not module.validated
    assert len(notes(cache, "valid")) == 2 and len(notes(cache, "file")) == 3


def test_needs_are_known_although_bodies_were_not_looked_at(cache: ModuleCache, path: Path) -> None:
    text = '(module (func $f (export "f") (return_call $f)))'
    path.write_bytes(Module.from_text(text).binary)
    assert "tail-calls" in cache.load(path).needed_features
    module = cache.load(path)
    assert not module.validated
    assert "tail-calls" in module.needed_features and module.validated


def test_features_have_notes_of_their_own(cache: ModuleCache, path: Path) -> None:
    cache.load(path)
    cache.load(path, features="-tail-calls")
    assert cache.found in ("validated", "known module") and len(notes(cache, "valid")) == 2
    cache.load(path, features="-tail-calls")
    assert cache.found == "known file"


def test_text_and_small_modules_have_no_notes(
    cache: ModuleCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(GOOD)
    assert call(cache.load(path), "good") == 7
    assert cache.found == "text"
    monkeypatch.setattr(cache_module, "SMALLEST", 1 << 18)
    path.write_bytes(Module.from_text(GOOD).binary)
    cache.load(path)
    assert cache.found == "small"
    assert not Path(cache.folder).exists()


@pytest.mark.parametrize("data", [b"", b"\0asm", b"\0asm\x02\0\0\0" + bytes(9), b"hello"])
def test_what_is_no_module(cache: ModuleCache, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(MalformedError):
            cache.load(path)
    assert not Path(cache.folder).exists()


def test_an_invalid_module_gets_no_note(cache: ModuleCache, path: Path) -> None:
    path.write_bytes(spoiled(path.read_bytes()))
    for _ in range(2):
        with pytest.raises(InvalidError):
            cache.load(path)
    assert notes(cache, "valid") == []


# ---- hostile folders ----


def check_late_error(cache: ModuleCache, path: Path) -> None:
    """The invalid function is found when it is called; the rest runs; then the note is gone."""
    module = cache.load(path)
    assert cache.found == "known file"
    assert call(module, "good") == 7
    store = Store()
    instance = store.instantiate(module)
    with pytest.raises(InvalidError, match=r"bad is invalid: .*type mismatch") as caught:
        instance.function("bad")()
    assert caught.value.offset is not None
    store.check()
    assert instance.function("good")() == 7  # the store is as it was
    with pytest.raises(InvalidError):
        _ = module.needed_features
    with pytest.raises(InvalidError):
        cache.load(path)


def test_a_forged_note_of_validity(cache: ModuleCache, path: Path) -> None:
    cache.load(path)
    (valid,), (file,) = notes(cache, "valid"), notes(cache, "file")
    path.write_bytes(spoiled(path.read_bytes()))
    status = path.stat()
    forged = Module(path.read_bytes(), lazy=True).digest.hex()
    name = forged + valid.name[64:]
    valid.with_name(name).write_text(valid.read_text().replace(valid.name[:64], forged))
    identity = cache_module._identity(status)
    file.with_name(f"{identity}.file").write_text(cache_module._file_note(identity, forged))
    check_late_error(cache, path)
    assert not valid.with_name(name).exists()


def test_a_file_that_changed_without_a_trace(
    cache: ModuleCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_identity(monkeypatch)
    cache.load(path)
    keep_times(path, spoiled(path.read_bytes()))
    check_late_error(cache, path)


def test_a_swapped_module_is_never_taken_for_the_one_of_a_snapshot(
    cache: ModuleCache, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasmsr.program.program import Program

    same_identity(monkeypatch)
    program = Program.launch(cache.load(path), invoke="good")
    saved = program.snapshot()
    other = Module.from_text(GOOD.replace("i32.const 7", "i32.const 8")).binary
    keep_times(path, other)
    module = cache.load(path)
    assert cache.found == "known file"
    with pytest.raises(ModuleMismatch):
        Program.resume(saved, module=module)
    # And a snapshot of the swapped one names what it really is of.
    assert (
        Program.launch(module, invoke="good").snapshot().modules[0].digest == Module(other).digest
    )


def test_an_invalid_function_on_the_stack_of_a_snapshot(
    cache: ModuleCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasmsr.snapshot.capture import capture
    from wasmsr.snapshot.restore import restore

    module = cache.load(path)
    store = Store()
    store.enqueue(store.instantiate(module).function("bad"))
    store.run(fuel=0)
    saved = capture(store)
    assert saved.thread.frames
    invalid = Module(spoiled(path.read_bytes()), lazy=True)
    vars(invalid)["digest"] = module.digest
    with pytest.raises(InvalidError, match="bad is invalid"):
        restore(saved, modules=[invalid])


def _damage(data: bytes) -> Iterator[bytes]:
    yield b""
    yield data[:-1]
    yield data[: len(data) // 2]
    yield data + b"\n"
    yield data.replace(b"wasmsr 1", b"wasmsr 2")
    yield data.upper()
    yield bytes([data[0] ^ 1]) + data[1:]
    yield b"\0" * len(data)
    yield b"\xff" * 100_000
    yield b"../../../etc/passwd\n" + data
    yield b"0" * 63 + b"/\n" + data.partition(b"\n")[2]


@pytest.mark.parametrize("kind", ["valid", "file"])
def test_damaged_notes(cache: ModuleCache, path: Path, kind: str) -> None:
    cache.load(path)
    (note,) = notes(cache, kind)
    whole = note.read_bytes()
    for damaged in _damage(whole):
        note.write_bytes(damaged)
        module = cache.load(path)
        assert cache.found in ("validated", "known module")
        assert call(module, "bad") == 1234567
        assert note.read_bytes() == whole or cache.found == "known module"
        note.write_bytes(whole)
        cache.load(path)
        assert cache.found == "known file"


def test_notes_that_are_no_files(cache: ModuleCache, path: Path, tmp_path: Path) -> None:
    cache.load(path)
    target = tmp_path / "target"
    target.write_text("not ours")
    for note in (*notes(cache, "valid"), *notes(cache, "file")):
        for make in (os.mkdir, os.mkfifo, lambda name: os.symlink(target, name)):
            note.unlink()
            make(note)
            assert call(cache.load(path), "good") == 7
            if note.is_dir():
                note.rmdir()
                cache.load(path)
    assert target.read_text() == "not ours"


@pytest.mark.parametrize(
    "folder", ["/proc/nothing/cache", "file/cache", "file", "\ud800", "\0", "a" * 300]
)
def test_a_folder_that_cannot_be(path: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("a file")
    cache = ModuleCache(os.path.join(tmp_path, folder))
    for _ in range(2):
        assert call(cache.load(path), "good") == 7
        assert cache.found == "validated"
        assert cache.trouble is not None
    assert list(cache.notes()) == []


def test_a_folder_that_cannot_be_written(
    cache: ModuleCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache_module.os, "replace", refuse)
    monkeypatch.setattr(cache_module.os, "utime", refuse)
    cache.load(path)
    assert cache.found == "validated" and isinstance(cache.trouble, PermissionError)
    assert os.listdir(cache.folder) == []


def test_a_file_that_changes_now_is_not_remembered(
    cache: ModuleCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "RACY", 2 * 10**9)
    cache.load(path)
    assert notes(cache, "file") == [] and len(notes(cache, "valid")) == 1


def test_it_is_bounded(cache: ModuleCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.makedirs(cache.folder)
    for number in range(KEPT + 50):
        note = Path(cache.folder, f"{number:064x}-0.valid")
        note.write_text("old")
        os.utime(note, (number, number))
    Path(cache.folder, "README").write_text("somebody else's")
    cache.load(path)
    left = {entry.name for entry in os.scandir(cache.folder)}
    assert len(left) == KEPT + 1 and "README" in left
    assert f"{0:064x}-0.valid" not in left and f"{KEPT + 49:064x}-0.valid" in left
    cache.load(path)
    assert cache.found == "known file"
    assert cache.clear() == KEPT
    assert os.listdir(cache.folder) == ["README"]


def _load_often(folder: str, path: str) -> None:
    cache_module.SMALLEST, cache_module.RACY = 8, -(10**12)
    cache = ModuleCache(folder)
    for number in range(60):
        assert call(cache.load(path), "good") == 7
        if number % 20 == 7:
            cache.clear()


def test_many_processes_at_once(cache: ModuleCache, path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_load_often, args=(cache.folder, str(path))) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    cache.load(path)
    cache.load(path)
    assert cache.found == "known file"
    assert not list(Path(cache.folder).glob("*.part"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere platformdirs is asked itself")
@pytest.mark.parametrize("base", [None, "", "/somewhere", " "])
def test_the_folder_is_the_one_of_platformdirs(
    base: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if base is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert default_folder() == platformdirs.user_cache_dir("wasmsr")
