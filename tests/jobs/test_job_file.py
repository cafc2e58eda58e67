"""Job files: those of a real peer, and what is said of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wasmsr.jobs.failures import KINDS, JobError

pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from wasmsr.jobs.description.job import (  # noqa: E402
    Constraint,
    InputSource,
    Job,
    ResultPath,
    read_span,
)
from wasmsr.jobs.description.job_file import read_job  # noqa: E402
from wasmsr.jobs.description.quantities import read_bytes, read_cpu  # noqa: E402
from wasmsr.jobs.description.schema import schema  # noqa: E402
from wasmsr.jobs.description.yaml_tree import FILE_LIMIT, YamlProblem, read_yaml  # noqa: E402

PEER = Path(__file__).parents[3] / "shared" / "vectors" / "bacalhau"
REFUSED = {
    "emptymodule": "SpecError", "memhuge": "MemoryLimitError", "missing": "ModuleNotFound",
}  # fmt: skip
"""Job files that the peer took and then failed; the code that the reader gives at once."""

WHOLE = """\
Name: resize
Namespace: pictures
Type: service
Priority: 5
Count: 3
Constraints:
  - {Key: zone, Operator: in, Values: [a, b]}
Labels: {team: media}
Meta: {wasmsr/snapshotEvery: 30s, wasmsr/onLoss: restore, note: "7"}
Tasks:
  - Name: main
    Engine:
      Type: wasm
      Params:
        EntryModule: /app.wasm
        Parameters: [-v, "2", yes, 12:30]
        ImportModules: [/lib]
    Env: {B: "2", A: "1"}
    InputSources:
      - Source: {Type: inline, Params: {URL: "data:,x"}}
        Target: /app.wasm
      - Source: {Type: localDirectory, Params: {sourcepath: /srv/lib.wasm}}
        Target: /lib
        Alias: library
      - Source: {Type: s3, Params: {bucket: b, KEY: "in/", endpoint: "http://localhost:1"}}
        Target: /in
    ResultPaths:
      - {Name: out, Path: /outputs}
    Publisher: {Type: s3, Params: {bucket: b, key: results, encoding: plain}}
    Resources: {CPU: 500m, Memory: 64MiB, Disk: 1.5GB, GPU: "0"}
    Network: {Type: HTTP, Domains: [example.com]}
    Timeouts: {ExecutionTimeout: 60, TotalTimeout: 90}
"""

SMALL: dict[str, Any] = {
    "Tasks": [
        {
            "Engine": {"Type": "wasm", "Params": {"EntryModule": "/a"}},
            "InputSources": [
                {"Source": {"Type": "inline", "Params": {"URL": "data:,x"}}, "Target": "/a"}
            ],
        }
    ]
}


def refused(data: bytes | str, **options: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        read_job(data.encode() if isinstance(data, str) else data, "job.yaml", **options)
    return caught.value


def changed(*changes: str) -> JobError:
    return refused(json.dumps(SMALL), changes=changes)


@pytest.mark.skipif(not PEER.exists(), reason="needs ../shared/vectors")
def test_the_files_of_a_real_peer() -> None:
    files = sorted((PEER / "jobs").glob("*.yaml"))
    assert len(files) == 18
    for path in files:
        data = path.read_bytes()
        if code := REFUSED.get(path.stem):
            assert refused(data).code == code
            continue
        job, plain = read_job(data), json.loads(data)["Tasks"][0]
        params = plain["Engine"]["Params"]
        assert (job.name, job.type, job.count) == (path.stem, "batch", 1)
        assert job.task.engine.module == params["EntryModule"]
        assert list(job.task.engine.parameters) == params.get("Parameters", [])
        assert [one.target for one in job.task.inputs] == [
            one["Target"] for one in plain["InputSources"]
        ]


def test_every_field() -> None:
    job = read_job(WHOLE.encode())
    task = job.task
    assert (job.name, job.namespace, job.type) == ("resize", "pictures", "service")
    assert (job.priority, job.count) == (5, 3)
    assert job.constraints == (Constraint("zone", "in", ("a", "b")),)
    assert (job.labels, job.snapshot_every, job.on_loss) == ({"team": "media"}, 30.0, "restore")
    assert task.engine.parameters == ("-v", "2", "yes", "12:30")
    assert (task.engine.entrypoint, task.engine.imports) == ("_start", ("/lib",))
    assert task.env == {"A": "1", "B": "2"}
    assert task.inputs[1] == InputSource(
        "localDirectory", {"SourcePath": "/srv/lib.wasm"}, "/lib", "library"
    )
    assert task.inputs[2].params == {"Bucket": "b", "Key": "in/", "Endpoint": "http://localhost:1"}
    assert task.results == (ResultPath("out", "/outputs"),)
    assert task.publisher.params == {"Bucket": "b", "Key": "results", "Encoding": "plain"}
    assert (task.resources.cpu, task.resources.memory) == (0.5, 64 << 20)
    assert task.resources.disk == 1_500_000_000
    assert (task.network.kind, task.network.domains) == ("HTTP", ("example.com",))
    assert (task.timeouts.execution, task.timeouts.queue, task.timeouts.total) == (60, 0, 90)


def test_json_and_defaults() -> None:
    job = read_job(json.dumps(SMALL).encode())
    assert isinstance(job, Job)
    assert (job.type, job.count, job.namespace, job.on_loss) == ("batch", 1, "default", "restart")
    assert (job.task.publisher.kind, job.task.network.kind) == ("local", "None")
    assert job.snapshot_every is job.task.resources.memory is None


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(dict(schema()))
    jsonschema.validate(SMALL, dict(schema()))


@pytest.mark.parametrize(
    ("old", "new", "place", "sentence", "hint"),
    [
        ("Count", "Cuont", (5, 1), "the job has no key Cuont", "did you mean Count?"),
        ("Count: 3", "Count: three", (5, 1), "Count is text, not a whole number", None),
        ("Count: 3", "Count: 0", (5, 1), "Count is less than 1", None),
        ("Type: service", "Type: bach", (3, 1), "Type cannot be bach", "did you mean batch?"),
        ("Type: wasm", "Type: docker", (13, 7), "Tasks[0].Engine.Type cannot be docker", None),
        ('A: "1"', "A: 1", (18, 19), "Tasks[0].Env.A is the number 1, not text", 'quotes: "1"'),
        ('A: "1"', "A: true", (18, 19), "the truth value true, not text", 'quotes: "true"'),
        ("EntryModule: ", "Module: ", (14, 7), "lacks the key EntryModule", None),
        ("/app.wasm\n", "\n", (15, 9), "EntryModule is empty, not text", None),
        ("64MiB", "5GiBs", (30, 28), "'5GiBs' is no size, such as 512MiB", None),
        ("500m", "much", (30, 17), "'much' is no number of CPUs", None),
        ('GPU: "0"', 'GPU: "1"', (30, 56), "a Wasm program can use no GPU", None),
        ("60,", "100,", (32, 16), "is longer than TotalTimeout", None),
        ("30s", "often", (9, 8), "'often' is no time, such as 30", None),
        ("wasmsr/onLoss", "wasmsr/onLos", (9, 35), "Meta has no key", "mean wasmsr/onLoss?"),
        ("Target: /in", "Target: /lib/x", (26, 9), "is the place of", "a place of its own"),
        ("Target: /in", "Target: /../x", (26, 9), "is no path of a file", None),
        ("Name: out", "Name: stdout", (28, 10), "cannot be the name of a folder", None),
        ("Path: /outputs", "Path: /in/x", (28, 21), "is the place of", None),
        ("[/lib]", "[/lob]", (17, 25), "no input is at '/lob'", "did you mean /lib?"),
        ("Values: [a, b]", "Values: []", (7, 31), "the operator in needs values", None),
        ('"2", A', '"env:HOME", A', (18, 11), "would take a variable of the server", None),
        ("Type: HTTP", "Type: Host", (31, 27), "domains are only for the type HTTP", None),
    ],
)  # fmt: skip
def test_a_wrong_value(old: str, new: str, place: Any, sentence: str, hint: str | None) -> None:
    assert WHOLE.count(old) >= 1
    error = refused(WHOLE.replace(old, new, 1))
    assert error.message.startswith(f"job.yaml:{place[0]}:{place[1]}: ")
    assert sentence in error.message
    assert hint is None or hint in (error.hint or "")
    first = error.details["problems"][0]
    assert (first["line"], first["column"]) == place


@pytest.mark.parametrize(
    ("data", "place", "sentence"),
    [
        (b"", None, "it is empty"),
        (b"a: b: c", (1, 5), "mapping values are not allowed"),
        (b"Name: x\nName: y", (2, 1), "the key 'Name' is there already, in line 1"),
        (b"x: \xff", (1, 1), "it is not UTF-8"),
        (b"x: 1\n---\ny: 1", (2, 1), "a second document begins"),
        (b"x: !!python/object:os.system 1", (1, 4), "means nothing here"),
        (b"<<: {a: 1}", (1, 1), "maps are not merged"),
        (b"x: *y", (1, 4), "*y names nothing"),
        (b"&a [*a]", (1, 5), "*a names nothing"),
        (b"? [a]\n: 1", (1, 3), "a key is one word"),
        (b"[" * 40 + b"]" * 40, (1, 33), "nested deeper"),
        (b"- " * 40, (1, 65), "nested deeper"),
        (b"#" * (FILE_LIMIT + 1), None, "it has more than 1048576 bytes"),
        (b"5", (1, 1), "the job is the number 5, not a map of keys"),
    ],
)
def test_what_is_no_job_file(data: bytes, place: Any, sentence: str) -> None:
    error = refused(data)
    assert sentence in error.message
    where = f"job.yaml:{place[0]}:{place[1]}: " if place else "job.yaml: "
    assert error.message.startswith(where)
    assert (error.code, error.http, error.component) == ("SpecError", 400, "WASM")


def test_two_tasks_and_many_problems() -> None:
    error = refused(json.dumps(SMALL | {"Tasks": SMALL["Tasks"] * 2, "Cuont": 1}))
    assert "(and 1 more)" in error.message
    said = [one["message"] for one in error.details["problems"]]
    assert "Tasks must have exactly one element; it has 2" in said


def test_aliases_cannot_multiply() -> None:
    lines = [f"a: &a [{', '.join('x' * 10)}]"]
    for last, name in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{last}'] * 10)}]")
    assert "more than 50000 values" in refused("\n".join(lines)).message
    assert read_yaml(b"a: &x [1, 2]\nb: *x").data == {"a": [1, 2], "b": [1, 2]}


def test_changes() -> None:
    data = json.dumps(SMALL).encode()
    job = read_job(data, changes=["Count=7", "Tasks.0.Env.A='1'", "Labels.x=y", "Name=", "Name=n"])
    assert (job.count, job.task.env, job.labels, job.name) == (7, {"A": "1"}, {"x": "y"}, "n")
    job = read_job(data, changes=["Tasks.0.ResultPaths=[]", "Tasks.0.ResultPaths.0.Name=o",
                                  "Tasks.0.ResultPaths.0.Path=/o"][:1])  # fmt: skip
    assert job.task.results == ()
    assert "a change is KEY.KEY...=VALUE" in changed("Count").message
    assert "a change is KEY.KEY...=VALUE" in changed("a..b=1").message
    assert "Tasks has no 3" in changed("Tasks.3.Name=x").message
    assert "Tasks has no x" in changed("Tasks.x=1").message
    assert "--set Name=[" in changed("Name=[").message
    assert "Count is less than 1" in changed("Count=-1").message


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("65536", 65536), ("64KiB", 65536), ("64 kib", 65536), ("64Ki", 65536),
     ("1k", 1000), ("1,000 kB", 10**6), ("1.5GB", 1_500_000_000), ("4GiB", 4 << 30),
     ("2T", 2 * 10**12)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "5GiBs", "1 0", "1e9", "99999999999EiB", "0x10"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError):
        read_bytes(text)


def test_cpus_and_times() -> None:
    assert [read_cpu(one) for one in ("2", "0.5", "500m", "1.")] == [2, 0.5, 0.5, 1]
    assert [read_span(one) for one in ("30", "1.5s", "5m", "1h")] == [30, 1.5, 300, 3600]
    for text in ("", "-1", "m", "1d", "1e3", "٣"):
        with pytest.raises(ValueError):
            read_cpu(text)
    for text in ("", "0", "-1", "m", "1d", "1e3", "٣", "9999999h", "1.2.3"):
        with pytest.raises(ValueError):
            read_span(text)


def test_constraints() -> None:
    labels = {"zone": "a", "cores": "8"}
    for key, operator, values, holds in [
        ("zone", "=", ("a",), True), ("zone", "!=", ("a",), False), ("none", "!=", ("a",), True),
        ("zone", "in", ("a", "b"), True), ("zone", "notin", ("a",), False),
        ("zone", "exists", (), True), ("none", "exists", (), False), ("none", "!", (), True),
        ("cores", "gt", ("7",), True), ("cores", "gt", ("8",), False),
        ("cores", "lt", ("9",), True), ("zone", "lt", ("9",), False), ("none", "gt", ("0",), False),
    ]:  # fmt: skip
        assert Constraint(key, operator, values).holds(labels) is holds, (key, operator, values)


def test_errors_are_plain_data() -> None:
    for code, kind in KINDS.items():
        error = JobError(code, "no", hint="do", details={"a": 1})
        assert error.as_dict() == {
            "code": code, "message": "no", "hint": "do", "component": kind.component,
            "http": kind.http, "retryable": False, "details": {"a": 1},
        }  # fmt: skip


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="a:-[]{}&*!|>'\"\n ,#%@?1", max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes | str) -> None:
    try:
        read_yaml(data if isinstance(data, bytes) else data.encode())
    except YamlProblem as problem:
        assert problem.sentence


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_value_anywhere_is_taken_or_refused(data: st.DataObject) -> None:
    plain = read_yaml(WHOLE.encode()).data
    here: Any = plain
    for _ in range(data.draw(st.integers(0, 6))):
        step = data.draw(
            st.sampled_from(list(here) if isinstance(here, dict) else range(len(here)))
        )
        if not isinstance(here[step], (dict, list)) or not here[step]:
            break
        here = here[step]
    keys = list(here) if isinstance(here, dict) else list(range(len(here)))
    here[data.draw(st.sampled_from(keys))] = data.draw(PLAIN)
    try:
        job = read_job(json.dumps(plain).encode())
    except JobError as error:
        assert error.message
    else:
        assert isinstance(job, Job)
