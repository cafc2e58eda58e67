"""Fencing: what counts is what the record names, and older epochs are refused."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from tests.ownership.services import first, taken
from wasmsr.ownership.epoch_log import EpochLog, LogFollower, Piece, parts
from wasmsr.ownership.failures import EffectRefused, LogDamaged, RegisterAway
from wasmsr.ownership.fencing import EFFECTS, UNFENCED, EffectKind, EpochGate, check_fenced
from wasmsr.ownership.owner_record import OwnerRecord
from wasmsr.runspec.run_spec import RunSpec

PROGRAM = b"p" * 16


# ---- what cannot be fenced is refused ------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({"mounts": ["FOLDER"]}, "host"),
        ({"mounts": ["FOLDER::/data"]}, "host"),
        ({"mounts": ["FOLDER::/data::host"]}, "host"),
        ({"mounts": ["FOLDER::/data::ro", "FOLDER::/b::carry"]}, "host"),
        ({"listen": ["127.0.0.1:80"]}, "listen"),
        ({"streams": {"stdout": "out"}}, "streams"),
        ({"streams": {"stderr": "err"}}, "streams"),
    ],
)
def test_what_cannot_be_fenced(spec: dict[str, object], name: str, tmp_path: Path) -> None:
    if "mounts" in spec:
        spec = {"mounts": [str(m).replace("FOLDER", str(tmp_path)) for m in spec["mounts"]]}  # type: ignore[attr-defined]
    run = RunSpec.read({"program": "fib", **spec})
    with pytest.raises(EffectRefused) as refused:
        check_fenced(run)
    assert f"--unfenced {name}" in str(refused.value.hint)
    check_fenced(run, (name,))
    others = tuple(other for other in UNFENCED if other != name)
    with pytest.raises(EffectRefused):
        check_fenced(run, others)


def test_what_can_be_fenced(tmp_path: Path) -> None:
    mounts = [f"{tmp_path}::/a::ro", f"{tmp_path}::/b::overlay", "::/c::mem", "::/d::carry"]
    check_fenced(RunSpec.read({"program": "fib", "mounts": mounts, "streams": {"stdin": "in"}}))
    with pytest.raises(EffectRefused, match="no effect"):
        check_fenced(RunSpec.read({"program": "fib"}), ("everything",))


def test_the_document_has_the_table(root: Path) -> None:
    text = (root / "docs" / "ownership.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    for row in EFFECTS:
        assert (row.effect, row.kind.value, row.how) in rows
    listed = [row for row in rows if row[1] in {kind.value for kind in EffectKind}]
    assert len(listed) == len(EFFECTS)


# ---- receivers -----------------------------------------------------------------------------------


def test_a_gate_refuses_older_epochs() -> None:
    gate = EpochGate(lambda program: None)
    gate.admit(PROGRAM, 1)
    gate.admit(PROGRAM, 3)
    gate.admit(PROGRAM, 3)
    with pytest.raises(EffectRefused, match="epoch 2 came after epoch 3") as refused:
        gate.admit(PROGRAM, 2)
    assert refused.value.program == PROGRAM
    gate.admit(b"q" * 16, 1)


def test_a_gate_that_was_started_again_asks_the_register() -> None:
    record = taken(taken(first(PROGRAM)))
    gate = EpochGate(lambda program: record)
    with pytest.raises(EffectRefused) as refused:
        gate.admit(PROGRAM, 2)
    assert refused.value.owner == record.owner
    gate.admit(PROGRAM, 3)

    def away(program: bytes) -> OwnerRecord | None:
        raise RegisterAway("away")

    with pytest.raises(RegisterAway):
        EpochGate(away).admit(PROGRAM, 9)


def test_a_gate_forgets_only_what_it_can_ask_for() -> None:
    records = {bytes([n]) * 16: first(bytes([n]) * 16) for n in range(10)}
    asked: list[bytes] = []

    def look_up(program: bytes) -> OwnerRecord | None:
        asked.append(program)
        return records[program]

    gate = EpochGate(look_up, most=3)
    for program in records:
        gate.admit(program, 1)
    asked.clear()
    gate.admit(bytes([9]) * 16, 1)
    assert not asked
    gate.admit(bytes([0]) * 16, 1)
    assert asked == [bytes([0]) * 16]


def test_of_two_epochs_at_once_the_newer_wins() -> None:
    gate = EpochGate(lambda program: None)
    taken_in: list[int] = []
    lock = threading.Lock()

    def send(epoch: int) -> None:
        for _ in range(300):
            with lock:
                try:
                    gate.admit(PROGRAM, epoch)
                except EffectRefused:
                    return
                taken_in.append(epoch)

    threads = [threading.Thread(target=send, args=(epoch,)) for epoch in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken_in == sorted(taken_in) and taken_in[-1] == 3


# ---- output --------------------------------------------------------------------------------------


def everything(follower: LogFollower) -> list[Piece]:
    found = []
    while (piece := follower.read()) is not None:
        found.append(piece)
    return found


def test_a_planned_move_loses_and_repeats_nothing(tmp_path: Path) -> None:
    one = EpochLog(tmp_path, "stdout", 1, 0)
    follower = LogFollower(tmp_path, "stdout")
    one.write(b"first ")
    assert [p.data for p in everything(follower)] == [b"first "]
    one.write(b"second ")
    two = EpochLog(tmp_path, "stdout", 2, one.size)
    two.write(b"third")
    pieces = everything(follower)
    assert [p.data for p in pieces] == [b"second ", b"third"]
    assert not any(p.rewound for p in pieces) and [p.epoch for p in pieces] == [1, 2]
    assert b"".join(p.data for p in everything(LogFollower(tmp_path, "stdout"))) == (
        b"first second third"
    )
    one.close()
    two.close()


def test_after_a_crash_followers_are_rewound(tmp_path: Path) -> None:
    one = EpochLog(tmp_path, "stdout", 1, 0)
    one.write(b"kept ")
    checkpoint = one.size
    one.write(b"lost")
    early, late = LogFollower(tmp_path, "stdout"), LogFollower(tmp_path, "stdout")
    assert b"".join(p.data for p in everything(late)) == b"kept lost"
    two = EpochLog(tmp_path, "stdout", 2, checkpoint)
    one.write(b" and the old owner still writes")
    two.write(b"again")
    pieces = everything(late)
    assert pieces[0] == Piece(checkpoint, b"", 2, True)
    assert b"".join(p.data for p in pieces[1:]) == b"again"
    assert b"".join(p.data for p in everything(early)) == b"kept again"
    one.write(b" and on")
    assert everything(late) == [] and everything(early) == []
    # A second crash before a checkpoint of its own: the third owner begins at the same place.
    three = EpochLog(tmp_path, "stdout", 3, checkpoint)
    three.write(b"third time")
    assert [p.rewound for p in everything(late)] == [True, False]
    assert b"".join(p.data for p in everything(LogFollower(tmp_path, "stdout"))) == (
        b"kept third time"
    )
    # With the policy "restart" everything is produced again.
    four = EpochLog(tmp_path, "stdout", 4, 0)
    four.write(b"anew")
    pieces = everything(late)
    assert pieces[0] == Piece(0, b"", 4, True) and pieces[1].data == b"anew"
    for log in (one, two, three, four):
        log.close()


def test_output_is_held_back_until_the_checkpoint_counts(tmp_path: Path) -> None:
    log = EpochLog(tmp_path, "stderr", 1, 0, commit=True)
    follower = LogFollower(tmp_path, "stderr")
    log.write(b"one ")
    mark = log.size
    log.write(b"two ")
    assert everything(follower) == []
    log.committed(mark)
    assert [p.data for p in everything(follower)] == [b"one "]
    log.committed(mark)
    assert everything(follower) == []
    log.close()
    # The owner is lost: nobody has seen "two", so nobody is rewound.
    again = EpochLog(tmp_path, "stderr", 2, mark, commit=True)
    again.write(b"2 ")
    again.committed(again.size)
    pieces = everything(follower)
    assert [(p.data, p.rewound) for p in pieces] == [(b"2 ", False)]
    again.close()


def test_an_epoch_writes_a_stream_once(tmp_path: Path) -> None:
    EpochLog(tmp_path, "stdout", 1, 0).close()
    EpochLog(tmp_path, "stderr", 1, 0).close()
    with pytest.raises(FileExistsError):
        EpochLog(tmp_path, "stdout", 1, 0)
    EpochLog(tmp_path, "stdout", 1, 5).close()
    with pytest.raises(LogDamaged, match="two files"):
        parts(tmp_path, "stdout")


def test_a_log_that_lacks_bytes_is_noticed(tmp_path: Path) -> None:
    log = EpochLog(tmp_path, "stdout", 1, 0)
    log.write(b"short")
    log.sync()
    log.close()
    EpochLog(tmp_path, "stdout", 2, 100).close()
    follower = LogFollower(tmp_path, "stdout")
    piece = follower.read()
    assert piece is not None and piece.data == b"short"
    with pytest.raises(LogDamaged, match="counts 100"):
        follower.read()
    # Other files in the folder are none of ours.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "000000000003").write_bytes(b"")
    assert len(parts(tmp_path, "stdout")) == 2
    assert parts(tmp_path / "nowhere", "stdout") == []
