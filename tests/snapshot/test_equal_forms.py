"""One state in all forms: each gives it back, with the same digests, and runs on to the same end.

For each method to find dirty pages a program with WASI, host objects and exceptions is saved as a
chain of checkpoints. What its last checkpoint holds is written in every other form, and in forms
of these forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.snapshot.samples import small
from wasmsr import Module, Mount, Snapshot, Store, Wasi
from wasmsr.interp.outcomes import Finished, Paused
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.checkpoints.checkpointer import Checkpointer, merge
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.format import content_digest, load, save
from wasmsr.snapshot.mapped.opening import open_mapped
from wasmsr.snapshot.memory.dirty_pages import METHODS, VARIABLE
from wasmsr.snapshot.sections.host.files import without_unused
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.store.store import SnapshotStore
from wasmsr.snapshot.tools.copies import write_full, write_mapped_copy
from wasmsr.snapshot.tools.opened import open_snapshot
from wasmsr.snapshot.trust.encryption import EncryptionKey
from wasmsr.snapshot.trust.policy import ReadTrust, WriteTrust
from wasmsr.snapshot.trust.signatures import SigningKey
from wasmsr.wasi.state.contents import Contents, named_chunks

CHECKPOINTS, TURN = 4, 80_000
PROGRAM = Module.from_text("""(module
  (import "wasi_snapshot_preview1" "random_get"
    (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 20 64)
  (memory $small 1)
  (table 5 externref) (table funcref (elem $work))
  (tag $odd (param i64 externref))
  (global $kept (mut exnref) (ref.null exn))
  (data (i32.const 0) "file") (data (i32.const 16) "\\00\\00\\00\\00\\00\\20\\00\\00")
  (func $work (param $seed i64) (result i64)
    (i64.add (i64.mul (local.get $seed) (i64.const 6364136223846793005))
      (i64.const 1442695040888963407)))
  (func (export "run") (param $object externref) (param $turns i32) (result i64)
    (local $seed i64) (local $at i32)
    (table.set 0 (i32.const 3) (local.get $object))
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 1)
      (i64.const 0x42) (i64.const 0) (i32.const 0) (i32.const 32)))
    (loop $again
      (drop (call $random (i32.const 40) (i32.const 8)))
      (local.set $seed (call_indirect 1 (param i64) (result i64)
        (i64.xor (i64.load (i32.const 40)) (local.get $seed)) (i32.const 0)))
      (local.set $at (i32.and (i32.wrap_i64 (local.get $seed)) (i32.const 0xffff8)))
      (i64.store (local.get $at) (local.get $seed))
      (i64.store $small (i32.and (local.get $at) (i32.const 0xfff8)) (local.get $seed))
      (if (i32.eqz (i32.and (local.get $turns) (i32.const 63)))
        (then
          (memory.fill (local.get $at) (i32.and (local.get $turns) (i32.const 64))
            (i32.const 9000))
          (i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (i32.const 3000))
          (drop (call $write (i32.load (i32.const 32)) (i32.const 16) (i32.const 1)
            (i32.const 48)))))
      (if (i32.eqz (i32.and (local.get $turns) (i32.const 2047)))
        (then
          (drop (memory.grow (i32.const 1)))
          (block $caught (result i64 externref exnref)
            (try_table (catch_ref $odd $caught)
              (throw $odd (local.get $seed) (local.get $object)))
            (unreachable))
          (global.set $kept) (drop) (drop)))
      (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
    (i64.add (local.get $seed) (i64.load (local.get $at)))))""")
TURNS = 8000
SIGN, LOCK = SigningKey(bytes(range(32))), EncryptionKey(bytes(range(32, 64)))
KEYS = ReadTrust((LOCK,), (SIGN.public,))


def captured(store: Store) -> SnapshotState:
    """The state of a paused store, as a value that does not change."""
    return Snapshot.of(store, embed=True).state


def same(state: SnapshotState, wanted: SnapshotState) -> bool:
    """Whether two states are equal but for where they come from."""
    ours, theirs = dict(state.files or ()), dict(wanted.files or ())
    return ours == theirs and replace(state, files=None) == replace(
        wanted, lineage=state.lineage, files=None
    )


def resumed(state: SnapshotState) -> Store:
    return Snapshot(state).restore(mounts=[Mount.parse("::d::mem")])


@dataclass
class Chain:
    """A folder of checkpoints and the state of the last."""

    folder: CheckpointFolder
    path: Path
    state: SnapshotState
    end: object

    @property
    def last(self) -> str:
        return self.folder.file(CHECKPOINTS)


@pytest.fixture(params=[one.name for one in METHODS])
def chain(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Chain]:
    """Checkpoints that were found by one method."""
    if next(one for one in METHODS if one.name == request.param).refusal() is not None:
        pytest.skip(f"the host does not have {request.param}")
    monkeypatch.setenv(VARIABLE, request.param)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "c").mkdir()
    folder = CheckpointFolder(tmp_path / "c")
    failures: list[BaseException] = []
    checkpointer = Checkpointer(folder, keep=9, failed=failures.append)
    wasi = Wasi(mounts=[Mount.parse("::d::mem")], deterministic=True, seed=7)
    with Store(deterministic=True) as store:
        store.wasi = wasi
        instance = store.instantiate(PROGRAM, wasi.imports)
        store.enqueue(instance.function("run"), {"an": ["object"]}, TURNS)
        for _ in range(CHECKPOINTS):
            assert isinstance(store.run(fuel=TURN), Paused)

            def now() -> SnapshotState:
                files = Contents()
                return capture(store, wasi=wasi.capture(files), files=files, embed=True)

            assert checkpointer.take(store, now)
            checkpointer.wait()
            state = captured(store)
        assert failures == []
        end = store.run()
        assert isinstance(end, Finished)
        checkpointer.close()
    yield Chain(folder, tmp_path, state, end.results)


# Each form is written of a file, to another one; then it is read.

Form = Callable[[str, str], None]


def _version(number: int) -> Form:
    return lambda source, out: _full(source, out, number)


def _full(source: str, out: str, version: int = 2) -> None:
    write_full(open_snapshot(source, trust=ReadTrust((LOCK,))), out, version=version)


def _mapped(source: str, out: str) -> None:
    assert write_mapped_copy(open_snapshot(source, trust=ReadTrust((LOCK,))), out).admitted
    assert open_mapped(out) is not None


def _copied(source: str, out: str) -> None:
    """A mapped file that must be read."""
    _mapped(source, f"{out}.mapped")
    Path(out).write_bytes(Path(f"{out}.mapped").read_bytes())
    assert open_mapped(out) is None


def _stored(source: str, out: str) -> None:
    store = SnapshotStore(f"{out}.store", create=True)
    store.put(source, "name")
    store.get("name", out)


def _loaded(source: str, out: str) -> None:
    save(load(source), out)


def _signed(source: str, out: str) -> None:
    pytest.importorskip("cryptography", reason="cryptography has no wheel for this machine")
    write_full(open_snapshot(source), out, version=2, trust=WriteTrust(SIGN))
    load(out, trust=KEYS)


def _encrypted(source: str, out: str) -> None:
    pytest.importorskip("cryptography", reason="cryptography has no wheel for this machine")
    write_full(open_snapshot(source), out, version=2, trust=WriteTrust(SIGN, LOCK))
    load(out, trust=KEYS)


FORMS: dict[str, list[Form]] = {
    "merged": [_full],
    "converted": [_version(1)],
    "converted and back": [_version(1), _version(2)],
    "mapped": [_mapped],
    "mapped, read": [_copied],
    "mapped, saved from memory": [_mapped, _loaded],
    "version 1, mapped, version 1": [_version(1), _mapped, _version(1)],
    "stored": [_stored],
    "mapped, stored, mapped": [_mapped, _stored, _mapped],
    "signed": [_signed],
    "encrypted": [_encrypted],
    "signed, mapped": [_signed, _mapped],
    "encrypted, mapped, full": [_encrypted, _mapped, _full],
}


def _check(chain: Chain, path: str, root: bytes | None) -> None:
    """Read a file, and run what it holds."""
    opened = open_snapshot(path, trust=ReadTrust((LOCK,)))
    if opened.header.version == 2 and root is not None:
        assert opened.decoder.root == root
    for state in (opened.state, load(path, trust=ReadTrust((LOCK,)))):
        assert same(state, chain.state)
        for version in (1, 2):
            assert content_digest(state, version=version) == content_digest(
                chain.state, version=version
            )
        with resumed(state) as store:
            assert same(captured(store), chain.state), "capture(restore(s)) is s"
    with resumed(state) as store:
        end = store.run()
        assert isinstance(end, Finished) and end.results == chain.end


def test_all_forms_are_one_state(chain: Chain) -> None:
    heads = chain.folder.heads()
    assert [heads[number].base is None for number in sorted(heads)] == [True, False, False, False]
    root = heads[CHECKPOINTS].root
    number, incremental = chain.folder.load(warn=pytest.fail)
    assert number == CHECKPOINTS
    assert same(incremental, chain.state)
    with resumed(incremental) as store:
        assert same(captured(store), chain.state)
    for name, steps in FORMS.items():
        source = chain.last
        kept: bytes | None = root
        for number, step in enumerate(steps):
            out = str(chain.path / f"{name} {number}")
            step(source, out)
            source = out
            header = open_snapshot(out, trust=ReadTrust((LOCK,))).header
            if header.version == 1 or step is _loaded:
                kept = None  # the root of version 2 comes from a state of version 1 anew
        _check(chain, source, kept)
    merge(chain.folder, CHECKPOINTS)
    assert chain.folder.heads()[CHECKPOINTS].root == root
    assert same(chain.folder.load(warn=pytest.fail)[1], chain.state)


def test_forks_and_moments_are_the_state(chain: Chain) -> None:
    out = str(chain.path / "mapped")
    _mapped(chain.last, out)
    for snapshot in (Snapshot(chain.state), Snapshot.load(out)):
        [fork] = snapshot.fork(1, mounts=[Mount.parse("::d::mem")])
        with fork:
            found = captured(fork)
            own = replace(found, wasi=chain.state.wasi)  # random bytes of its own
            assert same(own, chain.state)


def test_chunks_have_the_order_in_which_the_state_names_them(tmp_path: Path) -> None:
    """So the snapshot that is read from a chain has the payloads of one that was captured."""
    root = tmp_path / "d"
    for name in ("b", "a/z", "a.b/c", "a/y/x", "a-/q", "link/z"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() * 50_000)
    (root / "same").write_bytes((root / "a/z").read_bytes())
    (root / "a" / "hard").hardlink_to(root / "b")
    with Wasi(mounts=[Mount.parse(f"{root}::d::carry"), Mount.parse("::e::mem")]) as wasi:
        files = Contents()
        state = wasi.capture(files)
    assert [digest for digest, _ in files] == list(dict.fromkeys(named_chunks(state)))
    assert len(files) > 10
    part = [*named_chunks(state)[:3], bytes(32)]
    assert [digest for digest, _ in files.only(part)] == list(dict.fromkeys(part[:3]))


@pytest.mark.parametrize(
    "wasi",
    [
        {},
        {"mounts": 1, "unlinked": []},
        {"mounts": [{"tree": [[]]}], "unlinked": []},
        {"mounts": [{"tree": [[b"", 1, 0, 0, 0, 0, b"x"]]}], "unlinked": []},
        {"mounts": [1], "unlinked": []},
        {"mounts": [], "unlinked": [{"chunks": None}]},
    ],
)
def test_a_damaged_state_names_no_chunks(wasi: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not what a snapshot has"):
        named_chunks(wasi)
    files = Contents()
    files.add(bytes(32), b"x", None)
    state = replace(small(), wasi=wasi, files=files)
    assert without_unused(state) is state
