"""Requests that are wrong, or want what they may not have: a typed error, and nothing half made."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.programs import counting, request
from wasmsr.interp.modules.module import assemble
from wasmsr.jobs import Executor, JobError, LogFrame

NOTHING = '(module (memory (export "memory") 1) (func (export "_start")))'
LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))'


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    with Executor(tmp_path_factory.mktemp("jobs")) as made:
        yield made


def refused(executor: Executor, given: dict[str, Any]) -> JobError:
    with pytest.raises(JobError) as caught:
        executor.start(given)
    return caught.value


def nothing(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return request(tmp_path, "e", NOTHING, **more)


@pytest.mark.parametrize(
    ("outputs", "fact"),
    [
        ([("../out", "/o")], "name"),
        ([("..", "/o")], "name"),
        ([("/etc", "/o")], "name"),
        ([("a/b", "/o")], "name"),
        ([("stdout", "/o")], "name"),
        ([("exitCode", "/o")], "name"),
        ([("a\0b", "/o")], "name"),
        ([("a::b", "/o")], "name"),
        ([("x" * 300, "/o")], "name"),
        ([("o", "/../x")], "path"),
        ([("o", "/")], "path"),
        ([("o", "/a::b")], "path"),
        ([("o", "/main.wasm")], "main.wasm"),
        ([("o", "/main.wasm/x")], "main.wasm"),
        ([("o", "/o/x")], "inside"),
        ([("o", "/a"), ("o", "/b")], "twice"),
        ([("o", "/a"), ("p", "/a")], "one place"),
        ([("o", "/a"), ("p", "/a/b")], "inside"),
        ([("o", "/p"), ("p", "/x")], "one place"),
        ([("main.wasm", "/x")], "main.wasm"),
    ],
)  # fmt: skip
def test_outputs(
    executor: Executor, tmp_path: Path, outputs: list[tuple[str, str]], fact: str
) -> None:
    given = nothing(tmp_path, outputs=[{"name": a, "path": b} for a, b in outputs])
    error = refused(executor, given)
    assert error.code == "OutputConfigError"
    assert fact in error.message
    assert error.hint
    assert not (executor.folder / "e" / "results").exists()


@pytest.mark.parametrize(
    ("target", "fact"),
    [
        ("", "target"),
        ("/", "path"),
        ("/..", "path"),
        ("/a/../../b", "path"),
        ("/a::b", "path"),
        ("/main.wasm", "twice"),
        ("//main.wasm/", "twice"),
        ("/main.wasm/x", "in another"),
    ],
)
def test_targets(executor: Executor, tmp_path: Path, target: str, fact: str) -> None:
    (tmp_path / "data").write_text("x")
    given = nothing(tmp_path, inputs=[{"source": str(tmp_path / "data"), "target": target}])
    error = refused(executor, given)
    assert error.code == "InputConfigError"
    assert fact in error.message


def test_sources(executor: Executor, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for source in ("", str(tmp_path / "nosuch"), str(tmp_path / "fifo"), "/dev/null", "a\0b"):
        given = nothing(tmp_path, inputs=[{"source": source, "target": "/x"}])
        assert refused(executor, given).code == "InputConfigError"
    (tmp_path / "file").write_text("x")
    changed = {"source": str(tmp_path / "file"), "target": "/x", "read_only": False}
    assert refused(executor, nothing(tmp_path, inputs=[changed])).code == "InputConfigError"


@pytest.mark.parametrize("id", ["", "..", "a/b", "/a", "a\0", "-a", "a b", "x" * 201, "é"])
def test_ids(executor: Executor, tmp_path: Path, id: str) -> None:
    given = nothing(tmp_path)
    given["execution_id"] = id
    assert refused(executor, given).code == "ExecutorSpecValidationErr"
    assert not executor.should_bid(given).should_bid


@pytest.mark.parametrize(
    "more",
    [
        {"engine": {"EntryModule": ""}},
        {"engine": {"EntryModule": "/main.wasm", "Entry": "x"}},
        {"engine": {"Type": "docker", "Params": {}}},
        {"engine": 7},
        {"inputs": [7]},
        {"nosuch": 1},
        {"env": {"A=B": "x"}},
        {"env": {"": "x"}},
        {"env": {"A": "x\0"}},
        {"env": {"A": 1}},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"on_loss": "maybe"},
        {"resources": {"memory": "1"}},
        {"output_limits": {"stdout_file": -1}},
        {"execution_dir": 7},
        {"engine": {"EntryModule": "/main.wasm", "Parameters": ["a\0b"]}},
    ],
)
def test_other_wrong_requests(executor: Executor, tmp_path: Path, more: dict[str, Any]) -> None:
    error = refused(executor, {**nothing(tmp_path), **more})
    assert error.code in ("SpecError", "FilesystemError"), error.as_dict()
    assert executor.list() == []


def test_memory(executor: Executor, tmp_path: Path) -> None:
    for memory in (2**32 + 1, 2**64, 2**200, -1):
        error = refused(executor, nothing(tmp_path, resources={"memory": memory}))
        assert error.code == "MemoryLimitError"
    text = '(module (memory (export "memory") 65536) (func (export "_start")))'
    given = request(tmp_path, "e", text, resources={"memory": 1 << 20})
    assert refused(executor, given).code == "ModuleCompileError"


def test_entrypoints(executor: Executor, tmp_path: Path) -> None:
    text = '(module (memory (export "memory") 1) (func (export "f") (param i32)) (func $g))'
    for entrypoint in ("f", "g", "memory", "_start", ""):
        given = request(tmp_path, "e", text)
        given["engine"]["Entrypoint"] = entrypoint
        error = refused(executor, given)
        assert error.code == "EntrypointError"
        assert "f" in error.details["exports"]


def module(folder: Path, name: str, *imports: str, export: str = "f") -> None:
    lines = "".join(f'(import "{one}" "f" (func))' for one in imports)
    (folder / name).write_bytes(
        assemble(f'(module {lines} (func (export "{export}")) (func (export "_start")))'.encode())
    )


def linked(folder: Path, entry: str, *targets: str, imports: list[str] | None = None) -> Any:
    return {
        "execution_id": "e",
        "engine": {"EntryModule": entry, "ImportModules": imports or []},
        "inputs": [
            {"source": str(folder / one.strip("/").replace("/", "-")), "target": one}
            for one in targets
        ],
    }


def test_modules_that_import_from_each_other(executor: Executor, tmp_path: Path) -> None:
    module(tmp_path, "a", "b", "c")
    module(tmp_path, "b", "c")
    module(tmp_path, "c")
    given = linked(tmp_path, "/a", "/a", "b", "/c")
    assert executor.run({**given, "execution_id": "chain"}).error == ""
    module(tmp_path, "c", "a")
    error = refused(executor, given)
    assert error.code == "ModuleLoadError"
    assert "circle" in error.message
    module(tmp_path, "c", "c")
    assert "circle" in refused(executor, linked(tmp_path, "/a", "/a", "b", "/c")).message
    module(tmp_path, "c", export="other")
    error = refused(executor, given)
    assert error.code == "ModuleLoadError"
    assert error.details == {"importer": "b", "module": "c", "field": "f"}
    (tmp_path / "c").write_bytes(
        assemble(b'(module (func (export "f") (param i64)) (func (export "_start")))')
    )
    assert refused(executor, given).code == "ModuleLoadError"  # another type


def test_modules_outside_of_inputs(executor: Executor, tmp_path: Path) -> None:
    folder, outside = tmp_path / "mods", tmp_path / "outside.wasm"
    folder.mkdir()
    outside.write_bytes(assemble(NOTHING.encode()))
    (folder / "link.wasm").symlink_to(outside)
    inputs = [{"source": str(folder), "target": "/mods"}]
    for entry in ("/mods", "/mods/link.wasm", "/mods/../outside.wasm", "/outside.wasm", "/mods/x"):
        given = {"execution_id": "e", "engine": {"EntryModule": entry}, "inputs": inputs}
        assert refused(executor, given).code == "ModuleNotFound"
    (folder / "link.wasm").unlink()
    (folder / "one.wasm").write_bytes(outside.read_bytes())
    given = {"execution_id": "one", "engine": {"EntryModule": "/mods"}, "inputs": inputs}
    assert executor.run(given).exit_code == 0


READER = """
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 32) "{path}")
  (func (export "_start")
    (call $exit (call $open (i32.const {fd}) (i32.const 1) (i32.const 32) (i32.const {size})
      (i32.const {flags}) (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 8)))))
"""
"""Exits with the error of an open."""


@pytest.mark.full
def test_links_in_inputs_lead_nowhere_else(executor: Executor, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "plain").write_text("x")
    for name, to in (("up", "../secret"), ("far", str(tmp_path / "secret")), ("to", "plain")):
        (folder / name).symlink_to(to)
    # Errors of WASI: 0 none, 44 ENOENT, 63 EPERM, 69 EROFS, 31 EISDIR, 20 EEXIST.
    cases = (
        (4, "to", 0, 2, 0), (4, "up", 0, 2, 63), (4, "far", 0, 2, 63), (4, "../secret", 0, 2, 63),
        (4, "plain", 9, 64, 0), (4, "new", 1, 64, 44), (4, "sub", 0, 64, 31),
        (4, "plain", 5, 64, 20),
        (3, "new", 1, 64, 44), (3, "etc/passwd", 0, 2, 44), (3, "main.wasm", 8, 64, 0),
    )  # fmt: skip
    for number, (fd, path, flags, rights, code) in enumerate(cases):
        text = READER
        for key, value in (
            ("fd", fd), ("path", path), ("size", len(path)), ("flags", flags), ("rights", rights)
        ):  # fmt: skip
            text = text.replace("{" + key + "}", str(value))
        given = request(
            tmp_path, f"open{number}", text, inputs=[{"source": str(folder), "target": "/in"}]
        )
        assert (path, executor.run(given).exit_code) == (path, code)
    assert (folder / "plain").read_text() == "x"  # TRUNC of an input does nothing
    assert (tmp_path / "open10.wasm").stat().st_size > 100


def test_a_folder_is_not_used_twice(executor: Executor, tmp_path: Path) -> None:
    there = str(tmp_path / "there")
    assert (
        executor.run({**nothing(tmp_path, execution_dir=there), "execution_id": "f1"}).error == ""
    )
    again = {**nothing(tmp_path, execution_dir=there), "execution_id": "f2"}
    assert refused(executor, again).code == "FilesystemError"
    planted = tmp_path / "planted"
    (planted / "results").mkdir(parents=True)
    (planted / "results/out").symlink_to(tmp_path)
    outputs = [{"name": "out", "path": "/out"}]
    given = nothing(tmp_path, execution_dir=str(planted), outputs=outputs)
    assert refused(executor, given).code == "FilesystemError"


def test_an_output_that_is_too_long_is_cut(executor: Executor, tmp_path: Path) -> None:
    given = counting(tmp_path, "long", lines=100)
    given["output_limits"] = {"stdout_file": 30, "stdout_returned": 10}
    result = executor.run(given)
    assert (result.stdout, result.stdout_truncated) == ("0000001\n00", True)
    assert len((executor.folder / "long/results/stdout").read_bytes()) == 30
    log = b"".join(one.data for one in executor.logs("long") if isinstance(one, LogFrame))
    assert len(log) == 800


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: data[: len(data) // 2],
        lambda data: b"x" * 2000,
        lambda data: data.replace(b"program.snapshot", b"../../etc/passwd"),
        lambda data: data.replace(b'"log": ', b'"log": 1'),
        lambda data: data[:1024] + bytes(512) + data[1536:],
        lambda data: data[:-3000] + bytes(3000),
    ],
)
def test_damaged_files_of_saved_executions(
    executor: Executor, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    id = f"s{len(executor.list())}"
    executor.start({**request(tmp_path, id, LOOP), "execution_id": id})
    executor.snapshot(id, tmp_path / "whole")
    executor.cancel(id)
    (tmp_path / "bad").write_bytes(damage((tmp_path / "whole").read_bytes()))
    with pytest.raises(JobError) as caught:
        executor.restore(tmp_path / "bad", f"{id}-again")
    assert caught.value.code in ("SpecError", "ModuleLoadError")
    assert not (executor.folder / f"{id}-again" / "results").exists()


def test_a_file_of_a_saved_execution_grants_nothing(executor: Executor, tmp_path: Path) -> None:
    executor.start({**request(tmp_path, "mine", LOOP), "execution_id": "mine"})
    executor.snapshot("mine", tmp_path / "saved")
    executor.cancel("mine")
    with tarfile.open(tmp_path / "saved") as archive:
        assert archive.getnames() == ["execution.json", "frames", "program.snapshot"]
    with Executor(tmp_path / "other") as other:
        with pytest.raises(JobError) as caught:
            other.restore(tmp_path / "saved", "again")
        assert caught.value.code == "ExecutionNotFound"
        other.restore(tmp_path / "saved", "again", request=request(tmp_path, "mine", LOOP))
        assert other.describe("again").state == "running"
        for file in ("nosuch", "."):
            with pytest.raises(JobError) as caught:
                other.restore(tmp_path / file, "more")
            assert caught.value.code == "SpecError"
