"""A state that no `capture` made: refused with one clear error, before anything is opened."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wasi.guest import CREAT, ROOT, Guest, on
from wasmsr.errors import FormatError, SnapshotError, WasiConfigError
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.state.contents import CHUNK, PLACE

State = dict[str, Any]


@pytest.fixture
def state(data: Path) -> State:
    """A state with one descriptor of each kind."""
    (data / "d").mkdir()
    guest = on(data, args=["p"], env=["K=V"], stdin=b"rest", deterministic=True)
    guest.write(guest.opened("f", CREAT), b"content")
    guest.open_directory("d")
    guest.readdir(ROOT)
    guest.opened("gone", CREAT)
    os.unlink(data / "gone")
    made = guest.state()
    made["pending"] = {"call": bytes(16), "started": 5}
    guest.close()
    return made


def descriptor(state: State, kind: str, /, **changes: object) -> None:
    next(d for d in state["descriptors"] if d["kind"] == kind).update(changes)


def drop(state: State, kind: str, key: str) -> None:
    del next(d for d in state["descriptors"] if d["kind"] == kind)[key]


def listener(state: State, **changes: object) -> None:
    state["descriptors"].append(
        {"fd": 99, "kind": "listener", "flags": 0, "rights": 0, "inheriting": 0}
        | {"socket": 0, "address": "localhost:80"}
        | changes
    )


LIES: dict[str, Callable[[State], object]] = {
    "listener negative": lambda s: listener(s, socket=-1),
    "listener without address": lambda s: listener(s, address=None),
    "listener with controls": lambda s: listener(s, address="\x1b[2J"),
    "listener far too long": lambda s: listener(s, address="x" * 1000),
    "one listener twice": lambda s: (listener(s), listener(s, fd=100)),
    "args no list": lambda s: s.update(args="p"),
    "args of text": lambda s: s.update(args=["p"]),
    "args with zero": lambda s: s.update(args=[b"a\0b"]),
    "environ without =": lambda s: s.update(environ=[b"K"]),
    "no clocks": lambda s: s.pop("clocks"),
    "clocks no map": lambda s: s.update(clocks=[]),
    "clock negative": lambda s: s["clocks"].update(monotonic=-1),
    "clock huge": lambda s: s["clocks"].update(monotonic=1 << 63),
    "clock a bool": lambda s: s["clocks"].update(cpu=True),
    "clock a float": lambda s: s["clocks"].update(stopped_at=1.5),
    "deterministic a number": lambda s: s.update(deterministic=1),
    "seed short": lambda s: s["random"].update(seed=b"x"),
    "position huge": lambda s: s["random"].update(position=1 << 70),
    "pending in the future": lambda s: s["pending"].update(started=1 << 61),
    "pending call short": lambda s: s["pending"].update(call=b""),
    "mounts no list": lambda s: s.update(mounts={}),
    "mount twice": lambda s: s["mounts"].append(dict(s["mounts"][0])),
    "mount mode": lambda s: s["mounts"][0].update(mode="carry"),
    "mount without name": lambda s: s["mounts"][0].update(guest=b""),
    "mount name text": lambda s: s["mounts"][0].update(guest="/data"),
    "descriptors a map": lambda s: s.update(descriptors={}),
    "descriptor a number": lambda s: s["descriptors"].append(1),
    "descriptor twice": lambda s: s["descriptors"].append(dict(s["descriptors"][3])),
    "stdin twice": lambda s: s["descriptors"].append({**s["descriptors"][0], "fd": 50}),
    "stdout twice": lambda s: s["descriptors"].append({**s["descriptors"][1], "fd": 50}),
    "too many": lambda s: s.update(descriptors=[{}] * 70000),
    "kind unknown": lambda s: descriptor(s, "file", kind="listener"),
    "kind a list": lambda s: descriptor(s, "file", kind=["file"]),
    "fd negative": lambda s: descriptor(s, "file", fd=-1),
    "fd huge": lambda s: descriptor(s, "file", fd=1 << 31),
    "flags unknown": lambda s: descriptor(s, "file", flags=32),
    "rights unknown": lambda s: descriptor(s, "file", rights=1 << 30),
    "rights negative": lambda s: descriptor(s, "file", rights=-1),
    "inheriting unknown": lambda s: descriptor(s, "directory", inheriting=1 << 40),
    "mount unknown": lambda s: descriptor(s, "file", mount=b"/etc"),
    "path up": lambda s: descriptor(s, "file", path=b"../secret"),
    "path up inside": lambda s: descriptor(s, "file", path=b"d/../../secret"),
    "path absolute": lambda s: descriptor(s, "file", path=b"/etc/passwd"),
    "path empty": lambda s: descriptor(s, "file", path=b""),
    "path dot": lambda s: descriptor(s, "file", path=b"./f"),
    "path with zero": lambda s: descriptor(s, "file", path=b"f\0"),
    "path with slash at its end": lambda s: descriptor(s, "file", path=b"f/"),
    "path long": lambda s: descriptor(s, "file", path=b"a" * 5000),
    "access unknown": lambda s: descriptor(s, "file", access=3),
    "rights beyond access": lambda s: descriptor(s, "file", access=os.O_RDONLY),
    "offset negative": lambda s: descriptor(s, "file", offset=-1),
    "offset huge": lambda s: descriptor(s, "file", offset=1 << 63),
    "offset missing": lambda s: drop(s, "file", "offset"),
    "size huge": lambda s: descriptor(s, "file", size=1 << 64),
    "unlinked out of range": lambda s: descriptor(s, "file", unlinked=9),
    "unlinked a bool": lambda s: descriptor(s, "file", unlinked=False),
    "directory of content": lambda s: s["descriptors"][5].update(unlinked=0),
    "content no bytes": lambda s: s["unlinked"][0].update(content="text"),
    "times huge": lambda s: s["unlinked"][0].update(mtim=1 << 64),
    "preopen below": lambda s: descriptor(s, "directory", path=b"d"),
    "preopen a number": lambda s: descriptor(s, "directory", preopen=1),
    "entries no list": lambda s: descriptor(s, "directory", entries=b"x"),
    "entry short": lambda s: descriptor(s, "directory", entries=[[b"a", 1]]),
    "entry name long": lambda s: descriptor(s, "directory", entries=[[b"a" * 256, 1, 4]]),
    "entry inode": lambda s: descriptor(s, "directory", entries=[[b"a", 1 << 64, 4]]),
    "entry type": lambda s: descriptor(s, "directory", entries=[[b"a", 1, 8]]),
    "unread text": lambda s: descriptor(s, "stdin", unread="x"),
    "relayed is no map": lambda s: descriptor(s, "stdin", relayed=7),
    "relayed from before the start": lambda s: descriptor(
        s, "stdin", relayed={"position": -1, "terminal": False}
    ),
    "relayed from behind the end of time": lambda s: descriptor(
        s, "stdin", relayed={"position": 1 << 70, "terminal": False}
    ),
    "relayed without a kind": lambda s: descriptor(s, "stdin", relayed={"position": 1}),
    "stream unknown": lambda s: descriptor(s, "stdout", stream="stdin"),
    "stdin before longer than offset": lambda s: descriptor(
        s, "stdin", file={"offset": 1, "size": 9, "before": b"abc", "after": b""}
    ),
    "stdin after long": lambda s: descriptor(
        s, "stdin", file={"offset": 10**6, "size": 10**7, "before": b"", "after": b"a" * 5000}
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_format_errors(state: State, data: Path, lie: str) -> None:
    LIES[lie](state)
    before = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(FormatError, match="WASI state"):
        Wasi.restore(state, mounts=[Mount(data, "/data")])
    if before:
        assert sorted(os.listdir("/proc/self/fd")) == before
    assert (data / "f").read_bytes() == b"content"


@pytest.mark.parametrize("value", [None, 0, b"", "x", [], {}, [[]]])
def test_no_state_at_all(value: Any) -> None:
    with pytest.raises(FormatError):
        Wasi.restore(value)


def test_the_state_itself_is_fine(state: State, data: Path) -> None:
    Wasi.restore(state, mounts=[Mount(data, "/data")]).close()


def test_a_path_through_a_link_out_of_the_mount(state: State, data: Path) -> None:
    os.symlink("..", data / "up")
    descriptor(state, "file", path=b"up/secret", size=0, offset=0)
    with pytest.raises(SnapshotError):
        Wasi.restore(state, mounts=[Mount(data, "/data")])
    os.symlink("../secret", data / "link")
    descriptor(state, "file", path=b"link")
    with pytest.raises(SnapshotError):
        Wasi.restore(state, mounts=[Mount(data, "/data")])
    assert (data.parent / "secret").read_text() == "secret"


def test_a_device_where_none_was(state: State, data: Path) -> None:
    descriptor(state, "file", kind="device")
    with pytest.raises(SnapshotError, match="another kind"):
        Wasi.restore(state, mounts=[Mount(data, "/data")])


@given(st.data())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_value_anywhere(state: State, data: Path, draw: st.DataObject) -> None:
    """Put any value anywhere: it is refused as it should be, or it is a state."""
    changed = copy.deepcopy(state)
    place: Any = changed
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or draw.draw(st.booleans()):
            break
        place = place[key]
    place[key] = draw.draw(
        st.none()
        | st.booleans()
        | st.integers(-(2**65), 2**65)
        | st.binary(max_size=40)
        | st.text(max_size=5)
        | st.floats()
        | st.just([])
        | st.just({})
        | st.just([[b"a", 1, 2]])
    )
    try:
        restored = Wasi.restore(changed, mounts=[Mount(data, "/data")])
    except (SnapshotError, WasiConfigError):
        return
    guest = Guest()
    guest.wasi.close()
    guest.wasi = restored
    for fd in range(8):
        guest.read(fd)
        guest.fdstat(fd)
        guest.call("fd_readdir", fd, 4096, 100, 1, 64)
    guest.close()


def test_one_piece_named_many_times(data: Path) -> None:
    """40 bytes of a snapshot ask for 64 KiB on the disk."""
    guest = on(data)
    fd = guest.opened("f", CREAT)
    os.pwrite(guest.wasi.process.descriptors[fd].host, b"x" * CHUNK * 20, 0)
    os.unlink(data / "f")
    state = guest.state()
    (one,) = state["unlinked"]
    digest, pieces = one["chunks"][8:40], 40_000
    one.update(size=pieces * CHUNK, chunks=b"".join(PLACE.pack(n, digest) for n in range(pieces)))
    kept = set(os.listdir(tempfile.gettempdir()))
    with pytest.raises(SnapshotError, match="without a name hold"):
        guest.resume(state)
    assert not [n for n in set(os.listdir(tempfile.gettempdir())) - kept if n[:7] == "wasmsr-"]
    # A hole may be of any size, as far as the file system goes.
    one.update(size=1 << 62, chunks=PLACE.pack(0, digest))
    try:
        guest.resume(state)
        assert guest.seek(fd, 0, 2) == (0, 1 << 62)
    except SnapshotError as error:
        assert "there is no room" in error.message
    guest.close()
