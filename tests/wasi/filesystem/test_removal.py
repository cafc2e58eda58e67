"""Trees are removed at any depth, and nothing outside of them is touched."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wasi.guest import CREAT, DIRECTORY, ROOT, Guest
from wasmsr.errors import UnportableState
from wasmsr.migrate.files.carried_trees import CarriedTrees
from wasmsr.wasi.filesystem import private_folders, tree_walk
from wasmsr.wasi.filesystem.memory_tree import ENTRY_COST, MemoryTree
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.filesystem.private_folders import PREFIX, PrivateFolder
from wasmsr.wasi.preview1.abi import Errno
from wasmsr.wasi.preview1.rights import DIRECTORY_RIGHTS

DEEP = 2 * sys.getrecursionlimit() + 500


@pytest.fixture
def above(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The host's folder for temporary files, of a mode that is easily recognized."""
    memory = private_folders.MEMORY if os.access(private_folders.MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(dir=memory))  # deep trees are made fastest there
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(private_folders, "MEMORY", str(folder))
    monkeypatch.setattr(private_folders, "WORTHWHILE", 0)
    folder.chmod(0o755)
    yield folder
    mode, left = stat.S_IMODE(folder.stat().st_mode), os.listdir(folder)
    tree_walk.remove(folder)  # what is left may be too deep for others
    assert (mode, left) == (0o755, [])


def deepen(root: int, depth: int, name: bytes = b"d") -> None:
    """Make so many directories, each in the one before, and a file in each."""
    here = os.dup(root)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
        os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_a_guest_makes_a_deep_tree(above: Path) -> None:
    guest = Guest(mounts=[Mount.memory("/data")])
    fd = ROOT
    for _ in range(DEEP):
        assert guest.call("path_create_directory", fd, *guest.path("d")) == 0
        below = guest.opened("d", DIRECTORY, DIRECTORY_RIGHTS, fd=fd)
        if fd != ROOT:
            guest.call("fd_close", fd)
        fd = below
    assert guest.open("f", CREAT, fd=fd)[0] == 0
    guest.close()


def test_the_limit_counts_what_is_deep(above: Path) -> None:
    limit = (DEEP + 100) * ENTRY_COST
    guest = Guest(mounts=[Mount.memory("/data")], carry_limit=limit)
    tree = guest.wasi.process.trees[b"/data"]
    assert isinstance(tree, MemoryTree)
    deepen(tree.root, DEEP // 2)
    tree.charge(limit)  # what was charged is used up: the next call counts what is there
    answers = [guest.call("path_create_directory", ROOT, *guest.path(f"d{i}")) for i in range(200)]
    assert answers[:50] == [0] * 50
    assert answers[-1] == Errno.NOSPC
    guest.close()


@pytest.mark.parametrize("name", [b"d", b"n" * 255])
def test_a_dead_tree_stops_no_start(above: Path, name: bytes) -> None:
    dead = PrivateFolder()
    deepen(dead.root, DEEP, name)
    os.close(dead.root)  # as when its process was killed
    assert [entry.name for entry in os.scandir(above)] == [dead.path.name]
    PrivateFolder().close()


def test_removing_dead_trees_takes_a_start_a_moment_only(
    above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        dead = PrivateFolder()
        deepen(dead.root, 10)
        os.close(dead.root)
        monkeypatch.setattr(private_folders, "SWEEP_SECONDS", -1)
    PrivateFolder().close()
    assert len(os.listdir(above)) == 3
    monkeypatch.setattr(private_folders, "SWEEP_SECONDS", 100)
    PrivateFolder().close()


def test_a_tree_that_vanished(above: Path) -> None:
    tree = PrivateFolder()
    os.rmdir(tree.path)
    tree.close()


def test_a_tree_whose_name_another_has_now(above: Path) -> None:
    tree = PrivateFolder()
    (tree.path / "f").write_text("of the tree")
    tree.path.rename(tree.path.with_name("elsewhere"))
    tree.path.mkdir()
    (tree.path / "precious").write_text("of somebody else")
    tree.close()
    assert (tree.path / "precious").read_text() == "of somebody else"
    (tree.path / "precious").unlink()
    tree.path.rmdir()
    (above / "elsewhere").rmdir()


def test_two_sweeps_race(above: Path) -> None:
    """Removed under the feet of another one, which leaves the folder above as it is."""
    for _ in range(20):
        dead = [PrivateFolder() for _ in range(3)]
        for tree in dead:
            deepen(tree.root, 5)
        for tree in dead:
            os.close(tree.root)
        made: list[PrivateFolder] = []

        def start(made: list[PrivateFolder] = made) -> None:
            made.append(PrivateFolder())

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for tree in made:
            tree.close()
    for left in above.glob(PREFIX + "*"):
        tree_walk.remove(left)


def test_rights_that_were_taken_away(above: Path) -> None:
    tree = PrivateFolder()
    deepen(tree.root, 3)
    for path in (tree.path / "d/d/d", tree.path / "d/d", tree.path / "d", tree.path):
        path.chmod(0)
    tree.close()


@pytest.mark.skipif(bool(os.geteuid()), reason="only the superuser can become somebody else")
def test_rights_that_were_taken_away_from_another_user(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    for above in (tmp_path, *tmp_path.parents[:3]):
        above.chmod(above.stat().st_mode | 0o711)
    child = os.fork()
    if not child:
        try:
            os.setgid(65534)
            os.setuid(65534)
            (folder / "t").mkdir()
            root = os.open(folder / "t", os.O_RDONLY)
            deepen(root, 3)
            for path in ("t/d/d/d", "t/d/d", "t/d", "t"):
                (folder / path).chmod(0)
            tree_walk.remove(folder / "t")
            os._exit(len(os.listdir(folder)))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (tmp_path / "file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    os.symlink(outside, tree / "to-directory")
    os.symlink("../../file", tree / "d/to-file")
    os.symlink("..", tree / "d/up")
    tree_walk.remove(tree)
    assert not tree.exists()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    assert (tmp_path / "file").read_text() == "kept"
    os.symlink(outside, tree)
    tree_walk.remove(tree)  # the tree itself is a link by now
    assert tree.is_symlink()
    assert outside.exists()


def test_a_walk_notices_that_the_tree_was_moved(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").mkdir()
    root = os.open(tmp_path / "a", os.O_RDONLY)
    seen: list[int] = []

    def visit(directory: int) -> list[bytes]:
        seen.append(os.fstat(directory).st_ino)
        if len(seen) == 3:
            (tmp_path / "a/b/c").rename(tmp_path / "outside/c")
        return [os.fsencode(name) for name in os.listdir(directory)]

    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        tree_walk.walk(root, visit)
    assert len(seen) == 3
    os.close(root)


def test_the_files_of_a_program_that_ended_elsewhere(above: Path) -> None:
    belongings = CarriedTrees(above / "files")
    place = belongings.place(bytes(16), "/work")
    place.mkdir(parents=True)
    root = os.open(place, os.O_RDONLY)
    deepen(root, DEEP)
    os.close(root)
    belongings.forget(bytes(16), here=False)


def make_deep(guest: Guest, levels: int) -> int:
    """Make so many directories, each in the one before; a descriptor of the last one."""
    fd = ROOT
    for _ in range(levels):
        assert guest.call("path_create_directory", fd, *guest.path("d")) == 0
        below = guest.opened("d", DIRECTORY, DIRECTORY_RIGHTS, fd=fd)
        if fd != ROOT:
            guest.call("fd_close", fd)
        fd = below
    return fd


def test_a_tree_as_deep_as_a_path_is_saved_and_goes_on(above: Path) -> None:
    guest = Guest(mounts=[Mount.memory("/data")])
    fd = make_deep(guest, 2000)
    file = guest.opened("f", CREAT, fd=fd)
    guest.hop()
    assert guest.write(file, b"x") == (0, 1)
    assert guest.names(fd) == [".", "..", "f"]
    guest.close()


@pytest.mark.parametrize("mode", ["mem", "host"])
def test_a_tree_deeper_than_a_path_is_refused_by_name(above: Path, mode: str) -> None:
    folder = above / "folder"
    folder.mkdir()
    mount = Mount.memory("/data") if mode == "mem" else Mount(folder, "/data")
    guest = Guest(mounts=[mount])
    fd = make_deep(guest, 2500)
    file = guest.opened("f", CREAT, fd=fd)
    with pytest.raises(UnportableState, match="too deep" if mode == "mem" else "is too long"):
        guest.state()
    assert guest.write(file, b"x") == (0, 1)
    guest.close()
    tree_walk.remove(folder)
