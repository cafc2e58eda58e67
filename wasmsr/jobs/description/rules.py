"""What a job must be beyond its schema: names that fit together, amounts, times."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wasmsr.jobs.description.job import ON_LOSS, OUTPUT, SNAPSHOT_EVERY, read_span
from wasmsr.jobs.description.quantities import read_bytes, read_cpu
from wasmsr.jobs.description.schema import Problem, name_of
from wasmsr.jobs.description.yaml_tree import Path

MEMORY_LIMIT = 4 << 30
"""Bytes that a memory of 32-bit addresses can have."""

RESULT_FILES = ("stdout", "stderr", "exitCode")
"""Files of every results folder."""

OURS = "wasmsr/"
"""How the keys of `Meta` begin that mean something to us."""

TASK: Path = ("Tasks", 0)


def broken_rules(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with data that the schema allows."""
    task = data["Tasks"][0]
    yield from _meta(data.get("Meta", {}))
    yield from _constraints(data.get("Constraints", ()))
    yield from _env(task.get("Env", {}))
    yield from _resources(task.get("Resources", {}))
    yield from _timeouts(task.get("Timeouts", {}))
    yield from _network(task.get("Network", {}))
    yield from _places(task)


def _attempt(path: Path, read: Callable[[str], object], text: str) -> Iterator[Problem]:
    """Yield what `read` finds wrong with a text."""
    try:
        read(text)
    except ValueError as error:
        yield Problem(path, f"{name_of(path)}: {error}")


def _meta(meta: Mapping[str, str]) -> Iterator[Problem]:
    known = (SNAPSHOT_EVERY, ON_LOSS, OUTPUT)
    for key in meta:
        if key.startswith(OURS) and key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            yield Problem(("Meta", key), f"Meta has no key {key}", hint)
    if meta.get(OUTPUT) == "commit" and meta.get(ON_LOSS) != "restore":
        hint = f"give it {ON_LOSS}: restore, and {SNAPSHOT_EVERY}"
        sentence = f"{OUTPUT}: output is held until a checkpoint only if {ON_LOSS} is restore"
        yield Problem(("Meta", OUTPUT), sentence, hint)
    if SNAPSHOT_EVERY in meta:
        yield from _attempt(("Meta", SNAPSHOT_EVERY), read_span, meta[SNAPSHOT_EVERY])


def _constraints(constraints: list[Mapping[str, Any]]) -> Iterator[Problem]:
    for at, one in enumerate(constraints):
        path: Path = ("Constraints", at, "Values")
        operator, count = one["Operator"], len(one.get("Values", ()))
        if operator in ("exists", "!"):
            if count:
                yield Problem(path, f"{name_of(path)}: the operator {operator} takes no values")
        elif operator in ("in", "notin"):
            if not count:
                yield Problem(path, f"{name_of(path)}: the operator {operator} needs values")
        elif count != 1:
            yield Problem(path, f"{name_of(path)}: the operator {operator} takes one value")
        if operator in ("gt", "lt") and count == 1:
            yield from _attempt(path, _whole, one["Values"][0])


def _whole(text: str) -> int:
    if not text.lstrip("-").isdecimal() or len(text) > 30:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _env(env: Mapping[str, str]) -> Iterator[Problem]:
    for name, value in env.items():
        path: Path = (*TASK, "Env", name)
        if not name or "=" in name or "\0" in name:
            yield Problem(path, f"{name!r} is no name of an environment variable")
        if value.startswith("env:"):
            sentence = f"{name_of(path)}: {value!r} would take a variable of the server"
            yield Problem(path, sentence, "a program gets only what its job says; write the value")


def _resources(resources: Mapping[str, str]) -> Iterator[Problem]:
    path: Path = (*TASK, "Resources")
    for name, read in (("CPU", read_cpu), ("Memory", read_bytes), ("Disk", read_bytes)):
        if resources.get(name):
            yield from _attempt((*path, name), read, resources[name])
    if resources.get("GPU", "").strip() not in ("", "0"):
        yield Problem((*path, "GPU"), f"{name_of(path)}.GPU: a Wasm program can use no GPU")
    try:
        memory = read_bytes(resources.get("Memory") or "0")
    except ValueError:
        return
    if memory > MEMORY_LIMIT:
        sentence = f"{name_of(path)}.Memory: {memory} bytes are more than {MEMORY_LIMIT} (4 GiB)"
        hint = "a memory with 32-bit addresses has at most 4 GiB"
        yield Problem((*path, "Memory"), sentence, hint, "MemoryLimitError")


def _timeouts(timeouts: Mapping[str, int]) -> Iterator[Problem]:
    total = timeouts.get("TotalTimeout", 0)
    for name in ("ExecutionTimeout", "QueueTimeout"):
        if total and timeouts.get(name, 0) > total:
            path: Path = (*TASK, "Timeouts", name)
            yield Problem(path, f"{name_of(path)} is longer than TotalTimeout, {total} s")


def _network(network: Mapping[str, Any]) -> Iterator[Problem]:
    path: Path = (*TASK, "Network", "Domains")
    if network.get("Domains") and network.get("Type", "None") != "HTTP":
        yield Problem(path, f"{name_of(path)}: domains are only for the type HTTP")


def guest_path(text: str) -> str | None:
    """Return a path of a program without its first `/`, or None if it leads nowhere."""
    parts = text.strip("/").split("/")
    if ".." in parts or not any(part not in ("", ".") for part in parts):
        return None
    return posixpath.normpath("/".join(parts))


def overlaps(one: str, other: str) -> bool:
    """Return whether one guest path is the other, or is below it."""
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def _places(task: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the targets of inputs and the folders of results."""
    targets: dict[str, Path] = {}
    aliases: set[str] = set()
    for at, one in enumerate(task.get("InputSources", ())):
        path: Path = (*TASK, "InputSources", at, "Target")
        yield from _place(path, one["Target"], targets, "InputConfigError")
        alias = one.get("Alias", "")
        if alias and alias in aliases:
            path = (*path[:-1], "Alias")
            yield Problem(
                path, f"{name_of(path)}: {alias!r} is there twice", "", "InputConfigError"
            )
        aliases.add(alias)
    yield from _modules(task, targets)
    names: set[str] = set()
    taken = dict(targets)
    for at, one in enumerate(task.get("ResultPaths", ())):
        name, path = one["Name"], (*TASK, "ResultPaths", at, "Name")
        if name in (".", "..", *RESULT_FILES) or "/" in name:
            sentence = f"{name_of(path)}: {name!r} cannot be the name of a folder of results"
            yield Problem(path, sentence, "", "OutputConfigError")
            continue
        if name in names:
            sentence = f"{name_of(path)}: {name!r} is there twice"
            yield Problem(path, sentence, "", "OutputConfigError")
            continue
        names.add(name)
        # The program finds the folder at both places, which can be one.
        before = dict(taken)
        yield from _place(path, name, taken, "OutputConfigError", before)
        where: Path = (*TASK, "ResultPaths", at, "Path")
        yield from _place(where, one["Path"], taken, "OutputConfigError", before)


def _place(
    path: Path,
    text: str,
    taken: dict[str, Path],
    code: str,
    others: Mapping[str, Path] | None = None,
) -> Iterator[Problem]:
    """Yield why a place of the program cannot be `text`, or note it in `taken`."""
    place = guest_path(text)
    if place is None:
        sentence = f"{name_of(path)}: {text!r} is no path of a file or folder"
        yield Problem(path, sentence, "write an absolute path without ..", code)
        return
    for other, its in (taken if others is None else others).items():
        if overlaps(place, other):
            sentence = f"{name_of(path)}: {text!r} is the place of {name_of(its)}, or lies in it"
            yield Problem(path, sentence, "every input and output needs a place of its own", code)
            return
    taken[place] = path


def _modules(task: Mapping[str, Any], targets: Mapping[str, Path]) -> Iterator[Problem]:
    """Yield modules that no input brings."""
    engine = task["Engine"]["Params"]
    path: Path = (*TASK, "Engine", "Params")
    wanted = [((*path, "EntryModule"), engine["EntryModule"])]
    wanted += [
        ((*path, "ImportModules", at), one)
        for at, one in enumerate(engine.get("ImportModules", ()))
    ]
    for where, text in wanted:
        place = guest_path(text)
        if place is None or not any(
            place == target or place.startswith(target + "/") for target in targets
        ):
            near = difflib.get_close_matches(text.lstrip("/"), list(targets), 1)
            hint = f"did you mean /{near[0]}?" if near else "name the Target of an input"
            sentence = f"{name_of(where)}: no input is at {text!r}"
            yield Problem(where, sentence, hint, "ModuleNotFound")


__all__ = ["MEMORY_LIMIT", "RESULT_FILES", "broken_rules", "guest_path", "overlaps"]
