"""Reads job files: YAML or JSON, checked by the schema and by the rules beyond it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wasmsr.errors import printable
from wasmsr.jobs.description.job import Job, job_from
from wasmsr.jobs.description.rules import broken_rules
from wasmsr.jobs.description.schema import Problem, name_of, parameter_names, problems
from wasmsr.jobs.description.yaml_tree import Path, YamlProblem, YamlTree, read_yaml
from wasmsr.jobs.failures import JobError

PARAMETERS = {
    "Engine": {"wasm": "wasm"},
    "Source": {
        "inline": "inlineSource", "localDirectory": "localSource", "local": "localSource",
        "url": "urlSource", "urlDownload": "urlDownloadSource", "s3": "s3Source",
    },
    "Publisher": {"s3": "s3Publisher"},
}  # fmt: skip
"""The definition of the schema that has the keys of `Params`, by owner and `Type`."""

MOST = 20
"""Problems that an error names at most."""


LATE = {"ModuleNotFound", "MemoryLimitError"}
"""Codes of problems that Bacalhau finds only when an execution starts."""


def read_job(
    data: bytes, name: str = "the job file", changes: Iterable[str] = (), *, peer: bool = False
) -> Job:
    """Return the job that a job file describes.

    Args:
        data: What the file has.
        name: What messages call it.
        changes: Values that are set before it is checked, each `KEY.KEY...=VALUE`; an element of a
            list is named by its number, from 0.
        peer: Leave to the execution what Bacalhau leaves to it, and take the job.

    Raises:
        JobError: It is no job file. The message names line and column of the first problem;
            `details["problems"]` has all of them.
    """
    try:
        tree = read_yaml(data)
    except YamlProblem as problem:
        raise _failure([(problem.place, Problem((), problem.sentence))], name) from None
    for change in changes:
        _set(tree, change)
    _canonical(tree)
    found = problems(tree.data)
    found = found or [one for one in broken_rules(tree.data) if not peer or one.code not in LATE]
    if found:
        placed = [(tree.place(one.path), one) for one in found]
        placed.sort(key=lambda one: one[0] or (0, 0))
        raise _failure(placed, name)
    return job_from(tree.data)


def _failure(found: list[tuple[tuple[int, int] | None, Problem]], name: str) -> JobError:
    """Return the error for problems with their places."""
    place, first = found[0]
    where = printable(name) + (f":{place[0]}:{place[1]}" if place else "")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    details = [
        {
            "path": name_of(one.path), "line": at[0] if at else None,
            "column": at[1] if at else None, "code": one.code,
            "message": printable(one.sentence), "hint": printable(one.hint),
        }
        for at, one in found[:MOST]
    ]  # fmt: skip
    return JobError(
        first.code,
        f"{where}: {first.sentence}{more}",
        hint=first.hint or None,
        details={"problems": details},
    )


def _set(tree: YamlTree, change: str) -> None:
    """Set one value of the tree as `KEY.KEY...=VALUE` says; VALUE is YAML."""
    key, equals, text = change.partition("=")
    path: list[str | int] = [int(one) if one.isdecimal() else one for one in key.split(".")]
    wrong = f"--set {printable(change)[:200]}"
    if not equals or not all(str(one) for one in path):
        raise JobError("SpecError", f"{wrong}: a change is KEY.KEY...=VALUE")
    try:
        value = read_yaml(text.encode()).data if text else ""
    except YamlProblem as problem:
        raise JobError("SpecError", f"{wrong}: {problem.sentence}") from None
    here = tree.data
    for at, step in enumerate(path[:-1]):
        here = _below(here, step, wrong, path[:at])
    _put(here, path[-1], value, wrong, path[:-1])


def _below(here: Any, step: str | int, wrong: str, path: Sequence[str | int]) -> Any:
    """Return an element of a list or dictionary; a dictionary gets one that it lacks."""
    if isinstance(here, dict):
        return here.setdefault(str(step), {})
    if isinstance(here, list) and isinstance(step, int) and step < len(here):
        return here[step]
    raise JobError("SpecError", f"{wrong}: {name_of(tuple(path))} has no {step}")


def _put(here: Any, step: str | int, value: Any, wrong: str, path: Sequence[str | int]) -> None:
    """Set an element of a list or dictionary; a list can grow by one."""
    if isinstance(here, dict):
        here[str(step)] = value
    elif isinstance(here, list) and isinstance(step, int) and step <= len(here):
        here[step : step + 1] = [value]
    else:
        raise JobError("SpecError", f"{wrong}: {name_of(tuple(path))} has no {step}")


def _canonical(tree: YamlTree) -> None:
    """Give the keys of `Params` the schema's case; Bacalhau takes any."""
    for path, owner in _owners(tree.data):
        params, kind = owner.get("Params"), owner.get("Type")
        kinds = PARAMETERS[str(path[-1])]
        if not isinstance(params, dict) or not isinstance(kind, str) or kind not in kinds:
            continue
        names = {one.lower(): one for one in parameter_names(kinds[kind])}
        for key in list(params):
            name = names.get(key.lower(), key)
            if name != key and name not in params:
                params[name] = params.pop(key)
                old, new = (*path, "Params", key), (*path, "Params", name)
                if old in tree.keys:
                    tree.keys[new] = tree.keys[old]


def _owners(data: Any) -> Iterable[tuple[Path, Mapping[str, Any]]]:
    """Yield what may have `Type` and `Params`, and where it is."""
    tasks = data.get("Tasks") if isinstance(data, dict) else None
    for number, task in enumerate(tasks if isinstance(tasks, list) else ()):
        if not isinstance(task, dict):
            continue
        here: Path = ("Tasks", number)
        for key in ("Engine", "Publisher"):
            if isinstance(task.get(key), dict):
                yield ((*here, key), task[key])
        inputs = task.get("InputSources")
        for at, one in enumerate(inputs if isinstance(inputs, list) else ()):
            if isinstance(one, dict) and isinstance(one.get("Source"), dict):
                yield ((*here, "InputSources", at, "Source"), one["Source"])


__all__ = ["read_job"]
