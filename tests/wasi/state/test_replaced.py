"""A file that was replaced before the program goes on is noticed, and never cut or overwritten."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wasi.guest import Guest, on
from wasmsr.errors import FormatError, SnapshotError
from wasmsr.snapshot.inspect import wasi as inspect_wasi
from wasmsr.snapshot.inspect.plain import plain_data
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1.abi import FdFlag, Right
from wasmsr.wasi.preview1.rights import FILE_RIGHTS
from wasmsr.wasi.state import origin
from wasmsr.wasi.state.checked_state import read

READS = FILE_RIGHTS & ~Right.FD_WRITE
WRITES = FILE_RIGHTS & ~Right.FD_READ
CONTENT = bytes(range(256)) * 40
AT = 5000
"""Where the program stands in the file."""


@pytest.fixture
def program(data: Path) -> Iterator[Guest]:
    (data / "f").write_bytes(CONTENT)
    made = on(data)
    yield made
    made.close()


def stand(guest: Guest, rights: int, offset: int = AT) -> dict[str, Any]:
    """The state of the program with the file open."""
    fd = guest.opened("f", 0, rights)
    guest.seek(fd, offset)
    return guest.state()


def in_place(path: Path, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(content)


def anew(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def by_rename(path: Path, content: bytes) -> None:
    path.with_name("new").write_bytes(content)
    path.with_name("new").rename(path)


def by_link(path: Path, content: bytes) -> None:
    path.with_name("new").write_bytes(content)
    path.unlink()
    os.link(path.with_name("new"), path)


OTHER = bytes(reversed(CONTENT))
REPLACED: dict[str, Callable[[Path], None]] = {
    "anew, other content": lambda path: anew(path, OTHER),
    "anew, longer": lambda path: anew(path, OTHER * 2),
    "anew, longer, the same beginning": lambda path: anew(path, CONTENT[:100] + OTHER * 2),
    "by rename": lambda path: by_rename(path, OTHER),
    "by rename, the same content": lambda path: by_rename(path, CONTENT),
    "by rename, the same and more": lambda path: by_rename(path, CONTENT + b"more"),
    "by a link": lambda path: by_link(path, OTHER * 2),
}


@pytest.mark.parametrize("how", REPLACED)
@pytest.mark.parametrize("rights", [READS, WRITES, FILE_RIGHTS])
@pytest.mark.parametrize("policy", ["error", "truncate"])
def test_another_file_is_refused_and_left_alone(
    program: Guest, data: Path, how: str, rights: int, policy: str
) -> None:
    state = stand(program, rights)
    REPLACED[how](data / "f")
    now = (data / "f").read_bytes()
    with pytest.raises(SnapshotError, match="is not the one that the program had open") as caught:
        program.resume(state, on_changed=policy)
    assert "--on-changed keep" in str(caught.value.hint)
    assert (data / "f").read_bytes() == now


@pytest.mark.parametrize("how", REPLACED)
@pytest.mark.parametrize("rights", [READS, FILE_RIGHTS])
def test_whoever_insists_goes_on_with_another_file(
    program: Guest, data: Path, how: str, rights: int
) -> None:
    state = stand(program, rights)
    REPLACED[how](data / "f")
    now = (data / "f").read_bytes()
    program.resume(state, on_changed="keep")
    assert (data / "f").read_bytes() == now
    assert program.read(4) == (0, now[AT : AT + 4096])


@pytest.mark.parametrize("rights", [READS, FILE_RIGHTS])
@pytest.mark.parametrize("policy", ["error", "truncate", "keep"])
def test_the_file_itself_goes_on(program: Guest, data: Path, rights: int, policy: str) -> None:
    state = stand(program, rights)
    (data / "f").chmod(0o640)  # changes nothing that is in it
    program.resume(state, on_changed=policy)
    assert program.read(4, 10) == (0, CONTENT[AT : AT + 10])


def test_what_the_program_wrote_later_is_cut_off(program: Guest, data: Path) -> None:
    fd = program.opened("f", 0, fdflags=FdFlag.APPEND)
    state = program.state()
    program.write(fd, b"after the snapshot")
    with pytest.raises(SnapshotError, match="has grown"):
        program.resume(state, on_changed="error")
    program.resume(state, on_changed="truncate")
    assert (data / "f").read_bytes() == CONTENT


def test_what_the_program_wrote_over_later(program: Guest, data: Path) -> None:
    """A database does: nothing can be cut off, and the file is the program's own."""
    state = stand(program, FILE_RIGHTS)
    program.seek(4, AT - 100)
    program.write(4, bytes(200))
    with pytest.raises(SnapshotError, match="was changed since"):
        program.resume(state, on_changed="error")
    program.resume(state, on_changed="truncate")
    assert program.seek(4, 0, 1) == (0, AT)


def test_a_log_that_is_read_may_grow(program: Guest, data: Path) -> None:
    state = stand(program, READS, len(CONTENT))
    with open(data / "f", "ab") as file:
        file.write(b"more")
    for policy in ("error", "truncate"):
        program.resume(state, on_changed=policy)
        assert program.read(4) == (0, b"more")
    assert (data / "f").read_bytes() == CONTENT + b"more"


@pytest.mark.parametrize("policy", ["error", "truncate"])
def test_what_is_read_was_changed_around_the_offset(
    program: Guest, data: Path, policy: str
) -> None:
    state = stand(program, READS)
    in_place(data / "f", OTHER)
    with pytest.raises(SnapshotError, match="is not the one"):
        program.resume(state, on_changed=policy)


def copied(data: Path, there: Path) -> Path:
    shutil.copytree(data, there)
    return there / "f"


@pytest.mark.parametrize("rights", [READS, WRITES, FILE_RIGHTS])
@pytest.mark.parametrize("elsewhere", ["another folder", "another host", "after a start"])
def test_elsewhere_size_and_content_tell(
    program: Guest,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rights: int,
    elsewhere: str,
) -> None:
    state = stand(program, rights)
    there = tmp_path / "there"
    file = copied(data, there)
    if elsewhere != "another folder":
        now = origin.here()
        other = origin.HostIdentity(
            now.machine if elsewhere == "after a start" else bytes(32), bytes(32)
        )
        monkeypatch.setattr(origin, "here", lambda: other)
    mounts = [Mount(there, "/data")]
    program.resume(state, mounts=mounts, on_changed="error")
    assert program.seek(4, 0, 1) == (0, AT)
    for content in (OTHER, OTHER * 2, CONTENT[:AT] + OTHER[AT:], bytes(AT) + CONTENT[AT:]):
        file.write_bytes(content)
        for policy in ("error", "truncate"):
            with pytest.raises(SnapshotError, match="is not the one"):
                program.resume(state, mounts=mounts, on_changed=policy)
        assert file.read_bytes() == content
    file.write_bytes(CONTENT + b"more")
    if rights != READS:
        with pytest.raises(SnapshotError, match="has grown"):
            program.resume(state, mounts=mounts, on_changed="error")
    program.resume(state, mounts=mounts, on_changed="truncate")
    assert file.read_bytes() == CONTENT + (b"more" if rights == READS else b"")


def test_a_file_below_an_overlay(data: Path) -> None:
    (data / "f").write_bytes(CONTENT)
    guest = on(data, "overlay")
    state = stand(guest, READS)
    guest.resume(state)
    by_rename(data / "f", OTHER)
    with pytest.raises(SnapshotError, match="is not the one"):
        guest.resume(state)
    guest.close()


def test_another_directory_in_the_place_of_one(data: Path) -> None:
    (data / "d").mkdir()
    guest = on(data)
    fd = guest.open_directory("d")
    state = guest.state()
    guest.resume(state)
    (data / "d").rename(data / "old")
    (data / "d").mkdir()
    (data / "d/new").touch()
    for policy in ("error", "truncate"):
        with pytest.raises(SnapshotError, match="another directory has taken its place"):
            guest.resume(state, on_changed=policy)
    guest.resume(state, on_changed="keep")
    assert guest.names(fd) == [".", "..", "new"]
    there = data.with_name("there")
    shutil.copytree(data, there)
    guest.resume(state, mounts=[Mount(there, "/data")])
    guest.close()


def test_standard_input_is_known_in_the_same_way(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(CONTENT)
    guest = on(data, stdin=path)
    guest.read(0, 1000)
    state = guest.state()
    guest.resume(state)
    assert guest.read(0, 3) == (0, CONTENT[1000:1003])
    guest.resume(state, stdin=b"another input")
    assert guest.read(0) == (0, b"another input")
    path.write_bytes(OTHER)
    guest.resume(state, stdin=path)
    assert guest.read(0, 3) == (0, OTHER[:3])
    guest.close()


def test_a_state_without_marks_is_compared_by_size(program: Guest, data: Path) -> None:
    """As version 0.1 wrote them."""
    state = stand(program, FILE_RIGHTS)
    del state["origin"]
    by_rename(data / "f", OTHER)
    program.resume(state, on_changed="error")
    (data / "f").write_bytes(OTHER * 2)
    with pytest.raises(SnapshotError, match="has grown"):
        program.resume(state, on_changed="error")


def test_inode_numbers_that_come_again(
    program: Guest, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system has no generations, the content before the offset must do."""
    monkeypatch.setattr(origin, "generation", lambda file: 0)
    state = stand(program, FILE_RIGHTS)
    assert state["origin"]["files"][0][3] == 0
    in_place(data / "f", OTHER * 2)  # the same inode, as if it had been given to a new file
    with pytest.raises(SnapshotError, match="is not the one"):
        program.resume(state, on_changed="truncate")
    assert (data / "f").read_bytes() == OTHER * 2


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no map": lambda o: 7,
    "nothing": lambda o: {},
    "a short digest": lambda o: o | {"boot": b"x"},
    "no digest": lambda o: o | {"machine": None},
    "no list": lambda o: o | {"files": {}},
    "short rows": lambda o: o | {"files": [[4, 1, 2]]},
    "text": lambda o: o | {"files": [["4", *o["files"][0][1:]]]},
    "a number below all": lambda o: o | {"files": [[*o["files"][0][:4], -(1 << 64), b"", b""]]},
    "a number above all": lambda o: o | {"files": [[4, 1 << 64, *o["files"][0][2:]]]},
    "a large window": lambda o: o | {"files": [[*o["files"][0][:5], bytes(4097), b""]]},
    "many rows": lambda o: o | {"files": o["files"] * 70_000},
    "a root without a name": lambda o: o | {"roots": [[b"", 1, 2]]},
    "a root that is true": lambda o: o | {"roots": [[b"/data", True, 2]]},
}


@pytest.mark.parametrize("lie", LIES)
def test_an_origin_that_lies_is_refused(program: Guest, lie: str) -> None:
    state = stand(program, READS)
    read(state)
    state["origin"] = LIES[lie](state["origin"])
    with pytest.raises(FormatError, match="the origin"):
        read(state)


@pytest.mark.full
def test_inspect_shows_what_files_are_known_by(program: Guest, data: Path) -> None:
    state = stand(program, READS)
    shown = {title: rows for title, _, rows in inspect_wasi.blocks(plain_data(state))}
    ((fd, device, inode, *_),) = shown["Open files of the host, as they were"]
    found = (data / "f").stat()
    assert (fd, device, inode) == ("4", str(found.st_dev), str(found.st_ino))
    assert "{" not in str(shown["WASI"])
    for lie in LIES.values():
        list(inspect_wasi.blocks(plain_data(state | {"origin": lie(state["origin"])})))


def test_an_origin_of_other_files_harms_nothing(program: Guest, data: Path) -> None:
    state = stand(program, FILE_RIGHTS)
    row = state["origin"]["files"][0]
    state["origin"]["files"] = [[99, *row[1:]]]
    program.resume(state, on_changed="error")
    state["origin"]["roots"] = []
    program.resume(state, on_changed="error")
    assert (data / "f").read_bytes() == CONTENT
