"""Mount modes: what each lets the program do, and what becomes of its files on the way."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.wasi.guest import CREAT, DIRECTORY, EXCL, ROOT, TRUNC, Guest, on
from wasmsr.errors import SnapshotError, UnportableState, WasiConfigError
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1.abi import Errno, Right
from wasmsr.wasi.preview1.rights import DIRECTORY_RIGHTS, FILE_RIGHTS
from wasmsr.wasi.state import manifest
from wasmsr.wasi.state.contents import CHUNK, Contents
from wasmsr.wasi.state.restore import CarriedFiles, TreeBase

READ = FILE_RIGHTS & ~Right.FD_WRITE


def tree(folder: Path) -> dict[str, object]:
    """Everything in a folder: mode, modification time, and content of each name."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        result = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(folder))] = (result.st_mode, result.st_mtime_ns, content)
    return found


@pytest.fixture
def carried(data: Path):
    guest = on(data, "carry")
    yield guest
    guest.close()


# The option ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "guest", "mode"),
    [
        ("a", Path("a"), "a", "host"),
        ("a::/b", Path("a"), "/b", "host"),
        ("a::/b::carry", Path("a"), "/b", "carry"),
        ("::/b::mem", None, "/b", "mem"),
        ("::/b::carry", None, "/b", "carry"),
        ("a:b::/c", Path("a:b"), "/c", "host"),
    ],
)
def test_a_mount_is_read(text: str, host: Path | None, guest: str, mode: str) -> None:
    mount = Mount.parse(text)
    assert (mount.host, mount.guest, mount.mode) == (host, guest, mode)


@pytest.mark.parametrize(
    "text", ["", "::", "a::", "::/b", "::/b::host", "a::/b::mem", "a::/b::c::d", "a::/b::other"]
)
def test_a_wrong_mount_is_refused(text: str) -> None:
    with pytest.raises(WasiConfigError):
        Mount.parse(text)


# ro -----------------------------------------------------------------------------------------------


def test_ro_reads_and_changes_nothing(data: Path) -> None:
    (data / "d").mkdir()
    (data / "f").write_bytes(b"content")
    os.symlink("f", data / "l")
    os.utime(data / "f", ns=(1, 2))
    before = tree(data)
    guest = on(data, "ro")
    guest.hops = True
    fd = guest.opened("f", rights=READ)
    assert guest.read(fd) == (0, b"content")
    assert guest.read(guest.opened("l", CREAT, rights=READ)) == (0, b"content")
    assert guest.names(ROOT) == [".", "..", "d", "f", "l"]
    rofs = Errno.ROFS
    assert guest.open("f")[0] == rofs
    assert guest.open("f", TRUNC, READ)[0] == rofs
    assert guest.open("new", CREAT, READ)[0] == rofs
    assert guest.open("f", CREAT | EXCL, READ)[0] == Errno.EXIST
    assert guest.open("missing")[0] == Errno.NOENT
    assert guest.open("d", DIRECTORY, DIRECTORY_RIGHTS)[0] == 0
    call, f, new = guest.call, guest.path("f"), guest.path("new", 9216)
    assert call("path_unlink_file", ROOT, *f) == rofs
    assert call("path_create_directory", ROOT, *new) == rofs
    assert call("path_create_directory", ROOT, *f) == Errno.EXIST
    assert call("path_remove_directory", ROOT, *guest.path("d", 4096)) == rofs
    assert call("path_symlink", *f, ROOT, *new) == rofs
    assert call("path_link", ROOT, 0, *f, ROOT, *new) == rofs
    assert call("path_rename", ROOT, *f, ROOT, *new) == rofs
    assert call("path_filestat_set_times", ROOT, 0, *f, 5, 5, 5) == rofs
    assert call("fd_filestat_set_times", fd, 5, 5, 5) == rofs
    assert call("fd_filestat_set_times", ROOT, 5, 5, 5) == rofs
    assert tree(data) == before
    guest.close()


def test_nothing_is_renamed_between_trees_of_different_modes(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (data / "f").write_bytes(b"")
    mounts = [Mount(data, "/data"), Mount(other, "/other", "carry")]
    guest = Guest(mounts=mounts)
    names = (*guest.path("f"), ROOT + 1, *guest.path("f", 9216))
    assert guest.call("path_rename", ROOT, *names) == Errno.XDEV
    assert guest.call("path_link", ROOT, 0, *names) == Errno.XDEV
    guest.close()


# Archives -----------------------------------------------------------------------------------------


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("index.html", (2020, 2, 3, 4, 5, 6)), b"<p>" * 1000)
        archive.writestr("deep/er/page", b"page")
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "deep/er/page")


def taped(path: Path) -> None:
    def put(name: str, content: bytes, **more: object) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime = len(content), 1580702706
        for key, value in more.items():
            setattr(entry, key, value)
        archive.addfile(entry, io.BytesIO(content))

    with tarfile.open(path, "w:gz") as archive:
        put("./index.html", b"<p>" * 1000)
        put("deep/er/page", b"page")
        put("link", b"", type=tarfile.SYMTYPE, linkname="deep/er/page")
        put("device", b"", type=tarfile.CHRTYPE)


@pytest.mark.parametrize(("name", "make"), [("site.zip", zipped), ("site.tar.gz", taped)])
def test_an_archive_is_a_folder(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / name)
    guest = Guest(mounts=[Mount.parse(f"{tmp_path / name}::/www")])
    guest.hops = True
    assert guest.names(ROOT) == [".", "..", "deep", "index.html", "link"]
    assert guest.read(guest.opened("index.html", rights=READ)) == (0, b"<p>" * 1000)
    assert guest.path_filestat("index.html")[1]["mtim"] == 1580702706 * 10**9
    fd = guest.opened("link", rights=READ)
    assert guest.read(fd, 2) == (0, b"pa")
    assert guest.read(fd) == (0, b"ge")
    assert guest.open("index.html")[0] == Errno.ROFS
    assert guest.open("new", CREAT)[0] == Errno.ROFS
    guest.close()


def test_another_archive_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "site.zip"
    zipped(path)
    guest = Guest(mounts=[Mount.parse(f"{path}::/www")])
    state = guest.state()
    assert state["mounts"][0]["mode"] == "archive"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"")
    with pytest.raises(SnapshotError, match="another archive"):
        guest.resume(state)
    with pytest.raises(WasiConfigError, match="mode archive, not host"):
        guest.resume(state, mounts=[Mount(tmp_path, "/www")])
    guest.close()


def escaping(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../secret", b"")


def through_a_link(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("d")
        link.type, link.linkname = tarfile.SYMTYPE, "/"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("d/secret"))


def damaged(path: Path) -> None:
    zipped(path)
    raw = bytearray(path.read_bytes())
    raw[40:60] = bytes(20)
    path.write_bytes(raw)


def large(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(100_000))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (escaping, "leads out"),
        (through_a_link, "cannot be unpacked"),
        (damaged, "cannot be read"),
        (large, "more than 99999 bytes"),
        (lambda path: path.write_text("text"), "neither a directory nor an archive"),
    ],
)
def test_a_hostile_archive_is_refused(
    make: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    make(tmp_path / "a.zip")
    with pytest.raises(WasiConfigError, match=why):
        Wasi(mounts=[Mount(tmp_path / "a.zip", "/a")], carry_limit=99_999)


# mem ----------------------------------------------------------------------------------------------


def test_mem_is_a_tree_of_its_own_in_the_snapshot() -> None:
    files = {"a": b"one", "deep/er": "two", "empty": None, "x/../x": None}
    with pytest.raises(WasiConfigError, match="not a path"):
        Guest(mounts=[Mount.memory("/m", files)])
    del files["x/../x"]
    guest = Guest(mounts=[Mount.memory("/m", files)])
    guest.hops = True
    assert guest.names(ROOT) == [".", "..", "a", "deep", "empty"]
    assert guest.read(guest.opened("deep/er", rights=READ)) == (0, b"two")
    fd = guest.opened("new", CREAT)
    guest.write(fd, b"12345")
    assert guest.call("path_unlink_file", ROOT, *guest.path("a")) == 0
    state = guest.state()
    # It comes out of the snapshot alone: nothing is mounted where the program goes on.
    guest.resume(state, mounts=())
    assert guest.names(ROOT) == [".", "..", "deep", "empty", "new"]
    guest.seek(fd, 1)
    assert guest.read(fd) == (0, b"2345")
    place = guest.wasi.process.trees[b"/m"].private
    assert place is not None and place.path.exists()
    guest.close()
    assert not place.path.exists()


def test_mem_has_a_limit() -> None:
    guest = Guest(mounts=[Mount.memory("/m")], carry_limit=100_000)
    fd = guest.opened("f", CREAT)
    big = bytes([1]) * 60_000
    assert guest.write(fd, big) == (0, 60_000)
    assert guest.write(fd, big)[0] == Errno.NOSPC
    assert guest.call("fd_allocate", fd, 0, 200_000) == Errno.NOSPC
    # A hole takes no room, and what is gone is given back; what is open and has no name is not.
    assert guest.call("fd_filestat_set_size", fd, 1 << 30) == 0
    assert guest.call("path_unlink_file", ROOT, *guest.path("f")) == 0
    other = guest.opened("g", CREAT)
    assert guest.write(other, big)[0] == Errno.NOSPC
    assert guest.call("fd_close", fd) == 0
    assert guest.write(other, big) == (0, 60_000)
    made = 0
    while not guest.call("path_create_directory", ROOT, *guest.path(f"d{made}")):
        made += 1
    assert 2 <= made <= 20
    guest.close()


# carry --------------------------------------------------------------------------------------------


def test_carry_brings_the_whole_tree(carried: Guest, data: Path, tmp_path: Path) -> None:
    raw = os.fsencode(data)
    (data / "empty").mkdir(mode=0o700)
    (data / "f").write_bytes(b"f" * 100_000)
    (data / "f").chmod(0o640)
    (data / "same").write_bytes(b"f" * 100_000)
    os.link(data / "f", data / "z-hard")
    os.symlink("../somewhere", data / "link")
    (data / "closed").mkdir()
    (data / "closed" / "inside").write_bytes(b"")
    with open(raw + b"/\xff\xfe not UTF-8", "wb") as file:
        file.write(b"name")
    with open(data / "sparse", "wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    os.utime(data / "link", ns=(3, 4), follow_symlinks=False)
    os.utime(data / "empty", ns=(5, 6))
    (data / "closed").chmod(0o500)
    before = tree(data)
    os.utime(data / "f", ns=(1_000_000_001, before["f"][1]))  # type: ignore[index]
    state = carried.state()
    assert carried.contents.size == 100_000 - CHUNK + CHUNK + 4 + 3
    copy = tmp_path / "copy"
    carried.resume(state, mounts=[Mount(copy, "/data", "carry")])
    assert (copy / "f").stat().st_atime_ns == 1_000_000_001
    assert tree(copy) == before == tree(data)
    assert (copy / "f").stat().st_ino == (copy / "z-hard").stat().st_ino
    assert (copy / "sparse").stat().st_blocks * 512 < 1 << 20
    # What the program does now, it does there.
    fd = carried.opened("f")
    carried.write(fd, b"new")
    assert (copy / "f").read_bytes()[:4] == b"newf"
    assert tree(data) == before


def test_carry_without_a_folder_is_private(carried: Guest, data: Path) -> None:
    (data / "f").write_bytes(b"content")
    fd = carried.opened("f")
    carried.resume(carried.state(), mounts=())
    assert carried.read(fd) == (0, b"content")
    place = carried.wasi.process.trees[b"/data"].private
    assert place is not None and place.path.is_dir()


def test_deletions_and_renames_travel(carried: Guest, data: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (data / name).write_bytes(name.encode() * 10)
    (data / "d" / "e").mkdir(parents=True)
    (data / "d" / "e" / "f").write_bytes(b"deep")
    there = tmp_path / "there"
    carried.resume(carried.state(), mounts=[Mount(there, "/data", "carry")])
    carried.call("path_unlink_file", ROOT, *carried.path("a"))
    carried.call("path_rename", ROOT, *carried.path("b"), ROOT, *carried.path("bb", 9216))
    carried.call("path_rename", ROOT, *carried.path("d"), ROOT, *carried.path("dd", 9216))
    state = carried.state()
    # Back to where it came from, as it was when the program left it.
    now = CarriedFiles(carried.contents, bases=base(data), deferred=True)
    carried.resume(state, mounts=[Mount(data, "/data", "carry")], carried=now, live=True)
    assert (data / "a").exists() and (data / "d" / "e" / "f").exists()
    carried.wasi.place_files()
    assert sorted(tree(data)) == ["bb", "c", "dd", "dd/e", "dd/e/f"]
    assert tree(data) == tree(there)


def base(folder: Path) -> dict[str, TreeBase]:
    """What a host keeps of the tree of a program that leaves it."""
    root = os.open(folder, os.O_RDONLY)
    found = manifest.scan(root, "/data", Contents(), 1 << 30)
    os.close(root)
    return {"/data": TreeBase(found.entries, found.known)}


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda d: (d / "f").write_bytes(b"edited"), "/data/f was changed"),
        (lambda d: (d / "new").write_bytes(b""), "/data/new was made"),
        (lambda d: (d / "d" / "g").unlink(), "/data/d/g was removed"),
        (lambda d: (d / "f").chmod(0o600), "/data/f was changed"),
    ],
)
def test_a_foreign_edit_is_met_on_return(
    carried: Guest, data: Path, tmp_path: Path, edit: Callable[[Path], object], why: str
) -> None:
    (data / "f").write_bytes(b"before")
    (data / "f").chmod(0o644)
    (data / "d").mkdir()
    (data / "d" / "g").write_bytes(b"g")
    home = base(data)
    carried.resume(carried.state(), mounts=[Mount(tmp_path / "there", "/data", "carry")])
    carried.write(carried.opened("f"), b"ours")
    state = carried.state()
    edit(data)
    after = tree(data)
    back = {"mounts": [Mount(data, "/data", "carry")], "live": True}
    with pytest.raises(SnapshotError, match=why):
        carried.resume(state, carried=CarriedFiles(carried.contents, bases=home), **back)
    assert tree(data) == after


def test_content_that_the_host_has_need_not_come(
    carried: Guest, data: Path, tmp_path: Path
) -> None:
    blocks = [os.urandom(CHUNK) for _ in range(4)]
    (data / "f").write_bytes(b"".join(blocks))
    home = base(data)
    there = Mount(tmp_path / "there", "/data", "carry")
    carried.resume(carried.state(), mounts=[there])
    fd = carried.opened("f")
    carried.seek(fd, CHUNK * 3)
    carried.write(fd, b"other")
    # Pieces change places, too: nothing may be overwritten before it was read.
    written = tmp_path / "there" / "f"
    written.write_bytes(blocks[2] + blocks[0] + written.read_bytes()[CHUNK * 2 :])
    state = carried.state()
    only_new = Contents()
    for digest, _ in carried.contents:
        piece = carried.contents.read(digest)
        if piece not in blocks:
            only_new.add(digest, piece, None)
    assert len(only_new) == 1
    back = Mount(data, "/data", "carry")
    carried.resume(state, mounts=[back], carried=CarriedFiles(only_new, bases=home), live=True)
    assert (data / "f").read_bytes() == written.read_bytes()
    with pytest.raises(SnapshotError, match="neither in the snapshot nor on this host"):
        carried.resume(state, mounts=(), carried=CarriedFiles(only_new))


def test_a_checkpoint_undoes_what_came_after(carried: Guest, data: Path) -> None:
    (data / "kept").write_bytes(b"kept")
    (data / "gone").write_bytes(b"gone")
    fd = carried.opened("f", CREAT)
    carried.write(fd, b"before")
    before = tree(data)
    state = carried.state()
    then = CarriedFiles(carried.contents, since=time.time_ns())
    time.sleep(0.02)
    carried.write(fd, b" after")
    carried.opened("journal", CREAT)
    (data / "gone").unlink()
    with pytest.raises(SnapshotError, match="/data/f is another one"):
        carried.resume(state, carried=then, on_changed="error")
    carried.resume(state, carried=then)
    assert tree(data) == before
    carried.write(fd, b"!")
    assert (data / "f").read_bytes() == b"before!"


def test_keep_leaves_what_was_written_since(carried: Guest, data: Path) -> None:
    fd = carried.opened("f", CREAT)
    carried.write(fd, b"before")
    state = carried.state()
    carried.write(fd, b" after")
    (data / "new").write_bytes(b"new")
    carried.resume(state, on_changed="keep")
    assert (data / "f").read_bytes() == b"before after"
    assert (data / "new").read_bytes() == b"new"


def test_a_folder_of_others_is_not_touched(carried: Guest, data: Path, tmp_path: Path) -> None:
    (data / "f").write_bytes(b"ours")
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_bytes(b"theirs")
    time.sleep(0.02)
    state = carried.state()
    with pytest.raises(SnapshotError, match="/data/precious is not the program's"):
        carried.resume(state, mounts=[Mount(other, "/data", "carry")])
    (other / "f").write_bytes(b"theirs")
    (other / "precious").unlink()
    with pytest.raises(SnapshotError, match="/data/f is another one"):
        then = CarriedFiles(carried.contents, since=time.time_ns() + 10**9)
        carried.resume(state, mounts=[Mount(other, "/data", "carry")], carried=then)
    assert (other / "f").read_bytes() == b"theirs"


def test_too_much_to_carry_is_named(carried: Guest, data: Path) -> None:
    carried.wasi.process.carry_limit = 100_000
    (data / "a").write_bytes(b"a" * 60_000)
    (data / "b").write_bytes(b"b" * 60_000)
    with open(data / "zeros", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnportableState, match=r"100000 bytes .* with /data/b it is too much") as no:
        carried.state()
    assert "--carry-limit" in (no.value.hint or "")


def test_what_cannot_be_carried_is_named(carried: Guest, data: Path) -> None:
    os.mkfifo(data / "fifo")
    with pytest.raises(UnportableState, match="/data/fifo is a device"):
        carried.state()


def test_open_files_renamed_unlinked_and_linked(carried: Guest, data: Path, tmp_path: Path) -> None:
    for name in ("renamed", "unlinked", "linked"):
        (data / name).write_bytes(name.encode())
    fds = [carried.opened(name) for name in ("renamed", "unlinked", "linked")]
    for fd in fds:
        carried.seek(fd, 2)
    os.rename(data / "renamed", data / "moved")
    os.unlink(data / "unlinked")
    # A name is gone, and the file has another: in a tree that is known whole, that is found.
    os.link(data / "linked", data / "other name")
    os.unlink(data / "linked")
    there = tmp_path / "there"
    carried.resume(carried.state(), mounts=[Mount(there, "/data", "carry")])
    assert [carried.read(fd) for fd in fds] == [(0, b"named"), (0, b"linked"), (0, b"nked")]
    assert sorted(tree(there)) == ["moved", "other name"]


def test_a_large_file_without_a_name_travels_in_chunks(data: Path, tmp_path: Path) -> None:
    guest = on(data)
    fd = guest.opened("big", CREAT)
    with open(data / "big", "wb") as file:
        content = os.urandom(2 << 20)
        file.write(content)
        file.seek(1 << 30)
        file.write(b"end")
    os.unlink(data / "big")
    guest.hop()
    host = guest.wasi.process.descriptors[fd].host
    assert os.fstat(host).st_size == (1 << 30) + 3 and os.fstat(host).st_blocks * 512 < 4 << 20
    assert os.pread(host, 2 << 20, 0) == content and os.pread(host, 9, 1 << 30) == b"end"
    guest.close()


def test_an_unchanged_file_is_not_read_again(
    carried: Guest, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "f").write_bytes(os.urandom(200_000))
    (data / "g").write_bytes(os.urandom(200_000))
    time.sleep(0.15)
    first = carried.state()
    read: list[bytes] = []
    real = manifest._read

    def watched(root: int, guest: str, path: bytes, *rest: object) -> bytes:
        read.append(path)
        return real(root, guest, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(manifest, "_read", watched)
    assert carried.state() == first
    assert read == []
    with open(data / "g", "r+b") as file:
        file.write(b"x")
    second = carried.state()
    assert read == [b"g"] and second != first
    # What was not read again is read when it is needed, and then verified.
    assert all(len(carried.contents.read(digest)) == n for digest, n in carried.contents)
    with open(data / "f", "r+b") as file:
        file.write(b"x")
    with pytest.raises(SnapshotError, match="f was changed while"):
        for digest, _ in carried.contents:
            carried.contents.read(digest)


def test_the_mode_must_be_the_same(carried: Guest, data: Path) -> None:
    with pytest.raises(WasiConfigError, match="mode carry, not host") as error:
        carried.resume(carried.state(), mounts=[Mount(data, "/data")])
    assert error.value.hint == "write --dir HOST::/data::carry"
