"""Trees in a snapshot that no `scan` made: refused with one clear error, and nothing is written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wasi.filesystem.test_mounts import tree
from tests.wasi.guest import Guest
from wasmsr.errors import FormatError, SnapshotError
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.state.contents import CHUNK, PLACE, Contents, digest_of
from wasmsr.wasi.state.manifest import SAME, parse
from wasmsr.wasi.state.restore import CarriedFiles

DIGEST = digest_of(b"content")
ROOT: list[Any] = [b"", 0, 0o755, 1, 2, 0, b"", b""]


def file(path: bytes, **changes: Any) -> list[Any]:
    keys = ("path", "kind", "mode", "atim", "mtim", "size", "chunks", "target")
    values = (path, 1, 0o644, 1, 2, 7, PLACE.pack(0, DIGEST), b"")
    return list({**dict(zip(keys, values, strict=True)), **changes}.values())


def link(path: bytes, target: bytes, kind: int = 2) -> list[Any]:
    return file(path, kind=kind, size=0, chunks=b"", target=target)


def directory(path: bytes) -> list[Any]:
    return file(path, kind=0, size=0, chunks=b"")


GOOD = [ROOT, directory(b"d"), file(b"d/f"), link(b"l", b"../../etc"), link(b"m", b"d/f", SAME)]

LIES: dict[str, list[Any]] = {
    "empty": [],
    "no root": [file(b"f")],
    "a root that is a file": [file(b"")],
    "out of order": [ROOT, file(b"g"), file(b"f")],
    "twice": [ROOT, file(b"f"), file(b"f")],
    "below nothing": [ROOT, file(b"d/f")],
    "below a file": [ROOT, file(b"f"), file(b"f/g")],
    "below a link": [ROOT, link(b"l", b"/"), file(b"l/f")],
    "up": [ROOT, file(b"../f")],
    "up inside": [ROOT, directory(b"d"), file(b"d/../f")],
    "absolute": [ROOT, file(b"/etc/passwd")],
    "an empty part": [ROOT, directory(b"d"), file(b"d//f")],
    "a dot": [ROOT, file(b".")],
    "a zero byte": [ROOT, file(b"f\0")],
    "a long name": [ROOT, file(b"f" * 256)],
    "a long path": [ROOT, file(b"/".join([b"d"] * 4000))],
    "our own name": [ROOT, file(b".wasmsr-staging-1")],
    "path of text": [ROOT, file("f")],  # type: ignore[arg-type]
    "unknown kind": [ROOT, file(b"f", kind=4)],
    "kind a bool": [ROOT, file(b"f", kind=True)],
    "set-user-id": [ROOT, file(b"f", mode=0o4755)],
    "negative size": [ROOT, file(b"f", size=-1)],
    "huge size": [ROOT, file(b"f", size=1 << 63)],
    "huge time": [ROOT, file(b"f", mtim=1 << 64)],
    "half a chunk": [ROOT, file(b"f", chunks=PLACE.pack(0, DIGEST)[:-1])],
    "chunk behind the end": [ROOT, file(b"f", chunks=PLACE.pack(1, DIGEST))],
    "chunk twice": [ROOT, file(b"f", chunks=PLACE.pack(0, DIGEST) * 2)],
    "chunks backwards": [
        ROOT,
        file(b"f", size=CHUNK * 2, chunks=PLACE.pack(1, DIGEST) + PLACE.pack(0, DIGEST)),
    ],
    "a directory with content": [ROOT, file(b"d", kind=0)],
    "a link with content": [ROOT, file(b"l", kind=2, target=b"x")],
    "a link to nothing": [ROOT, link(b"l", b"")],
    "a link with zero": [ROOT, link(b"l", b"a\0b")],
    "another name of nothing": [ROOT, link(b"l", b"f", SAME)],
    "another name of a directory": [ROOT, directory(b"d"), link(b"l", b"d", SAME)],
    "another name of itself": [ROOT, link(b"l", b"l", SAME)],
    "another name of what is outside": [ROOT, link(b"l", b"../f", SAME)],
    "no list": [ROOT, b"entry"],
    "too short": [ROOT, file(b"f")[:-1]],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_tree_that_lies_is_refused(lie: str) -> None:
    with pytest.raises(FormatError, match="the tree of a mount"):
        parse(LIES[lie])


def carried() -> Contents:
    contents = Contents()
    contents.add(DIGEST, b"content", None)
    return contents


def restore(entries: list[Any], target: Path, contents: Contents, **more: Any) -> None:
    """Restores a program with that tree into a folder."""
    guest = Guest(mounts=[Mount(None, "/data", "carry")])
    try:
        state = guest.state()
        state["mounts"][0]["tree"] = entries
        mounts = [Mount(target, "/data", "carry")]
        guest.resume(state, mounts=mounts, carried=CarriedFiles(contents, **more))
    finally:
        guest.close()


def test_the_good_one_is_made(tmp_path: Path) -> None:
    restore(GOOD, tmp_path / "new", carried())
    assert (tmp_path / "new" / "m").read_bytes() == b"content"
    assert os.readlink(tmp_path / "new" / "l") == "../../etc"


@pytest.mark.parametrize(
    ("entries", "more", "why"),
    [
        ([ROOT, file(b"f", chunks=PLACE.pack(0, bytes(32)))], {}, "neither in the snapshot nor"),
        ([ROOT, file(b"f", size=9)], {}, "another length"),
        ([ROOT, file(b"f"), file(b"g")], {"limit": 13}, "hold 14 bytes, more than the 13"),
    ],
)
def test_content_that_lies_is_refused(
    entries: list[Any], more: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(SnapshotError, match=why):
        restore(entries, tmp_path / "new", carried(), **more)
    assert tree(tmp_path / "new") == {}


def test_a_link_of_this_host_is_not_followed(tmp_path: Path) -> None:
    """A folder that was prepared so that the tree would be made elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    os.symlink(outside, target / "d")
    with pytest.raises(SnapshotError, match="/data/d is another one"):
        restore(GOOD, target, carried())
    assert tree(outside) == {}
    # Even where what is newer may be replaced, the link is, and not what it leads to.
    restore(GOOD, target, carried(), since=0)
    assert tree(outside) == {}
    assert (target / "d").is_dir() and not (target / "d").is_symlink()


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.binary(max_size=50), st.text(max_size=5)
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=9), max_leaves=30))
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        parse(value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 7), LEAVES)
def test_one_changed_value_is_refused_or_as_good(row: int, column: int, value: object) -> None:
    entries = [list(entry) for entry in GOOD]
    entries[row][column] = value
    with contextlib.suppress(FormatError):
        parse(entries)


LAYERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "none": lambda m: m.pop("layers"),
    "of no directory": lambda m: m.update(layers=[[b"f", b"", []]]),
    "from above": lambda m: m.update(layers=[[b"", b"..", []]]),
    "from elsewhere": lambda m: m.update(layers=[[b"", b"/etc", []]]),
    "hiding a path": lambda m: m.update(layers=[[b"", b"", [b"a/b"]]]),
    "hiding a dot": lambda m: m.update(layers=[[b"", b"", [b".."]]]),
    "hiding text": lambda m: m.update(layers=[[b"", b"", ["a"]]]),
    "too short": lambda m: m.update(layers=[[b"", b""]]),
    "half a digest": lambda m: m.update(digest=b"x"),
}


@pytest.mark.parametrize("lie", LAYERS)
def test_layers_that_lie_are_refused(lie: str, data: Path) -> None:
    guest = Guest(mounts=[Mount(data, "/data", "overlay")])
    state = guest.state()
    LAYERS[lie](state["mounts"][0])
    with pytest.raises(FormatError, match="WASI state"):
        guest.resume(state)
    guest.close()
