"""The table: all 46 functions, their types, and the document made from it. And mounts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

from tests.wasi.guest import OUT, Guest, on, readable, wat
from wasmsr.errors import WasiConfigError
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1 import unstable
from wasmsr.wasi.preview1.abi import Errno
from wasmsr.wasi.preview1.functions import FUNCTIONS, MODULE, document

ROOT = Path(__file__).resolve().parents[3]


def test_all_are_there() -> None:
    assert len(FUNCTIONS) == len({row.name for row in FUNCTIONS}) == 46
    with Wasi() as wasi:
        assert set(wasi.imports) == {"wasi_snapshot_preview1", "wasi_unstable"}
        assert len(wasi.imports["wasi_snapshot_preview1"]) == 46
        assert len(wasi.imports["wasi_unstable"]) == 45


def test_types_are_those_of_another_runtime() -> None:
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_wasi(wasmtime.WasiConfig())
    # It links only if every name is known and has this type.
    linker.instantiate(store, wasmtime.Module(engine, wat()))


def test_calls_take_what_their_types_say() -> None:
    for row in (*FUNCTIONS, *unstable.UNSTABLE.values()):
        names = row.parameters()
        assert len(names) == len(row.params), row.name


def test_the_document_is_made_from_the_table() -> None:
    assert (ROOT / "docs/wasi.md").read_text() == document(), (
        "run: python -m wasmsr.wasi.preview1.functions > docs/wasi.md"
    )


def test_importing_it_needs_neither_grpc_nor_wasmtime() -> None:
    code = (
        "import sys, wasmsr.wasi.facade\n"
        "print([m for m in ('grpc', 'wasmtime', 'zstandard', 'msgpack') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Mounts


def test_mount_forms() -> None:
    assert Mount.parse("dir") == Mount(Path("dir"), "dir", "host")
    assert Mount.parse("/a/b::/c") == Mount(Path("/a/b"), "/c", "host")
    assert Mount.parse("/a:b::c::host") == Mount(Path("/a:b"), "c", "host")


@pytest.mark.parametrize("text", ["", "::", "a::", "::b", "a::b::", "a::b::host::x", "a::::host"])
def test_no_mounts(text: str) -> None:
    with pytest.raises(WasiConfigError, match="not a mount"):
        Mount.parse(text)


@pytest.mark.parametrize("mode", ["mem", "rw", "HOST"])
def test_other_modes_are_refused_by_name(mode: str) -> None:
    with pytest.raises(WasiConfigError, match=f"{mode}|has no folder of the host"):
        Mount.parse(f"a::b::{mode}")


def test_a_mount_must_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, why in (("none", "does not exist"), ("file", "is neither a directory nor")):
        with pytest.raises(WasiConfigError, match=why):
            Wasi(mounts=[Mount(tmp_path / name, "/x")])
    with pytest.raises(WasiConfigError):
        Mount(tmp_path, "")


# wasi_unstable


def test_the_older_abi(data: Path) -> None:
    guest = on(data)
    fd = guest.opened("f", 1)
    guest.write(fd, b"0123456789")
    guest.module = unstable.MODULE
    assert guest.seek(fd, 2, 2) == (0, 2), "set is 2"
    assert guest.seek(fd, 3, 0) == (0, 5), "cur is 0"
    assert guest.seek(fd, -1, 1) == (0, 9), "end is 1"
    assert guest.seek(fd, 0, 3)[0] == Errno.INVAL
    for call, more in (("fd_filestat_get", ()), ("path_filestat_get", (0, *guest.path("f")))):
        guest.put(OUT, b"\xee" * 64)
        base = fd if call.startswith("fd") else 3
        assert guest.call(call, base, *more, OUT) == 0
        assert guest.get(OUT + 16, 1) == b"\4"
        assert guest.u32(OUT + 20) == 1
        assert guest.u64(OUT + 24) == 10
        assert guest.u64(OUT + 40) == (data / "f").stat().st_mtime_ns
        assert guest.get(OUT + 56, 8) == b"\xee" * 8
    at, events = 32768, 40000
    clock = (7).to_bytes(8, "little") + bytes(8) + (99).to_bytes(8, "little")
    clock += (1).to_bytes(8, "little") + (10**6).to_bytes(8, "little") + bytes(16)
    assert len(clock) == 56
    read = bytearray(readable(8, fd)) + bytes(8)
    guest.put(at, clock)
    assert guest.call("poll_oneoff", at, events, 1, OUT) == 0
    assert (guest.u32(), guest.u64(events), guest.get(events + 8, 3)) == (1, 7, b"\0\0\0")
    guest.put(at, clock[:40] + bytes(16) + bytes(read))
    assert guest.call("poll_oneoff", at, events, 2, OUT) == 0
    assert guest.u64(events) == 8
    assert "sock_accept" not in guest.wasi.imports[unstable.MODULE]
    assert guest.wasi.imports[MODULE] is not guest.wasi.imports[unstable.MODULE]
    guest.close()


def test_a_guest_without_mounts() -> None:
    guest = Guest()
    assert guest.call("fd_prestat_get", 3, OUT) == Errno.BADF
    guest.close()
