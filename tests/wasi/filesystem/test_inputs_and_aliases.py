"""The modes `input` and `alias` of mounts: what programs of jobs see, also after a restore."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wasmsr.errors import FormatError, WasiConfigError
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.filesystem.open_files import MountPath, RegularFile, descriptor_for
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.restore import CarriedFiles


def opened(wasi: Wasi, mount: str, path: str, flags: int) -> int:
    """Open a file as a program does, and return its number."""
    process, name = wasi.process, os.fsencode(mount)
    tree = process.trees[name]
    with tree.locate(tree.root, os.fsencode(path)) as location:
        host = location.open(flags, follow=True)
        place = MountPath(name, location.path)
    access = flags & os.O_ACCMODE
    return process.add(descriptor_for(host, place, 0, access))


def test_an_input_opens_for_writing_and_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "sub").mkdir()
    with Wasi(mounts=[Mount(tmp_path, "/in", "input")]) as wasi:
        fd = opened(wasi, "/in", "data", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        file = wasi.process.descriptors[fd]
        assert isinstance(file, RegularFile)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(file.host, b"x")
        for path, flags, code in (
            ("new", os.O_WRONLY | os.O_CREAT, errno.ENOENT),
            ("new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, errno.ENOENT),
            ("data", os.O_WRONLY | os.O_CREAT | os.O_EXCL, errno.EEXIST),
            ("sub", os.O_WRONLY, errno.EISDIR),
        ):
            with pytest.raises((OSError, CallError)) as caught:
                opened(wasi, "/in", path, flags)
            assert caught.value.errno == code
        tree = wasi.process.trees[b"/in"]
        with tree.locate(tree.root, b"data") as location, pytest.raises(CallError):
            location.unlink()
        state = wasi.capture()
    with Wasi.restore(state, mounts=[Mount(tmp_path, "/in", "input")]) as wasi:
        assert wasi.capture()["descriptors"] == state["descriptors"]
    assert (tmp_path / "data").read_bytes() == b"data"


@pytest.mark.parametrize("mode", ["carry", "host"])
def test_an_alias_is_the_same_tree(tmp_path: Path, mode: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    mounts = [Mount(first, "/out", mode), Mount(Path("/out"), "/again", "alias")]
    contents = Contents()
    with Wasi(mounts=mounts) as wasi:
        fd = opened(wasi, "/again", "file", os.O_RDWR | os.O_CREAT)
        file = wasi.process.descriptors[fd]
        assert isinstance(file, RegularFile)
        os.write(file.host, b"seven b")
        state = wasi.capture(contents)
        modes = {one["guest"]: one["mode"] for one in state["mounts"]}
        assert modes == {b"/out": mode, b"/again": "alias"}
    place = second if mode == "carry" else first
    mounts = [Mount(place, "/out", mode), Mount(Path("/out"), "/again", "alias")]
    carried = CarriedFiles(contents)
    with Wasi.restore(state, mounts=mounts, carried=carried) as wasi:
        file = wasi.process.descriptors[fd]
        assert isinstance(file, RegularFile)
        os.write(file.host, b"ytes")
        assert (place / "file").read_bytes() == b"seven bytes"
        assert {one["guest"]: one["mode"] for one in wasi.capture()["mounts"]} == modes


def test_an_alias_whose_mount_the_program_has_closed(tmp_path: Path) -> None:
    mounts = [Mount(tmp_path, "/out", "carry"), Mount(Path("/out"), "/again", "alias")]
    with Wasi(mounts=mounts) as wasi:
        wasi.process.remove(3).close()
        assert [one["mode"] for one in wasi.capture()["mounts"]] == ["carry", "alias"]


def test_an_alias_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(WasiConfigError, match="no such mount before it"):
        Wasi(mounts=[Mount(Path("/out"), "/again", "alias"), Mount(tmp_path, "/out")])
    with Wasi(mounts=[Mount(tmp_path, "/out"), Mount(Path("/out"), "/again", "alias")]) as wasi:
        state = wasi.capture()
    for of in (b"/nosuch", b"/again", b"", 7):
        state["mounts"][1]["of"] = of
        with pytest.raises(FormatError):
            Wasi.restore(state, mounts=[Mount(tmp_path, "/out")])
