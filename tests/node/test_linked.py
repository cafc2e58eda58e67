"""Programs of several modules on nodes: sent, saved, moved, taken over, and their files removed."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.nodes import World
from tests.node.programs import COUNT, lines
from tests.node.test_leases import LEASE, Leasing, checkpointed, goes_on
from tests.node.test_moves import output, until, world
from tests.node.test_node import Here
from tests.node.test_node import output as printed
from wasmsr import Node, errors
from wasmsr.cli.running.node_service import policy_check
from wasmsr.interp.modules.module import assemble
from wasmsr.node.failures import SubmissionRefused
from wasmsr.node.leases.lease_terms import LeaseTerms
from wasmsr.node.security.failures import AccessRefused
from wasmsr.node.security.policy import Policy, ProgramWish
from wasmsr.node.supervision.submissions import all_modules, checked_run
from wasmsr.rpc.control.sent_files import with_modules

__all__ = ["world"]

pytestmark = pytest.mark.full

STEPS = assemble(b'(module (global (export "n") (mut i32) (i32.const 0)))')
"""Has the number that `COUNT` prints next."""

DIGEST = hashlib.sha256(STEPS).hexdigest()

LINKED = {"preload": [f"steps={DIGEST}"]}
"""The run of a program that imports from `STEPS`."""


def counter(total: int, wait: int = 1) -> bytes:
    """Return `COUNT`, whose number is in another module. `wait` is in milliseconds."""
    text = COUNT.replace("TOTAL", str(total)).replace("WAIT", str(wait * 1_000_000))
    text = text.replace("(global $n (mut i32) (i32.const 0))", "")
    first = '(import "wasi_snapshot_preview1" "fd_write"'
    text = text.replace(first, f'(import "steps" "n" (global $n (mut i32)))\n{first}', 1)
    return assemble(text.encode())


def modules(folder: Path) -> set[str]:
    """Return the digests of the modules that a node has."""
    return {one.stem for one in (folder / "modules").iterdir()}


def test_it_moves_to_and_fro(world: World, tmp_path: Path) -> None:
    a, b = (world.node(f"{name}:1", tmp_path / name) for name in "ab")
    main = counter(6000)
    program = a.submit([main], LINKED, more=[(DIGEST, STEPS)])
    until(lambda: output(a, program))
    a.moves.migrate(a.find(program), "b:1")
    assert modules(tmp_path / "b") == {DIGEST, hashlib.sha256(main).hexdigest()}
    before = output(b, program)
    until(lambda: len(output(b, program)) > len(before))
    (named,) = b.find(program).record.spec["preload"]
    assert named == f"steps={tmp_path}/b/modules/{DIGEST}.wasm"
    b.moves.migrate(b.find(program), "a:1")
    until(lambda: a.find(program).shown()["standing"] == "ended")
    assert a.find(program).record.code == 7
    assert output(a, program) == lines(0, 6000).decode()


def test_another_node_takes_it_over(tmp_path: Path) -> None:
    """It has no file of the lost node. At the end nothing is left in the store."""
    world = Leasing(tmp_path)
    try:
        a, b = world.leasing("a"), world.leasing("b")
        program = a.submit(
            [counter(2500, 2)], LINKED, more=[(DIGEST, STEPS)], every=0.3,
            lease=LeaseTerms(LEASE, (b.node.hex(),)),
        )  # fmt: skip
        checkpointed(world, program)
        world.lose("a:1")
        goes_on(world, "b", program)
        until(lambda: world.standing("b", program) == "ended", 120)
        assert output(b, program).endswith(lines(2499, 2500).decode())
        until(lambda: not world.left())
    finally:
        for node in [*world.nodes.values()]:
            node.stop(save=False, seconds=5)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    (tmp_path / "node").mkdir()
    made = Here(tmp_path / "node")
    yield made
    made.end()


def test_it_is_sent_saved_and_goes_on(here: Here, tmp_path: Path) -> None:
    """After the loss of its worker, of its node, and as a file on another node."""
    (tmp_path / "steps.wasm").write_bytes(STEPS)
    (tmp_path / "main.wasm").write_bytes(counter(400, 10))
    spec = {"preload": [f"steps={tmp_path}/steps.wasm"]}
    program = here.node.submit(tmp_path / "main.wasm", spec)
    until(lambda: printed(here.node, program))
    here.node.checkpoint(program.program)
    worker = here.node.inspect(program.program).worker
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    assert here.node.wait(program.program, 20).standing == "resumable"
    here.lose()
    here.begin()
    state = tmp_path / "node" / "state"
    assert DIGEST in modules(state), "a program needs it"
    here.node.resume(program.program)
    file = tmp_path / "saved"
    here.node.snapshot(program.program, file)
    assert printed(here.node, program, follow=True) == lines(0, 400)
    (tmp_path / "other").mkdir()
    other = Here(tmp_path / "other")
    try:
        again = other.node.submit(tmp_path / "main.wasm", spec, from_snapshot=file, goes_on=True)
        other.node.wait(again.program, 60)
        found = printed(other.node, again)
        assert found and found == lines(400 - len(found) // 9, 400)
        known = other.node.submit_known(again.module, LINKED)
        other.node.kill(known.program)
        with pytest.raises(SubmissionRefused, match="is no fork"):
            other.node.submit(tmp_path / "main.wasm", spec, from_snapshot=file)
    finally:
        other.end()


def test_a_node_whose_folder_was_moved(tmp_path: Path) -> None:
    """Its programs find their modules where they are now."""
    (tmp_path / "steps.wasm").write_bytes(STEPS)
    (tmp_path / "main.wasm").write_bytes(counter(400, 10))
    (tmp_path / "first").mkdir()
    first = Here(tmp_path / "first")
    program = first.node.submit(
        tmp_path / "main.wasm", {"preload": [f"steps={tmp_path}/steps.wasm"]}
    )
    until(lambda: printed(first.node, program))
    first.node.checkpoint(program.program)
    first.end()
    (tmp_path / "first").rename(tmp_path / "second")
    second = Here(tmp_path / "second")
    try:
        second.node.resume(program.program)
        assert printed(second.node, program, follow=True) == lines(0, 400)
    finally:
        second.end()


def test_modules_that_no_program_has_are_removed(here: Here, tmp_path: Path) -> None:
    with pytest.raises(errors.LinkError):
        given = {"preload": [f"other={DIGEST}"]}
        here.supervisor.submit([counter(1)], given, more=[(DIGEST, STEPS)])
    assert here.node.ps() == []
    here.lose()
    here.begin()
    assert not modules(tmp_path / "node" / "state")


@pytest.mark.parametrize(
    ("preload", "more", "why"),
    [
        ([f"steps={DIGEST}"], [], "the node has no module"),
        ([f"steps={DIGEST}"], [(DIGEST, STEPS + b"\0")], "another one than was named"),
        ([f"steps={DIGEST}"], [("0" * 64, STEPS)], "does not name"),
        (["steps=/etc/passwd"], [], "not by its digest"),
        ([f"steps=../{DIGEST}"], [], "not by its digest"),
        ([f"m{number}={DIGEST}" for number in range(64)], [], "at most 64 modules"),
    ],
)
def test_submissions_that_are_refused(
    here: Here, preload: list[str], more: list[tuple[str, bytes]], why: str
) -> None:
    with pytest.raises(SubmissionRefused, match=why):
        here.supervisor.submit([counter(1)], {"preload": preload}, more=more)
    assert here.node.ps() == []


def test_a_module_that_is_none(here: Here) -> None:
    """It is decoded in the worker; the node goes on."""
    junk = b"\0asm\1\0\0\0junk"
    digest = hashlib.sha256(junk).hexdigest()
    with pytest.raises(errors.ModuleError):
        given = {"preload": [f"steps={digest}"]}
        here.supervisor.submit([counter(1)], given, more=[(digest, junk)])
    assert here.node.ps() == []


def test_a_policy_is_about_all_modules() -> None:
    main = "11" * 32
    run = checked_run(LINKED)
    assert all_modules(main, run) == (DIGEST, main)
    wish = ProgramWish(tuple(map(bytes.fromhex, all_modules(main, run))))
    Policy(modules=wish.modules).check(wish)
    with pytest.raises(AccessRefused, match=DIGEST[:12]):
        Policy(modules=(bytes.fromhex(main),)).check(wish)
    policy_check(())(main, run)


def test_files_that_are_sent(tmp_path: Path) -> None:
    """Text is assembled; the run names digests, and each module is there once."""
    (tmp_path / "steps.wat").write_text('(module (global (export "n") (mut i32) (i32.const 0)))')
    (tmp_path / "steps.wasm").write_bytes(STEPS)
    names = [f"{tmp_path}/steps.wat", f"{tmp_path}/steps.wasm"]
    given: dict[str, Any] = {"args": ["x"], "preload": [f"a={names[0]}", f"b={names[1]}"]}
    spec, found = with_modules(given)
    assert spec == {"args": ["x"], "preload": [f"a={DIGEST}", f"b={DIGEST}"]}
    assert found == {DIGEST: STEPS} and with_modules({}) == ({}, {})
    with Node(f"unix:{tmp_path}/nobody") as node, pytest.raises(FileNotFoundError):
        node.submit(STEPS, {"preload": [f"a={tmp_path}/none"]})
