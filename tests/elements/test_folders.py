"""Folders of elements: recorded graphs, every fault, drawings, and one element by hand."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml", reason="needs pyyaml")

from tests.elements.folders import SECOND, as_recorded, steps, written
from tests.mem.served import served
from tests.mem.test_memory_wire import VECTORS, recorded
from wasmsr.elements.failures import ElementError
from wasmsr.elements.folder.action_json import action_json, read_graph
from wasmsr.elements.folder.checks import faults_of
from wasmsr.elements.folder.drawing import drawn, svg
from wasmsr.elements.folder.reading import read_element, read_folder
from wasmsr.elements.hand import memories_of, params_from, run_by_hand
from wasmsr.elements.running import checked_text
from wasmsr.mem.durl import Durl

PATIENCE = 60.0


def recorded_graphs() -> list[dict[str, Any]]:
    if not VECTORS.exists():
        return []
    lines = [json.loads(line) for line in VECTORS.read_text().splitlines()]
    return [line["dag"] for line in lines if line["kind"] == "dag"]


def without_code(dag: dict[str, Any]) -> dict[str, Any]:
    dag = copy.deepcopy(dag)
    for one in dag["functions"][0]["objects"]:
        assert one["exec"].pop("code")
    return dag


@recorded
@pytest.mark.parametrize("at", range(7))
def test_recorded_graphs_but_for_code(at: int, tmp_path: Path) -> None:
    dag = recorded_graphs()[at]
    graph, faults = read_folder(as_recorded(tmp_path, dag))
    assert not faults
    made = json.loads(json.dumps(action_json(graph)))
    assert without_code(made) == without_code(dag)


@recorded
def test_there_are_seven_recorded_graphs() -> None:
    assert len(recorded_graphs()) == 7


def test_a_graph_as_json_is_the_same_graph(tmp_path: Path) -> None:
    graph, _ = read_folder(steps(tmp_path / "steps"))
    path = tmp_path / "action.json"
    path.write_text(json.dumps(action_json(graph)))
    again, faults = read_graph(path)
    assert not faults and not faults_of(again)
    assert action_json(again) == action_json(graph)


# ---- what bad folders get ------------------------------------------------------------------------


def test_no_folder_and_no_elements(tmp_path: Path) -> None:
    with pytest.raises(ElementError, match="No such file"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "readme.py").write_text("")
    with pytest.raises(ElementError, match="no elements"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("type: memory\nlimit: {}", "unknown key limit"),
        ("corunning: [a]", "type is missing"),
        ("type: stone", "type is compute or memory, not stone"),
        ("type: memory\n  corunning: [", "one.o.yaml, line 2"),
        ("type: &a memory\ncorunning: [*a]", "aliases are not read"),
        ("[1, 2]", "no map"),
        ("type: memory\nparallelism: many", "parallelism is a whole number, not many"),
        ("type: memory\nparallelism: true", "parallelism is a whole number"),
        ("type: memory\ncorunning: [1]", "corunning is a list of names"),
        ("type: memory\nlimits: {disk: 1}", "unknown key disk"),
        ("type: memory\nlimits: {cpu: fast}", "cpu is a number"),
        ("type: compute", "needs a program"),
        ("type: memory\ncorunning: {a: {type: pipe}}", "type is rdma, not pipe"),
        ("!!python/object/apply:os.getpid []", "one.o.yaml"),
    ],
)
def test_wrong_yaml(tmp_path: Path, text: str, sentence: str) -> None:
    _, faults = read_folder(written(tmp_path, one=text))
    assert len(faults) == 1 and sentence in faults[0]


def test_the_line_of_an_error_in_python_is_the_file_s(tmp_path: Path) -> None:
    (tmp_path / "one.o.py").write_text("# a comment\n#@ type: compute\n#@ parents: [\n\nx = 1\n")
    with pytest.raises(ElementError, match=r"line [3-6]"):
        read_element(tmp_path / "one.o.py")


def test_two_elements_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "one.o.py").write_text("#@ type: compute\n")
    (tmp_path / "one.o.yaml").write_text("type: memory\n")
    _, faults = read_folder(tmp_path)
    assert faults == ["one.o.yaml: one.o.py has that name too"]


MAIN = "\n---\ndef main(params, action):\n    return {}\n"


@pytest.mark.parametrize(
    ("files", "sentences"),
    [
        ({"a": "type: compute\nparents: [b]" + MAIN}, ["parents: there is no element b"]),
        (
            {"a": "type: compute\ndependents: [b]\nparents: [b]" + MAIN,
             "b": "type: compute\ndependents: [a]\nparents: [a]" + MAIN},
            ["a cycle: ", "no root"],
        ),
        (
            {"a": "type: compute\ndependents: [b]" + MAIN, "b": "type: compute" + MAIN},
            ["a has b in dependents, but is not in its parents"],
        ),
        (
            {"a": "type: compute" + MAIN, "b": "type: compute\nparents: [a]" + MAIN},
            ["b has a as a parent, but is not in its dependents"],
        ),
        ({"a": "type: compute" + MAIN, "m": "type: memory"}, ["m: memory that nobody uses"]),
        ({"m": "type: memory"}, ["nobody uses", "no element computes"]),
        ({"a": "type: compute\nparallelism: 0" + MAIN}, ["parallelism is 1 to"]),
        ({"a": "type: compute\nlimits: {mem: much}" + MAIN}, ["much is no size"]),
        ({"a": "type: compute\nlimits: {mem: 0}" + MAIN}, ["0 bytes are too few"]),
        ({"a": "type: compute\nlimits: {cpu: -1}" + MAIN}, ["cpu is -1"]),
        (
            {"numbers": "type: memory\ncorunning: [a]",
             "a": "type: compute\ncorunning: {number: {}}" + MAIN},
            ["no element number; did you mean numbers?"],
        ),
        (
            {"a": "type: compute\ndependents: [b]\ncorunning: {b: {}}" + MAIN,
             "b": "type: compute\nparents: [a]" + MAIN},
            ["starts together with"],
        ),
        (
            {"a": "type: compute\nparents: [m]\ncorunning: {m: {}}" + MAIN, "m": "type: memory"},
            ["m is memory, which has no result"],
        ),
    ],
)  # fmt: skip
def test_faults_of_a_graph(tmp_path: Path, files: dict[str, str], sentences: list[str]) -> None:
    graph, faults = read_folder(written(tmp_path, **files))
    assert not faults
    found = faults_of(graph)
    for sentence in sentences:
        assert any(sentence in fault for fault in found), found


def test_all_faults_are_listed(tmp_path: Path) -> None:
    written(tmp_path, a="type: compute\nparents: [x, y]\nparallelism: -1" + MAIN, b="typ: memory",
            m="type: memory")  # fmt: skip
    done = typed("check", str(tmp_path))
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 5, done.stdout


def typed(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wasmsr", "dag", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"functions": [7]}', '{"functions": [{"objects": [{}]}]}', "[" * 9999]
)
def test_a_file_that_is_no_graph(tmp_path: Path, text: str) -> None:
    (tmp_path / "action.json").write_text(text)
    try:
        graph, faults = read_graph(tmp_path / "action.json")
    except ElementError:
        return
    assert faults and not graph.elements


# ---- drawings ------------------------------------------------------------------------------------


def test_drawings(tmp_path: Path) -> None:
    graph, _ = read_folder(steps(tmp_path / "steps"))
    assert drawn(graph) == ["first = numbers", "  second <- first = numbers"]
    assert drawn(graph, {"first": "ended"})[0].startswith("✓ ")
    picture = ElementTree.fromstring(svg(graph, {"first": "ended"}))
    assert len(picture.findall(".//{*}rect")) == 3
    assert len(picture.findall(".//{*}line")) == 3


def test_commands_gen_check_and_show(tmp_path: Path) -> None:
    steps(tmp_path / "steps")
    assert typed("gen", "steps", cwd=tmp_path).returncode == 0
    assert (
        "3 elements: 2 compute, 1 are memory" in typed("check", "action.json", cwd=tmp_path).stdout
    )
    shown = typed("show", "--svg", "steps.svg", "steps", cwd=tmp_path)
    assert shown.returncode == 0 and (tmp_path / "steps.svg").read_text().startswith("<svg")
    assert typed("gen", str(tmp_path)).returncode == 2


# ---- by hand -------------------------------------------------------------------------------------


def test_texts_of_memories() -> None:
    assert memories_of("mem1:2333") == [Durl("mem1", "tcp", {"url": "tcp://localhost:2333"})]
    many = memories_of("3@mem1:2333:tcp:size,64:other,x")
    assert [one.name for one in many] == ["mem1@0", "mem1@1", "mem1@2"]
    assert many[2].values == {"url": "tcp://localhost:2335", "size": "64", "other": "x"}
    assert memories_of("memory:4:tcp_server")[0].values["url"] == "tcp://*:4"
    for wrong in ("mem1", "mem1:", ":4", "mem1:0", "mem1:70000", "9@m:65530", "m:4:tcp:size"):
        with pytest.raises(Exception, match=r"\w"):
            memories_of(wrong)


def test_results_of_others_are_read_in_order_of_index(tmp_path: Path) -> None:
    for name in ("step1@10", "step1@9", "step10", "step1x@1"):
        (tmp_path / f"rundisagg.{name}.json").write_text(json.dumps(name))
    assert params_from(tmp_path, ["step1"]) == {"step1": ["step1@9", "step1@10"]}
    assert params_from(tmp_path, ["step10"]) == {"step10": ["step10"]}
    with pytest.raises(ElementError, match="step2 has no result"):
        params_from(tmp_path, ["step2"])
    (tmp_path / "rundisagg.step1.json").write_text("1")
    with pytest.raises(ElementError, match="without an index"):
        params_from(tmp_path, ["step1"])
    (tmp_path / "rundisagg.step10.json").write_text("{")
    with pytest.raises(ElementError, match=r"rundisagg\.step10\.json"):
        params_from(tmp_path, ["step10"])


def test_two_steps_by_hand(tmp_path: Path) -> None:
    steps(tmp_path)
    with served(1 << 20) as memory:
        numbers = memories_of(f"numbers:{memory.server.port}")
        run_by_hand(read_element(tmp_path / "first.o.py"), numbers, tmp_path)
        text = run_by_hand(read_element(tmp_path / "second.o.py"), numbers, tmp_path)
        assert json.loads(text) == {"sum": 2997}
        done = typed("exec", str(tmp_path / "second.o.py"), "-m", f"numbers:{memory.server.port}",
                     "-p", "-d", str(tmp_path))  # fmt: skip
        assert done.stdout == '[result] {"sum": 2997}\n'


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("x = 1", "has no main"),
        ("main = 7", "has no main"),
        ("def main(params): return {}", "main does not take two values"),
        ("def main(params, action): return {1, 2}", "the result is no JSON"),
        ("def main(params, action): return float('nan')", "the result is no JSON"),
        ("def main(:", "SyntaxError|invalid syntax"),
        ("def main(p, action): action.get_transport('nothing', 'rdma')", "has no memory nothing"),
        ("def main(p, action): action.get_transport('m', 'pipe')", "pipe is no kind"),
    ],
)
def test_programs_of_the_wrong_shape(tmp_path: Path, source: str, sentence: str) -> None:
    written(tmp_path, one="type: compute\n---\n" + source)
    with pytest.raises(Exception, match=sentence):
        run_by_hand(read_element(tmp_path / "one.o.py"), memories_of("m:1"), tmp_path)


def test_scad_s_names(tmp_path: Path) -> None:
    """`wskgen` and `rundisagg` with the words of the peer; elements that import `disagg`."""
    steps(tmp_path / "steps")
    second = tmp_path / "steps" / "second.o.py"
    second.write_text(SECOND.replace("\ndef main", "from disagg import *\n\ndef main"))
    scripts = Path(sys.executable).parent
    if not (scripts / "rundisagg").exists():
        pytest.skip("the scripts of the package are not installed")
    done = subprocess.run([scripts / "wskgen", "-o", "graph.json", "steps"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "graph.json").exists(), done.stderr
    with served(1 << 20) as memory:
        for name in ("first", "second"):
            words = [f"steps/{name}.o.py", "-d", ".", "-p", "-m", f"numbers:{memory.server.port}",
                     f"other:{memory.server.port}"]  # fmt: skip
            done = subprocess.run([scripts / "rundisagg", *words], cwd=tmp_path,
                                  capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
    assert done.stdout == '[result] {"sum": 2997}\n', done.stderr
    assert read_element(second).name == "second"


@pytest.mark.parametrize(
    "name", ["../../out", "/tmp/out", "a/b", ".hidden", "", "a;tcp", "a,b", "a=b", "a\0b",
             "a\nb", "\ud800", "n" * 201], ids=ascii,
)  # fmt: skip
def test_a_name_that_is_no_file_s(tmp_path: Path, name: str) -> None:
    """A graph in JSON comes from others: files and texts of transports have its names in them."""
    graph, _ = read_folder(steps(tmp_path / "steps"))
    for of in ("first", "numbers"):
        said = json.loads(json.dumps(action_json(graph)))
        for one in said["functions"][0]["objects"]:
            one["name"] = name if one["name"] == of else one["name"]
        (tmp_path / "action.json").write_text(json.dumps(said))
        _, faults = read_graph(tmp_path / "action.json")
        assert any("cannot be used" in fault for fault in faults)
    said = json.loads(json.dumps(action_json(graph)))
    said["functions"][0]["objects"][0]["porusParams"]["transports"] = {"numbers": name}
    (tmp_path / "action.json").write_text(json.dumps(said))
    _, faults = read_graph(tmp_path / "action.json")
    assert any("trans" in fault and "cannot be used" in fault for fault in faults)


def test_a_result_that_is_too_long_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.elements.running.LARGEST_RESULT", 100)
    with pytest.raises(ElementError, match="more than 100 bytes"):
        checked_text("first", b'"' + b"x" * 100)
