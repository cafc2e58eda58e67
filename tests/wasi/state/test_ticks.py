"""What a program changes just after a snapshot is undone, though the host's clock is coarse."""

from __future__ import annotations

from pathlib import Path

from wasmsr import realtime
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.origin import trusted_time
from wasmsr.wasi.state.restore import CarriedFiles


def test_a_change_in_the_tick_of_the_snapshot(tmp_path: Path) -> None:
    mounts = [Mount(tmp_path, "/out", "carry")]
    (tmp_path / "file").write_bytes(b"old")
    with Wasi(mounts=mounts) as wasi:
        for number in range(20):  # most of them are in one tick
            contents = Contents()
            state = wasi.capture(contents)
            contents.keep(None)
            since = trusted_time(state, realtime.now())
            (tmp_path / f"made{number}").write_bytes(b"")  # of nothing that was looked at before
            with Wasi.restore(state, mounts=mounts, carried=CarriedFiles(contents, since=since)):
                assert (tmp_path / "file").read_bytes() == b"old"
                assert [one.name for one in tmp_path.iterdir()] == ["file"]
