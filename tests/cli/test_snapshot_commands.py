"""`wasmsr snapshot`: tools for snapshots, with whole, damaged and unsuitable files."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import one_sentence
from tests.snapshot.checkpoints.guest import GUEST
from tests.snapshot.samples import full, parts, seal
from wasmsr import Module, Snapshot, SnapshotError, Store
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.checkpoints import folder as folders
from wasmsr.snapshot.checkpoints.checkpointer import Checkpointer
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.format import content_digest, encode, load, mark_handed, read_file, save_pieces
from wasmsr.snapshot.inspect.text_tables import lines
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.tools.copies import write_full
from wasmsr.snapshot.tools.diff import compare
from wasmsr.snapshot.tools.diff_text import blocks
from wasmsr.snapshot.tools.opened import open_snapshot
from wasmsr.snapshot.tools.verify import verify_file, verify_folder

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

STEPS = 4
"""Checkpoints in the folder `d`."""


@pytest.fixture
def states(cli: Cli) -> list[SnapshotState]:
    """The states of the checkpoints in `d`, and the last as `one.bin`."""
    (cli.folder / "d").mkdir()
    found = []
    with Store() as store:
        instance = store.instantiate(Module.from_text(GUEST))
        store.enqueue(instance.function("run"), 100_000)
        checkpointer = Checkpointer(CheckpointFolder(cli.folder / "d"), keep=100, merge_after=100)
        for _ in range(STEPS):
            store.run(fuel=50_000)
            assert checkpointer.take(store, lambda: capture(store, embed=True))
            found.append(Snapshot.of(store, embed=True).state)
            checkpointer.wait()
        checkpointer.close()
    Snapshot(found[-1]).save(cli.folder / "one.bin")
    return found


def checkpoint(cli: Cli, number: int) -> Path:
    """The file of a checkpoint."""
    return cli.folder / "d" / f"checkpoint-{number:08}.bin"


def as_object(cli: Cli, *words: str, code: int = 0) -> dict[str, Any]:
    """The object that a tool prints."""
    outcome = cli("snapshot", *words, "--json")
    assert outcome.returncode == code, outcome.stderr
    assert bool(outcome.stderr) is bool(code)
    found = json.loads(outcome.stdout)
    assert isinstance(found, dict)
    return found


def refused(cli: Cli, *words: str, code: int = 123) -> str:
    """The sentence with which a tool refuses its work."""
    outcome = cli("snapshot", *words)
    assert outcome.returncode == code, outcome.stderr
    assert outcome.stdout == ""
    return one_sentence(outcome)


HOSTILE = {
    "empty": b"",
    "text": b"hello\n" * 100,
    "module": b"\0asm\1\0\0\0",
    "magic": b"\x89WSR",
    "zeros": bytes(4096),
}
"""Files that are no snapshots."""


# ---- verify ----


def test_verify_says_what_a_file_is(cli: Cli, states: list[SnapshotState]) -> None:
    found = as_object(cli, "verify", "one.bin")
    assert found["complete"] is True and found["error"] is None
    assert (found["version"], found["form"], found["depth"]) == (2, "full", 0)
    assert found["bytes"] == (cli.folder / "one.bin").stat().st_size
    assert found["content_digest"] == content_digest(states[-1]).hex()
    assert found["handed_over"] is False
    shown = cli("snapshot", "verify", "one.bin").stdout
    assert found["root_digest"] in shown and found["content_digest"] in shown
    mark_handed(cli.folder / "one.bin")
    assert as_object(cli, "verify", "one.bin")["handed_over"] is True
    assert "handed over" in cli("snapshot", "verify", "one.bin").stdout


def test_verify_reads_a_whole_folder(cli: Cli, states: list[SnapshotState]) -> None:
    found = as_object(cli, "verify", "d")
    assert (found["complete"], found["last_complete"]) == (True, STEPS)
    rows = found["checkpoints"]
    assert [row["checkpoint"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["depth"] for row in rows] == list(range(STEPS))
    assert [row["form"] for row in rows] == ["full"] + ["incremental"] * (STEPS - 1)
    for row, state in zip(rows, states, strict=True):
        assert row["content_digest"] == content_digest(state, version=2).hex()
        assert row["bytes"] == (cli.folder / row["file"]).stat().st_size
        alone = as_object(cli, "verify", row["file"])
        assert alone | {"checkpoint": row["checkpoint"]} == row
    shown = cli("snapshot", "verify", "d").stdout
    assert shown.count("complete") == STEPS


def test_verify_names_what_is_damaged(cli: Cli, states: list[SnapshotState]) -> None:
    third = checkpoint(cli, 3)
    data = bytearray(third.read_bytes())
    data[len(data) // 2] ^= 1
    third.write_bytes(data)
    found = as_object(cli, "verify", "d", code=123)
    assert (found["complete"], found["last_complete"]) == (False, 2)
    assert [row["complete"] for row in found["checkpoints"]] == [True, True, False, False]
    for row in found["checkpoints"][2:]:
        assert third.name in row["error"]
        assert row["root_digest"] is None
    outcome = cli("snapshot", "verify", "d")
    assert outcome.returncode == 123
    assert "2 of 4 checkpoints in d are not complete" in one_sentence(outcome)
    assert third.name in refused(cli, "verify", f"d/{checkpoint(cli, 4).name}")


def test_verify_misses_a_base(cli: Cli, states: list[SnapshotState]) -> None:
    checkpoint(cli, 1).unlink()
    found = as_object(cli, "verify", "d", code=123)
    assert (found["complete"], found["last_complete"]) == (False, None)
    checkpoint(cli, 4).rename(cli.folder / "moved.bin")
    assert "its base with the root" in refused(cli, "verify", "moved.bin")


@pytest.mark.parametrize("what", HOSTILE)
def test_verify_refuses_what_is_no_snapshot(cli: Cli, what: str) -> None:
    (cli.folder / "x.bin").write_bytes(HOSTILE[what])
    assert "x.bin" in refused(cli, "verify", "x.bin")
    assert as_object(cli, "verify", "x.bin", code=123)["complete"] is False
    (cli.folder / "d").mkdir()
    (cli.folder / "d" / "checkpoint-00000001.bin").write_bytes(HOSTILE[what])
    found = as_object(cli, "verify", "d", code=123)
    assert "checkpoint-00000001.bin" in found["checkpoints"][0]["error"]


def test_a_pipe_in_place_of_a_checkpoint(cli: Cli, states: list[SnapshotState]) -> None:
    """To open it would take for ever."""
    checkpoint(cli, STEPS).unlink()
    os.mkfifo(checkpoint(cli, STEPS))
    found = as_object(cli, "verify", "d", code=123)
    assert [row["complete"] for row in found["checkpoints"]] == [True] * (STEPS - 1) + [False]
    assert "is no file" in found["checkpoints"][-1]["error"]
    assert cli("run", "--from-snapshot", "d").returncode == 0


def test_verify_reads_each_file_once(cli: Cli, states: list[SnapshotState]) -> None:
    path = checkpoint(cli, 2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    read: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "read_file", lambda p, d: (read.append(p), read_file(p, d))[1])
        verdicts = verify_folder(cli.folder / "d")
    assert [verdict.complete for verdict in verdicts] == [True] + [False] * (STEPS - 1)
    assert read == [str(checkpoint(cli, number)) for number in (1, 2)]


def test_verify_refuses_every_cut_and_every_flipped_bit(
    cli: Cli, states: list[SnapshotState]
) -> None:
    path = checkpoint(cli, 2)
    data = path.read_bytes()
    for at in range(0, len(data), 997):
        path.write_bytes(data[:at])
        assert not verify_file(path).complete, at
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert not verify_file(path).complete, at
    path.write_bytes(data + b"x")
    assert not verify_file(path).complete
    path.write_bytes(data)
    assert verify_file(path).complete


def test_verify_without_a_snapshot(cli: Cli) -> None:
    assert "nothing.bin" in refused(cli, "verify", "nothing.bin")
    (cli.folder / "empty").mkdir()
    assert "no complete checkpoint in empty" in refused(cli, "verify", "empty")
    assert cli("snapshot", "verify").returncode == 2
    assert "/dev/zero" in refused(cli, "verify", "/dev/zero")


# ---- merge and convert ----


def test_merge_makes_one_file_with_the_same_root(cli: Cli, states: list[SnapshotState]) -> None:
    for source, number in (("d", STEPS), (f"d/{checkpoint(cli, 2).name}", 2)):
        before = {path: path.read_bytes() for path in (cli.folder / "d").glob("*.bin")}
        outcome = cli("snapshot", "merge", source, "-o", "merged.bin")
        assert (outcome.returncode, outcome.stdout) == (0, ""), outcome.stderr
        chained = as_object(cli, "verify", f"d/{checkpoint(cli, number).name}")
        merged = as_object(cli, "verify", "merged.bin")
        assert (merged["version"], merged["form"], merged["depth"]) == (2, "full", 0)
        for key in ("root_digest", "content_digest"):
            assert merged[key] == chained[key]
        assert merged["root_digest"] in outcome.stderr
        state = load(cli.folder / "merged.bin")
        assert replace(states[number - 1], lineage=state.lineage) == state
        assert {path: path.read_bytes() for path in before} == before


def test_merge_takes_the_last_complete_checkpoint(cli: Cli, states: list[SnapshotState]) -> None:
    last = checkpoint(cli, STEPS)
    last.write_bytes(last.read_bytes()[:-1])
    outcome = cli("snapshot", "merge", "d", "-o", "merged.bin")
    assert outcome.returncode == 0
    assert f"checkpoint {STEPS} is passed over" in outcome.stderr
    state = load(cli.folder / "merged.bin")
    assert replace(states[STEPS - 2], lineage=state.lineage) == state


def test_a_merged_program_ends_as_the_checkpoints_do(cli: Cli, states: list[SnapshotState]) -> None:
    assert cli("snapshot", "merge", "d", "-o", "m.bin").returncode == 0
    assert cli("snapshot", "convert", "m.bin", "-o", "1.bin", "--format", "1").returncode == 0
    ends = {cli("run", "--from-snapshot", name).stdout for name in ("d", "m.bin", "1.bin")}
    assert len(ends) == 1 and ends != {""}


def test_convert_there_and_back(cli: Cli, states: list[SnapshotState]) -> None:
    for source, out, version in (
        ("one.bin", "two.bin", "1"),
        ("two.bin", "back.bin", "2"),
        ("back.bin", "again.bin", "1"),
    ):
        words = ("snapshot", "convert", source, "-o", out, "--format", version)
        outcome = cli(*words)
        assert outcome.returncode == 0, outcome.stderr
        found = as_object(cli, "verify", out)
        assert (found["version"], found["form"]) == (int(version), "full")
        assert found["root_digest"] in outcome.stderr
        digest = content_digest(states[-1], version=int(version)).hex()
        assert found["content_digest"] == digest
        assert load(cli.folder / out) == states[-1] == load(cli.folder / "one.bin")
    for one, other in (("one", "back"), ("two", "again")):
        left, right = (cli.folder / f"{name}.bin" for name in (one, other))
        assert left.read_bytes() == right.read_bytes()
    outcome = cli("snapshot", "convert", "d", "-o", "d1.bin", "--format", "1")
    assert as_object(cli, "verify", "d1.bin")["version"] == 1


def test_a_mark_of_hand_over_stays(cli: Cli, states: list[SnapshotState]) -> None:
    mark_handed(cli.folder / "one.bin")
    mark_handed(checkpoint(cli, STEPS))
    assert cli("snapshot", "convert", "one.bin", "-o", "a.bin", "--format", "2").returncode == 0
    assert cli("snapshot", "merge", "d", "-o", "b.bin").returncode == 0
    for name in ("a.bin", "b.bin"):
        assert as_object(cli, "verify", name)["handed_over"] is True
        assert cli("run", "--from-snapshot", name).returncode == 123


def test_golden_files_convert(cli: Cli, root: Path) -> None:
    golden = sorted((root / "tests" / "golden").rglob("*.bin"))
    assert golden
    chain = cli.folder / "chain"
    chain.mkdir()
    for number, name in enumerate(("everything", "increment"), 1):
        copy(root / "tests" / "golden" / f"v2-{name}.bin", chain / f"checkpoint-{number:08}.bin")
    for path in golden:
        source = open_snapshot(chain if path.stem == "v2-increment" else path)
        for version in (1, 2):
            out = cli.folder / f"{version}-{path.name}"
            copied = write_full(source, str(out), version=version)
            again = open_snapshot(out)
            assert again.state.lineage == source.state.lineage
            assert again.decoder.root == copied.root
            assert again.decoder.content == copied.content
            if version == source.header.version:
                assert again.decoder.content == source.decoder.content


# ---- inspect ----


def test_inspect_of_checkpoints(cli: Cli, states: list[SnapshotState]) -> None:
    """A folder and an incremental file show what the merged file shows."""
    assert cli("snapshot", "merge", "d", "-o", "merged.bin").returncode == 0
    shown = []
    for name in ("d", f"d/{checkpoint(cli, STEPS).name}", "merged.bin"):
        outcome = cli("inspect", name, "--json")
        assert (outcome.returncode, outcome.stderr) == (0, "")
        shown.append(json.loads(outcome.stdout))
        shown[-1]["file"] = shown[-1]["file"]["root_digest"]
    assert shown[0] == shown[1] == shown[2]
    checkpoint(cli, 1).unlink()
    for name in ("d", f"d/{checkpoint(cli, STEPS).name}"):
        assert cli("inspect", name).returncode == 123
    outcome = cli("inspect", "-", stdin="")
    assert outcome.returncode == 123


# ---- diff ----


def test_diff_of_the_same_program(cli: Cli, states: list[SnapshotState]) -> None:
    assert cli("snapshot", "convert", "one.bin", "-o", "two.bin", "--format", "2").returncode == 0
    for a, b in (("one.bin", "one.bin"), ("one.bin", "two.bin"), ("d", "two.bin")):
        found = as_object(cli, "diff", a, b)
        assert found["same"] is True
        assert found["a"]["content_digest"] == found["b"]["content_digest"]
        parts = ("frames", "globals", "descriptors", "memories", "other")
        assert [found[part] for part in parts] == [[]] * 5
        assert "both are the same program" in cli("snapshot", "diff", a, b).stdout


@pytest.mark.parametrize("numbers", [(1, 2), (1, STEPS), (STEPS, 2)])
def test_diff_of_two_checkpoints(
    cli: Cli, states: list[SnapshotState], numbers: tuple[int, int]
) -> None:
    a, b = (states[number - 1] for number in numbers)
    words = [f"d/{checkpoint(cli, number).name}" for number in numbers]
    found = as_object(cli, "diff", *words)
    assert found["same"] is False
    assert found["descriptors"] == []
    (seed,) = found["globals"]
    assert seed["global"] == 0
    assert [seed[side]["value"] % 2**64 for side in "ab"] == [s.globals[0].value for s in (a, b)]
    assert found["frames"], "the number of turns that remain differs"
    for frame in found["frames"]:
        both = all(frame["frame"] < len(state.thread.frames) for state in (a, b))
        assert ("a" in frame and "b" in frame) is both
    (memory,) = found["memories"]
    one, other = (bytes(state.memories[0].data) for state in (a, b))
    most = max(len(one), len(other))
    one, other = one.ljust(most, b"\0"), other.ljust(most, b"\0")
    assert memory["pages"] == sum(
        one[at : at + 4096] != other[at : at + 4096] for at in range(0, most, 4096)
    )
    patched = bytearray(one)
    for region in memory["regions"]:
        part = slice(region["offset"], region["offset"] + region["length"])
        assert one[part][0] != other[part][0] and one[part][-1] != other[part][-1]
        patched[part] = other[part]
    assert bytes(patched) == other
    sizes = [change for change in memory["changes"] if change["what"] == "bytes"]
    assert bool(sizes) is (len(a.memories[0].data) != len(b.memories[0].data))
    shown = cli("snapshot", "diff", *words).stdout
    for title in ("Compared", "Frames", "Globals", "Memories", "Regions of memories"):
        assert f"\n{title}\n" in f"\n{shown}"


def _wasi(state: SnapshotState, offset: int, **more: object) -> None:
    state.wasi = {"args": ["x"], "descriptors": [{"fd": 3, "offset": offset}], **more}


CHANGES: dict[str, tuple[Callable[[SnapshotState], object], str, str]] = {
    "descriptor": (lambda s: _wasi(s, 6), "descriptors", "offset"),
    "argument": (lambda s: _wasi(s, 5, random={"seed": 1}), "other", "wasi.random"),
    "executed": (lambda s: setattr(s, "executed", 7), "other", "executed"),
    "fuel": (lambda s: setattr(s.limits, "fuel", 7), "other", "limits.fuel"),
    "queue": (lambda s: s.thread.queue.clear(), "other", "queue"),
    "object": (lambda s: s.externs.__setitem__(0, "another"), "other", "externs"),
    "global": (lambda s: setattr(s.globals[0], "value", 5), "globals", "i32"),
    "frame": (lambda s: setattr(s.thread.frames[-1], "offset", 91), "frames", "offset"),
    "NaN": (lambda s: setattr(s.globals[2], "value", 0x7FC00000), "globals", "nan"),
    "byte": (
        lambda s: setattr(s.memories[1], "data", b"x" + bytes(s.memories[1].data)[1:]),
        "memories",
        "'offset': 0",
    ),
    "segment": (lambda s: s.instances[0].dropped_data.clear(), "other", "instances[0].dropped"),
    "element": (
        lambda s: setattr(
            s.tables[0], "elements", bytes(s.tables[0].elements)[:-8] + b"\2" + b"\0" * 7
        ),
        "other",
        "tables",
    ),
}
"""A change of the state, the part of the answer that has it, and words of it."""


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("versions", [(1, 1), (2, 2), (1, 2)])
def test_diff_finds_each_kind_of_change(cli: Cli, what: str, versions: tuple[int, int]) -> None:
    change, part, words = CHANGES[what]
    one, other = full(), full()
    for state in (one, other):
        _wasi(state, 5)
    change(other)
    for name, state, version in zip("ab", (one, other), versions, strict=True):
        save_pieces(encode(state, version=version), cli.folder / f"{name}.bin")
    found = compare(open_snapshot(cli.folder / "a.bin"), open_snapshot(cli.folder / "b.bin"))
    assert found["same"] is False
    parts = ("frames", "globals", "descriptors", "memories", "other")
    assert [name for name in parts if found[name]] == [part]
    assert words in str(found[part])
    assert json.loads(json.dumps(found)) == found
    assert "".join(lines(blocks(found)))


def test_diff_of_mutated_states(cli: Cli) -> None:
    """Whatever a reader accepts can be compared; what differs is named, and nothing else."""
    chance = random.Random(7)
    sections = parts(b"".join(encode(full())))
    save_pieces([seal(sections)], cli.folder / "a.bin")
    read = different = 0
    for _ in range(1000):
        changed = [(kind, bytearray(data)) for kind, data in sections]
        for _ in range(chance.randrange(1, 4)):
            _, data = chance.choice(changed)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (cli.folder / "b.bin").write_bytes(seal([(kind, bytes(data)) for kind, data in changed]))
        try:
            b = open_snapshot(cli.folder / "b.bin")
        except SnapshotError:
            continue
        read += 1
        found = compare(open_snapshot(cli.folder / "a.bin"), b)
        named = [found[part] for part in ("frames", "globals", "descriptors", "memories", "other")]
        assert any(named) is not found["same"]
        assert "no description" not in str(found["other"])
        assert json.dumps(found) and list(lines(blocks(found)))
        different += not found["same"]
    assert read > 50
    assert different > 50


def test_diff_refuses_what_is_no_snapshot(cli: Cli, states: list[SnapshotState]) -> None:
    (cli.folder / "x.bin").write_bytes(b"hello")
    assert "x.bin" in refused(cli, "diff", "x.bin", "one.bin")
    assert "x.bin" in refused(cli, "diff", "one.bin", "x.bin")
    assert "another module" in refused(cli, "diff", "one.bin", "d", "--program", "fib")


# ---- dump-memory ----


def test_dump_memory(cli: Cli, states: list[SnapshotState]) -> None:
    whole = bytes(states[-1].memories[0].data)
    size = len(whole)
    for number, (words, part) in enumerate(
        (
            ((), whole),
            (("--memory", "0", "--offset", "0x1001"), whole[0x1001:]),
            (("--offset", "64K", "--length", "100"), whole[65536:65636]),
            (("--offset", str(size - 5)), whole[-5:]),
            (("--offset", str(size)), b""),
            (("--length", "0"), b""),
        )
    ):
        for source in ("one.bin", "d"):
            out = f"{number}-{source}.raw"
            outcome = cli("snapshot", "dump-memory", source, *words, "-o", out)
            assert (outcome.returncode, outcome.stdout) == (0, ""), outcome.stderr
            assert f"{len(part)} bytes" in outcome.stderr
            assert (cli.folder / out).read_bytes() == part
    with (cli.folder / "piped.raw").open("wb") as file:
        assert cli.begin("snapshot", "dump-memory", "d", "-o", "-", stdout=file).wait() == 0
    assert (cli.folder / "piped.raw").read_bytes() == whole


def test_dump_memory_refuses(cli: Cli, states: list[SnapshotState]) -> None:
    size = len(states[-1].memories[0].data)
    for words in (
        ("--memory", "1"),
        ("--memory", str(2**70)),
        ("--offset", str(size + 1)),
        ("--offset", "1", "--length", str(size)),
        ("--length", str(2**64)),
        ("--offset", hex(2**64)),
    ):
        assert "memory" in refused(cli, "dump-memory", "d", *words, "-o", "out.raw")
    assert not (cli.folder / "out.raw").exists()
    for words in (("--offset", "-1"), ("--offset", "0xyz"), ("--memory", "-1"), ("--length", "x")):
        assert cli("snapshot", "dump-memory", "d", *words, "-o", "out.raw").returncode == 2
    before = {path: path.read_bytes() for path in cli.folder.rglob("*") if path.is_file()}
    for out in ("one.bin", "guest.raw", f"d/{checkpoint(cli, 2).name}", "d"):
        if out == "guest.raw":
            (cli.folder / out).write_text("keep")
            before[cli.folder / out] = b"keep"
        refused(cli, "dump-memory", "one.bin", "-o", out)
    after = {path: path.read_bytes() for path in cli.folder.rglob("*") if path.is_file()}
    assert after == before
    if os.path.exists("/dev/full"):
        assert "cannot write the memory" in refused(cli, "dump-memory", "d", "-o", "/dev/full")


# ---- outputs ----

WRITERS = {
    "merge": ("merge", "d"),
    "convert": ("convert", "one.bin", "--format", "2"),
}
"""Tools that write a snapshot, without `-o`."""


@pytest.mark.parametrize("tool", WRITERS)
def test_an_output_that_would_destroy_something(
    cli: Cli, states: list[SnapshotState], tool: str
) -> None:
    words = WRITERS[tool]
    (cli.folder / "letter.txt").write_text("dear all")
    Snapshot(full()).save(cli.folder / "other.bin")
    (cli.folder / "link.bin").symlink_to("one.bin")
    (cli.folder / "hard.bin").hardlink_to(cli.folder / "one.bin")
    before = {path: path.read_bytes() for path in cli.folder.rglob("*") if path.is_file()}
    assert "no snapshot" in refused(cli, *words, "-o", "letter.txt")
    assert "another program" in refused(cli, *words, "-o", "other.bin")
    assert "is a folder" in refused(cli, *words, "-o", "d")
    assert "No such file" in refused(cli, *words, "-o", "nowhere/x.bin")
    if tool == "merge":
        for number in range(1, STEPS + 2):
            said = refused(cli, *words, "-o", f"d/{checkpoint(cli, number).name}")
            assert "is what is read" in said or "name of a checkpoint" in said
    else:
        for name in ("one.bin", "./one.bin", "d/../one.bin", "link.bin", "hard.bin"):
            assert "is what is read" in refused(cli, *words, "-o", name)
    after = {path: path.read_bytes() for path in cli.folder.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("tool", WRITERS)
def test_outputs_that_may_be_written(cli: Cli, states: list[SnapshotState], tool: str) -> None:
    words = ("snapshot", *WRITERS[tool])
    Snapshot(states[0]).save(cli.folder / "old.bin")
    (cli.folder / "empty.bin").touch()
    assert cli("snapshot", "merge", "d", "-o", "merged.bin").returncode == 0
    for name in ("old.bin", "empty.bin", "new.bin", "merged.bin"):
        assert cli(*words, "-o", name).returncode == 0
        assert as_object(cli, "verify", name)["version"] == 2
        assert (cli.folder / name).stat().st_mode & 0o777 == 0o600
    with (cli.folder / "piped.bin").open("wb") as file:
        process = cli.begin(*words, "-o", "-", stdout=file)
        assert process.wait() == 0
    assert (cli.folder / "piped.bin").read_bytes() == (cli.folder / "new.bin").read_bytes()


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_is_made_of_what_is_no_snapshot(cli: Cli, what: str) -> None:
    (cli.folder / "x.bin").write_bytes(HOSTILE[what])
    assert "x.bin" in refused(cli, "merge", "x.bin", "-o", "out.bin")
    assert "x.bin" in refused(cli, "convert", "x.bin", "-o", "out.bin", "--format", "1")
    assert not (cli.folder / "out.bin").exists()


def test_a_section_that_a_copy_would_lack(cli: Cli, states: list[SnapshotState]) -> None:
    """An unknown section that a reader may skip, as a newer wasmsr may write."""
    sections = parts((cli.folder / "one.bin").read_bytes())
    (cli.folder / "newer.bin").write_bytes(seal([*sections, (0xFFF0, b"news")]))
    assert as_object(cli, "verify", "newer.bin")["complete"] is True
    assert "0xfff0" in refused(cli, "merge", "newer.bin", "-o", "out.bin")
    assert not (cli.folder / "out.bin").exists()


def test_wrong_words(cli: Cli) -> None:
    for words in (
        ("merge", "x"),
        ("convert", "x", "-o", "y"),
        ("convert", "x", "-o", "y", "--format", "3"),
        ("merge", "x", "y", "-o", "z"),
    ):
        assert cli("snapshot", *words).returncode == 2


def test_a_tool_must_be_named(cli: Cli) -> None:
    outcome = cli("snapshot")
    assert outcome.returncode == 2
    assert "wasmsr snapshot verify" in outcome.stderr
    assert cli("snapshot", "nothing").returncode == 2


# ---- export ----


def test_export_of_a_program_between_calls(cli: Cli) -> None:
    (cli.folder / "guest.wat").write_text(
        '(module (memory (export "m") 1) (func (export "next") (result i32)'
        " (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))"
        " (i32.load (i32.const 0))))"
    )
    with Store() as store:
        instance: Any = store.instantiate(Module.from_file(cli.folder / "guest.wat"))
        assert [instance.exports["next"]() for _ in range(3)] == [1, 2, 3]
        Snapshot.of(store).save(cli.folder / "snapshot.bin")
    out = ("export", "snapshot.bin", "--program", "guest.wat", "-o")
    assert cli("snapshot", *out, "x.wasm", "--wasm").returncode == 0
    assert cli("run", "--invoke", "next", "x.wasm").stdout == "4\n"
    assert "is there already" in refused(cli, *out, "x.wasm", "--wasm")
    assert cli("snapshot", *out, "core.wasm", "--coredump").returncode == 0
    assert (cli.folder / "core.wasm").read_bytes().startswith(b"\0asm")
    assert "Say what to write" in refused(cli, *out, "y.wasm", code=2)


def test_export_refuses_a_call_in_progress(cli: Cli, states: list[SnapshotState]) -> None:
    said = refused(cli, "export", "one.bin", "--wasm", "-o", "x.wasm")
    assert "is in progress" in said
    assert not (cli.folder / "x.wasm").exists()
    assert cli("snapshot", "export", "d", "--coredump", "-o", "core.wasm").returncode == 0
